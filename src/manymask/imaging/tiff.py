"""TIFF files of one 2-D image."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from manymask.core import Window
from manymask.errors import FormatError
from manymask.imaging.raster import Raster, check_declared_size, check_length

_MAX_CHANNELS_LAST = 4  # an unnamed last axis up to this long holds channels
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
# Colour spaces that only a conversion turns into grey or RGB, and what to call them.
_FOREIGN_COLOURS: dict[int, str] = {
    tifffile.PHOTOMETRIC.SEPARATED: "CMYK",
    tifffile.PHOTOMETRIC.CIELAB: "CIELab",
    tifffile.PHOTOMETRIC.ICCLAB: "ICCLab",
    tifffile.PHOTOMETRIC.ITULAB: "ITULab",
    tifffile.PHOTOMETRIC.LOGL: "LogL",
    tifffile.PHOTOMETRIC.LOGLUV: "LogLuv",
    tifffile.PHOTOMETRIC.CFA: "raw sensor",
}
# Codes of TIFF's Compression tag. Decoders of JPEG and WebP give RGB for YCbCr by themselves.
_JPEG = (6, 7, 33007, 34892)
_JPEG_2000 = (33003, 33004, 33005, 34712)
_WEBP = (34927, 50001)
# TIFF 6.0, section 21: the defaults of YCbCrCoefficients and of ReferenceBlackWhite for YCbCr of 8 bits.
_LUMA = (0.299, 0.587, 0.114)
_BLACK_WHITE = (0, 255, 128, 255, 128, 255)


def read_tiff(path: Path, window: Window | None = None, is_decoded: bool = True) -> Raster:
    """Decode a TIFF that holds one 2-D image; small copies of it beside it are ignored.

    Args:
        path: The file.
        window: The part that is wanted; passed over where parts cannot be decoded without the others.
        is_decoded: Without it only the header is read, and the values are one made-up pixel.

    Raises:
        FormatError: It holds several images or planes, has colours that only a conversion makes RGB, is declared larger
            than the limit, or ends before its data do.
    """
    with _open(path) as tiff:
        found = [one for one in tiff.series if not one.keyframe.is_reduced]
        if len(found) != 1:
            raise FormatError(f"{path} holds {len(found)} images, expected one; save each in a file of its own")
        series, page = found[0], found[0].keyframe
        if foreign := _FOREIGN_COLOURS.get(int(page.photometric)):
            raise FormatError(f"{path} holds {foreign} colours; save it as RGB")
        kept, order = _find_axes(series.shape, series.axes, path)
        is_unnamed = series.axes[kept[order[-1]]] == "Q" and order[-1] == 0
        check_declared_size(path, series.shape, series.dtype)
        _check_whole(series, path)
        shape = [series.shape[axis] for axis in kept]
        size = (shape[order[0]], shape[order[1]])
        is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        # Planes are compared as a whole, and floats are mirrored within the range of all of them.
        is_whole = is_unnamed or (is_inverted and series.dtype.kind == "f")
        is_cuttable = not is_whole and (_is_mappable(series) or _has_segments(series, shape, order))
        if not is_decoded:
            array = np.zeros([1 if axis in order[:2] else shape[axis] for axis in range(len(kept))], series.dtype)
        elif window is not None and is_cuttable:
            array = _decode_part(series, shape, order, window)
        else:
            array = series.asarray().reshape(shape)
        if is_unnamed:
            _check_equal_planes(array, path)
        values, alpha = _split_alpha(array.transpose(order) if array.ndim == 3 else array[..., None], page)
        if page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression not in _JPEG + _WEBP:
            values = _convert_ycbcr(values, page, path)
        colormap = page.colormap if page.photometric == tifffile.PHOTOMETRIC.PALETTE else None
        return Raster(
            values,
            size,
            palette=None if colormap is None else (colormap >> 8).astype(np.uint8).T,
            alpha=alpha,
            orientation=int(page.tags.valueof(274, default=1)),
            num_bits=page.bitspersample if page.bitspersample < 8 else None,
            is_inverted=is_inverted,
            lossy=_find_lossy_codec(page, path),
            is_cuttable=is_cuttable,
        )


def _is_mappable(series: tifffile.TiffPageSeries) -> bool:
    """Whether the file holds the array as it is in memory."""
    return series.keyframe.is_memmappable and (series.dataoffset is not None or len(series.pages) == 1)


def _has_segments(series: tifffile.TiffPageSeries, shape: Sequence[int], order: Sequence[int]) -> bool:
    """Whether the image is one page of strips or tiles, and has the page's axes."""
    page = series.keyframe
    is_one_page = len(series.pages) == 1 and page.shape == tuple(shape) and page.axes.find("Y") == order[0]
    is_plain = page.imagedepth == 1 and page.jpegheader is None  # a volume, or Hamamatsu's own kind of JPEG
    return is_one_page and is_plain and len(page.dataoffsets) == math.prod(page.chunked)


