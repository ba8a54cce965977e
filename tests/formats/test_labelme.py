import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.datasets import detect_format, open_dataset
from manymask.formats.labelme import LabelmeWriter, read_labelme
from tests.formats.format_files import make_ids, make_instances, make_pixels, write_array

SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]


def encode_png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_shapes(root, name, *shapes, image="{}.png", size=(6, 8), pixels=True):
    """The file as labelme 5 writes it."""
    if pixels:
        write_array(root / f"{name}.png", make_pixels(*size))
    shapes = [
        {"group_id": None, "shape_type": "polygon", "flags": {}, "mask": None, "description": ""} | s for s in shapes
    ]
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.format(name), "imageData": None}
    (root / f"{name}.json").write_text(json.dumps(content | {"imageHeight": size[0], "imageWidth": size[1]}))


def test_polygon_rectangle_circle_and_mask(tmp_path):
    mask = np.array([[True, False], [True, True]])
    write_shapes(
        tmp_path,
        "a",
        {"label": "cell", "points": SQUARE},
        {"label": "cell", "points": [[4, 5], [7, 2]], "shape_type": "rectangle"},
        {"label": "dot", "points": [[4, 3], [4, 5]], "shape_type": "circle"},
        {"label": "dot", "points": [[5, 1], [6, 2]], "shape_type": "mask", "mask": encode_png(mask)},
    )
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "labelme"
    assert [category.name for category in dataset.categories] == ["cell", "dot"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [1, 1, 2, 2]
    masks = instances.to_masks()
    expected = make_ids((1, 1, 4, 4)) + make_ids((0, 0, 0, 0), (2, 4, 5, 7))
    np.testing.assert_array_equal(masks[0] + 2 * masks[1], expected)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[2], np.hypot(x - 4, y - 3) < 1.98)
    np.testing.assert_array_equal(np.argwhere(masks[3]), [[1, 5], [2, 5], [2, 6]])


def test_odd_files_beside_do_not_decide_and_are_named(tmp_path):
    write_shapes(tmp_path, "b", {"label": "cell", "points": SQUARE})
    for name, text in (("a.json", '{"threshold": 1}'), ("c.json", "[]")):
        (tmp_path / name).write_text(text)
    assert detect_format(tmp_path) == "labelme"
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["b"]
    (problem,) = dataset.problems
    assert (problem.severity, "are not labelme's and are passed over: a.json, c.json" in problem.message) == ("note", 1)


def test_a_file_that_begins_with_the_image_is_found(tmp_path):
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE})
    content = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({"imageData": "A" * 100_000} | content | {"imageData": "A" * 100_000}))
    assert detect_format(tmp_path) == "labelme"


def test_shapes_of_a_group_are_one_object_and_lines_are_none(tmp_path):
    far = [[6, 0], [8, 0], [8, 2], [6, 2]]
    write_shapes(
        tmp_path,
        "a",
        {"label": "cell", "points": SQUARE, "group_id": 3},
        {"label": "cell", "points": far, "group_id": 3},
        {"label": "other", "points": far, "group_id": 3},
        {"label": "cell", "points": [[1, 1], [2, 2]], "shape_type": "line"},
    )
    dataset = open_dataset(tmp_path)
    assert dataset[0].to_instances().runs.areas.tolist() == [13, 4]
    assert [problem.severity for problem in dataset.problems] == ["note"]
    assert "a.json: shape 3" in dataset.problems[0].message


