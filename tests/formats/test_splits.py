import logging
import shutil
from contextlib import nullcontext

import numpy as np
import pytest

from manymask.errors import DatasetError
from manymask.evaluation.data import read_data
from manymask.formats import convert, read_dataset
from manymask.formats.splits import check_same_classes, choose_parts, choose_scored, find_splits, tell_mixed
from manymask.inspection import inspect
from tests.formats.format_files import make_coco, make_ids, make_pixels, write_array

TRIANGLE = {"segmentation": [[1, 1, 5, 1, 3, 4]]}


def write_pair(root, name, seed=0, labels="masks"):
    """An image with its label image."""
    write_array(root / "images" / f"{name}.tif", np.random.default_rng(seed).integers(0, 250, (40, 50), np.uint8))
    write_array(root / labels / f"{name}.tif", make_ids((2, 2, 20, 20), (22, 22, 38, 40), size=(40, 50)))


def make_roboflow(root):
    for name in ("train", "valid", "test"):
        path = make_coco(root / name, [TRIANGLE])
        path.rename(path.with_name("_annotations.coco.json"))
    return {"train": root / "train", "val": root / "valid", "test": root / "test"}


def make_stardist(root):
    for name in ("train", "test"):
        write_pair(root / name, "a")
    return {"train": root / "train", "test": root / "test"}


def make_embedseg(root):
    for name in ("train", "val", "test"):
        write_pair(root / name, "a")
    return {name: root / name for name in ("train", "val", "test")}


def make_coco2017(root):
    """With what lies beside in COCO's own archives."""
    for name in ("train", "val"):
        path = make_coco(root / "made", [TRIANGLE])
        (root / "annotations").mkdir(exist_ok=True)
        path.rename(root / "annotations" / f"instances_{name}2017.json")
        shutil.copy(root / "annotations" / f"instances_{name}2017.json", root / f"annotations/captions_{name}2017.json")
        (root / "made" / "images").rename(root / f"{name}2017")
        (root / "made").rmdir()
    return {name: root / "annotations" / f"instances_{name}2017.json" for name in ("train", "val")}


def make_coco_by_content(root):
    make_coco2017(root)
    for name in ("train", "val"):
        (root / f"annotations/captions_{name}2017.json").unlink()
        (root / f"annotations/instances_{name}2017.json").rename(root / f"annotations/{name}.json")
        (root / f"{name}2017").rename(root / name)
    return {name: root / "annotations" / f"{name}.json" for name in ("train", "val")}


def make_fiftyone(root):
    for name in ("train", "validation"):
        make_coco(root / name, [TRIANGLE]).rename(root / name / "labels.json")
        (root / name / "images").rename(root / name / "data")
    return {"train": root / "train", "val": root / "validation"}


def make_class_folders(root):
    for name in ("Training", "Testing"):
        write_array(root / name / "x" / "image.tif", make_pixels())
        write_array(root / name / "x" / "class1.tif", make_ids((1, 1, 3, 3)))
    return {"train": root / "Training", "test": root / "Testing"}


def make_yolo(root, images="images/{}", labels="labels/{}"):
    for name in ("train", "val"):
        write_array(root / images.format(name) / f"{name}.png", make_pixels())
        (root / labels.format(name)).mkdir(parents=True)
        (root / labels.format(name) / f"{name}.txt").write_text("0 0.125 0.2 0.5 0.2 0.5 0.7\n")
    return {name: root / images.format(name) for name in ("train", "val")}


def make_label_images_in_folders_of_parts(root):
    for name in ("train", "val", "test"):
        write_array(root / "images" / name / "a.png", make_pixels())
        write_array(root / "masks" / name / "a_mask.png", make_ids((1, 1, 3, 3)))
    return {name: root / "images" / name for name in ("train", "val", "test")}


def make_roboflow_yolo(root):
    make_yolo(root, "{}/images", "{}/labels")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../val/images\nnames: [cell]\n")
    return {name: root / name / "images" for name in ("train", "val")}


def make_yolo_of_other_names(root):
    make_yolo(root)
    for name, other in (("train", "fold1"), ("val", "fold2")):
        (root / "images" / name).rename(root / "images" / other)
        (root / "labels" / name).rename(root / "labels" / other)
    (root / "data.yaml").write_text("path: .\ntrain: images/fold1\nval: images/fold2\nnames: [cell]\n")
    return {"train": root / "images" / "fold1", "val": root / "images" / "fold2"}


MAKERS = [
    make_yolo,
    make_roboflow_yolo,
    make_yolo_of_other_names,
    make_roboflow,
    make_stardist,
    make_embedseg,
    make_coco2017,
    make_coco_by_content,
    make_fiftyone,
    make_class_folders,
    make_label_images_in_folders_of_parts,
]


@pytest.mark.parametrize("make", MAKERS)
def test_parts_are_found_and_can_be_read(tmp_path, make):
    expected = make(tmp_path)
    assert list(find_splits(tmp_path).items()) == list(expected.items())
    for part in expected.values():
        assert len(read_dataset(part)) == 1
        assert find_splits(part) == {}


def make_one_part(root):
    write_pair(root / "train", "a")


def make_images_without_labels(root):
    make_coco(root, [TRIANGLE])
    for name in ("train", "val"):
        write_array(root / "images" / name / "b.png", make_pixels())


def make_yolo_that_validates_on_training_images(root):
    make_yolo(root)
    shutil.rmtree(root / "images" / "val")
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cell]\n")


def make_plain(root):
    write_pair(root, "train")
    write_pair(root, "val")


def make_class_folders_called_like_parts(root):
    for name in ("train_1", "test_1", "other"):
        write_array(root / name / "image.tif", make_pixels())
        write_array(root / name / "class1.tif", make_ids((1, 1, 3, 3)))


