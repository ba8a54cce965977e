from dataclasses import replace

import numpy as np
import pytest
import tifffile

from manymask.core import Category, Instances, RunLengths
from manymask.errors import DatasetError, FormatError
from manymask.formats import read_dataset, write_class_folder
from manymask.formats.class_folders import read_class_folders
from manymask.imaging import find_images
from tests.formats.format_files import cut_short, make_ids, make_instances, make_many, make_pixels, write_array

CATEGORIES = (Category(1, "class1"), Category(4, "class4"))


def write_folder(folder, **class_files):
    write_array(folder / "image.tif", make_pixels())
    for name, ids in class_files.items():
        write_array(folder / f"{name}.tif", ids)
    return folder.parent


def test_zero_class_file_is_an_image_without_instances(tmp_path):
    sample = read_class_folders(write_folder(tmp_path / "a", class1=make_ids()))[0]
    assert len(sample.labels) == 0
    assert sample.layers.shape == (1, 6, 8)


def test_categories_are_the_union_and_keep_gaps(tmp_path):
    write_folder(tmp_path / "b", class4=make_ids((0, 0, 1, 1)))
    dataset = read_class_folders(write_folder(tmp_path / "a", class1=make_ids((0, 0, 2, 2))))
    assert dataset.categories == CATEGORIES
    assert [(record.image_id, record.name) for record in dataset.records] == [(1, "a"), (2, "b")]
    assert [sample.labels.tolist() for sample in dataset] == [[1], [2]]


def test_disjoint_classes_share_a_layer(tmp_path):
    first, second = make_ids((0, 0, 2, 2), (0, 3, 2, 5)), make_ids((4, 0, 6, 8))
    sample = read_class_folders(write_folder(tmp_path / "a", class1=first, class4=second))[0]
    np.testing.assert_array_equal(sample.layers[0], first + 3 * second)
    assert sample.labels.tolist() == [1, 1, 2]


def test_overlapping_classes_take_two_layers(tmp_path):
    first, second = make_ids((0, 0, 3, 3), (4, 4, 6, 6)), make_ids((1, 1, 5, 5))
    sample = read_class_folders(write_folder(tmp_path / "a", class1=first, class4=second))[0]
    assert len(sample.layers) == 2
    expected = np.stack([first == 1, first == 2, second == 1])
    np.testing.assert_array_equal(sample.to_instances().to_masks(), expected)


def test_pieces_of_one_id_stay_one_instance(tmp_path):
    ids = make_ids((0, 0, 1, 1))
    ids[5, 7] = 1
    sample = read_class_folders(write_folder(tmp_path / "a", class1=ids))[0]
    assert sample.to_instances().runs.areas.tolist() == [2]


def test_one_folder_is_a_data_set(tmp_path):
    write_folder(tmp_path / "a", class2=make_ids((0, 0, 6, 8)))
    dataset = read_class_folders(tmp_path / "a")
    assert dataset.records[0].name == "a"
    assert dataset[0].to_instances().runs.areas.tolist() == [48]


