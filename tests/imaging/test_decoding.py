import warnings

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from manymask.errors import FormatError, PlanError
from manymask.imaging import open_image
from tests.formats.format_files import make_pixels, read_ids, write_array
from tests.imaging.reading import read_pixels


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".bmp"])
def test_declared_size_is_limited(tmp_path, monkeypatch, suffix):
    path = write_array(tmp_path / f"a{suffix}", make_pixels(60, 80))
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "1e-5")
    with pytest.raises(FormatError, match=r"declares 60 x 80 x 3 values, 1.44e-05 GB .* MANYMASK_MAX_GIGABYTES higher"):
        read_pixels(path)
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "1.5e-5")
    assert read_pixels(path).shape == (60, 80, 3)


def test_size_is_checked_before_anything_is_decoded(tmp_path):
    head = bytearray(write_array(tmp_path / "a.bmp", make_pixels()).read_bytes())
    head[18:26] = (100_000).to_bytes(4, "little") * 2  # width and height
    (tmp_path / "a.bmp").write_bytes(head)
    with pytest.raises(FormatError, match="30 GB once decoded, more than the limit of 4 GB"):
        read_ids(tmp_path / "a.bmp")


@pytest.mark.parametrize("text", ["many", "0", "-1", "nan"])
def test_limit_that_is_none(tmp_path, monkeypatch, text):
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", text)
    with pytest.raises(PlanError, match=f"MANYMASK_MAX_GIGABYTES is '{text}', expected gigabytes"):
        read_pixels(write_array(tmp_path / "a.png", make_pixels()))


def test_limit_of_pillow_is_left_to_the_caller(tmp_path, monkeypatch):
    assert Image.MAX_IMAGE_PIXELS is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for suffix in (".png", ".jpg", ".bmp"):
        path = write_array(tmp_path / f"a{suffix}", make_pixels())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_pixels(path).shape == (6, 8, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_other_types_are_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\0\0\0\x1cftypavif")
    with pytest.raises(FormatError, match=r"a\.png cannot be read as TIFF, PNG, .* or GIF image, by its first bytes"):
        read_pixels(tmp_path / "a.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "b.gif")
    with pytest.raises(FormatError, match=r"b\.gif was saved as GIF, which changes ids"):
        read_ids(tmp_path / "b.gif")


@pytest.mark.parametrize("suffix", [".webp", ".jp2", ".gif"])
def test_other_kinds_of_image(tmp_path, suffix):
    pixels = np.repeat(make_pixels(60, 80, channels=1), 3, axis=2)
    image, path = Image.fromarray(pixels), tmp_path / f"a{suffix.upper()}"
    image.putalpha(Image.new("L", image.size, 100)) if suffix != ".gif" else None
    image.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    source = open_image(path)
    assert (source.size, source.num_channels, source.dtype) == ((60, 80), 3, np.uint8)
    np.testing.assert_array_equal(source.read(), pixels)
    if suffix == ".webp":
        image.convert("RGB").save(path)  # not lossless
    kind = {".webp": "WebP", ".jp2": "JPEG 2000", ".gif": "GIF"}[suffix]
    with pytest.raises(FormatError, match=f"was saved as {kind}, which changes ids"):
        read_ids(path)


def test_labels_of_lossless_webp(tmp_path):
    colours = make_pixels(60, 80)
    Image.fromarray(colours).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(colours).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "a.webp"), read_ids(tmp_path / "a.png"))


def test_grey_of_16_bits_with_transparency(tmp_path):
    pixels = make_pixels(60, 80, 2, "uint16")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    source = open_image(tmp_path / "a.png")
    assert (source.size, source.num_channels, source.dtype) == ((60, 80), 1, np.uint16)
    np.testing.assert_array_equal(source.read(), pixels[..., :1])


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_jpeg_2000_keeps_its_type_and_channels(tmp_path, codec, channels, dtype):
    pixels = make_pixels(60, 80, channels, dtype)
    data = imagecodecs.jpeg2k_encode(pixels.squeeze(), codecformat=codec, level=0)
    (tmp_path / "a.jp2").write_bytes(data)
    source = open_image(tmp_path / "a.jp2")
    assert (source.size, source.num_channels, source.dtype) == ((60, 80), channels, np.dtype(dtype))
    np.testing.assert_array_equal(source.read(), pixels)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_films_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(make_pixels(60, 80) + np.uint8(50 * i)) for i in range(2)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(FormatError, match=r"holds 2 images, expected one; save each in a file of its own"):
        open_image(tmp_path / f"a{suffix}")
