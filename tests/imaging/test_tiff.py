import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.errors import FormatError
from tests.formats.format_files import make_pixels, read_ids, write_array
from tests.imaging.reading import read_pixels


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535), ("int16", -1), ("uint32", 2**32 - 1)])
def test_min_is_white_is_shown_as_viewers_do(tmp_path, dtype, white):
    pixels = make_pixels(channels=1, dtype=dtype)
    path = write_array(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_pixels(path), np.array(white - pixels.astype(np.int64), dtype))


def test_min_is_white_floats_are_mirrored(tmp_path):
    pixels = make_pixels(channels=1, dtype="float32")
    result = read_pixels(write_array(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite"))
    np.testing.assert_array_equal(result, pixels.min() + pixels.max() - pixels)


def test_ycbcr_becomes_rgb(tmp_path):
    rgb = make_pixels(60, 80)
    Image.fromarray(rgb).convert("YCbCr").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_pixels(tmp_path / "a.tif"), rgb, atol=3)


def test_jpeg_in_tiff_becomes_rgb(tmp_path):
    rgb = np.repeat(np.repeat(make_pixels(4, 5), 16, axis=0), 16, axis=1)
    path = write_array(tmp_path / "a.tif", rgb, compression="jpeg", compressionargs={"level": 98}, photometric="rgb")
    assert np.abs(read_pixels(path).astype(int) - rgb).mean() < 8


@pytest.mark.parametrize(("photometric", "name"), [("cielab", "CIELab"), ("icclab", "ICCLab"), ("cfa", "raw sensor")])
def test_other_colours_are_refused(tmp_path, photometric, name):
    pixels = make_pixels(channels=1)[..., 0] if photometric == "cfa" else make_pixels()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric)
    with pytest.raises(FormatError, match=rf"a\.tif holds {name} colours; save it as RGB"):
        read_pixels(tmp_path / "a.tif")


@pytest.mark.parametrize("num_planes", [2, 3, 4])
def test_planes_that_nothing_names_are_refused(tmp_path, num_planes):
    planes = np.stack([make_pixels(channels=1)[..., 0] + np.uint8(i) for i in range(num_planes)])
    path = write_array(tmp_path / "a.tif", planes, photometric="minisblack")
    for read in (read_pixels, read_ids):
        with pytest.raises(FormatError, match=f"holds {num_planes} planes .* each plane as one file"):
            read(path)


def test_equal_planes_are_one_image(tmp_path):
    plane = make_pixels(channels=1)[..., 0]
    path = write_array(tmp_path / "a.tif", np.stack([plane] * 3), photometric="minisblack")
    np.testing.assert_array_equal(read_pixels(path), np.stack([plane] * 3, axis=-1))


def test_one_file_of_an_ome_set_is_read_by_itself(tmp_path):
    planes = make_pixels(channels=2).transpose(2, 0, 1)
    uuids = ["urn:uuid:11111111-0000-0000-0000-000000000000", "urn:uuid:22222222-0000-0000-0000-000000000000"]
    data = "".join(
        f'<TiffData FirstC="{i}" PlaneCount="1"><UUID FileName="c{i}.ome.tif">{uuid}</UUID></TiffData>'
        for i, uuid in enumerate(uuids)
    )
    for i, uuid in enumerate(uuids):
        xml = (
            f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="6" '
            f'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>{data}'
            "</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / f"c{i}.ome.tif", planes[i], description=xml, metadata=None)
    assert tifffile.imread(tmp_path / "c0.ome.tif").shape == (2, 6, 8)
    for i in range(2):
        np.testing.assert_array_equal(read_pixels(tmp_path / f"c{i}.ome.tif")[..., 0], planes[i])


def test_sparse_tiles_are_empty(tmp_path):
    tile = np.full((16, 16), 7, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", iter([tile, None, None, tile]), shape=(32, 32), dtype="uint8", tile=(16, 16))
    expected = np.kron(np.eye(2, dtype=np.uint8), tile)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif")[..., 0], expected)


def write_few_bits(path, values, num_bits, is_black):
    """A TIFF of packed bits, which no library here writes: one directory behind the head, and one strip behind it."""
    bits = np.unpackbits(values[..., None], axis=2)[..., -num_bits:].reshape(len(values), -1)
    data = np.packbits(bits, axis=1).tobytes()
    tags = {256: values.shape[1], 257: len(values), 258: num_bits, 259: 1, 262: int(is_black), 277: 1, 278: len(values)}
    tags |= {273: 8 + 2 + 12 * (len(tags) + 2) + 4, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_four_bits_fill_their_byte(tmp_path, photometric):
    values = np.arange(16, dtype=np.uint8)[None].repeat(4, axis=0)
    write_few_bits(tmp_path / "a.tif", values, 4, photometric == "minisblack")
    shown = values if photometric == "minisblack" else 15 - values
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif")[..., 0], shown * 17)
    np.testing.assert_array_equal(read_ids(tmp_path / "a.tif"), values)


def test_a_size_that_asks_for_more_strips_than_there_are(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, make_pixels()[..., 0], rowsperstrip=2, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(200)
    with pytest.raises(FormatError, match="lists 3 of the 100 strips or tiles of its size, so it is damaged"):
        read_pixels(path)
