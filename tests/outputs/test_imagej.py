import cv2
import numpy as np
import pytest
import roifile

from manymask.core import Category, Instances, RunLengths
from manymask.outputs import ImageEntry, ImagejRois
from manymask.outputs import imagej as imagej_module
from tests.outputs.results import ROWS, make_image, make_instances, write


def read(folder):
    return roifile.roiread(folder / "imagej" / "a.zip")


def list_rings(roi):
    return roifile.ImagejRoi.path2coords(roi.multi_coordinates) if roi.composite else [roi.coordinates()]


def fill(roi, size):
    """Pixels whose middles lie inside by the even-odd rule, as ImageJ fills a shape."""
    canvas = np.zeros((size[0] * 8, size[1] * 8), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(ring * 8).astype(np.int32) for ring in list_rings(roi)], 1)
    return canvas[4::8, 4::8].astype(bool)


def test_filled_rois_are_the_masks(tmp_path):
    write(ImagejRois, tmp_path)
    instances, rois = make_instances(), read(tmp_path)
    for roi, mask in zip(rois, instances.to_masks()[ROWS], strict=True):
        np.testing.assert_array_equal(fill(roi, instances.size), mask)
    assert [roi.composite for roi in rois] == [True, False, True, False, False, False]
    assert [roi.group for roi in rois] == [1, 2, 1, 2, 2, 1]
    assert rois[1].name == "2 seed, large 0.900"
    boxes = [(roi.left, roi.top, roi.right, roi.bottom) for roi in rois]
    np.testing.assert_array_equal(boxes, instances.runs.boxes[ROWS])


def test_coordinates_beyond_16_bits_are_kept(tmp_path):
    size = (4, 70_000)
    runs = RunLengths.from_intervals(size, 1, np.zeros(2, int), np.array([260_001, 260_005]), np.array([2, 2]))
    write(ImagejRois, tmp_path, Instances.from_runs(runs, np.array([1])))
    (roi,) = read(tmp_path)
    assert sorted(map(tuple, roi.coordinates().tolist())) == [
        (65000, 1), (65000, 3), (65002, 1), (65002, 3),
    ]  # fmt: skip


def test_an_old_file_is_replaced(tmp_path):
    write(ImagejRois, tmp_path)
    before = (tmp_path / "imagej" / "a.zip").read_bytes()
    write(ImagejRois, tmp_path)
    assert (tmp_path / "imagej" / "a.zip").read_bytes() == before
    write(ImagejRois, tmp_path, make_instances()[:1])
    assert len(read(tmp_path)) == 1


def test_too_many_rois_for_imagej_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(imagej_module, "MANY_ROIS", 5)
    with pytest.warns(match="holds 6 ROIs, which makes ImageJ slow"):
        write(ImagejRois, tmp_path)


def test_classes_above_255_have_no_group(tmp_path):
    instances = make_instances()[:1].relabel(np.array([0, 300]))
    categories = [Category(number, f"class {number}") for number in range(1, 301)]
    writer = ImagejRois(tmp_path, ["a"], categories, 0.5)
    writer.write(ImageEntry(1, "a", "a.png", make_image()), instances)
    (roi,) = read(tmp_path)
    assert (roi.group, roi.name) == (0, "1 class 300 0.950")
