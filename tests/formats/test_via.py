import csv
import json

import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.datasets import detect_format, open_dataset
from manymask.formats.via import read_via
from tests.formats.format_files import copy_with, make_ids, make_pixels, write_array

SQUARE = {"name": "polygon", "all_points_x": [1, 4, 4, 1], "all_points_y": [1, 1, 4, 4]}


def make_region(shape, name="cell", attribute="type"):
    return {"shape_attributes": shape, "region_attributes": {attribute: name} if name else {}}


def make_entries(*regions, name="a.png"):
    """The entries of VIA 2 for an image."""
    return {f"{name}123": {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}}


def write_via(root, content):
    write_array(root / "images" / "a.png", make_pixels())
    (root / "via_export.json").write_text(json.dumps(content))


def test_polygon_rectangle_circle_and_ellipse(tmp_path):
    regions = [
        make_region(SQUARE),
        make_region({"name": "rect", "x": 4, "y": 2, "width": 3, "height": 3}, "dot"),
        make_region({"name": "circle", "cx": 4, "cy": 3, "r": 2}, {"cell": True, "dot": False}),
        make_region({"name": "ellipse", "cx": 4, "cy": 3, "rx": 1.5, "ry": 3, "theta": np.pi / 2}),
        make_region({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}),
    ]
    write_via(tmp_path, make_entries(*regions))
    dataset = open_dataset(tmp_path)
    assert dataset.format.name == "via"
    assert ["a.png: region 4" in problem.message for problem in dataset.problems] == [True]
    assert [category.name for category in dataset.categories] == ["cell", "dot"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [1, 2, 1, 1]
    masks = instances.to_masks()
    np.testing.assert_array_equal(masks[0] | masks[1], make_ids((1, 1, 4, 4), (2, 4, 5, 7)) > 0)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[2], np.hypot(x - 4, y - 3) < 1.98)
    np.testing.assert_array_equal(masks[3], np.hypot((x - 4) / 3, (y - 3) / 1.5) < 0.99)


def test_project_of_version_2_and_export_of_version_1(tmp_path):
    write_via(tmp_path, {"_via_settings": {}, "_via_img_metadata": make_entries(make_region(SQUARE))})
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9]
    entry = {"fileref": "", "size": 1, "filename": "a.png", "base64_img_data": "", "file_attributes": {}}
    write_via(tmp_path, {"a.png1": entry | {"regions": {"0": make_region(SQUARE), "1": make_region(SQUARE)}}})
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [9, 9]


@pytest.mark.parametrize("mark", ["", "#"])
def test_table(tmp_path, mark):
    for name in ("a.png", "b.png"):
        write_array(tmp_path / name, make_pixels())
    with open(tmp_path / "via.csv", "w", newline="") as file:
        rows = csv.writer(file)
        names = "filename file_size file_attributes region_count region_id region_shape_attributes region_attributes"
        rows.writerow((mark + names).split())
        rows.writerow(["a.png", 1, "{}", 2, 0, json.dumps(SQUARE), '{"type": "cell"}'])
        rows.writerow(["a.png", 1, "{}", 2, 1, '{"name": "poly', '{"type": "cell"}'])
        rows.writerow(["b.png", 1, "{}", 0, 0, "{}", "{}"])
    assert detect_format(tmp_path) == "via"
    dataset = open_dataset(tmp_path)
    assert [sample.to_instances().runs.areas.tolist() for sample in dataset] == [[9], []]
    assert [problem.kind for problem in dataset.problems] == ["bad-annotation"]


def test_entries_without_a_name_and_long_ones(tmp_path):
    many = make_entries(*[make_region(SQUARE)] * 1000)
    write_via(tmp_path, many | {"b": 1, "c": {"size": 3}})
    dataset = open_dataset(tmp_path)
    assert len(dataset[0].labels) == 1000
    assert [problem.message.split(": ")[1].split(";")[0] for problem in dataset.problems] == [
        "the entry b has no filename",
        "the entry c has no filename",
    ]


