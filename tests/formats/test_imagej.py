import zipfile

import numpy as np
import pytest
import roifile
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from manymask.core import Instances
from manymask.core.outputs import record_outputs
from manymask.errors import DatasetError
from manymask.formats import imagej as imagej_module
from manymask.formats import read_dataset
from manymask.formats.datasets import open_dataset
from manymask.formats.imagej import ImagejWriter, read_imagej
from manymask.outputs import ImagejRois
from tests.formats.format_files import cut_short, make_ids, make_instances, make_pixels, write_array
from tests.outputs.results import make_instances as make_results
from tests.outputs.results import write

SQUARE = np.array([[1, 1], [4, 1], [4, 4], [1, 4]])


def make_shape(kind, left, top, right, bottom, **fields):
    roi = ImagejRoi()
    roi.roitype, roi.left, roi.top, roi.right, roi.bottom = kind, left, top, right, bottom
    for name, value in fields.items():
        setattr(roi, name, value)
    return roi


def make_path(*values):
    roi = make_shape(ROI_TYPE.RECT, 0, 0, 8, 6)
    roi.multi_coordinates = np.array(values, dtype=np.float32)
    roi.shape_roi_size = len(values)
    return roi


def make_polygon(points, kind=ROI_TYPE.POLYGON, **fields):
    roi = ImagejRoi.frompoints(points)
    roi.roitype = kind
    for name, value in fields.items():
        setattr(roi, name, value)
    return roi


def write_zip(root, *rois, file="a.zip"):
    write_array(root / "a.png", make_pixels())
    (root / file).parent.mkdir(exist_ok=True)
    roifile.roiwrite(root / file, [*rois], name=[f"r{place}" for place, _ in enumerate(rois)])


def read_masks(root):
    return read_imagej(root)[0].to_instances().to_masks()


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
def test_polygons(tmp_path, kind):
    write_zip(tmp_path, make_polygon(SQUARE, kind), make_polygon(SQUARE + 1.6, kind))
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "imagej"
    assert [category.name for category in dataset.categories] == ["object"]
    masks = read_masks(tmp_path)
    np.testing.assert_array_equal(masks[0] + 2 * masks[1], make_ids((1, 1, 4, 4)) + 2 * make_ids((3, 3, 6, 6)))


def test_rectangles_ovals_and_fractions(tmp_path):
    fine = {"options": ROI_OPTIONS.SUB_PIXEL_RESOLUTION, "xd": 4.6, "yd": 0.4, "widthd": 2.0, "heightd": 1.2}
    rois = [
        make_shape(ROI_TYPE.RECT, 1, 2, 4, 5),
        make_shape(ROI_TYPE.OVAL, 1, 0, 7, 6),
        make_shape(ROI_TYPE.RECT, 4, 0, 7, 2, **fine),
    ]
    write_zip(tmp_path, *rois)
    masks = read_masks(tmp_path)
    np.testing.assert_array_equal(masks[0], make_ids((2, 1, 5, 4)) > 0)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[1], np.hypot(x - 4, y - 3) < 2.98)
    np.testing.assert_array_equal(masks[2], make_ids((0, 5, 2, 7)) > 0)


def test_composites_with_holes_parts_and_curves(tmp_path):
    hole = [0, 0, 0, 1, 5, 0, 1, 5, 5, 1, 0, 5, 4, 0, 2, 2, 1, 2, 3, 1, 3, 3, 1, 3, 2, 4]
    part = [0, 6, 0, 1, 8, 0, 1, 8, 2, 1, 6, 2, 4]
    k = 3 * 0.5522847
    circle = [0, 7, 3, 3, 7, 3 + k, 4 + k, 6, 4, 6, 3, 4 - k, 6, 1, 3 + k, 1, 3, 3, 1, 3 - k, 4 - k, 0, 4, 0]
    circle += [3, 4 + k, 0, 7, 3 - k, 7, 3, 4]
    arch = [0, 0, 6, 2, 4, -6, 8, 6, 4]
    write_zip(tmp_path, make_path(*hole, *part), make_path(*circle), make_path(*arch))
    masks = read_masks(tmp_path)
    expected = make_ids((0, 0, 5, 5)) + make_ids((0, 6, 2, 8)) > 0
    expected[2, 2] = False
    np.testing.assert_array_equal(masks[0], expected)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[1], np.hypot(x - 4, y - 3) < 2.98)
    share = x / 8
    np.testing.assert_array_equal(masks[2], y > 6 - 24 * share * (1 - share))


