import numpy as np
import pytest

from manymask.errors import DatasetError, FormatError
from manymask.formats import npz as npz_module
from manymask.formats import read_dataset
from manymask.formats.datasets import FORMATS, check_dataset, detect_format
from manymask.formats.npz import read_npz
from tests.formats.format_files import cut_short, make_ids, make_pixels

IDS = np.stack([make_ids((0, 0, 2, 2), (3, 3, 6, 8)), make_ids((1, 1, 5, 5))])
IMAGES = np.stack([make_pixels(), make_pixels() // 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("X", "y"), ("images", "labels")])
def test_one_class(tmp_path, save, names):
    save(tmp_path / "a.npz", **{names[0]: IMAGES, names[1]: IDS[..., None].astype("int32"), "z": np.zeros(3)})
    assert detect_format(tmp_path) == detect_format(tmp_path / "a.npz") == "npz"
    for dataset in (read_dataset(tmp_path), read_npz(str(tmp_path / "a.npz"))):
        assert [category.name for category in dataset.categories] == ["object"]
        assert [record.name for record in dataset.records] == ["0", "1"]
        for sample, image, ids in zip(dataset, IMAGES, IDS, strict=True):
            np.testing.assert_array_equal(sample.pixels, image)
            np.testing.assert_array_equal(sample.layers[0], ids)
    assert len({record.path for record in dataset.records}) == 2
    assert dataset.format.name_instances(dataset.records[0]) == ["id 1 of channel 0", "id 2 of channel 0"]


def test_tissuenet(tmp_path):
    """Two channels of images and of labels, and metadata of Python's objects."""
    images = np.asfortranarray(np.random.default_rng(0).random((2, 6, 8, 2), dtype=np.float32))
    labels = np.stack([IDS, np.where(IDS == 1, 5, 0)], axis=-1)
    np.savez_compressed(tmp_path / "test.npz", X=images, y=labels, meta=np.array([{}, None]))
    dataset = read_dataset(tmp_path)
    assert [category.name for category in dataset.categories] == ["cell", "nucleus"]
    sample = dataset[0]
    assert sample.labels.tolist() == [1, 1, 2]
    assert sample.to_instances().runs.areas.tolist() == [4, 15, 4]
    np.testing.assert_array_equal(sample.pixels, images[0])
    assert [image.num_instances for image in check_dataset(dataset).images] == [3, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": IMAGES}, "lacks an array X or x or images or y"),
        ({"X": IMAGES, "y": IDS[:1]}, r"images of shape \(2, 6, 8, 3\) and labels of shape \(1, 6, 8\)"),
        ({"X": IMAGES[0], "y": IDS[0]}, "images of shape"),
        ({"X": IMAGES, "y": np.array([[[{}]]])}, "holds y of object, expected numbers"),
        ({"X": IMAGES[:0], "y": IDS[:0]}, "holds no images"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DatasetError, match=message):
        read_npz(tmp_path / "a.npz")


def test_damaged_or_large_files_and_several_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", X=IMAGES, y=IDS)
    np.savez_compressed(tmp_path / "b.npz", X=IMAGES, y=IDS)
    with pytest.raises(DatasetError, match=r"exactly one \.npz file, found .*a\.npz, .*b\.npz"):
        read_dataset(tmp_path)
    monkeypatch.setattr(npz_module, "_MAX_UNPACKED", 10)
    with pytest.raises(FormatError, match=r"save it with numpy\.savez"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(FormatError, match=r"b\.npz cannot be read"):
        read_npz(cut_short(tmp_path / "b.npz", 0.5))


def test_values_that_are_no_ids_are_named_by_the_image(tmp_path):
    np.savez(tmp_path / "a.npz", X=IMAGES, y=IDS - 0.5)
    with pytest.raises(FormatError, match=r"a\.npz.y.1 holds -0\.5 at row 0"):
        read_npz(tmp_path / "a.npz")[1]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_copy_is_class_folders(tmp_path, num_channels):
    labels = np.stack([IDS, np.where(IDS == 1, 5, 0)], axis=-1)
    np.savez(tmp_path / "a.npz", X=IMAGES[..., :num_channels], y=labels)
    dataset = read_npz(tmp_path / "a.npz")
    writer = FORMATS["npz"].open_writer(tmp_path / "copy", dataset)
    for record, sample in zip(dataset.records, dataset, strict=True):
        writer.write(record, sample.to_instances(), np.arange(len(sample.labels)))
    writer.close()
    copy = read_dataset(tmp_path / "copy")
    assert copy.format.name == "class_folders"
    for one, other in zip(copy, dataset, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_array_equal(one.to_instances().to_masks(), other.to_instances().to_masks())


@pytest.mark.parametrize("flag", [0x01, 0x20, 0x40])  # encrypted, and two ways that no Python reads
def test_archives_that_cannot_be_unpacked(tmp_path, flag):
    np.savez(tmp_path / "a.npz", X=IMAGES, y=IDS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = -1
    while (place := content.find(b"PK\x01\x02", place + 1)) >= 0:
        content[place + 8] |= flag
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(FormatError, match="a.npz cannot be read"):
        read_dataset(tmp_path)