@pytest.mark.parametrize("image", ["..\\images\\{}.png", "/home/me/{}.png", "{}.png"])
def test_images_in_a_folder_of_their_own(tmp_path, image):
    (tmp_path / "annotations").mkdir()
    write_shapes(tmp_path / "annotations", "a", {"label": "cell", "points": SQUARE}, image=image, pixels=False)
    write_array(tmp_path / "images" / "a.png", make_pixels())
    assert detect_format(tmp_path) == "labelme"
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": SQUARE}, "shape 1 has no label"),
        ({"label": "a", "points": [[1, 1], [2, 2]]}, r"shape 1 is a polygon of points \[\[1, 1\], \[2, 2\]\]"),
        ({"label": "a", "points": [["x", 1], [2, 2], [3, 3]]}, "shape 1 is a polygon"),
        ({"label": "a", "points": [[float("nan"), 1], [2, 2], [3, 3]]}, "shape 1 is a polygon"),
        ({"label": "a", "points": None}, "shape 1 is a polygon of points None"),
        ({"label": "a", "points": SQUARE, "shape_type": "cube"}, "shape 1 is a cube"),
        ({"label": "a", "points": SQUARE, "shape_type": "mask"}, "shape 1 is a mask without"),
        (
            {"label": "a", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": "AAAA"},
            "mask that cannot be decoded",
        ),
        (
            {"label": "a", "points": [[0, 0], [1, 1]], "shape_type": "mask", "mask": encode_png(np.ones((7, 8), bool))},
            "larger than its image of 6 x 8",
        ),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, shape, message):
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE}, shape)
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert problem.kind == "bad-annotation"
    with pytest.raises(FormatError, match=message):
        raise FormatError(problem.message)
    assert problem.image == "a"
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_the_record_of_repairs_is_no_file_of_labelme(tmp_path):
    write_shapes(tmp_path, "z", {"label": "cell", "points": SQUARE})
    (tmp_path / "repairs.json").write_text("[]")
    assert [record.name for record in read_dataset(tmp_path).records] == ["z"]


def test_objects_without_a_class_are_objects(tmp_path):
    write_shapes(tmp_path, "a", {"label": "", "points": SQUARE}, {"label": "cell", "points": SQUARE})
    dataset = open_dataset(tmp_path)
    assert [dataset.categories[label - 1].name for label in dataset[0].labels] == ["object", "cell"]
    assert ["1 object without a class" in problem.message for problem in dataset.problems] == [True]


def test_an_image_of_which_no_object_can_be_used_is_left_out(tmp_path):
    """Also where the file is named otherwise than its image; one without shapes shows no object."""
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE})
    write_shapes(tmp_path, "b", {"label": "cell", "points": []})
    (tmp_path / "b.json").rename(tmp_path / "labels of b.json")
    write_shapes(tmp_path, "c")
    with pytest.warns(UserWarning, match=r"left out 1 of 2 objects and 1 of 3 images, .*labels of b\.json: shape 0"):
        assert [record.name for record in read_dataset(tmp_path).records] == ["a", "c"]
    assert {problem.image for problem in open_dataset(tmp_path).problems} == {"b"}


def test_images_and_files_that_lack_each_other_are_listed(tmp_path):
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE})
    write_shapes(tmp_path, "b", {"label": "cell", "points": SQUARE}, pixels=False)
    write_array(tmp_path / "c.png", make_pixels())
    (tmp_path / "d.json").write_text("{")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.path.name) for problem in dataset.problems] == [
        ("bad-image-entry", "d.json"),
        ("bad-image-entry", "b.json"),
        ("incomplete-image", "c.png"),
    ]


def test_the_size_is_compared(tmp_path):
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE}, size=(6, 9))
    write_array(tmp_path / "a.png", make_pixels())
    with pytest.raises(DatasetError, match="a.json gives image a.png as 6 x 9"):
        read_labelme(tmp_path)[0]


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8))
    overlapping = make_ids((2, 2, 6, 7))
    write_shapes(tmp_path, "a", {"label": "cell", "points": SQUARE}, {"label": "dot", "points": SQUARE})
    dataset = read_labelme(tmp_path)
    writer = LabelmeWriter(tmp_path / "copy", dataset)
    writer.write(dataset.records[0], make_instances(ring, parts, overlapping, labels=[1, 2, 1]), np.arange(3))
    writer.close()
    copy = read_labelme(tmp_path / "copy")
    assert copy.problems == ()
    instances = copy[0].to_instances()
    assert [copy.categories[label - 1].name for label in instances.labels] == ["cell", "dot", "cell"]
    np.testing.assert_array_equal(instances.to_masks(), np.stack([ring, parts, overlapping]) > 0)


@pytest.mark.parametrize("corners", [[[3, 9], [4, 10]], [[11, 1], [12, 2]], [[-9, -9], [-8, -8]]])
def test_masks_outside_of_the_image_have_no_pixels(tmp_path, corners):
    mask = {"label": "a", "points": corners, "shape_type": "mask", "mask": encode_png(np.ones((5, 5), bool))}
    write_shapes(tmp_path, "a", mask, {"label": "a", "points": SQUARE})
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9]