def test_groups_are_classes_and_points_no_objects(tmp_path):
    text = make_shape(ROI_TYPE.RECT, 0, 0, 4, 4, subtype=ROI_SUBTYPE.TEXT)
    rois = [
        make_polygon(SQUARE, group=2, position=1),
        make_polygon(SQUARE, group=7, position=2),
        make_polygon(SQUARE),
        make_polygon(SQUARE, ROI_TYPE.POINT),
        text,
    ]
    write_zip(tmp_path, *rois[:4])
    dataset = open_dataset(tmp_path)
    assert [category.name for category in dataset.categories] == ["group 2", "group 7", "object"]
    assert dataset[0].labels.tolist() == [1, 2, 3]
    messages = [problem.message for problem in dataset.problems]
    assert [problem.severity for problem in dataset.problems] == ["note"] * 3
    assert "left out: a.zip: r3" in messages[0]
    assert "several slices of a stack" in messages[1]
    assert "1 object without a class" in messages[2]
    assert imagej_module._list_rings("", text) is None


@pytest.mark.parametrize(
    "file", ["a.zip", "a_rois.zip", "RoiSet.zip", "RoiSet_a.zip", "a.png-RoiSet.ZIP", "rois/a.zip", "rois/RoiSet.zip"]
)
def test_places_and_names(tmp_path, file):
    write_zip(tmp_path, make_polygon(SQUARE), file=file)
    dataset = read_dataset(tmp_path)
    assert ([record.name for record in dataset.records], dataset.problems) == (["a"], ())
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_a_single_roi_and_other_archives(tmp_path):
    write_array(tmp_path / "a.png", make_pixels())
    make_polygon(SQUARE).tofile(tmp_path / "a.roi")
    with zipfile.ZipFile(tmp_path / "backup.zip", "w") as archive:
        archive.writestr("a.png", b"")
    (tmp_path / "damaged.zip").write_bytes(b"PK")
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "imagej"
    assert [(problem.severity, "damaged.zip" in problem.message) for problem in dataset.problems] == [("note", True)]
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_a_damaged_zip_of_an_image_is_named(tmp_path):
    for name in "ab":
        write_array(tmp_path / f"{name}.png", make_pixels())
        write_zip(tmp_path, make_polygon(SQUARE), file=f"{name}.zip")
    cut_short(tmp_path / "b.zip", 0.5)
    messages = [problem.message for problem in open_dataset(tmp_path).problems if problem.kind == "bad-image-entry"]
    assert ["b.zip cannot be read" in message for message in messages] == [True]


