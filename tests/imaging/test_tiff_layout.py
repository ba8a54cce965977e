import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from manymask.core import Window
from manymask.errors import FormatError
from manymask.imaging import PlaneChoice, open_image, tiff_layout
from tests.formats.format_files import make_pixels
from tests.imaging.image_files import make_smooth, write_ndpi, write_ome_pyramid, write_svs
from tests.imaging.reading import read_pixels

TILES = {"tile": (64, 64), "compression": "zlib"}


@pytest.fixture
def num_read(monkeypatch):
    """The lengths in bytes of the strips and tiles that were read."""
    lengths = []
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)

    def read(file, offset, num_bytes, read=tiff_layout._read_part):
        lengths.append(num_bytes)
        return read(file, offset, num_bytes)

    monkeypatch.setattr(tiff_layout, "_read_part", read)
    return lengths


def write_generic(path, pixels):
    """As vips and QuPath write pyramids: the smaller images are pages that are marked as reduced."""
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            writer.write(pixels[::step, ::step], subfiletype=int(step > 1), metadata=None, **TILES)
    return path


def test_masks_of_what_is_transparent_are_no_images(tmp_path):
    pixels = make_smooth()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels, metadata=None)
        writer.write(np.full(pixels.shape[:2], 255, np.uint8), subfiletype=1, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[1].tags["NewSubfileType"].overwrite(4)  # as GDAL writes it, and tifffile does not
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), pixels)


@pytest.mark.parametrize("kind", ["ome", "svs", "generic"])
def test_windows_of_levels(tmp_path, num_read, kind):
    pixels = make_smooth()
    if kind == "ome":
        image = open_image(write_ome_pyramid(tmp_path / "a.ome.tif", pixels.transpose(2, 0, 1)))
        steps, num_planes = (1, 2, 4), 3
    elif kind == "svs":
        image, steps, num_planes = open_image(write_svs(tmp_path / "a.svs", pixels)), (1, 4), 1
    else:
        image, steps, num_planes = open_image(write_generic(tmp_path / "a.tif", pixels)), (1, 2, 4), 1
    assert image.level_sizes == tuple((256 // step, 320 // step) for step in steps)
    for level, step in enumerate(steps):
        window = Window(5, 9, 30, 60)
        num_read.clear()
        part, expected = image.read(window, level), pixels[::step, ::step][window.slices]
        assert len(num_read) == 2 * num_planes  # two tiles side by side
        np.testing.assert_allclose(part, expected, atol=6 if kind == "svs" else 0)
        np.testing.assert_array_equal(part, image.read(None, level)[window.slices])


def test_windows_of_ndpi(tmp_path, num_read):
    pixels = make_smooth()
    image = open_image(write_ndpi(tmp_path / "a.ndpi", pixels))
    assert (image.size, image.pixel_size) == ((256, 320), (0.25, 0.25))
    part = image.read(Window(10, 70, 20, 50))
    np.testing.assert_allclose(part, pixels[10:30, 70:120], atol=6)
    assert len(num_read) == 3  # of 32 rows of tiles


def test_levels_are_turned_with_the_image(tmp_path):
    pixels = make_smooth()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for step in (1, 2):
            tags = [(274, 3, 1, 6, True)]
            writer.write(pixels[::step, ::step], subfiletype=step - 1, extratags=tags, metadata=None, **TILES)
    image = open_image(tmp_path / "a.tif")
    assert image.level_sizes == ((320, 256), (160, 128))
    window = Window(20, 30, 40, 50)
    np.testing.assert_array_equal(image.read(window, 1), np.rot90(pixels[::2, ::2], -1)[window.slices])


def test_a_window_of_a_large_file_is_cheap(tmp_path, monkeypatch, num_read):
    tile = make_pixels(512, 512)
    tiles = (tile if place % 7 == 0 else None for place in range(40 * 40))
    options = {"shape": (20_000, 20_000, 3), "dtype": "uint8", "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", tiles, tile=(512, 512), compression="zlib", bigtiff=True, **options)
    image = open_image(tmp_path / "a.tif")
    assert image.size == (20_000, 20_000)
    image.read(Window(0, 0, 1, 1))
    num_read.clear()
    tracemalloc.start()
    part = image.read(Window(512 * 7, 512 * 7, 512, 512))  # tile 287, of 41 x 7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(part, tile)
    assert len(num_read) == 1
    assert peak < 5 * tile.nbytes
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "1")
    with pytest.raises(FormatError, match=r"a\.tif declares 20000 x 20000 x 3 values, .*; cut it into tiles"):
        image.read()


def test_threads_and_other_processes_read_one_image(tmp_path):
    pixels = make_smooth()
    image = open_image(write_svs(tmp_path / "a.svs", pixels))
    windows = [Window(top, left, 60, 70) for top in range(0, 190, 31) for left in range(0, 250, 37)]
    whole = open_image(tmp_path / "a.svs").read()
    tiff_layout._find_image.cache_clear()
    with ThreadPoolExecutor(4) as executor:
        for window, part in zip(windows, executor.map(image.read, windows), strict=True):
            np.testing.assert_array_equal(part, whole[window.slices])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(image)).read(windows[5]), whole[windows[5].slices])


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    path = tmp_path / "a.tif"
    for size in (40, 90):
        tifffile.imwrite(path, make_pixels(size, 70), **TILES)
        assert read_pixels(path).shape == (size, 70, 3)


