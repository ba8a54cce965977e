import pickle
import sys

import numpy as np
import pytest
import zarr

from manymask.core import Window
from manymask.errors import FormatError, ManymaskError
from manymask.imaging import PlaneChoice, find_images, list_choices, open_image
from tests.formats.format_files import make_pixels, write_array

VALUES = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 90, 130)).astype(np.uint16)  # t, c, z, y, x


def write_group(group, values, axes, version="0.5", unit="micrometer", steps=(1, 2, 4)):
    datasets = []
    for number, step in enumerate(steps):
        level = values[..., ::step, ::step]
        array = group.create_array(
            str(number), shape=level.shape, dtype=level.dtype, chunks=(1,) * (level.ndim - 2) + (32, 32)
        )
        array[...] = level
        scale = [1.0] * (level.ndim - 2) + [0.5 * step, 0.25 * step]
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    names = [{"name": name, "type": "space", "unit": unit} if name in "zyx" else {"name": name} for name in axes]
    content = {"multiscales": [{"axes": names, "datasets": datasets}]}
    group.attrs.update({"ome": content} if version == "0.5" else content)


def write_image(path, values, axes, version="0.5", **options):
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    write_group(group, values, axes, version, **options)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_planes_channels_and_levels(tmp_path, version):
    path = write_image(tmp_path / "a.ome.zarr", VALUES, "tczyx", version)
    image = open_image(path, PlaneChoice(t=2, z=3, channels=(3, 1)))
    assert (image.num_channels, image.dtype, image.pixel_size) == (2, np.uint16, (0.5, 0.25))
    assert image.level_sizes == ((90, 130), (45, 65), (23, 33))
    for level, step in enumerate((1, 2, 4)):
        expected = VALUES[1, [2, 0], 2, ::step, ::step].transpose(1, 2, 0)
        for window in (Window(3, 5, 17, 20), None):
            part = image.read(window, level)
            np.testing.assert_array_equal(part, expected[window.slices] if window else expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(), image.read())


@pytest.mark.parametrize(("axes", "values"), [("yx", VALUES[0, 0, 0]), ("cyx", VALUES[0, :, 0])])
def test_fewer_axes(tmp_path, axes, values):
    image = open_image(write_image(tmp_path / "a.zarr", values, axes, unit=None))
    assert image.pixel_size is None
    np.testing.assert_array_equal(image.read(), values[..., None] if axes == "yx" else values.transpose(1, 2, 0))


def test_only_the_chunks_of_a_window_are_read(tmp_path):
    path = write_image(tmp_path / "a.zarr", VALUES[0, 0, 0], "yx")
    for chunk in (path / "0" / "c").rglob("*"):
        if chunk.is_file() and chunk.relative_to(path / "0" / "c").parts != ("1", "2"):
            chunk.write_bytes(b"damaged")
    image = open_image(path)
    np.testing.assert_array_equal(image.read(Window(34, 70, 20, 20))[..., 0], VALUES[0, 0, 0, 34:54, 70:90])
    with pytest.raises(FormatError, match=r"a\.zarr cannot be read at row 0, column 70 of level 0: a chunk is damaged"):
        image.read(Window(0, 70, 50, 20))


def test_images_of_a_converter_are_pages(tmp_path):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    group.attrs["ome"] = {"bioformats2raw.layout": 3}
    for number in range(2):
        write_group(group.create_group(str(number)), VALUES[number, 0, 0], "yx")
    with pytest.raises(FormatError, match=r"a\.zarr holds 2 images.* --page \(1 to 2, or all\)"):
        open_image(path)
    for choice, values in zip(list_choices(path, PlaneChoice(page="all")), VALUES[:, 0, 0], strict=True):
        np.testing.assert_array_equal(open_image(path, choice).read()[..., 0], values)


def test_folders_are_found_beside_files(tmp_path):
    path = write_image(tmp_path / "b.ome.zarr", VALUES[0, 0, 0], "yx")
    write_array(tmp_path / "a.png", make_pixels())
    assert find_images(tmp_path) == [("a", tmp_path / "a.png"), ("b.ome", path)]
    assert find_images(path) == [("b.ome", path)]


def test_what_is_no_image(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FormatError, match=r"empty\.zarr cannot be read as OME-Zarr image"):
        open_image(tmp_path / "empty.zarr")
    plate = zarr.open_group(tmp_path / "plate.zarr", mode="w")
    plate.attrs["ome"] = {"plate": {}}
    write_group(plate.create_group("A/1/0"), VALUES[0, 0, 0], "yx")
    with pytest.raises(
        FormatError, match=r"plate\.zarr is a plate .*; give the folder of one, such as plate\.zarr/A/1/0"
    ):
        open_image(tmp_path / "plate.zarr")
    ((name, path),) = find_images(tmp_path / "plate.zarr" / "A" / "1" / "0")
    assert (name, open_image(path).size) == ("0", (90, 130))
    with pytest.raises(
        FormatError, match=r"is a stack of shape \(2, 3, 4, 90, 130\) \(axes TCZYX\).*--z \(1 to 4\) and --t"
    ):
        open_image(write_image(tmp_path / "stack.zarr", VALUES, "tczyx"))
    path = write_image(tmp_path / "axes.zarr", VALUES[0, 0], "qyx")
    with pytest.raises(FormatError, match=r"axes\.zarr has the axes qyx"):
        open_image(path)


def test_a_pyramid_that_is_none_and_the_limit(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.zarr", VALUES[0, 0, 0], "yx", steps=(1, 1))
    with pytest.raises(FormatError, match=r"a\.zarr is no pyramid: its level 1 is 90 x 130 of uint16"):
        open_image(path)
    image = open_image(write_image(tmp_path / "b.zarr", VALUES[0, 0, 0], "yx"))
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "1e-5")
    assert image.read(Window(0, 0, 50, 50)).shape == (50, 50, 1)
    with pytest.raises(FormatError, match="declares 90 x 130 x 1 values"):
        image.read()
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "1e-6")
    with pytest.raises(FormatError, match="declares 32 x 32 values"):
        open_image(tmp_path / "b.zarr")


def test_without_zarr(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.zarr", VALUES[0, 0, 0], "yx")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ManymaskError, match=r"zarr is not installed, which reads .*pip install 'manymask\[zarr\]'"):
        open_image(path)
