import json

import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.datasets import open_dataset
from manymask.formats.label_studio import decode_brush, read_label_studio
from tests.formats.format_files import copy_with, make_ids, make_pixels, write_array

SQUARE = {"points": [[12.5, 100 / 6], [50, 100 / 6], [50, 400 / 6], [12.5, 400 / 6]], "polygonlabels": ["cell"]}


def make_region(value, type="polygonlabels", **changes):
    """A result as Label Studio exports it."""
    fields = {"original_width": 8, "original_height": 6, "image_rotation": 0, "from_name": "label", "to_name": "image"}
    return {"id": "r0", "value": value, "type": type, "origin": "manual"} | fields | changes


def make_annotation(*regions, **changes):
    regions = [{**region, "id": f"r{number}"} for number, region in enumerate(regions)]
    return {"id": 1, "result": regions, "was_cancelled": False, "created_at": "2026-01-02T03:04:05.1Z"} | changes


def write_tasks(root, *tasks, images=("a.png",)):
    for image in images:
        write_array(root / "images" / image, make_pixels())
    (root / "project-1-at-2026.json").write_text(json.dumps(tasks))


def make_task(*annotations, image="/data/upload/1/1a2b3c4d-a.png", number=7):
    return {"id": number, "annotations": list(annotations), "predictions": [], "data": {"image": image}}


def encode_brush(mask, literal=False):
    """The inverse, from the description of the stream: runs along the rows of an RGBA picture."""
    values = np.repeat(np.where(mask, 255, 0).ravel(), 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    if literal:
        for begin in range(0, len(values), 8):
            part = values[begin : begin + 8]
            bits += "0" + "00" + f"{len(part) - 1:03b}" + "".join(f"{value:08b}" for value in part)
    else:
        edges = np.flatnonzero(np.diff(values)) + 1
        for run in np.split(values, edges):
            bits += "1" + "11" + f"{len(run) - 1:016b}" + f"{run[0]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)]


def test_rectangles_that_are_only_the_boxes_of_other_regions(tmp_path):
    box = {"x": 12.5, "y": 100 / 6 + 1e-9, "width": 37.5, "height": 50, "rotation": 0}
    regions = [
        make_region(SQUARE),
        make_region(box | {"rectanglelabels": ["cell"]}, "rectanglelabels"),
        make_region(box | {"rectanglelabels": ["dot"]}, "rectanglelabels"),
        make_region(box | {"rectanglelabels": ["cell"], "width": 30}, "rectanglelabels"),
        make_region(box | {"rectanglelabels": ["cell"], "rotation": 20}, "rectanglelabels"),
    ]
    write_tasks(tmp_path, make_task(make_annotation(*regions), image="a.png"))
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.severity, problem.detail.rpartition(": ")[2]) == ("note", "region r1")
    assert dataset.format.name_instances(dataset.records[0]) == ["region r0", "region r2", "region r3", "region r4"]