def make_mask_files_called_like_parts(root):
    for name in ("train_1", "test_1", "other"):
        write_array(root / name / "images" / f"{name}.png", make_pixels())
        write_array(root / name / "masks" / "0.png", make_ids((1, 1, 3, 3)))


NOT_SPLIT = [
    make_class_folders_called_like_parts,
    make_mask_files_called_like_parts,
    make_one_part,
    make_images_without_labels,
    make_yolo_that_validates_on_training_images,
    make_plain,
]


@pytest.mark.parametrize("make", NOT_SPLIT)
def test_what_is_not_split(tmp_path, make):
    make(tmp_path)
    assert find_splits(tmp_path) == {}
    assert choose_parts(tmp_path, None).train == choose_scored(tmp_path) == tmp_path


@pytest.mark.parametrize("train", ["train.txt", "[images/a, images/b]"])
def test_parts_that_are_no_folders_are_refused_rather_than_mixed(tmp_path, train):
    for name in "abc":
        write_array(tmp_path / "images" / name / f"{name}.png", make_pixels())
        (tmp_path / "labels" / name).mkdir(parents=True)
        (tmp_path / "labels" / name / f"{name}.txt").write_text("0 0.125 0.2 0.5 0.2 0.5 0.7\n")
    (tmp_path / "train.txt").write_text("images/a/a.png\nimages/b/b.png\n")
    (tmp_path / "data.yaml").write_text(f"train: {train}\ntest: images/c\nnames: [cell]\n")
    message = r"data.yaml names its parts \(train, test\) not as one folder each"
    with pytest.raises(DatasetError, match=message):
        choose_parts(tmp_path, tmp_path / "images" / "c")
    with pytest.raises(DatasetError, match=message):
        choose_scored(tmp_path)
    with pytest.raises(DatasetError, match=message):
        convert(tmp_path, to="coco", output=tmp_path.with_name("copy"))


def test_two_parts_for_the_same_are_refused(tmp_path):
    for name in ("train", "val", "valid"):
        write_pair(tmp_path / name, "a")
    with pytest.raises(DatasetError, match=r"holds .*val, .*valid, each of which could be the part 'val'"):
        find_splits(tmp_path)


def test_training_takes_its_parts_and_leaves_the_test_images_alone(tmp_path, caplog):
    for number, name in enumerate(("train", "valid", "test")):
        write_pair(tmp_path / name, name, seed=number)
    write_pair(tmp_path / "mine", "x", seed=4)
    parts = choose_parts(tmp_path, None)
    assert (parts.train, parts.val, parts.are_one) == (tmp_path / "train", tmp_path / "valid", True)
    assert f"{tmp_path / 'test'} left alone" in caplog.text
    own = choose_parts(tmp_path, tmp_path / "mine")
    assert (own.train, own.val, own.are_one) == (tmp_path / "train", tmp_path / "mine", False)
    assert f"{tmp_path / 'valid'} and {tmp_path / 'test'} left alone" in caplog.text


def test_classes_that_differ_are_refused_unless_one_part_only_lacks_some(tmp_path):
    for name, classes in (("train", ["cell"]), ("val", ["cells"]), ("rich", ["cell", "rare"])):
        categories = [{"id": 7 + number, "name": category} for number, category in enumerate(classes)]
        make_coco(tmp_path / name, [TRIANGLE], categories=categories)
    train, val, rich = (read_dataset(tmp_path / name) for name in ("train", "val", "rich"))
    with pytest.raises(DatasetError, match=r"train has the classes cell, but .*val has cells; call the same classes"):
        check_same_classes(train, val)
    check_same_classes(train, rich)
    check_same_classes(rich, train)


@pytest.mark.parametrize(("names", "chosen"), [(("train", "val", "test"), "test"), (("train", "val"), "val")])
def test_scores_are_of_the_test_images_if_there_are_any(tmp_path, caplog, names, chosen):
    for number, name in enumerate(names):
        write_pair(tmp_path / "data" / name, name, seed=number)
    dataset = read_data(tmp_path, tmp_path / "data", None)
    assert [record.name for record in dataset.records] == [chosen]
    assert f"scoring on {tmp_path / 'data' / chosen}" in caplog.text


def test_the_doctor_looks_at_all_parts(tmp_path, caplog):
    for name in ("train", "val", "test"):
        write_pair(tmp_path / "data" / name, name, seed=0)
    write_pair(tmp_path / "data" / "train", "other", seed=1)
    caplog.set_level(logging.INFO)
    found = inspect(tmp_path / "data", fix=tmp_path / "fixed")
    copies = [(finding.image, finding.is_fixable) for finding in found.findings if finding.kind == "same-image-in-val"]
    assert copies == [("train", True), ("train", True), ("val", False)]
    assert [record.name for record in read_dataset(tmp_path / "fixed").records] == ["other"]
    assert f"only {tmp_path / 'data' / 'train'} is copied" in caplog.text


@pytest.mark.parametrize(
    ("folders", "is_told"), [(("train", "test"), True), (("a", "test"), False), (("train", "b"), False)]
)
def test_images_of_several_parts_in_one_file_are_told(tmp_path, folders, is_told):
    for folder in folders:
        write_array(tmp_path / "images" / folder / "a.png", make_pixels())
    size = {"width": 8, "height": 6}
    images = [{"id": number, "file_name": f"{folder}/a.png"} | size for number, folder in enumerate(folders, start=5)]
    make_coco(tmp_path, [TRIANGLE], images=images)
    told = pytest.warns(match="in folders for test, train together") if is_told else nullcontext()
    with told:
        tell_mixed(read_dataset(tmp_path))
