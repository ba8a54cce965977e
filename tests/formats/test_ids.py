import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from manymask.errors import FormatError
from manymask.formats.ids import read_label_image
from tests.formats.format_files import make_ids, read_ids, write_array

ROWS, COLUMNS = np.mgrid[:96, :96]


def draw_discs(radius=8):
    """25 discs far from each other."""
    ids = np.zeros((96, 96), dtype=np.uint16)
    for number, (row, column) in enumerate(((r, c) for r in range(12, 96, 20) for c in range(12, 96, 20)), start=1):
        ids[(ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2] = number
    return ids


def is_border(ids):
    return (ids > 0) & (cv2.erode((ids > 0).astype(np.uint8), np.ones((3, 3))) == 0)


def draw_squares(side):
    return (ROWS // side * (96 // side) + COLUMNS // side + 1).astype(np.uint16)


def draw_rods():
    """Parallel rods of 1, 2 and 3 pixels across that touch, their ids ascending."""
    widths = np.resize([1, 2, 3], 48)
    return np.repeat(np.arange(1, 49), widths)[:96].astype(np.uint16) * np.ones((96, 1), np.uint16)


COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], dtype=np.uint8)
DISCS = draw_discs()
IN_TURN = np.where(DISCS > 0, DISCS % 5 + 1, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((DISCS > 0).astype(np.uint8), "the value 1 in about 25 separate pieces"),
        ((DISCS > 0).astype(np.float32), "the value 1 in about 25 separate pieces"),
        (((DISCS > 0) * 128).astype(np.uint8), "the value 128 in about 25 separate pieces"),
        (np.where(is_border(DISCS), 2, DISCS > 0).astype(np.uint8), "2 values 1, 2 in about"),
        (np.where(is_border(DISCS), 1, 2 * (DISCS > 0)).astype(np.uint8), "2 values 1, 2 in about"),
        (IN_TURN.astype(np.uint8), "5 values 1, 2, 3, 4, 5 in about 25 separate pieces"),
        (COLORS[IN_TURN], r"5 values 255, 65280, .* in about 25 separate pieces"),
    ],
)
def test_values_that_several_objects_share_are_refused(tmp_path, values, message):
    with pytest.raises(FormatError, match=rf"a\.tif holds {message}.*every object needs its own number"):
        read_label_image(write_array(tmp_path / "a.tif", values))


@pytest.mark.parametrize(
    "ids",
    [
        make_ids((0, 0, 4, 4)),
        make_ids((0, 0, 4, 4), (4, 4, 6, 8), (0, 5, 1, 6)),
        np.where(np.isin(COLUMNS, range(40, 44)), 0, ROWS > 30).astype(np.uint16),  # one object behind a bar
        np.where(DISCS > 9, 0, DISCS > 0).astype(np.uint16),  # one object in 9 pieces
        np.where(DISCS < 20, DISCS, 20),  # 19 objects, and one in 6 pieces
        DISCS,
        np.arange(1, 9601).reshape(96, 100),
        np.where((ROWS % 4 == 0) | (COLUMNS % 4 == 0), 0, draw_squares(12)),  # each crossed by lines of one pixel
        draw_rods(),
    ],
)
def test_ids_stay_ids(tmp_path, ids):
    label = read_label_image(write_array(tmp_path / "a.tif", ids))
    np.testing.assert_array_equal(np.append(0, label.old_ids)[label.ids], ids)


def make_smooth(ids):
    small = cv2.resize(ids.astype(np.float32) * 10, (48, 48), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (96, 96)).round().astype(np.uint16)


def resave_as_jpeg(ids):
    _, code = cv2.imencode(".jpg", (ids * 9).astype(np.uint8))
    return cv2.imdecode(code, cv2.IMREAD_UNCHANGED)


def enlarge(ids):
    return cv2.resize(ids.astype(np.float32), (150, 150)).round().astype(np.uint16)


@pytest.mark.parametrize("spoil", [make_smooth, enlarge, resave_as_jpeg])
def test_interpolated_ids_are_refused(tmp_path, spoil):
    with pytest.raises(FormatError, match="lie between a smaller and a larger one: .* nearest neighbours"):
        read_label_image(write_array(tmp_path / "a.tif", spoil(DISCS)))