def test_polygon_rectangle_ellipse_and_brush(tmp_path):
    mask = make_ids((1, 5, 3, 7)) > 0
    mask[4, 0] = True
    rectangle = {"x": 50, "y": 200 / 6, "width": 37.5, "height": 50, "rotation": 0, "rectanglelabels": ["cell"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 200 / 6, "rotation": 90, "ellipselabels": ["dot"]}
    turned = {"x": 50, "y": 0, "width": 25, "height": 100 / 3, "rotation": 90, "rectanglelabels": ["dot"]}
    regions = [
        make_region(SQUARE),
        make_region(rectangle, "rectanglelabels"),
        make_region(ellipse, "ellipselabels"),
        make_region({"format": "rle", "rle": encode_brush(mask), "brushlabels": ["dot"]}, "brushlabels"),
        make_region(turned, "rectanglelabels"),
    ]
    write_tasks(tmp_path, make_task(make_annotation(*regions)))
    dataset = open_dataset(tmp_path)
    assert dataset.format.name == "label_studio"
    assert dataset.problems == ()  # Label Studio's address of an image says nothing of where it lies
    assert [category.name for category in dataset.categories] == ["cell", "dot"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [1, 1, 2, 2, 2]
    masks = instances.to_masks()
    np.testing.assert_array_equal(masks[0], make_ids((1, 1, 4, 4)) > 0)
    np.testing.assert_array_equal(masks[1], make_ids((2, 4, 5, 7)) > 0)
    y, x = np.indices((6, 8)) + 0.5
    np.testing.assert_array_equal(masks[2], np.hypot(x - 4, y - 3) < 1.98)
    np.testing.assert_array_equal(masks[3], mask)
    np.testing.assert_array_equal(masks[4], make_ids((0, 2, 2, 4)) > 0)


@pytest.mark.parametrize("literal", [False, True])
def test_brush_streams(literal):
    mask = np.random.default_rng(0).random((9, 7)) > 0.5
    runs = decode_brush(encode_brush(mask, literal), mask.shape)
    owner = np.zeros(mask.size, dtype=bool)
    for start, length in zip(runs.start, runs.length, strict=True):
        owner[start : start + length] = True
    np.testing.assert_array_equal(owner.reshape(7, 9).T, mask)


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/1/1a2b3c4d-a.png",
        "/data/local-files/?d=me/images/a.png",
        "/data/local-files/?d=me%2Fimages%5Ca.png",
        "s3://bucket/folder/a.png",
        "https://host/folder/a.png?signature=x/b.png",
        "images/a.png",
    ],
)
def test_names_of_images(tmp_path, image):
    write_tasks(tmp_path, make_task(make_annotation(make_region(SQUARE)), image=image), images=["a.png", "b.png"])
    dataset = read_dataset(tmp_path)
    assert [record.path.name for record in dataset.records] == ["a.png"]
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_a_prefix_is_dropped_only_where_one_image_is_meant(tmp_path):
    task = make_task(make_annotation())
    write_tasks(tmp_path, task, images=["1a2b3c4d-a.png", "a.png"])
    assert read_label_studio(tmp_path).records[0].path.name == "1a2b3c4d-a.png"
    write_tasks(tmp_path / "two", task, images=["x/a.png", "y/a.png"])
    with pytest.raises(DatasetError, match="give the one that is meant"):
        read_label_studio(tmp_path / "two")


def test_the_newest_annotation_that_is_not_cancelled_is_taken(tmp_path):
    other = SQUARE | {"polygonlabels": ["other"]}
    annotations = [
        make_annotation(make_region(SQUARE), updated_at="2026-03-01T00:00:00Z"),
        make_annotation(make_region(other), updated_at="2026-02-01T00:00:00Z"),
        make_annotation(updated_at="2026-04-01T00:00:00Z", was_cancelled=True),
    ]
    write_tasks(tmp_path, make_task(*annotations, image="a.png"))
    dataset = open_dataset(tmp_path)
    assert [category.name for category in dataset.categories] == ["cell"]
    (problem,) = dataset.problems
    assert "several annotations, of which the newest is taken: a" in problem.message


def test_tasks_that_nobody_submitted_are_not_labelled(tmp_path):
    tasks = [
        make_task(make_annotation(), image="a.png"),
        make_task(image="b.png", number=8),
        make_task(make_annotation(was_cancelled=True), image="c.png", number=9),
        {"id": 10, "annotations": [make_annotation()], "data": {"text": "hello"}},
        7,
    ]
    write_tasks(tmp_path, *tasks, images=["a.png", "b.png", "c.png"])
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["a"]
    assert len(dataset[0].labels) == 0
    found = [(problem.kind, problem.message.split(": ")[1].split(" has")[0]) for problem in dataset.problems]
    assert found == [
        ("incomplete-image", "task 8 of image b.png"),
        ("incomplete-image", "task 9 of image c.png"),
        ("bad-image-entry", "task 10"),
        ("bad-image-entry", "task 4"),
    ]


