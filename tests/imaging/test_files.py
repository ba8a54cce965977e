from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from manymask.errors import DatasetError, FormatError
from manymask.formats.ids import check_size, renumber_ids
from manymask.imaging import find_images, open_image
from tests.formats.format_files import cut_short, make_pixels, read_ids, write_array
from tests.imaging.reading import read_pixels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_keeps_type_and_values(tmp_path, dtype, compression, channels):
    pixels = make_pixels(channels=channels, dtype=dtype)
    photometric = "rgb" if channels == 3 else "minisblack"
    path = write_array(tmp_path / "a.tif", pixels, compression=compression, photometric=photometric)
    result = read_pixels(path)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "rgb", "planarconfig": "separate"},
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
    ],
)
def test_channels_first_tiff(tmp_path, options):
    pixels = make_pixels(channels=3)
    path = write_array(tmp_path / "a.tif", np.ascontiguousarray(pixels.transpose(2, 0, 1)), **options)
    np.testing.assert_array_equal(read_pixels(path), pixels)


def test_big_endian_and_tiled_tiff(tmp_path):
    pixels = make_pixels(40, 50, dtype="uint16")
    path = write_array(tmp_path / "a.tif", pixels, byteorder=">", tile=(16, 16), compression="zlib", predictor=True)
    np.testing.assert_array_equal(read_pixels(path), pixels)
    assert read_pixels(path).dtype.isnative


@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
@pytest.mark.parametrize("extrasamples", [None, ["unassalpha"], ["unspecified"]])
def test_alpha_of_four_channel_tiff(tmp_path, photometric, extrasamples):
    pixels = make_pixels(channels=4)
    if photometric == "minisblack" and extrasamples is not None:
        extrasamples = ["unspecified", "unspecified", *extrasamples]
    options = {"photometric": photometric, "planarconfig": "contig", "extrasamples": extrasamples}
    is_dropped = photometric == "rgb" or extrasamples == ["unspecified", "unspecified", "unassalpha"]
    result = read_pixels(write_array(tmp_path / "a.tif", pixels, **options))
    np.testing.assert_array_equal(result, pixels[..., :3] if is_dropped else pixels)


def test_undeclared_fourth_channel_of_rgb_tiff_is_alpha(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), make_pixels(channels=4))  # OpenCV writes no ExtraSamples tag
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), make_pixels(channels=4)[..., [2, 1, 0]])


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_stack_is_refused(tmp_path, axes):
    path = write_array(tmp_path / "a.tif", np.zeros((3, 6, 8), "uint8"), imagej=True, metadata={"axes": axes})
    with pytest.raises(FormatError, match=r"a\.tif is a stack of shape \(3, 6, 8\)"):
        read_pixels(path)


def test_pages_and_long_first_axis_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for _ in range(3):
            writer.write(np.zeros((6, 8), "uint8"), metadata=None)
    with pytest.raises(FormatError, match="is a stack"):
        read_pixels(tmp_path / "pages.tif")
    with pytest.raises(FormatError, match="is a stack"):
        read_pixels(write_array(tmp_path / "z.tif", np.zeros((9, 6, 8))))


def test_images_of_two_sizes_in_one_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((6, 8), "uint8"))
        writer.write(np.zeros((3, 4), "uint8"))
    with pytest.raises(FormatError, match="holds 2 images"):
        read_pixels(tmp_path / "a.tif")


def test_thumbnail_and_single_axes_are_ignored(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(make_pixels())
        writer.write(make_pixels(3, 4), subfiletype=1)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), make_pixels())
    path = write_array(tmp_path / "b.tif", make_pixels(channels=1).reshape(1, 1, 6, 8))
    np.testing.assert_array_equal(read_pixels(path), make_pixels(channels=1))


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bit_files(tmp_path, suffix, channels):
    pixels = make_pixels(channels=channels)
    path = write_array(tmp_path / f"a{suffix}", pixels.squeeze())
    np.testing.assert_array_equal(read_pixels(path), pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_png_stays_sixteen_bit(tmp_path, channels):
    pixels = make_pixels(channels=channels, dtype="uint16") * 257 + 1
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    expected = pixels if channels == 1 else pixels[..., [2, 1, 0]]
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), expected)


def test_one_bit_png(tmp_path):
    mask = make_pixels()[..., 0] > 99
    np.testing.assert_array_equal(read_pixels(write_array(tmp_path / "a.png", mask))[..., 0], mask * 255)
    for photometric in ("minisblack", "miniswhite"):
        path = write_array(tmp_path / "a.tif", mask, photometric=photometric)
        np.testing.assert_array_equal(read_pixels(path)[..., 0], (mask ^ (photometric == "miniswhite")) * 255)


def test_image_above_the_limit_of_pillow(tmp_path):
    Image.new("1", (13_400, 13_400)).save(tmp_path / "a.png")  # above 2 x 89,478,485 pixels
    assert open_image(tmp_path / "a.png").read().shape == (13_400, 13_400, 1)


def test_path_as_text(tmp_path):
    path = write_array(tmp_path / "a.png", make_pixels()[..., 0])
    np.testing.assert_array_equal(read_ids(path), read_pixels(str(path))[..., 0])
    assert find_images(str(tmp_path)) == [("a", path)]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_of_png_is_dropped(tmp_path, mode):
    image = Image.fromarray(make_pixels()).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), np.asarray(image)[..., :-1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_palette_gives_colours_or_ids(tmp_path, suffix):
    indices = make_pixels()[..., 0] % 5
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    image.save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_pixels(tmp_path / f"a{suffix}"), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(read_ids(tmp_path / f"a{suffix}"), indices)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    image = Image.fromarray(make_pixels()).convert("CMYK")
    image.save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as saved:
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.jpg"), np.asarray(saved.convert("RGB")))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(make_pixels())
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == ".tif":
        tifffile.imwrite(path, make_pixels(), extratags=[(274, 3, 1, orientation, True)])
    else:
        image.save(path, exif=exif)
        image = Image.open(path)
    image.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(read_pixels(path), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "lzw.tif", "jpeg.tif", "strips.tif"])
