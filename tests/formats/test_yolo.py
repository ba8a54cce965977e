from pathlib import Path

import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset
from manymask.formats.datasets import detect_format, open_dataset
from manymask.formats.yolo import find_splits, read_yolo
from tests.formats.format_files import copy_with, make_ids, make_pixels, write_array

# The square from (1, 1) to (4, 4) of an image 8 wide and 6 high.
SQUARE = "0.125 0.166667 0.5 0.166667 0.5 0.666667 0.125 0.666667"
NAMES = "names: {0: cell, 1: dot}\n"


def write_labels(root, *rows, name="a", images="images", labels="labels"):
    write_array(root / images / f"{name}.png", make_pixels())
    (root / labels).mkdir(parents=True, exist_ok=True)
    if rows:
        (root / labels / f"{name}.txt").write_text("\n".join(rows) + "\n")


def test_rows_are_outlines_and_images_without_a_file_show_nothing(tmp_path):
    write_labels(tmp_path, f"1 {SQUARE}", "", "0 0 0 0.25 0 0.25 0.5 0 0.5")
    write_labels(tmp_path, name="b")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnc: 2\nnames: [cell, dot]\n")
    dataset = read_dataset(tmp_path)
    assert dataset.format.name == "yolo"
    assert [category.name for category in dataset.categories] == ["cell", "dot"]
    instances = dataset[0].to_instances()
    assert instances.labels.tolist() == [2, 1]
    np.testing.assert_array_equal(instances.to_masks()[0], make_ids((1, 1, 4, 4)) > 0)
    np.testing.assert_array_equal(instances.to_masks()[1], make_ids((0, 0, 3, 2)) > 0)
    assert len(dataset[1].labels) == 0


@pytest.mark.parametrize(
    ("images", "labels"),
    [("{}/images", "{}/labels"), ("images/{}", "labels/{}")],
)
def test_splits(tmp_path, images, labels):
    for split in ("train", "valid"):
        write_labels(tmp_path, f"1 {SQUARE}", name=split, images=images.format(split), labels=labels.format(split))
    write_array(tmp_path / "pool" / "images" / "c.png", make_pixels())
    train, valid = (images.format(split) for split in ("train", "valid"))
    # Roboflow's paths begin above the folder, Ultralytics' with one of another machine.
    text = f"path: /home/me/datasets/x\ntrain: ../{train}\nval: [{valid}]\ntest: ../test/images\n{NAMES}"
    (tmp_path / "data.yaml").write_text(text)
    assert find_splits(tmp_path) == {"train": (tmp_path / train,), "val": (tmp_path / valid,)}
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["train", "valid"]
    assert [problem.severity for problem in dataset.problems] == ["note"]
    assert "read together" in dataset.problems[0].message
    one = read_dataset(tmp_path / images.format("train").removesuffix("/images"))
    assert [record.name for record in one.records] == ["train"]
    assert [category.name for category in one.categories] == ["cell", "dot"]
    assert one[0].to_instances().runs.areas.tolist() == [9]


def test_lists_of_images(tmp_path):
    for name in "abc":
        write_labels(tmp_path, f"0 {SQUARE}", name=name)
    (tmp_path / "train.txt").write_text("./images/a.png\n/home/me/images/b.png\n./images/x.png\n")
    (tmp_path / "data.yaml").write_text(f"train: train.txt\n{NAMES}")
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["a", "b"]
    missing, unlisted = dataset.problems
    assert "images/x.png" in missing.message
    assert (unlisted.severity, unlisted.detail.rpartition(": ")[2]) == ("note", "c.png")


def test_classes_without_names_and_of_label_studio(tmp_path):
    write_labels(tmp_path, f"10 {SQUARE}", f"2 {SQUARE}")
    assert [category.name for category in read_yolo(tmp_path).categories] == ["2", "10"]
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghijk") + "\n")
    dataset = read_yolo(tmp_path)
    assert [dataset.categories[label - 1].name for label in dataset[0].labels] == ["k", "c"]