@pytest.mark.parametrize("shape", [(100, 320), (512, 640)])
def test_a_pyramid_that_is_none(tmp_path, shape):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(make_pixels(512, 640)[..., 0], subifds=1, **TILES)
        writer.write(make_pixels(*shape)[..., 0], subfiletype=1, **TILES)
    expected = (
        rf"is no pyramid: its level 1 is {shape[0]} x {shape[1]} of uint8, .* 512 x 640 of uint8; export it again"
    )
    with pytest.raises(FormatError, match=expected):
        open_image(tmp_path / "a.ome.tif")


def test_sides_that_are_rounded_are_a_pyramid(tmp_path):
    pixels = make_pixels(1001, 333)[..., 0]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        writer.write(pixels, subifds=4, **TILES)
        for power in (1, 2, 3, 4):
            size = (1001 >> power, 333 >> power)
            writer.write(pixels[: size[0], : size[1]], subfiletype=1, **TILES)
    assert open_image(tmp_path / "a.ome.tif").level_sizes[-1] == (62, 20)


def test_a_damaged_tile_is_named(tmp_path):
    path = write_ome_pyramid(tmp_path / "a.ome.tif", make_smooth().transpose(2, 0, 1))
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[1].dataoffsets[7]  # row 1, column 2 of tiles
    content = bytearray(path.read_bytes())
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    image = open_image(path)
    image.read(Window(0, 0, 64, 320))
    with pytest.raises(FormatError, match=r"a\.ome\.tif cannot be read at row 64, column 128: a tile is damaged"):
        image.read(Window(60, 100, 80, 80))


def test_full_memory_is_no_damage(tmp_path, monkeypatch):
    def fill(*_, **__):
        raise MemoryError

    tifffile.imwrite(tmp_path / "a.tif", np.ones((128, 128), np.uint8), **TILES)
    image = open_image(tmp_path / "a.tif")
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda _: fill))
    with pytest.raises(MemoryError):
        image.read(Window(0, 0, 16, 16))


def test_a_tile_that_declares_more_than_the_limit(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2048, 2048), np.uint8), rowsperstrip=2048, compression="zlib")
    monkeypatch.setenv("MANYMASK_MAX_GIGABYTES", "0.004")
    with pytest.raises(FormatError, match="declares 2048 x 2048 x 1 values, 0.00419 GB once decoded"):
        open_image(tmp_path / "a.tif")


HYPERSTACK = np.random.default_rng(0).integers(0, 999, (2, 3, 4, 20, 30)).astype(np.uint16)
HYPERSTACKS = {
    "imagej": {"imagej": True},
    "ome": {"ome": True, "photometric": "minisblack"},
    "ome tiles": {"ome": True, "photometric": "minisblack", "tile": (16, 16), "compression": "zlib"},
}


@pytest.mark.parametrize("kind", HYPERSTACKS)
def test_planes_of_a_hyperstack(tmp_path, num_read, kind):
    options = dict(HYPERSTACKS[kind])
    tifffile.imwrite(tmp_path / "a.tif", HYPERSTACK, metadata={"axes": "TZCYX"}, **options)
    window, pages = Window(2, 3, 15, 6), [plane for time in HYPERSTACK for plane in time]
    image = open_image(tmp_path / "a.tif", PlaneChoice(z=2, t=1, channels=(4, 1)))
    assert image.num_channels == 2
    np.testing.assert_array_equal(image.read(window), HYPERSTACK[0, 1, [3, 0]].transpose(1, 2, 0)[window.slices])
    assert len(num_read) == (4 if kind == "ome tiles" else 0)  # two tiles of two channels
    image = open_image(tmp_path / "a.tif", PlaneChoice(page=6))
    np.testing.assert_array_equal(image.read(), pages[5].transpose(1, 2, 0))
    image = open_image(tmp_path / "a.tif", PlaneChoice(z=2, page=2))
    np.testing.assert_array_equal(image.read(), HYPERSTACK[1, 1].transpose(1, 2, 0))


def test_pages_of_several_series_and_shapes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for height in (20, 30):
            writer.write(make_pixels(height, 40), metadata={"PhysicalSizeX": height, "PhysicalSizeY": height})
    image = open_image(tmp_path / "a.ome.tif", PlaneChoice(page=2))
    assert (image.size, image.num_channels, image.pixel_size) == ((30, 40), 3, (30.0, 30.0))


def test_planes_that_nothing_names_are_what_the_user_says(tmp_path):
    planes = make_pixels().transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack")
    image = open_image(tmp_path / "a.tif", PlaneChoice(channels=(3, 2, 1)))
    np.testing.assert_array_equal(image.read(), make_pixels()[..., ::-1])
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif", PlaneChoice(page=2)).read()[..., 0], planes[1])


def test_a_volume_in_one_page_is_decoded_whole(tmp_path):
    volume = make_pixels(32, 48, 16).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", volume, volumetric=True, tile=(16, 16, 16), metadata={"axes": "ZYX"})
    image = open_image(tmp_path / "a.tif", PlaneChoice(z=3))
    np.testing.assert_array_equal(image.read(Window(2, 3, 9, 9))[..., 0], volume[2, 2:11, 3:12])
