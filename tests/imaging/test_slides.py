import sys

import numpy as np
import pytest
import tifffile

from manymask.core import Window
from manymask.errors import FormatError, ManymaskError
from manymask.imaging import PlaneChoice, open_image
from manymask.imaging.slides import SlideSource
from tests.imaging.image_files import make_smooth, write_svs


def write_slide(path):
    """OpenSlide tells formats by content, so that Aperio's stands for those that only it reads."""
    return write_svs(path, make_smooth())


def test_windows_of_levels(tmp_path):
    image = open_image(write_slide(tmp_path / "a.svslide"))
    assert isinstance(image, SlideSource)
    assert image.level_sizes == ((256, 320), (64, 80))
    assert (image.num_channels, image.dtype, image.pixel_size) == (3, np.uint8, (0.499, 0.499))
    for level, step in enumerate((1, 4)):
        part = image.read(Window(20, 30, 40, 50), level)
        difference = part.astype(int) - make_smooth()[::step, ::step][20:60, 30:80]
        assert np.abs(difference).mean() < 2  # of JPEG; a window that is one pixel off differs by more
    with pytest.raises(IndexError, match="level 2"):
        image.read(None, 2)


def test_channels_and_pages(tmp_path):
    path = write_slide(tmp_path / "a.svslide")
    image = open_image(path, PlaneChoice(page=1, channels=(2,)))
    np.testing.assert_allclose(image.read()[..., 0], make_smooth()[..., 1], atol=6)
    with pytest.raises(FormatError, match="--page 2 is not there"):
        open_image(path, PlaneChoice(page=2))


def test_damage(tmp_path):
    path = write_slide(tmp_path / "a.svslide")
    with tifffile.TiffFile(path) as tiff:
        place, length = tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7]
    content = bytearray(path.read_bytes())
    content[place : place + length] = bytes(length)
    path.write_bytes(content)
    image = open_image(path)
    with pytest.raises(FormatError, match=r"a\.svslide cannot be read at row 60, column 100 of level 0"):
        image.read(Window(60, 100, 80, 80))
    np.testing.assert_allclose(image.read(Window(0, 0, 9, 9)), make_smooth()[:9, :9], atol=6)
    (tmp_path / "b.mrxs").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"b\.mrxs cannot be read as a slide"):
        open_image(tmp_path / "b.mrxs")


def test_without_openslide(tmp_path, monkeypatch):
    path = write_slide(tmp_path / "a.svslide")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ManymaskError, match=r"openslide is not installed, .*pip install 'manymask\[slides\]'"):
        open_image(path)