def test_labels_in_results_of_their_own_and_points_that_enclose_nothing(tmp_path):
    points = {"points": SQUARE["points"]}
    regions = [make_region(points, "polygon"), make_region(points | {"labels": ["a", "b"]}, "labels")]
    regions.append(make_region({"x": 1, "y": 2, "width": 3, "keypointlabels": ["a"]}, "keypointlabels", id="r1"))
    write_tasks(tmp_path, make_task(make_annotation() | {"result": regions}, image="a.png"))
    dataset = open_dataset(tmp_path)
    assert [category.name for category in dataset.categories] == ["a"]
    assert len(dataset[0].labels) == 1
    several, enclosing = sorted((problem.message for problem in dataset.problems), key=lambda text: "enclose" in text)
    assert "enclose no pixels" in enclosing
    assert "several labels, of which the first is taken: a: r0" in several


BRUSH = encode_brush(make_ids((1, 1, 4, 4)) > 0)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (make_region(SQUARE | {"points": None}), "task 7: region r1 is a polygon without three points"),
        (make_region(SQUARE | {"points": [[1, 1], [2, 2]]}), "is a polygon without three points"),
        (make_region(SQUARE | {"points": [[1, "x"], [2, 2], [3, 3]]}), "is a polygon without three points"),
        (make_region(SQUARE | {"points": [[1, float("nan")], [2, 2], [3, 3]]}), "is a polygon without three points"),
        (make_region(SQUARE, original_width=None), "has no original_width"),
        (make_region(SQUARE, image_rotation=90), "turned by 90 degrees"),
        (make_region(None), "is a polygon without"),
        (make_region({"x": 1, "y": "2"}, "rectanglelabels"), "has y '2', expected a number"),
        (make_region({"x": 1, "y": 2, "width": 1e99, "height": 1}, "rectanglelabels"), "has width 1e"),
        (make_region({"rle": None}, "brushlabels"), "brush stroke that cannot be decoded"),
        (make_region({"rle": [1, 999]}, "brushlabels"), "brush stroke that cannot be decoded"),
        (make_region({"rle": 2**40}, "brushlabels"), "cannot be decoded .it is no list"),
        (make_region({"rle": []}, "brushlabels"), "cannot be decoded .it is cut short"),
        (make_region({"rle": BRUSH[:20]}, "brushlabels"), "cannot be decoded .it is cut short"),
        (make_region({"rle": BRUSH}, "brushlabels", original_width=9), "holds 192 values, expected 216"),
        (make_region({"rle": BRUSH}, "brushlabels", original_width=10**9), "of which polygons are to be made first"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, region, message):
    write_tasks(tmp_path, make_task(make_annotation(make_region(SQUARE), region), image="a.png"))
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    with pytest.raises(FormatError, match=message):
        raise FormatError(problem.message)
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8))
    overlapping = make_ids((2, 2, 6, 7))
    regions = [make_region(SQUARE), make_region(SQUARE | {"polygonlabels": ["dot"]})]
    write_tasks(tmp_path / "data", make_task(make_annotation(*regions), image="a.png"))
    dataset = read_label_studio(tmp_path / "data")
    copy = copy_with(dataset, tmp_path / "copy", ring, parts, overlapping, labels=[1, 2, 1])
    assert copy.problems == ()
    # Label Studio's own converter asks for ids.
    (task,) = json.loads((tmp_path / "copy" / "tasks.json").read_text())
    assert (task["id"], [annotation["id"] for annotation in task["annotations"]]) == (1, [1])
    instances = copy[0].to_instances()
    assert [copy.categories[label - 1].name for label in instances.labels] == ["cell", "dot", "cell"]
    np.testing.assert_array_equal(instances.to_masks(), np.stack([ring, parts, overlapping]) > 0)


@pytest.mark.parametrize("change", [{"result": None}, {"result": {}}])
def test_an_annotation_without_a_list_of_results(tmp_path, change):
    write_tasks(tmp_path, make_task(make_annotation() | change, image="a.png"))
    with pytest.raises(DatasetError, match="has an annotation without a list 'result'; export the project again"):
        open_dataset(tmp_path)


def test_regions_without_ids_are_objects_each(tmp_path):
    regions = [{**make_region(SQUARE), "id": None}, {**make_region(SQUARE), "id": None}]
    write_tasks(tmp_path, make_task({"id": 1, "result": regions}))
    assert len(read_dataset(tmp_path)[0].labels) == 2
