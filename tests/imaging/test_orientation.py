import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.errors import PlanError
from manymask.formats.class_folders import read_class_folders
from manymask.formats.coco import read_coco
from manymask.formats.label_images import read_label_images
from manymask.formats.mask_files import read_mask_files
from manymask.imaging.raster import turn
from tests.formats.format_files import make_coco, make_ids, make_pixels, write_array
from tests.imaging.reading import read_pixels


def write_tagged(path, orientation, size=(6, 8)):
    pixels = make_pixels(*size)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, extratags=[(0x0112, 3, 1, orientation, True)])
    else:
        Image.fromarray(pixels).save(path, exif=exif)
    return pixels


def write_data(root, data_format, orientation, label_size):
    """An image of 6 x 8 with an orientation tag, and one object of it on an image of the given size."""
    ids = make_ids((1, 2, 3, 5), size=label_size)
    if data_format == "label_images":
        write_array(root / "labels" / "a.png", ids)
    elif data_format == "class_folders":
        write_array(root / "a" / "class1.tif", ids)
        return write_tagged(root / "a" / "image.tif", orientation), read_class_folders
    elif data_format == "mask_files":
        write_array(root / "a" / "masks" / "m.png", ids.astype(np.uint8) * 255)
        return write_tagged(root / "a" / "images" / "a.png", orientation), read_mask_files
    else:
        images = [{"id": 5, "file_name": "a.png", "height": label_size[0], "width": label_size[1]}]
        make_coco(root, [{"segmentation": [[2, 1, 5, 1, 5, 3, 2, 3]]}], images=images)
        return write_tagged(root / "images" / "a.png", orientation), read_coco
    return write_tagged(root / "images" / "a.png", orientation), read_label_images


@pytest.mark.parametrize("data_format", ["label_images", "class_folders", "mask_files", "coco"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("is_turned", [False, True])
def test_labels_decide_by_their_size(tmp_path, monkeypatch, data_format, orientation, is_turned):
    stored, read = write_data(tmp_path, data_format, orientation, (8, 6) if is_turned else (6, 8))
    sample = read(tmp_path)[0]
    np.testing.assert_array_equal(sample.pixels, turn(stored, orientation) if is_turned else stored)
    assert [doubt.kind for doubt in sample.doubts] == ["orientation-by-size" if is_turned else "orientation-as-stored"]
    if not is_turned:
        monkeypatch.setenv("MANYMASK_ORIENTATION", "ignore")
        assert [doubt.kind for doubt in read(tmp_path)[0].doubts] == ["orientation-by-size"]
        monkeypatch.delenv("MANYMASK_ORIENTATION")
    assert len(sample.labels) == 1


@pytest.mark.parametrize("data_format", ["label_images", "class_folders", "mask_files", "coco"])
@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_the_user_chooses_where_size_says_nothing(tmp_path, monkeypatch, data_format, orientation):
    stored, read = write_data(tmp_path, data_format, orientation, (6, 8))
    sample = read(tmp_path)[0]
    np.testing.assert_array_equal(sample.pixels, turn(stored, orientation))
    assert [doubt.kind for doubt in sample.doubts] == ["orientation-in-doubt"]
    for choice, expected in (("obey", turn(stored, orientation)), ("ignore", stored)):
        monkeypatch.setenv("MANYMASK_ORIENTATION", choice)
        np.testing.assert_array_equal(read(tmp_path)[0].pixels, expected)
        np.testing.assert_array_equal(read_pixels(sample.path), expected)
        assert read(tmp_path)[0].doubts == ()
    monkeypatch.setenv("MANYMASK_ORIENTATION", "yes")
    with pytest.raises(PlanError, match="MANYMASK_ORIENTATION is 'yes', expected obey or ignore"):
        read(tmp_path)[0]


@pytest.mark.parametrize("orientation", [2, 6])
def test_coco_without_sizes_leaves_the_tag_in_doubt(tmp_path, orientation):
    make_coco(tmp_path, [{"segmentation": [[2, 1, 5, 1, 5, 3, 2, 3]]}], images=[{"id": 5, "file_name": "a.png"}])
    stored = write_tagged(tmp_path / "images" / "a.png", orientation)
    sample = read_coco(tmp_path)[0]
    np.testing.assert_array_equal(sample.pixels, turn(stored, orientation))
    assert [doubt.kind for doubt in sample.doubts] == ["orientation-in-doubt"]


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_with_the_same_tag_are_turned_alike(tmp_path, orientation):
    stored = write_tagged(tmp_path / "images" / "a.png", orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "labels").mkdir()
    ids = make_ids((1, 2, 3, 5), dtype="uint8")
    Image.fromarray(ids).save(tmp_path / "labels" / "a.png", exif=exif)
    sample = read_label_images(tmp_path)[0]
    np.testing.assert_array_equal(sample.pixels, turn(stored, orientation))
    np.testing.assert_array_equal(sample.layers.numpy()[0], turn(ids, orientation))
    assert sample.doubts == ()
