from pathlib import Path

import numpy as np
import pytest
import tifffile

from manymask.core import Category
from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset, write_label_image
from manymask.formats.datasets import open_dataset
from manymask.formats.label_images import read_label_images
from manymask.formats.stored import read_predictions
from tests.formats.format_files import (
    cut_short,
    make_ids,
    make_instances,
    make_many,
    make_pixels,
    write_array,
    write_seg,
)

OBJECTS = (Category(1, "object"),)


@pytest.mark.parametrize("folder", ["labels", "masks"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float64"])
def test_two_folders(tmp_path, folder, dtype):
    ids = make_ids((0, 0, 1, 1), (2, 2, 6, 8), dtype=dtype)
    write_array(tmp_path / "images" / "a.png", make_pixels())
    write_array(tmp_path / folder / "a.tif", ids * 7)
    dataset = read_label_images(tmp_path)
    assert dataset.categories == OBJECTS
    np.testing.assert_array_equal(dataset[0].layers[0], ids)
    np.testing.assert_array_equal(dataset[0].pixels, make_pixels())


def test_no_objects_and_full_image(tmp_path):
    for name, ids in (("a", make_ids()), ("b", make_ids((0, 0, 6, 8)))):
        write_array(tmp_path / "images" / f"{name}.png", make_pixels())
        write_array(tmp_path / "labels" / f"{name}.png", ids)
    empty, full = read_label_images(tmp_path)
    assert len(empty.labels) == 0
    assert full.to_instances().runs.areas.tolist() == [48]


@pytest.mark.parametrize("suffix", ["_masks.tif", "_masks.png", "_cp_masks.png"])
def test_cellpose_pairs(tmp_path, suffix):
    write_array(tmp_path / "a.tif", make_pixels())
    write_array(tmp_path / "a_flows.tif", np.zeros((5, 6, 8), "float32"))
    write_array(tmp_path / f"a{suffix}", make_ids((0, 0, 2, 2)))
    dataset = read_label_images(tmp_path)
    assert [record.name for record in dataset.records] == ["a"]
    assert dataset[0].labels.tolist() == [1]


@pytest.mark.parametrize("white", [np.uint8(255), np.uint16(65535)])
def test_binary_mask_is_refused(tmp_path, white):
    write_array(tmp_path / "a.tif", make_pixels())
    write_array(tmp_path / "a_masks.tif", make_ids((0, 0, 2, 2)).astype(white.dtype) * white)
    with pytest.raises(FormatError, match=r"a_masks\.tif holds only 0 and \d+: a binary mask"):
        read_label_images(tmp_path)[0]


def test_one_bit_label_is_refused(tmp_path):
    write_array(tmp_path / "a.png", make_pixels())
    write_array(tmp_path / "a_masks.png", make_ids((0, 0, 2, 2)) > 0)
    with pytest.raises(FormatError, match="a binary mask"):
        read_label_images(tmp_path)[0]


def test_lone_files_are_left_out(tmp_path):
    write_array(tmp_path / "images" / "a.png", make_pixels())
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match=r"a\.png has no label image"):
        read_label_images(tmp_path)
    for name in ("a", "b"):
        write_array(tmp_path / "labels" / f"{name}.png", make_ids())
    with pytest.warns(UserWarning, match=r"left out 1 of 2 images, .*b\.png labels an image 'b' that is not there"):
        assert [record.name for record in read_dataset(tmp_path).records] == ["a"]


def test_no_images_two_label_folders_and_equal_stems_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        read_label_images(tmp_path)
    for suffix in ("png", "tif"):
        write_array(tmp_path / "images" / f"a.{suffix}", make_pixels())
    with pytest.raises(DatasetError, match="both named 'a'"):
        read_label_images(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DatasetError, match="2 folders of labels"):
        read_label_images(tmp_path)


def test_label_of_another_size_or_cut_short_is_refused(tmp_path):
    write_array(tmp_path / "a.png", make_pixels())
    label = write_array(tmp_path / "a_masks.png", make_ids(size=(8, 6)))
    dataset = read_label_images(tmp_path)
    with pytest.raises(DatasetError, match=r"is 8 x 6 .* is 6 x 8"):
        dataset[0]
    cut_short(label, 0.7)
    with pytest.raises(FormatError, match=r"a_masks\.png"):
        dataset[0]


@pytest.mark.parametrize(("num_instances", "dtype"), [(100, "uint16"), (300, "uint16"), (70_000, "uint32")])
def test_round_trip(tmp_path, num_instances, dtype):
    instances = make_many(num_instances, 100)
    write_array(tmp_path / "images" / "a.tif", make_pixels(num_instances // 100, 100))
    path = tmp_path / "labels" / "a.tif"
    write_label_image(path, instances, OBJECTS)
    assert tifffile.imread(path).dtype == dtype
    result = read_label_images(tmp_path)[0].to_instances()
    np.testing.assert_array_equal(result.runs.start, instances.runs.start)


def test_writer_orders_by_score_and_lists_classes(tmp_path):
    masks = [make_ids((0, 0, 3, 3)), make_ids((2, 2, 6, 6)), make_ids((2, 2, 3, 3))]
    instances = make_instances(*masks, labels=[1, 2, 1], scores=[0.25, 0.95, 0.5])
    categories = (Category(1, "cell"), Category(9, "seed, large"))
    write_label_image(tmp_path / "a.tif", instances, categories)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), np.where(masks[1], 1, masks[0] * 2))
    assert (tmp_path / "a.csv").read_text() == 'id,class,score\n1,"seed, large",0.95\n2,cell,0.25\n'


def test_real_labels(shared_data):
    sample = read_label_images(shared_data / "dsb2018")[0]
    assert sample.layers.shape[1:] == sample.pixels.shape[:2]
    assert len(sample.labels) == int(sample.layers.max())


def test_names_that_look_the_same_are(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_array(tmp_path / "images" / f"{composed}.png", make_pixels())
    write_array(tmp_path / "labels" / f"{decomposed}.png", make_ids((0, 0, 2, 2)))
    dataset = read_label_images(tmp_path)
    assert dataset.records[0].name == composed
    assert dataset[0].labels.tolist() == [1]
    assert read_predictions(tmp_path / "labels", dataset).missing == ()
    write_array(tmp_path / "images" / f"{decomposed}.tif", make_pixels())
    with pytest.raises(DatasetError, match="are both named"):
        read_label_images(tmp_path)


# Other layouts

PAIRS = [
    ("{}_img.tif", "{}_masks.tif"),
    ("{}.tif", "{}_mask.tif"),
    ("{}.tif", "{}-labels.tif"),
    ("{}.png", "{}_label.png"),
    ("{}.tif", "{}_manual.tif"),
    ("{}.tif", "{}_pred.tif"),
    ("img_{}.png", "mask_{}.png"),
    ("{}.TIF", "{}_Labels.png"),
    ("{}.tif", "{}.tif_mask.png"),
    ("images/{}.tif", "masks/{}_masks.tif"),
    ("Images/{}.tif", "Masks/{}.png"),
    ("images/{}.png", "labels/{}.png.tif"),
    ("images/train/{}.tif", "masks/train/{}.tif"),
    ("images/train/{}_img.tif", "masks/train/{}_masks.tif"),
    ("tissue images/{}.png", "label masks/{}.tif"),
    ("01/t{}.tif", "01_GT/SEG/man_seg{}.tif"),
    ("01/t{}.tif", "01_ST/SEG/man_seg{}.tif"),
]


@pytest.mark.parametrize(("image", "label"), PAIRS)
def test_other_names_and_folders(tmp_path, image, label):
    for number in ("001", "002"):
        ids = make_ids((0, 0, int(number), 2))
        write_array(tmp_path / image.format(number), make_pixels()[..., 0])
        write_array(tmp_path / label.format(number), ids)
    dataset = read_dataset(tmp_path)
    assert (dataset.format.name, dataset.problems) == ("label_images", ())
    assert [record.path.stem for record in dataset.records] == [Path(image.format(n)).stem for n in ("001", "002")]
    assert [sample.to_instances().runs.areas.tolist() for sample in dataset] == [[2], [4]]


def test_parts_with_equal_names(tmp_path):
    for part, height in (("train", 2), ("val", 3)):
        write_array(tmp_path / "images" / part / "a.png", make_pixels())
        write_array(tmp_path / "masks" / part / "a.png", make_ids((0, 0, height, 1)))
    dataset = read_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["train_a", "val_a"]
    assert [sample.to_instances().runs.areas.tolist() for sample in dataset] == [[2], [3]]


def test_splits_are_data_sets_each(tmp_path):
    for part in ("train", "test"):
        for name in "ab":
            write_array(tmp_path / part / "images" / f"{name}.tif", make_pixels())
            write_array(tmp_path / part / "masks" / f"{name}.tif", make_ids((0, 0, 2, 2)))
    with pytest.raises(DatasetError, match="holds data sets in test, train; give one of these"):
        read_dataset(tmp_path)
    assert len(read_dataset(tmp_path / "train")) == 2


def test_what_is_not_clear_is_named(tmp_path):
    for name in ("a", "b", "c_img", "c_raw", "d"):
        write_array(tmp_path / f"{name}.tif", make_pixels())
    for name in ("a_masks", "b_mask", "b_label", "c_masks", "e_masks"):
        write_array(tmp_path / f"{name}.tif", make_ids((0, 0, 2, 2)))
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["a"]
    messages = [problem.message for problem in dataset.problems]
    for part in (
        "b.tif has no label image",
        "d.tif has no label image",
        "b_mask.tif are both label images of",
        "c_masks.tif may be the label image of",
        "e_masks.tif labels an image 'e' that is not there",
    ):
        assert sum(part in message for message in messages) == 1, part
    assert {problem.kind for problem in dataset.problems} == {"incomplete-image"}


def test_the_images_own_name_comes_before_one_with_an_affix(tmp_path):
    write_array(tmp_path / "images" / "a.tif", make_pixels())
    write_array(tmp_path / "labels" / "a.tif", make_ids((0, 0, 2, 2)))
    write_array(tmp_path / "labels" / "a_mask.tif", make_ids())
    dataset = open_dataset(tmp_path)
    assert dataset[0].to_instances().runs.areas.tolist() == [4]
    (problem,) = dataset.problems
    assert "a_mask.tif and" in problem.message


def test_frames_without_a_segmentation_are_left_out_with_a_note(tmp_path):
    for number in range(3):
        write_array(tmp_path / "02" / f"t{number:03}.tif", make_pixels()[..., 0])
    write_array(tmp_path / "02_GT" / "SEG" / "man_seg001.tif", make_ids((0, 0, 2, 2)))
    write_array(tmp_path / "02_GT" / "TRA" / "man_track001.tif", make_ids((0, 0, 1, 1)))
    dataset = open_dataset(tmp_path)
    assert [record.name for record in dataset.records] == ["t001"]
    (problem,) = dataset.problems
    assert (problem.severity, "2 frames without a segmentation" in problem.message) == ("note", True)


@pytest.mark.parametrize("place", [("a.tif", "a_seg.npy"), ("images/a.tif", "masks/a_seg.npy")])
def test_masks_in_cellposes_own_file(tmp_path, place):
    write_array(tmp_path / place[0], make_pixels())
    write_seg(tmp_path / place[1], {"masks": make_ids((0, 0, 2, 2), (3, 3, 6, 8)), "filename": "a.tif"})
    dataset = read_dataset(tmp_path)
    assert (dataset.format.name, dataset.problems) == ("label_images", ())
    assert dataset[0].to_instances().runs.areas.tolist() == [4, 15]
    write_array((tmp_path / place[1]).with_name("a_cp_masks.png"), make_ids((0, 0, 1, 1)))
    assert read_dataset(tmp_path)[0].to_instances().runs.areas.tolist() == [1]
