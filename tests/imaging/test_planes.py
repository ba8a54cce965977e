import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.errors import FormatError, PlanError
from manymask.imaging import PlaneChoice, list_choices, open_image
from manymask.imaging.planes import index_channels
from tests.formats.format_files import make_pixels, write_array

PAGES = r"choose what to predict: --page \(1 to 3, or all\)"


def write_stack(path, axes="TZYX"):
    shape = [{"T": 2, "Z": 3, "C": 4, "Q": 5}[axis] for axis in axes[:-2]]
    tifffile.imwrite(path, np.zeros((*shape, 20, 30), np.uint8), imagej=True, metadata={"axes": axes})
    return path


@pytest.mark.parametrize(
    ("axes", "choice", "options"),
    [
        ("ZYX", PlaneChoice(), r"--z \(1 to 3\), or --page \(1 to 3, or all\)"),
        ("TYX", PlaneChoice(), r"--t \(1 to 2\), or --page \(1 to 2, or all\)"),
        ("TZCYX", PlaneChoice(), r"--z \(1 to 3\) and --t \(1 to 2\), or --page \(1 to 6, or all\)"),
        ("TZYX", PlaneChoice(z=2), r"--t \(1 to 2\), or --page \(1 to 2, or all\)"),
    ],
)
def test_the_choice_that_is_missing_is_named(tmp_path, axes, choice, options):
    path = write_stack(tmp_path / "a.tif", axes)
    with pytest.raises(FormatError, match=rf"a\.tif is a stack of shape \(.*; save each .* to predict: {options}$"):
        open_image(path, choice)


def test_pages_and_series_are_never_a_silent_first_one(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as writer:
        for _ in range(3):
            writer.write(np.zeros((6, 8), "uint8"), metadata=None)
    with tifffile.TiffWriter(tmp_path / "series.tif") as writer:
        for height in (6, 7, 8):
            writer.write(np.zeros((height, 8), "uint8"), metadata=None)
    for name in ("pages.tif", "series.tif"):
        with pytest.raises(FormatError, match=PAGES):
            open_image(tmp_path / name)
    path = write_array(tmp_path / "planes.tif", make_pixels().transpose(2, 0, 1), photometric="minisblack")
    with pytest.raises(FormatError, match=r"to predict: --channels 1,2,3 or --page \(1 to 3, or all\)"):
        open_image(path).read()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (PlaneChoice(z=4), "has 3 planes along z; --z 4 is not there"),
        (PlaneChoice(t=3), "has 2 planes along t; --t 3 is not there"),
        (PlaneChoice(page=7), "holds 6 images; --page 7 is not there"),
        (PlaneChoice(z=1, page=3), "holds 2 images; --page 3 is not there"),
        (PlaneChoice(page=1, channels=(1, 5)), "has 4 channels; --channels 5 is not there"),
    ],
)
def test_what_is_not_there(tmp_path, choice, message):
    with pytest.raises(FormatError, match=message):
        open_image(write_stack(tmp_path / "a.tif", "TZCYX"), choice)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_of_one_image(tmp_path, suffix):
    path = write_array(tmp_path / f"a{suffix}", make_pixels())
    image = open_image(path, PlaneChoice(page=1, z=1, t=1, channels=(3, 1)))
    assert (image.num_channels, image.pixel_size) == (2, None)
    np.testing.assert_array_equal(image.read(), make_pixels()[..., [2, 0]])
    for choice, message in (
        (PlaneChoice(page=2), "holds 1 image; --page 2"),
        (PlaneChoice(t=2), "has 1 plane along t; --t 2"),
        (PlaneChoice(channels=(4,)), "has 3 channels; --channels 4"),
    ):
        with pytest.raises(FormatError, match=message):
            open_image(path, choice)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_channels_of_a_palette_are_those_of_its_colours(tmp_path, suffix):
    image = Image.fromarray(make_pixels()[..., 0] % 4).convert("P")
    image.putpalette([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    image.save(tmp_path / f"a{suffix}")
    expected = np.asarray(image.convert("RGB"))[..., [1]]
    np.testing.assert_array_equal(open_image(tmp_path / f"a{suffix}", PlaneChoice(channels=(2,))).read(), expected)


def test_all_pages(tmp_path):
    path = write_stack(tmp_path / "a.tif", "TZYX")
    assert list_choices(path, PlaneChoice(t=2, page="all")) == [PlaneChoice(t=2, page=page) for page in (1, 2, 3)]
    assert list_choices(path, PlaneChoice(t=2)) == [PlaneChoice(t=2)]
    path = write_array(tmp_path / "b.png", make_pixels())
    assert list_choices(path, PlaneChoice(page="all")) == [PlaneChoice(page=1)]
    path = write_array(tmp_path / "c.tif", make_pixels().transpose(2, 0, 1), photometric="minisblack")
    assert len(list_choices(path, PlaneChoice(page="all"))) == 3


@pytest.mark.parametrize(("name", "value"), [("page", 0), ("z", -1), ("t", 0), ("channels", (1, 0))])
def test_numbers_count_from_one(name, value):
    with pytest.raises(PlanError, match=f"--{name} counts from 1"):
        PlaneChoice(**{name: value})


def test_more_channels_than_any_image_has(tmp_path):
    with pytest.raises(FormatError, match="has 2147483648 channels, expected at most 65536"):
        index_channels(PlaneChoice(), 2**31, tmp_path)