def test_hidden_folders_are_ignored(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert len(read_class_folders(write_folder(tmp_path / "a", class1=make_ids()))) == 1


def test_links_have_one_name_for_all_commands(tmp_path):
    write_folder(tmp_path / "elsewhere" / "a", class1=make_ids((0, 0, 2, 2)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere" / "a", target_is_directory=True)
    for path in (tmp_path / "data", tmp_path / "data" / "b"):
        assert [record.name for record in read_class_folders(path).records] == ["b"]
        assert [name for name, _ in find_images(path)] == ["b"]


def test_the_working_folder_has_a_name(tmp_path, monkeypatch):
    write_folder(tmp_path / "a", class1=make_ids())
    monkeypatch.chdir(tmp_path / "a")
    assert [record.name for record in read_class_folders(".").records] == ["a"]
    assert [name for name, _ in find_images(".")] == ["a"]


def test_folders_without_image_or_labels_are_left_out_and_an_empty_root_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images"):
        read_class_folders(tmp_path)
    write_array(tmp_path / "a" / "class1.tif", make_ids())
    with pytest.raises(DatasetError, match=r"a holds no image\.tif"):
        read_class_folders(tmp_path)
    write_folder(tmp_path / "a")
    write_folder(tmp_path / "b")
    with pytest.warns(UserWarning, match=r"left out 1 of 2 images, .*b holds no class file"):
        assert [record.name for record in read_dataset(tmp_path).records] == ["a"]


def test_two_files_of_one_class_are_refused(tmp_path):
    write_folder(tmp_path / "a", class1=make_ids(), class01=make_ids())
    with pytest.raises(DatasetError, match="both of class 1"):
        read_class_folders(tmp_path)


def test_bad_files_are_named(tmp_path):
    dataset = read_class_folders(write_folder(tmp_path / "a", class1=make_ids(size=(6, 9))))
    with pytest.raises(DatasetError, match=r"class1\.tif is 6 x 9 .*image\.tif is 6 x 8"):
        dataset[0]
    cut_short(tmp_path / "a" / "image.tif", 0.8)
    with pytest.raises(FormatError, match=r"image\.tif"):
        dataset[0]


def test_binary_mask_is_refused(tmp_path):
    white = make_ids((0, 0, 2, 2), dtype="uint8") * 255
    dataset = read_class_folders(write_folder(tmp_path / "a", class1=make_ids((0, 0, 2, 2)), class2=white))
    with pytest.raises(FormatError, match=r"class2\.tif holds only 0 and 255: .* every object needs its own number"):
        dataset[0]


@pytest.mark.parametrize("dtype", ["float64", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_round_trip(tmp_path, dtype, channels):
    masks = [make_ids((0, 0, 3, 3)), make_ids((2, 2, 6, 8)), make_ids((0, 7, 1, 8))]
    instances = make_instances(*masks, labels=[1, 2, 2])
    pixels = make_pixels(channels=channels, dtype="uint16")
    write_class_folder(tmp_path, "a", pixels, instances, CATEGORIES, dtype)
    assert tifffile.imread(tmp_path / "a" / "class4.tif").dtype == dtype
    sample = read_class_folders(tmp_path)[0]
    np.testing.assert_array_equal(sample.pixels, pixels)
    np.testing.assert_array_equal(sample.to_instances().to_masks(), instances.to_masks())
    assert sample.labels.tolist() == [1, 2, 2]


@pytest.mark.parametrize("num_instances", [300, 70_000])
def test_round_trip_of_many(tmp_path, num_instances):
    instances = make_many(num_instances, 100)
    write_class_folder(tmp_path, "a", make_pixels(num_instances // 100, 100, 1), instances, CATEGORIES)
    result = read_class_folders(tmp_path)[0].to_instances()
    np.testing.assert_array_equal(result.runs.start, instances.runs.start)


def test_writer_compresses_the_image_only(tmp_path):
    write_class_folder(tmp_path, "a", make_pixels(), make_instances(make_ids((0, 0, 1, 1))), CATEGORIES)
    compressions = {}
    for path in (tmp_path / "a").iterdir():
        with tifffile.TiffFile(path) as tiff:
            compressions[path.name] = (tiff.pages[0].compression.name, str(tiff.pages[0].dtype))
    assert compressions == {"image.tif": ("LZW", "uint8"), "class1.tif": ("NONE", "float64")}


def test_writer_without_instances_replaces_older_files(tmp_path):
    write_class_folder(tmp_path, "a", make_pixels(), make_instances(make_ids((0, 0, 1, 1)), labels=[2]), CATEGORIES)
    nothing = Instances.from_runs(RunLengths.empty((6, 8)), np.zeros(0, np.int64))
    write_class_folder(tmp_path, "a", make_pixels(), nothing, CATEGORIES)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["class1.tif", "image.tif"]
    assert len(read_class_folders(tmp_path)[0].labels) == 0


def test_writer_drops_covered_instances(tmp_path):
    masks = [make_ids((0, 0, 4, 4)), make_ids((0, 0, 2, 2)), make_ids((3, 3, 6, 6)), make_ids((0, 0, 6, 6))]
    instances = make_instances(*masks, labels=[1, 1, 1, 2], scores=[0.9, 0.8, 0.7, 0.6])
    write_class_folder(tmp_path, "a", make_pixels(), instances, CATEGORIES)
    assert read_class_folders(tmp_path)[0].labels.tolist() == [1, 1, 2]


def test_writer_refuses_a_type_too_small(tmp_path):
    with pytest.raises(FormatError, match=r"class1\.tif needs values from 1 to 300, which uint8 does not hold"):
        write_class_folder(tmp_path, "a", make_pixels(3, 100), make_many(300, 100), CATEGORIES, np.uint8)


def test_real_folder(shared_data):
    sample = read_class_folders(shared_data / "homework_sample" / "train")[0]
    assert sample.pixels.shape == (397, 482, 3)
    assert set(sample.labels) == {1, 2}
    assert (sample.to_instances().runs.areas > 0).all()


def test_only_files_whose_values_are_no_ids_are_split(tmp_path):
    good, binary = make_ids((0, 0, 1, 8), (2, 0, 3, 8)), make_ids((0, 0, 2, 2), (4, 4, 6, 6)) > 0
    good[0, 3:5] = 0  # one object in two pieces
    write_folder(tmp_path / "a", class1=good, class2=binary * np.uint8(255))
    dataset = read_class_folders(tmp_path)
    with pytest.raises(FormatError, match=r"class2\.tif holds only 0 and 255"):
        dataset[0]
    split = replace(dataset.records[0], is_split=True)
    assert dataset.read_record(split, dataset.categories).labels.tolist() == [1, 1, 2, 2]
    assert len(dataset.format.name_instances(split)) == 4


def test_a_link_has_one_name(tmp_path, monkeypatch):
    write_folder(tmp_path / "store" / "x1", class1=make_ids((0, 0, 2, 2)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "slide").symlink_to(tmp_path / "store" / "x1", target_is_directory=True)
    for path in (tmp_path / "data", tmp_path / "data" / "slide"):
        assert [record.name for record in read_class_folders(path).records] == ["slide"]
        assert [name for name, _ in find_images(path)] == ["slide"]
    monkeypatch.chdir(tmp_path / "store" / "x1")
    assert read_class_folders(".").records[0].name == find_images(".")[0][0] == "x1"