def _decode_part(
    series: tifffile.TiffPageSeries, shape: Sequence[int], order: Sequence[int], window: Window
) -> Shaped[np.ndarray, "*part"]:
    """A window of the array that the series is as a whole: only what it touches is read."""
    part = [slice(None)] * len(shape)
    part[order[0]], part[order[1]] = window.slices
    if _is_mappable(series):
        return np.array(series.asarray(out="memmap").reshape(shape)[tuple(part)])
    lengths = [len(range(length)[cut]) for length, cut in zip(shape, part, strict=True)]
    return _decode_segments(series.keyframe, window).reshape(lengths)


def _decode_segments(page: tifffile.TiffPage, window: Window) -> Shaped[np.ndarray, "planes height width samples"]:
    """A window of a page, for which only the strips or tiles that it touches are decoded."""
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    first_row, first_column = window.top // height, window.left // width
    last_row, last_column = (window.top + window.height - 1) // height, (window.left + window.width - 1) // width
    rows, columns = -(-page.imagelength // height), -(-page.imagewidth // width)
    grid = np.arange(len(page.dataoffsets)).reshape(-1, rows, columns)
    grid = grid[:, first_row : last_row + 1, first_column : last_column + 1]
    canvas = np.full(
        (len(grid), grid.shape[1] * height, grid.shape[2] * width, page.shaped[-1]), page.nodata, page.dtype
    )
    touched = grid.ravel().tolist()
    tables = {"jpegtables": page.jpegtables, "jpegheader": None} if page.compression in _JPEG else {}
    for data, index in page.parent.filehandle.read_segments(
        [page.dataoffsets[i] for i in touched], [page.databytecounts[i] for i in touched], touched
    ):
        values, (plane, _, top, left, _), _ = page.decode(data, index, **tables)
        if values is not None:
            top, left = top - first_row * height, left - first_column * width
            canvas[plane, top : top + values.shape[1], left : left + values.shape[2]] = values[0]
    return canvas[(slice(None), *window._replace(top=window.top % height, left=window.left % width).slices)]


@contextmanager
def _open(path: Path) -> Iterator[tifffile.TiffFile]:
    """A file by itself: of an OME set that is spread over several files, tifffile would read all of them as one."""
    with tifffile.TiffFile(path) as tiff:
        # Each plane of an OME set names the file that it lies in by that file's UUID.
        files = set(re.findall(r"UUID\b[^>]*>\s*(urn:uuid:[^<\s]+)", tiff.ome_metadata or ""))
        if len(files) < 2:
            yield tiff
            return
    with tifffile.TiffFile(path, is_ome=False) as tiff:
        yield tiff


def _find_axes(shape: tuple[int, ...], axes: str, path: Path) -> tuple[list[int], tuple[int, ...]]:
    """The axes that are kept, and their order as height, width and, if there are three, channels.

    The names are those of tifffile: Y, X, S samples, C channels, Q unknown; axes of length 1 are dropped.
    """
    kept = [i for i, length in enumerate(shape) if length > 1 or axes[i] in "YX"]
    names, lengths = "".join(axes[i] for i in kept), [shape[i] for i in kept]
    if len(kept) == 2:
        return kept, (0, 1)
    if len(kept) == 3:
        channel = max(names.find("S"), names.find("C"))
        if names == "QYX":
            # Rows of a few pixels are no rows of an image, but its channels, written without saying so.
            channel = 2 if lengths[2] <= _MAX_CHANNELS_LAST < lengths[0] else 0
        if channel > 0 or names[0] in "SC" or (names == "QYX" and lengths[0] <= _MAX_CHANNELS_LAST):
            return kept, (*(axis for axis in range(3) if axis != channel), channel)
    raise FormatError(
        f"{path} is a stack of shape {tuple(lengths)} (axes {names}), expected one 2-D image; save each plane as one "
        "file"
    )


def _check_equal_planes(planes: Shaped[np.ndarray, "planes height width"], path: Path) -> None:
    """Refuse planes that nothing calls channels, unless all are the same, as of grey that was stored as RGB."""
    if (planes != planes[:1]).any():
        raise FormatError(
            f"{path} holds {len(planes)} planes of which nothing says whether they are channels or a stack; save it as "
            "RGB (photometric RGB, or axes CYX), or each plane as one file"
        )


def _check_whole(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends before its data do; some decoders would fill the rest with zeros.

    Strips and tiles of no bytes are whole: sparse files leave out what is empty (GDAL, SPARSE_OK), and readers fill it.
    """
    for page in series.pages:
        if page is None:
            raise FormatError(f"{path} lacks some of its pages; copy or export it again")
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        check_length(path, max((offset + num_bytes for offset, num_bytes in places if num_bytes), default=0))


def _split_alpha(
    values: Shaped[np.ndarray, "height width channels"], page: tifffile.TiffPage
) -> tuple[Shaped[np.ndarray, "height width colors"], Shaped[np.ndarray, "height width"] | None]:
    """Colours, and the first channel that is declared as alpha; the fourth one of RGB is alpha even without that."""
    num_channels = values.shape[2]
    if page.photometric == tifffile.PHOTOMETRIC.RGB and num_channels == 4:
        return values[..., :3], values[..., 3]
    num_colors = num_channels - len(page.extrasamples)
    is_alpha = [num_colors >= 1 and sample in _ALPHA for sample in page.extrasamples]
    places = [num_colors + i for i, flag in enumerate(is_alpha) if flag]
    colors = values[..., [i for i in range(num_channels) if i not in places]]
    return colors, values[..., places[0]] if places else None


def _convert_ycbcr(
    values: Shaped[np.ndarray, "height width channels"], page: tifffile.TiffPage, path: Path
) -> Shaped[np.ndarray, "height width 3"]:
    """RGB of YCbCr with the usual coefficients."""
    luma = np.array(page.tags.valueof(529, default=_LUMA), dtype=float).ravel()
    black_white = np.array(page.tags.valueof(532, default=_BLACK_WHITE), dtype=float).ravel()
    # Tags hold fractions: numerators and denominators in turn.
    luma = luma[::2] / luma[1::2] if len(luma) == 6 else luma
    black_white = black_white[::2] / black_white[1::2] if len(black_white) == 12 else black_white
    is_usual = np.allclose(luma, _LUMA, atol=1e-3) and np.allclose(black_white, _BLACK_WHITE)
    if values.dtype != np.uint8 or values.shape[2] != 3 or not is_usual:
        raise FormatError(f"{path} holds YCbCr colours of an unusual kind; save it as RGB")
    return np.asarray(Image.frombytes("YCbCr", values.shape[1::-1], values.tobytes()).convert("RGB"))


def _find_lossy_codec(page: tifffile.TiffPage, path: Path) -> str | None:
    """The codec that may have changed the values when they were saved, by the head of the first strip or tile."""
    code = int(page.compression)
    if code not in _JPEG + _JPEG_2000 + _WEBP:
        return None
    first = next(
        ((place, size) for place, size in zip(page.dataoffsets, page.databytecounts, strict=True) if size), None
    )
    if first is None:
        return None
    with open(path, "rb") as file:
        file.seek(first[0])
        head = file.read(min(first[1], 1 << 16))
    if code in _JPEG:
        frame = re.search(rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb])", head)  # the start of frame: C3 is lossless
        return None if frame and frame[1] == b"\xc3" else "JPEG"
    if code in _JPEG_2000:
        style = re.search(rb"\xff\x52.{11}(.)", head, re.DOTALL)  # COD, whose transformation is 1 if reversible
        return None if style and style[1] == b"\x01" else "JPEG 2000"
    return None if b"VP8L" in head else "WebP"
