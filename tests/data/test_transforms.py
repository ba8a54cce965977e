import numpy as np
import pytest
import torch

from manymask.core import InstanceLayers
from manymask.data.transforms import make_target, scale_pixels
from manymask.errors import DatasetError


def scale(values, dtype, channels=1):
    pixels = np.broadcast_to(np.asarray(values, dtype=dtype)[None, :, None], (1, len(values), channels))
    return scale_pixels(pixels, "a.tif")


def make(layers, labels, iscrowd=None):
    iscrowd = np.zeros(len(labels), dtype=bool) if iscrowd is None else np.array(iscrowd)
    return make_target(InstanceLayers(torch.tensor(layers)), np.array(labels, dtype=np.int64), iscrowd)


class TestScalePixels:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "uint32", "int16"])
    def test_integers_by_the_maximum_of_their_type(self, dtype):
        highest = np.iinfo(dtype).max
        image = scale([0, highest // 2, highest], dtype)
        assert image[0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=3e-3)
        assert (image.min(), image.max()) == (0, 1)

    @pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "float64"])
    def test_floats_as_they_are(self, dtype):
        assert scale([0, 0.25, 1], dtype)[0, 0].tolist() == [0, 0.25, 1]

    def test_dark_images_stay_dark(self):
        assert scale([3, 7], "uint8")[0, 0].tolist() == pytest.approx([3 / 255, 7 / 255])

    def test_grey_is_repeated(self):
        image = scale([0, 51, 255], "uint8")
        assert image.shape == (3, 1, 3)
        assert (image[0] == image).all()

    def test_colours_keep_their_order(self):
        image = scale_pixels(np.array([[[255, 0, 51]]], dtype=np.uint8), "a.tif")
        assert image.flatten().tolist() == pytest.approx([1, 0, 0.2])
        assert image.is_contiguous()
        assert image.dtype == torch.float32

    @pytest.mark.parametrize(
        ("values", "dtype", "found"),
        [([0, 1.5], "float32", "0 to 1.5"), ([-0.1, 1], "float64", "-0.1 to 1"), ([0, np.nan], "float32", "nan"),
         ([0, np.inf], "float32", "inf"), ([-3, 5], "int16", "-")],
    )  # fmt: skip
    def test_out_of_range(self, values, dtype, found):
        with pytest.raises(DatasetError, match=rf"in \[0, 1\], found .*{found}.* in a.tif"):
            scale(values, dtype)

    @pytest.mark.parametrize("channels", [2, 4])
    def test_channels(self, channels):
        with pytest.raises(DatasetError, match=f"1 or 3 channels, found {channels} in a.tif"):
            scale([1], "uint8", channels)


class TestMakeTarget:
    def test_none(self):
        target = make([[[0, 0], [0, 0]]], [])
        assert target["boxes"].shape == (0, 4)
        assert target["labels"].shape == (0,)
        assert target["layers"].shape == (1, 2, 2)

    def test_boxes_are_those_of_the_pixels(self):
        target = make([[[0, 1, 1], [2, 1, 0]]], [3, 1])
        assert target["boxes"].tolist() == [[1, 0, 3, 2], [0, 1, 1, 2]]
        assert target["labels"].tolist() == [3, 1]
        assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)

    def test_overlapping(self):
        target = make([[[1, 1, 0]], [[0, 2, 2]]], [1, 2])
        assert target["boxes"].tolist() == [[0, 0, 2, 1], [1, 0, 3, 1]]
        assert target["layers"].tolist() == [[[1, 1, 0]], [[0, 2, 2]]]

    def test_crowd_regions_are_left_out(self):
        layers = InstanceLayers([[[1, 1, 3]], [[0, 2, 2]]])
        target = make_target(layers, np.array([1, 2, 3]), np.array([False, True, False]))
        assert target["labels"].tolist() == [1, 3]
        assert target["layers"].tolist() == [[[1, 1, 2]]]
        assert layers.tolist() == [[[1, 1, 3]], [[0, 2, 2]]]

    def test_crowd_regions_only(self):
        target = make([[[1, 1]]], [1], [True])
        assert (len(target["boxes"]), target["layers"].tolist()) == (0, [[[0, 0]]])

    def test_ids_without_pixels_are_left_out(self):
        target = make([[[0, 2, 4]]], [5, 6, 7, 8])
        assert target["labels"].tolist() == [6, 8]
        assert target["layers"].tolist() == [[[0, 1, 2]]]

    def test_more_than_65535_instances(self):
        num_instances = 70_000
        layers = np.arange(1, num_instances + 1, dtype=np.int32).reshape(1, 100, -1)
        target = make(layers.tolist(), [1] * num_instances)
        assert target["boxes"][-1].tolist() == [699, 99, 700, 100]
        assert int(target["layers"].max()) == num_instances