def test_truncated_file_is_refused(tmp_path, name, fraction):
    options = {"lzw.tif": {"compression": "lzw"}, "jpeg.tif": {"compression": "jpeg"}}.get(name, {})
    if name == "strips.tif":
        options = {"rowsperstrip": 4, "compression": "zlib"}
    path = write_array(tmp_path / name, make_pixels(80, 60), **options)
    with pytest.raises(FormatError, match=f"{name}.*(again|type)"):
        read_pixels(cut_short(path, fraction))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"II*\0"])
def test_unreadable_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=name):
        read_pixels(tmp_path / name)


def test_missing_file_complex_and_cmyk_tiff_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_pixels(tmp_path / "a.tif")
    with pytest.raises(FormatError, match="complex64"):
        read_pixels(write_array(tmp_path / "complex.tif", np.zeros((6, 8), "complex64")))
    with pytest.raises(FormatError, match="CMYK"):
        read_pixels(write_array(tmp_path / "cmyk.tif", make_pixels(channels=4), photometric="separated"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "int16", "int64", "float32", "float64"])
def test_ids_of_every_type(tmp_path, dtype):
    values = make_pixels()[..., 0].astype(dtype)
    result = read_ids(write_array(tmp_path / "a.tif", values))
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, values)


def test_rgb_coded_ids(tmp_path):
    values = np.zeros((2, 2, 3), "uint8")
    values[0, 1], values[1, 1] = (1, 2, 0), (255, 255, 255)
    for name in ("a.png", "a.tif"):
        ids = read_ids(write_array(tmp_path / name, values))
        np.testing.assert_array_equal(ids, [[0, 513], [0, 0xFFFFFF]])


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf, 2.0**60])
def test_bad_label_values_are_refused(tmp_path, value):
    values = np.zeros((6, 8))
    values[2, 3] = value
    with pytest.raises(FormatError, match=r"a\.tif holds \S+ at row 2, column 3, expected whole numbers"):
        read_ids(write_array(tmp_path / "a.tif", values))


def test_unsigned_overflow_is_refused(tmp_path):
    with pytest.raises(FormatError, match="expected whole numbers"):
        read_ids(write_array(tmp_path / "a.tif", np.full((2, 2), 2**64 - 1, "uint64")))


def test_label_of_many_channels_or_jpeg_is_refused(tmp_path):
    with pytest.raises(FormatError, match="2 channels of uint16"):
        read_ids(write_array(tmp_path / "a.tif", make_pixels(channels=2, dtype="uint16"), photometric="minisblack"))
    with pytest.raises(FormatError, match="JPEG, which changes ids"):
        read_ids(write_array(tmp_path / "a.jpg", make_pixels()[..., 0]))


def test_renumber_no_ids():
    ids, old_ids = renumber_ids(np.zeros((3, 4), np.int64))
    assert not ids.any()
    assert len(old_ids) == 0


def test_renumber_sparse_ids():
    ids, old_ids = renumber_ids(np.array([[7, 7, 2**32], [3, 3, 7]]))
    np.testing.assert_array_equal(ids, [[2, 2, 3], [1, 1, 2]])
    np.testing.assert_array_equal(old_ids, [3, 7, 2**32])
    assert ids.dtype == np.int32


def test_renumber_keeps_background_and_more_than_65535_ids():
    ids = np.arange(70_000).reshape(700, 100)
    np.testing.assert_array_equal(renumber_ids(ids * 3)[0], ids)


def test_check_size_names_both():
    check_size(Path("l.tif"), (3, 4), Path("i.tif"), (3, 4))
    with pytest.raises(DatasetError, match=r"l\.tif is 4 x 3 .* i\.tif is 3 x 4"):
        check_size(Path("l.tif"), (4, 3), Path("i.tif"), (3, 4))


def test_find_one_file_and_a_folder(tmp_path):
    for name in ("b.png", "a.TIF", ".hidden.png", "b_masks.png", "notes.txt"):
        (tmp_path / name).touch()
    assert find_images(tmp_path / "b.png") == [("b", tmp_path / "b.png")]
    assert [name for name, _ in find_images(tmp_path)] == ["a", "b"]


def test_find_in_images_and_class_folders(tmp_path):
    for name in ("images/c.png", "folders/y/image.tif", "folders/x/image.png", "folders/x/class1.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in find_images(tmp_path)] == ["c"]
    folder = tmp_path / "folders"
    assert find_images(folder) == [("x", folder / "x" / "image.png"), ("y", folder / "y" / "image.tif")]
    assert find_images(folder / "x") == [("x", folder / "x" / "image.png")]


def test_find_refuses_equal_stems(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.tif").touch()
    with pytest.raises(DatasetError, match=r"a\.png and .*a\.tif are both named 'a'"):
        find_images(tmp_path)


def test_find_refuses_nothing(tmp_path):
    with pytest.raises(DatasetError, match="holds no images"):
        find_images(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        find_images(tmp_path / "x")
    for name in ("x/image.tif", "y/b.tif"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True)
        (tmp_path / "folder" / name).touch()
    with pytest.raises(DatasetError, match="y holds 0 files named image"):
        find_images(tmp_path)