def test_a_set_of_several_images_is_named(tmp_path):
    write_zip(tmp_path, make_polygon(SQUARE))
    write_zip(tmp_path, make_polygon(SQUARE), file="RoiSet.zip")
    write_array(tmp_path / "b.png", make_pixels())
    messages = [problem.message for problem in open_dataset(tmp_path).problems]
    assert "lists the image RoiSet, which is not in" in messages[0]
    assert "b.png has no file of labels" in messages[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Iout", "is no ROI of ImageJ"),
        (make_polygon(SQUARE).tobytes()[:70], "is no ROI of ImageJ"),
        (make_polygon([[1, 1], [2, 2]]).tobytes(), "no outline of three points"),
        (
            make_polygon(SQUARE + 0.5, subpixel_coordinates=np.full((4, 2), np.nan, "f4")).tobytes(),
            "no outline of three points",
        ),
        (make_shape(ROI_TYPE.OVAL, 3, 3, 3, 5).tobytes(), "is 0 x 2 pixels large"),
        (make_path(1, 0, 0).tobytes(), "has a path that cannot be followed"),
        (make_path(0, 0, 0, 9, 0, 0).tobytes(), "has a path that cannot be followed"),
        (make_path(0, 0, 0, 3, 0, 0).tobytes(), "has a path that cannot be followed"),
        (make_path(0, 0, 0, 4).tobytes(), "no outline of three points"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, content, message):
    write_zip(tmp_path, make_polygon(SQUARE))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("../up.roi", content)
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    assert message in problem.message
    assert dataset[0].to_instances().runs.areas.tolist() == [9]
    assert not (tmp_path.parent / "up.roi").exists()


@pytest.mark.parametrize(("limit", "value"), [("_MAX_ROIS", 2), ("_MAX_BYTES", 300)])
def test_archives_beyond_limits_are_not_unpacked(tmp_path, monkeypatch, limit, value):
    write_zip(tmp_path, make_polygon(SQUARE))
    write_array(tmp_path / "b.png", make_pixels())
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.roi", bytes(1000))
    monkeypatch.setattr(imagej_module, limit, value)
    (problem,) = (problem for problem in open_dataset(tmp_path).problems if problem.path.name == "b.zip")
    assert "holds 3 ROIs of 3000 bytes, more than" in problem.message


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8))
    overlapping = make_ids((2, 2, 6, 7))
    write_zip(tmp_path, make_polygon(SQUARE, group=1), make_polygon(SQUARE, group=3))
    dataset = read_imagej(tmp_path)
    instances: Instances = make_instances(ring, parts, overlapping, labels=[1, 2, 1])
    writer = ImagejWriter(tmp_path / "copy", dataset)
    writer.write(dataset.records[0], instances, np.arange(3))
    writer.close()
    copy = read_dataset(tmp_path / "copy")
    assert (copy.format.name, copy.problems) == ("imagej", ())
    found = copy[0].to_instances()
    assert [copy.categories[label - 1].name for label in found.labels] == ["group 1", "group 3", "group 1"]
    np.testing.assert_array_equal(found.to_masks(), instances.to_masks())


def test_what_predict_writes_is_no_ground_truth_until_somebody_changes_it(tmp_path):
    with record_outputs(tmp_path, "predict", ImagejRois.list_files(["a"])):
        write(ImagejRois, tmp_path)
    write_array(tmp_path / "a.png", make_pixels(40, 60))
    with pytest.raises(DatasetError, match="fits no layout"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path, "imagej")) == 1
    write(ImagejRois, tmp_path, make_results()[:1])
    assert len(read_dataset(tmp_path)[0].labels) == 1


def test_an_empty_zip_is_of_an_image_without_objects(tmp_path):
    write_zip(tmp_path, make_polygon(SQUARE))
    write_array(tmp_path / "b.png", make_pixels())
    zipfile.ZipFile(tmp_path / "b.zip", "w").close()
    assert [len(sample.labels) for sample in read_dataset(tmp_path)] == [1, 0]


def test_other_files_in_a_zip_are_named(tmp_path):
    write_zip(tmp_path, make_polygon(SQUARE))
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("notes.txt", "of 2026")
    dataset = open_dataset(tmp_path)
    assert len(dataset[0].labels) == 1
    (problem,) = dataset.problems
    assert problem.severity == "note"
    assert problem.message.endswith("has other files than ROIs, which are left out: a.zip: notes.txt")


def test_images_whose_names_begin_as_those_of_rois_do(tmp_path):
    for name in ("ROI_1", "1"):
        write_array(tmp_path / f"{name}.tif", make_pixels())
    make_polygon(SQUARE).tofile(tmp_path / "ROI_1.roi")
    assert [record.name for record in open_dataset(tmp_path).records] == ["ROI_1"]
