import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.errors import DatasetError, FormatError
from manymask.formats.mask_files import read_mask_files
from tests.formats.format_files import make_ids, make_pixels, write_array


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


DISC = np.hypot(*(np.mgrid[:60, :80] - np.array([30, 40])[:, None, None])) < 12.5


def save_jpeg(path, mask):
    Image.fromarray(mask.astype(np.uint8) * 255).save(path.with_suffix(".jpg"), quality=75)


def save_gif(path, mask):
    Image.fromarray(mask.astype(np.uint8) * 255).save(path.with_suffix(".gif"))


def save_jpeg_as_png(path, mask):
    save_jpeg(path, mask)
    Image.open(path.with_suffix(".jpg")).save(path.with_suffix(".png"))
    path.with_suffix(".jpg").unlink()


def save_alpha(path, mask):
    color = np.full((*mask.shape, 3), 255, dtype=np.uint8)
    Image.fromarray(np.dstack([color, mask.astype(np.uint8) * 255])).save(path.with_suffix(".png"))


def save_black_with_alpha(path, mask):
    Image.fromarray(np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask * np.uint8(255)])).save(
        path.with_suffix(".png")
    )


def save_inverted_bits(path, mask):
    tifffile.imwrite(path.with_suffix(".tif"), ~mask, photometric="miniswhite")


def save_inverted_table(path, mask):
    """As ImageJ does: 255 inside, shown as black."""
    tifffile.imwrite(path.with_suffix(".tif"), mask.astype(np.uint8) * 255, photometric="miniswhite")


def save_inverted_palette(path, mask):
    image = Image.fromarray(mask.astype(np.uint8)).convert("P")
    image.putdata(mask.astype(np.uint8).ravel().tolist())
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path.with_suffix(".png"))


def save_bool(path, mask):
    tifffile.imwrite(path.with_suffix(".tif"), mask)


def save_two_levels(path, mask):
    Image.fromarray(np.where(mask, np.where(np.arange(80) < 40, 1, 2), 0).astype(np.uint8)).save(
        path.with_suffix(".png")
    )


@pytest.mark.parametrize(
    "save",
    [
        save_jpeg,
        save_gif,
        save_jpeg_as_png,
        save_alpha,
        save_black_with_alpha,
        save_inverted_bits,
        save_inverted_table,
        save_inverted_palette,
        save_bool,
        save_two_levels,
    ],
)
def test_masks_as_tools_write_them(tmp_path, save):
    write_array(tmp_path / "a" / "images" / "a.png", make_pixels(60, 80))
    (tmp_path / "a" / "masks").mkdir()
    save(tmp_path / "a" / "masks" / "m", DISC)
    np.testing.assert_array_equal(read_mask_files(tmp_path)[0].layers.numpy()[0], DISC)


LARGE = np.hypot(*(np.mgrid[:60, :80] - np.array([30, 40])[:, None, None])) < 33
TO_BORDERS = (
    np.hypot(*((np.mgrid[:60, :80] - np.array([29.5, 39.5])[:, None, None]) / np.array([30, 40])[:, None, None])) < 1
)


def save_palette(path, mask):
    image = Image.fromarray(mask.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(path.with_suffix(".png"))


def save_smooth(path, mask):
    """With a second, thin piece, which does not reach 255."""
    Image.fromarray(cv2.GaussianBlur(mask.astype(np.uint8) * 255, (5, 5), 0)).save(path.with_suffix(".png"))


@pytest.mark.parametrize(
    ("save", "mask"),
    [
        (save_bool, LARGE & (np.arange(80) > 9)),
        (save_inverted_table, LARGE & (np.arange(80) > 9)),
        (save_palette, TO_BORDERS),
        (save_smooth, DISC | np.isin(np.arange(80), (70, 71))),
    ],
)
def test_large_masks_and_thin_pieces_are_kept(tmp_path, save, mask):
    write_array(tmp_path / "a" / "images" / "a.png", make_pixels(60, 80))
    (tmp_path / "a" / "masks").mkdir()
    save(tmp_path / "a" / "masks" / "m", mask)
    found = read_mask_files(tmp_path)[0].layers.numpy()[0]
    assert (found != mask).mean() < 0.01


def test_label_image_as_gif_is_refused(tmp_path):
    write_array(tmp_path / "a" / "images" / "a.png", make_pixels())
    (tmp_path / "a" / "masks").mkdir()
    labels = make_ids((0, 0, 2, 2), (4, 4, 6, 6)).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "a" / "masks" / "m.gif")
    with pytest.raises(FormatError, match=r"m\.gif holds 2 separate objects with 2 values: a label image"):
        read_mask_files(tmp_path)[0]


def test_label_image_among_masks_and_unknown_types_are_refused(tmp_path):
    write_folder(tmp_path, "a", make_ids((0, 0, 1, 1)))
    write_array(tmp_path / "a" / "masks" / "labels.tif", make_ids((0, 0, 2, 2), (4, 4, 6, 6)))
    with pytest.raises(FormatError, match=r"labels\.tif holds 2 separate objects with 2 values: a label image"):
        read_mask_files(tmp_path)[0]
    write_folder(tmp_path, "b", make_ids((0, 0, 1, 1)))
    (tmp_path / "b" / "masks" / "m.webp").write_bytes(b"RIFF----WEBPVP8 ")
    with pytest.raises(FormatError, match=r"m\.webp cannot be read"):
        read_mask_files(tmp_path)[1]