@pytest.mark.parametrize(
    ("options", "codec"),
    [
        ({"compression": "jpeg"}, "is a JPEG"),
        ({"compression": "jpeg2000", "compressionargs": {"level": 40, "reversible": False}}, "was saved as JPEG 2000"),
        ({"compression": "webp", "compressionargs": {"lossless": False}}, "was saved as WebP"),
    ],
)
def test_lossy_codecs_in_tiff_are_refused(tmp_path, options, codec):
    values = np.repeat(DISCS[..., None].astype(np.uint8) * 9, 3, axis=2) if options["compression"] == "webp" else DISCS
    path = write_array(tmp_path / "a.tif", values.astype(np.uint8), **options)
    with pytest.raises(FormatError, match=rf"a\.tif {codec}, which changes ids"):
        read_ids(path)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg2000", "compressionargs": {"reversible": True, "level": 0}},
        {"compression": "webp", "compressionargs": {"lossless": True}},
        {"compression": "zlib", "predictor": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
    ],
)
def test_lossless_codecs_keep_ids(tmp_path, options):
    values = np.repeat(DISCS[..., None], 3, axis=2) if options["compression"] == "webp" else DISCS
    ids = read_ids(write_array(tmp_path / "a.tif", values.astype(np.uint8), **options))
    np.testing.assert_array_equal(ids, DISCS.astype(np.int64) * (0x10101 if values.ndim == 3 else 1))


@pytest.mark.parametrize("num_bits", [2, 4])
def test_ids_of_few_bits_are_not_spread(tmp_path, num_bits):
    ids = np.arange(1 << num_bits, dtype=np.uint8)[None].repeat(5, axis=0)
    path = tmp_path / "a.png"
    Image.fromarray(ids).convert("P").save(path, bits=num_bits)  # as a palette; the same file as grey:
    write_grey_png(path, ids, num_bits)
    np.testing.assert_array_equal(read_ids(path), ids)


def write_grey_png(path, values, num_bits):
    """A grey PNG of few bits, which no library here writes: the chunks of PNG (RFC 2083)."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = np.unpackbits(values[..., None], axis=2)[..., -num_bits:].reshape(len(values), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], num_bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 2**11), ("float32", 2**24)])
def test_floats_that_cannot_tell_ids_apart_are_refused(tmp_path, dtype, largest):
    ids = np.zeros((6, 8), dtype)
    ids[0, 0] = largest
    assert read_ids(write_array(tmp_path / "a.tif", ids)).max() == largest
    ids[0, 1] = largest + 2
    with pytest.raises(FormatError, match=f"cannot tell ids above {largest} .* uint32"):
        read_ids(write_array(tmp_path / "a.tif", ids))


def test_transparent_pixels_are_background(tmp_path):
    rgba = np.full((6, 8, 4), 255, dtype=np.uint8)
    rgba[2:4, 2:4, :3], rgba[..., 3] = (7, 0, 0), 0
    rgba[2:4, 2:4, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "a.png"), make_ids((2, 2, 4, 4)) * 7)


def test_min_is_white_keeps_ids(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DISCS, photometric="miniswhite")
    np.testing.assert_array_equal(read_ids(path), DISCS)


def test_pieces_become_instances(tmp_path):
    label = read_label_image(write_array(tmp_path / "a.tif", IN_TURN.astype(np.uint8)), is_split=True)
    assert len(label.old_ids) == label.ids.max() == 25
    np.testing.assert_array_equal(np.append(0, label.old_ids)[label.ids], IN_TURN)
    path = write_array(tmp_path / "b.tif", np.where(is_border(DISCS), 2, DISCS > 0).astype(np.uint8))
    with pytest.raises(FormatError, match="values that touch"):
        read_label_image(path, is_split=True)


@pytest.mark.parametrize(("value", "name"), [(-1, "-1"), (np.nan, "nan")])
def test_pixels_to_ignore_get_a_sentence(tmp_path, value, name):
    ids = make_ids((2, 2, 4, 4)).astype("float32")
    ids[0] = value
    with pytest.raises(FormatError, match=rf"holds {name}\S* at row 0, .*--ignore-label {name} .*pixels to ignore"):
        read_label_image(write_array(tmp_path / "a.tif", ids))
    ids[1] = 0.5
    with pytest.raises(FormatError, match="save ids, not probabilities"):
        read_label_image(write_array(tmp_path / "a.tif", ids))


@pytest.mark.parametrize(("border", "dtype"), [(255, "uint8"), (65535, "uint16")])
def test_borders_of_the_largest_value_are_no_object(tmp_path, border, dtype):
    boxes = [(1, 1, 4, 4), (1, 5, 4, 9), (6, 1, 9, 4), (6, 6, 9, 9)]
    ids = make_ids(*boxes, size=(12, 12), dtype=dtype)
    outlined = ids.copy()
    for top, left, bottom, right in boxes[:3]:  # the last one has no outline
        around = (slice(top - 1, bottom + 1), slice(left - 1, right + 1))
        outlined[around] = np.where(ids[around] == 0, border, ids[around])
    path = write_array(tmp_path / "a.tif", outlined)
    with pytest.raises(
        FormatError, match=f"holds {border} along 3 of 4 objects: borders.* give --ignore-label {border} "
    ):
        read_label_image(path)
    assert len(read_label_image(path, is_checked=False).old_ids) == 5
    ids[10:] = border  # an object like the others
    assert len(read_label_image(write_array(tmp_path / "b.tif", ids)).old_ids) == 5
