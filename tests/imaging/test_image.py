import numpy as np
import pytest
import tifffile

from manymask.core import ArraySource, Window
from manymask.errors import FormatError
from manymask.imaging import image, open_image
from tests.formats.format_files import cut_short, make_pixels, write_array
from tests.imaging.reading import read_pixels

KINDS = {
    "raw": {},
    "rows": {"rowsperstrip": 7},
    "strips": {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
    "raw tiles": {"tile": (16, 32)},
    "jpeg tiles": {"tile": (16, 32), "compression": "jpeg", "photometric": "rgb"},
    "jpeg strips": {"rowsperstrip": 16, "compression": "jpeg", "photometric": "rgb"},
    "inverted": {"tile": (16, 16), "compression": "zlib", "photometric": "miniswhite"},
    "planes": {"tile": (16, 16), "compression": "zlib", "photometric": "rgb", "planarconfig": "separate"},
    "palette": {"photometric": "palette", "colormap": np.arange(768, dtype=np.uint16).reshape(3, 256) * 85},
}


def write_kind(path, kind, orientation=1):
    pixels = make_pixels(50, 70)
    if kind in ("inverted", "palette", "rows"):
        pixels = pixels[..., 0]
    elif kind == "planes":
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return write_array(path, pixels, extratags=[(274, 3, 1, orientation, True)], **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_windows_are_decoded_without_the_rest(tmp_path, monkeypatch, kind, orientation):
    path = write_kind(tmp_path / "a.tif", kind, orientation)
    expected = read_pixels(path)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", forbid(tifffile.TiffPageSeries.asarray))
    window = Window(20, 18, 17, 15)
    np.testing.assert_array_equal(open_image(path).read(window), expected[window.slices])


def forbid(asarray):
    """Allow only what maps a file instead of reading it."""

    def map_array(self, out=None, **options):
        assert out == "memmap"
        return asarray(self, out=out, **options)

    return map_array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_turned_windows(tmp_path, suffix, orientation):
    tags = {"extratags": [(274, 3, 1, orientation, True)]} if suffix == ".tif" else {}
    read_pixels(write_array(tmp_path / f"a{suffix}", make_pixels(9, 13), **tags))


def test_damage_shows_where_it_is_read(tmp_path):
    path = write_kind(tmp_path / "a.tif", "tiles")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    assert open_image(path).read(Window(0, 0, 16, 16)).shape == (16, 16, 3)
    with pytest.raises(FormatError, match=r"a\.tif cannot be read"):
        open_image(path).read()


@pytest.mark.parametrize("tail", [b"", b"text behind the image"])
def test_a_jpeg_that_is_cut_short_is_refused_without_being_asked_for_pixels(tmp_path, tail):
    path = write_array(tmp_path / "a.jpg", make_pixels(80, 60))
    path.write_bytes(path.read_bytes() + tail)
    assert open_image(path).size == (80, 60)
    with pytest.raises(FormatError, match=r"a\.jpg cannot be read"):
        open_image(cut_short(path, 0.6))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "lzw.tif"])
def test_headers_show_that_a_file_is_cut_short(tmp_path, name):
    options = {"compression": "lzw"} if name == "lzw.tif" else {}
    path = cut_short(write_array(tmp_path / name, make_pixels(80, 60), **options), 0.9)
    with pytest.raises(FormatError, match=f"{name} is cut short"):
        open_image(path)


def test_other_files_are_decoded_once(tmp_path, monkeypatch):
    path = write_array(tmp_path / "a.png", make_pixels())
    source, decoded = open_image(path), []
    monkeypatch.setattr(
        image,
        "read_raster",
        lambda *args, read=image.read_raster, **options: decoded.append(args) or read(*args, **options),
    )
    for window in (Window(0, 0, 2, 2), Window(3, 3, 3, 5), None):
        source.read(window)
    assert decoded == [(path, None)]


@pytest.mark.parametrize(
    ("window", "level"), [(Window(0, 0, 7, 8), 0), (Window(-1, 0, 2, 2), 0), (Window(2, 2, 0, 1), 0), (None, 1)]
)
def test_windows_outside_and_levels_that_are_not_there(tmp_path, window, level):
    for source in (ArraySource(make_pixels()), open_image(write_array(tmp_path / "a.png", make_pixels()))):
        with pytest.raises(IndexError, match=f"level {level} is not in an image of"):
            source.read(window, level)