def test_one_attribute_is_the_class(tmp_path):
    write_via(tmp_path, make_entries(make_region(SQUARE), make_region(SQUARE, None), make_region(SQUARE, "", "note")))
    assert [category.name for category in read_dataset(tmp_path).categories] == ["cell", "object"]
    write_via(tmp_path, make_entries(make_region(SQUARE), make_region(SQUARE, "blurred", "note")))
    with pytest.raises(FormatError, match=r"has the region attributes note, type, expected one"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    "shape",
    [
        None,
        {},
        {"name": "cube"},
        SQUARE | {"all_points_x": [1, 2]},
        SQUARE | {"all_points_x": None},
        SQUARE | {"all_points_x": [1, 4, "x", 1]},
        SQUARE | {"all_points_x": [1, 4, float("nan"), 1]},
        {"name": "polygon", "all_points_x": [1, 4], "all_points_y": [1, 4]},
        {"name": "rect", "x": 1, "y": 1, "width": None, "height": 2},
        {"name": "circle", "cx": 1, "cy": 1, "r": 1e99},
        {"name": "ellipse", "cx": 1, "cy": 1, "rx": 1, "ry": 2, "theta": "a"},
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, shape):
    write_via(tmp_path, make_entries(make_region(SQUARE), make_region(shape)))
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    assert "image a.png: region 1 is {" in problem.message
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_images_that_are_not_there_are_listed(tmp_path):
    write_via(tmp_path, make_entries(make_region(SQUARE)) | make_entries(make_region(SQUARE), name="b.png"))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.image) for problem in dataset.problems] == [("bad-image-entry", "b.png")]


@pytest.mark.parametrize("content", [{"_via_img_metadata": []}, {"_via_img_metadata": {"a": 1}}, {"_via_x": 1}])
def test_other_files_are_refused(tmp_path, content):
    write_via(tmp_path, content)
    with pytest.raises(DatasetError, match=r"via_export\.json"):
        read_via(tmp_path)


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8))
    overlapping = make_ids((2, 2, 6, 7))
    write_via(tmp_path / "data", make_entries(make_region(SQUARE), make_region(SQUARE, "dot")))
    copy = copy_with(read_via(tmp_path / "data"), tmp_path / "copy", ring, parts, overlapping, labels=[1, 2, 1])
    assert copy.problems == ()
    instances = copy[0].to_instances()
    assert [copy.categories[label - 1].name for label in instances.labels] == ["cell", "dot", "cell"]
    np.testing.assert_array_equal(instances.to_masks(), np.stack([ring, parts, overlapping]) > 0)


@pytest.mark.parametrize("change", [{}, {"regions": "text"}])
def test_an_image_without_a_list_of_regions(tmp_path, change):
    write_array(tmp_path / "images" / "b.png", make_pixels())
    lost = {"b.png": {"filename": "b.png", "size": 1, "file_attributes": {}} | change}
    write_via(tmp_path, make_entries(make_region(SQUARE)) | lost)
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["a"]
    (problem,) = dataset.problems
    assert (problem.severity, problem.image) == ("fault", "b")
    assert "the entry of b.png has no list of regions; export it again" in problem.message


def test_a_region_whose_attribute_is_null_has_no_class(tmp_path):
    write_array(tmp_path / "images" / "a.png", make_pixels())
    shape = {"name": "rect", "x": 1, "y": 1, "width": 3, "height": 3}
    regions = [{"shape_attributes": shape, "region_attributes": {"class": name}} for name in (None, "cell")]
    (tmp_path / "via.json").write_text(json.dumps({"a.png1": {"filename": "a.png", "regions": regions}}))
    dataset = read_via(tmp_path)
    assert [category.name for category in dataset.categories] == ["cell", "object"]
    assert dataset[0].labels.tolist() == [2, 1]