def test_folders_without_labels_are_not_labelled_and_labels_without_an_image_are_listed(tmp_path):
    write_labels(tmp_path, f"0 {SQUARE}", images="images/train", labels="labels/train")
    write_array(tmp_path / "images" / "test" / "b.png", make_pixels())
    (tmp_path / "labels" / "train" / "c.txt").write_text("")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cell\n")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.path.name) for problem in dataset.problems] == [
        ("incomplete-image", "c.txt"),
        ("unusual-entries", tmp_path.name),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", "line 2 is a box, which is no mask"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 2 is a box, which is no mask"),
        ("0 0.5 0.5 0.1", "line 2 has 4 numbers, expected a class and at least three points"),
        (f"0 {SQUARE} 0.75", "line 2 has a number more than pairs of x and y, as predictions end with a score;"),
        ("0", "line 2 has 1 numbers"),
        (f"7 {SQUARE}", "line 2 is of class 7, expected one of 0, 1; correct it"),
        (f"cell {SQUARE}", "line 2 is not all numbers"),
        (f"nan {SQUARE}", "line 2 holds nan, which is no number"),
        (f"-1 {SQUARE}", "line 2 begins with -1"),
        (f"1e300 {SQUARE}", "line 2 begins with 1e300"),
        ("0 inf 0 1 0 1 1", "line 2 holds inf, which is no number"),
        ("0 10 20 30 20 30 40", "line 2 has the coordinate 40, expected shares"),
    ],
)
def test_an_object_that_cannot_be_taken_is_listed(tmp_path, row, message):
    write_labels(tmp_path, f"0 {SQUARE}", row)
    (tmp_path / "data.yaml").write_text(NAMES)
    dataset = open_dataset(tmp_path)
    (problem,) = dataset.problems
    assert (problem.kind, problem.image) == ("bad-annotation", "a")
    with pytest.raises(FormatError, match=message):
        raise FormatError(problem.message)
    assert dataset[0].to_instances().runs.areas.tolist() == [9]


def test_files_that_cannot_be_read_are_listed(tmp_path):
    write_labels(tmp_path, f"0 {SQUARE}")
    write_labels(tmp_path, name="b")
    (tmp_path / "labels" / "b.txt").write_bytes(b"\xff\xfe0")
    write_labels(tmp_path, f"0 {SQUARE}", name="c")
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert [(problem.kind, problem.image) for problem in dataset.problems] == [
        ("bad-image-entry", "b"),
        ("bad-image-entry", "c"),
    ]


@pytest.mark.parametrize("text", ["{", "- 1", "names: 3", "names: {a: b}", "names: []"])
def test_a_broken_data_yaml_is_refused(tmp_path, text):
    write_labels(tmp_path, f"0 {SQUARE}")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        read_yolo(tmp_path)


def test_label_images_beside_images_stay_label_images(tmp_path):
    write_array(tmp_path / "images" / "a.png", make_pixels())
    write_array(tmp_path / "labels" / "a.png", make_ids((1, 1, 4, 4)))
    assert detect_format(tmp_path) == "label_images"


def test_a_copy_has_the_same_masks_with_holes_parts_and_overlaps(tmp_path):
    ring = make_ids((0, 0, 5, 5)) - make_ids((1, 1, 4, 4))
    parts = make_ids((0, 5, 2, 8)) + make_ids((3, 6, 6, 8)) + make_ids((4, 0, 6, 2))
    overlapping = make_ids((2, 2, 6, 7))
    write_labels(tmp_path / "data", f"0 {SQUARE}")
    (tmp_path / "data" / "data.yaml").write_text(NAMES)
    copy = copy_with(read_yolo(tmp_path / "data"), tmp_path / "copy", ring, parts, overlapping, labels=[1, 2, 1])
    assert copy.problems == ()
    assert [category.name for category in copy.categories] == ["cell", "dot"]
    instances = copy[0].to_instances()
    assert instances.labels.tolist() == [1, 2, 1]
    np.testing.assert_array_equal(instances.to_masks(), np.stack([ring, parts, overlapping]) > 0)


def test_nothing_outside_of_the_working_folder_is_a_part(tmp_path, monkeypatch):
    write_labels(tmp_path / "other", SQUARE, images="images/train", labels="labels/train")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.yaml").write_text("path: ../other\ntrain: images/train\nnames: [cell]\n")
    monkeypatch.chdir(tmp_path / "mine")
    assert find_splits(Path(".")) == {}


def test_images_whose_folder_of_labels_is_empty_are_not_labelled(tmp_path):
    write_labels(tmp_path, f"0 {SQUARE}", images="images/train", labels="labels/train")
    write_labels(tmp_path, name="b", images="images/test", labels="labels/test")
    (tmp_path / "labels" / "test" / "notes.txt").write_text("soon")
    assert [record.name for record in read_dataset(tmp_path).records] == ["a"]


def test_names_that_are_no_texts_are_refused(tmp_path):
    """A few references to lists of lists would fill the memory as a text."""
    write_labels(tmp_path, f"0 {SQUARE}")
    (tmp_path / "data.yaml").write_text("a: &a [x, x]\nnames: [[*a, *a]]\n")
    with pytest.raises(FormatError, match="no list or map 'names'"):
        read_yolo(tmp_path)
