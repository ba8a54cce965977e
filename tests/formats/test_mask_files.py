import numpy as np
import pytest
from format_files import make_ids, make_pixels, write_array

from manymask.errors import DatasetError, FormatError
from manymask.formats import read_mask_files


def write_folder(root, name, *masks):
    write_array(root / name / "images" / f"{name}.png", make_pixels())
    (root / name / "masks").mkdir()
    for i, mask in enumerate(masks):
        write_array(root / name / "masks" / f"{i:05}.png", (mask * 255).astype("uint8"))


def test_no_masks_means_no_objects(tmp_path):
    write_folder(tmp_path, "a")
    sample = read_mask_files(tmp_path)[0]
    assert len(sample.labels) == 0
    assert sample.layers.shape == (1, 6, 8)


def test_overlapping_masks_one_pixel_and_full_image(tmp_path):
    masks = [make_ids((0, 0, 1, 1)), make_ids((0, 0, 6, 8)), make_ids((5, 7, 6, 8)), make_ids((2, 0, 4, 8))]
    write_folder(tmp_path, "a", *masks)
    sample = read_mask_files(tmp_path)[0]
    assert len(sample.layers) == 2
    np.testing.assert_array_equal(sample.to_instances().to_masks(), np.stack(masks) > 0)


def test_more_than_255_masks(tmp_path):
    masks = (np.arange(1, 301).reshape(15, 20) == i for i in range(1, 301))
    write_array(tmp_path / "a" / "images" / "a.png", make_pixels(15, 20))
    for i, mask in enumerate(masks):
        write_array(tmp_path / "a" / "masks" / f"{i:05}.png", mask)
    np.testing.assert_array_equal(read_mask_files(tmp_path)[0].layers[0], np.arange(1, 301).reshape(15, 20))


def test_bad_masks_are_named(tmp_path):
    write_folder(tmp_path, "a", make_ids((0, 0, 1, 1)), make_ids())
    write_folder(tmp_path, "b", make_ids(size=(8, 6)))
    dataset = read_mask_files(tmp_path)
    with pytest.raises(FormatError, match=r"00001\.png is a mask without any pixel"):
        dataset[0]
    with pytest.raises(DatasetError, match=r"00000\.png is 8 x 6"):
        dataset[1]


def test_missing_masks_two_images_and_nothing_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no images"):
        read_mask_files(tmp_path)
    image = write_array(tmp_path / "a" / "images" / "a.png", make_pixels())
    with pytest.raises(DatasetError, match="a holds no folder 'masks'"):
        read_mask_files(tmp_path)
    write_array(image.with_name("b.png"), make_pixels())
    with pytest.raises(DatasetError, match="images holds 2 images"):
        read_mask_files(tmp_path)
