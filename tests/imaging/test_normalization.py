import numpy as np
import pytest
import torch

from manymask.core import ArraySource, Window
from manymask.errors import DatasetError
from manymask.imaging import normalization
from manymask.imaging.normalization import Normalization, measure_scale, normalize_pixels
from manymask.plan import make_plan


def scale_pixels(pixels, source):
    return normalize_pixels(pixels, source, Normalization("type"))


def scale(values, dtype, channels=1):
    pixels = np.broadcast_to(np.asarray(values, dtype=dtype)[None, :, None], (1, len(values), channels))
    return scale_pixels(pixels, "a.tif")


class TestByType:
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


def normalize(pixels):
    return normalize_pixels(pixels, "a.tif", Normalization("image"))


def make_ramp(low, high, dtype):
    """1,001 values, of which 11 lie at or below the 1 % and 3 at or above the 99.8 % percentile."""
    return np.linspace(low, high, 1001).astype(dtype).reshape(7, 143, 1)


def draw_disc(contrast):
    """A disc on a noisy ground of about 30 counts, brighter by ``contrast`` counts."""
    rows, columns = np.mgrid[:100, :100]
    noise = np.random.default_rng(0).normal(30, 2, (100, 100))
    return (noise + contrast * (np.hypot(rows - 50, columns - 50) < 20)).astype(np.uint8)[..., None]


