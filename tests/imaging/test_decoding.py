import warnings

import numpy as np
import pytest
from PIL import Image

from manymask.errors import FormatError, PlanError
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
    (tmp_path / "a.png").write_bytes(b"RIFF----WEBPVP8 ")
    with pytest.raises(FormatError, match=r"a\.png cannot be read as TIFF, PNG, JPEG or BMP image"):
        read_pixels(tmp_path / "a.png")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(tmp_path / "b.gif")
    with pytest.raises(FormatError, match=r"b\.gif was saved as GIF, which changes ids"):
        read_ids(tmp_path / "b.gif")