class TestByImage:
    def test_of_a_plan(self):
        assert Normalization.of(make_plan(settings={"normalization": "image"})) == Normalization("image")
        assert Normalization.of(make_plan()) == Normalization()

    @pytest.mark.parametrize(
        ("low", "high", "dtype"),
        [
            (0, 1000, "uint16"),
            (20_000, 30_000, ">u2"),
            (-5000, 5000, "int16"),
            (-70.0, 930.0, "float32"),
            (0.2, 0.3, "float64"),
        ],
    )
    def test_percentiles_become_0_and_1(self, low, high, dtype):
        """Of 0, 1 .. 1000 they are 10 and 998."""
        image = normalize(make_ramp(low, high, dtype))
        expected = ((np.arange(1001) - 10) / 988).clip(0, 1).reshape(7, 143)
        np.testing.assert_allclose(image[0], expected, atol=1e-4)
        assert image.shape == (3, 7, 143)
        assert (image[0] == image).all()

    def test_bytes(self):
        """A hundred values 50, 51 .. 149: 1 % is 50.99, 99.8 % is 148.802."""
        image = normalize(np.arange(50, 150, dtype=np.uint8).reshape(10, 10, 1))
        assert image[0, 0, :3].tolist() == pytest.approx([0, 0.01 / 97.812, 1.01 / 97.812], abs=1e-5)
        assert image.max() == 1

    def test_hot_pixels_do_not_set_the_scale(self):
        pixels = make_ramp(0, 1000, "uint16")
        hot = pixels.copy()
        hot[-1, -1] = 65535
        assert torch.equal(normalize(hot), normalize(pixels))

    def test_channels_share_one_scale(self):
        grey = make_ramp(0, 1000, "uint16")
        image = normalize(np.concatenate([grey, grey // 2, grey // 4], axis=2))
        low, high = np.percentile(np.concatenate([grey, grey // 2, grey // 4]), [1, 99.8])
        inside = (image[0] < 1) & (image[2] > 0)
        assert inside.sum() > 500
        values = image[:, inside] * (high - low) + low
        assert torch.allclose(values[0], 2 * values[1], atol=1.1)
        assert torch.allclose(values[0], 4 * values[2], atol=4.1)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "int64", "float32", "float64"])
    @pytest.mark.parametrize("contrast", [0, 5, 100])
    def test_equal_pictures_are_equal_in_any_type_and_unit(self, dtype, contrast):
        expected = normalize(draw_disc(contrast))
        assert torch.allclose(normalize(draw_disc(contrast).astype(dtype)), expected, atol=1e-6)
        factor = 1 / 255 if dtype.startswith("float") else np.iinfo(dtype).max // 255
        assert torch.allclose(
            normalize(draw_disc(contrast).astype(dtype) * np.dtype(dtype).type(factor)), expected, atol=1e-5
        )

    @pytest.mark.parametrize("deviation", [2, 20, 2000])
    def test_noise_alone_does_not_fill_the_range(self, deviation):
        """Its percentiles lie 5.2 deviations apart, and 10 are needed."""
        pixels = np.random.default_rng(0).normal(10_000, deviation, (200, 200, 1)).astype(np.uint16)
        assert normalize(pixels).quantile(0.998).item() == pytest.approx(0.52, abs=0.03)

    @pytest.mark.parametrize("start", [1e8, 2**31, -(2**31), 2**60, 1e300])
    def test_far_from_zero(self, start):
        pixels = make_ramp(0, 1000, "int64")
        dtype = np.float64 if isinstance(start, float) else np.int64
        unit = 2.0**960 if start == 1e300 else 1
        moved = dtype(start) + pixels.astype(dtype) * dtype(unit)
        assert torch.allclose(normalize(moved), normalize(pixels), atol=1e-4)

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_flat_image(self, dtype):
        assert (normalize(np.full((4, 5, 1), 7, dtype=dtype)) == 0).all()

    def test_of_a_sample_of_a_large_image(self, monkeypatch):
        noise = np.random.default_rng(0).normal(1000, 100, (400, 500, 1)).astype(np.uint16)
        expected = normalize(noise)
        monkeypatch.setattr(normalization, "NUM_SAMPLED_VALUES", 1 << 14)
        found = normalize(noise)
        assert not torch.equal(found, expected)
        assert (found - expected).abs().max() < 0.02

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, value):
        pixels = make_ramp(0, 1, "float32")
        pixels[3, 3] = value
        with pytest.raises(DatasetError, match=r"expected finite intensities, found NaN or infinity in a\.tif; repair"):
            normalize(pixels)

    @pytest.mark.parametrize("channels", [2, 4])
    def test_channels(self, channels):
        with pytest.raises(DatasetError, match=f"1 or 3 channels, found {channels} in a.tif"):
            normalize(np.zeros((4, 5, channels), dtype=np.uint8))


class Unread(ArraySource):
    """An image that must not be decoded."""

    def read(self, window=None, level=0):
        raise AssertionError


class TestMeasureScale:
    @pytest.mark.parametrize("by", ["type", "image"])
    @pytest.mark.parametrize("dtype", ["uint8", ">u2", "int32", "uint64", "float16", "float64"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_parts_are_scaled_as_the_whole(self, by, dtype, channels):
        values = np.random.default_rng(0).uniform(0, 1, (40, 50, channels))
        dtype = np.dtype(dtype)
        image = ArraySource((values * (np.iinfo(dtype).max if dtype.kind in "iu" else 1)).astype(dtype))
        scale, window = measure_scale(image, "a.tif", Normalization(by)), Window(7, 11, 20, 31)
        whole = normalize_pixels(image.read(), "a.tif", Normalization(by))
        assert torch.equal(scale.apply(image.read(window)), whole[:, *window.slices])

    def test_nothing_is_decoded_where_the_type_says_all(self):
        image = Unread(np.zeros((4, 5, 1), dtype=np.uint16))
        assert measure_scale(image, "a.tif", Normalization("type")).span == 65535
        for by in ("type", "image"):
            with pytest.raises(DatasetError, match="found 2 in a.tif"):
                measure_scale(Unread(np.zeros((4, 5, 2), dtype=np.float32)), "a.tif", Normalization(by))

    @pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
    @pytest.mark.parametrize("sampled", [1 << 20, 900])
    def test_does_not_depend_on_the_blocks_that_are_read(self, monkeypatch, dtype, sampled):
        image = ArraySource(np.random.default_rng(0).normal(100, 20, (50, 61, 3)).clip(0, 255).astype(dtype))
        monkeypatch.setattr(normalization, "NUM_SAMPLED_VALUES", sampled)
        whole = measure_scale(image, "a.tif", Normalization("image"))
        for side in (1, 7, 25, 60):
            monkeypatch.setattr(normalization, "BLOCK_SIDE", side)
            assert measure_scale(image, "a.tif", Normalization("image")) == whole
