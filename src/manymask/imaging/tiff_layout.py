"""Where the pixels of a TIFF file lie: its images, their planes and the levels of their pyramids."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from jaxtyping import Int64, Shaped

from manymask.core import Window
from manymask.errors import FormatError
from manymask.imaging.pixel_size import read_pixel_size
from manymask.imaging.planes import PlaneChoice, Stack, choose_place, index_channels, list_places
from manymask.imaging.raster import check_declared_size, check_length, is_smaller_copy

_MAX_CHANNELS_LAST = 4  # an unnamed last axis up to this long holds channels
JPEG = (6, 7, 33007, 34892)
"""Codes of TIFF's Compression tag."""
# Kinds of slides, as tifffile calls them, that hold pictures of the glass beside the image, under these names.
_SLIDES = ("avs", "bif", "ndpi", "philips", "qpi", "svs")
_BESIDE = ("Thumbnail", "Label", "Macro", "Map")
# Tags that are asked for when pixels are decoded: colour map, and coefficients and range of YCbCr.
_LATE_TAGS = (320, 529, 532)
# Files of which the layout is kept; that of a large slide takes some 20 MB.
_NUM_KEPT = 32
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


@dataclass(frozen=True)
class _Axes:
    """What the axes of a series mean, by their place: those along which 2-D images lie, and those of an image."""

    stack: tuple[int, ...]
    row: int
    column: int
    channel: int | None
    is_unnamed: bool = False


@dataclass(frozen=True, eq=False)
class _Plane:
    """Strips or tiles of one page: where they lie in the file, and what their JPEG has in common."""

    offsets: Int64[np.ndarray, " segments"]
    num_bytes: Int64[np.ndarray, " segments"]
    jpeg_tables: bytes | None


@dataclass(frozen=True, eq=False)
class Level:
    """One resolution of an image.

    Attributes:
        size: (height, width) in pixels.
        dtype: Of its values in memory.
        page: What its pages have in common.
        planes: A page for each channel, or one for all; none where the image can only be decoded whole.
        is_raw: Whether the file holds each plane as it is in memory, from its first offset on.
    """

    size: tuple[int, int]
    dtype: np.dtype
    page: tifffile.TiffPage
    planes: tuple[_Plane, ...]
    is_raw: bool = False

    def read(self, path: Path, window: Window) -> Shaped[np.ndarray, "height width channels"]:
        """A window, for which only the strips or tiles that it touches are read and decoded.

        Raises:
            FormatError: One of them is damaged.
        """
        if self.is_raw:
            parts = [self._map(path, plane, window) for plane in self.planes]
        else:
            with open(path, "rb") as file:  # of its own, so that threads do not share a position
                parts = [self._decode(file, path, plane, window) for plane in self.planes]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return values.transpose(1, 2, 0, 3).reshape(window.height, window.width, -1)

    def _map(self, path: Path, plane: _Plane, window: Window) -> Shaped[np.ndarray, "planes height width samples"]:
        shape = tuple(self.page.shaped[axis] for axis in (0, 2, 3, 4))
        dtype = self.dtype.newbyteorder(self.page.parent.byteorder)
        values = np.memmap(path, dtype, "r", int(plane.offsets[0]), shape)
        return np.array(values[:, *window.slices])

    def _decode(
        self, file: BinaryIO, path: Path, plane: _Plane, window: Window
    ) -> Shaped[np.ndarray, "planes height width samples"]:
        page = self.page
        height, width = _get_segment_shape(page)
        rows, columns = -(-page.imagelength // height), -(-page.imagewidth // width)
        # The strips or tiles from the first to the last row and column of the window.
        touched = np.arange(len(plane.offsets)).reshape(-1, rows, columns)[
            :,
            window.top // height : (window.top + window.height - 1) // height + 1,
            window.left // width : (window.left + window.width - 1) // width + 1,
        ]
        shape = (len(touched), window.height, window.width, page.shaped[-1])
        result = np.full(shape, page.nodata, self.dtype)  # what sparse files leave out
        options = {"jpegtables": plane.jpeg_tables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
        for index in touched.ravel().tolist():
            if not plane.num_bytes[index]:
                continue
            data = _read_part(file, int(plane.offsets[index]), int(plane.num_bytes[index]))
            try:
                values, (number, _, top, left, _), _ = page.decode(data, index, **options)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise kinds of their own
                row, column = (index % (rows * columns)) // columns * height, index % columns * width
                raise FormatError(
                    f"{path} cannot be read at row {row}, column {column}: a {'tile' if page.is_tiled else 'strip'} is "
                    f"damaged ({' '.join(str(error).split())}); copy or export the file again"
                ) from error
            if values is None:
                continue
            # The part of it that lies in the window.
            top, left, (_, length, breadth, _) = top - window.top, left - window.left, values.shape
            here = slice(max(top, 0), top + length), slice(max(left, 0), left + breadth)
            there = result[number, *here]
            cut = values[0, max(-top, 0) :, max(-left, 0) :]
            there[...] = cut[: there.shape[0], : there.shape[1]]
        return result


@dataclass(frozen=True, eq=False)
class TiffImage:
    """A 2-D image of a TIFF file.

    Attributes:
        page: What its pages have in common.
        num_channels: With alpha.
        levels: Its resolutions, the full one first.
        pixel_size: (height, width) in micrometres, where the file gives it.
        is_cuttable: Whether parts of each level can be decoded, and shown, without the others.
        is_unnamed: Whether nothing says that its channels are channels.
        is_picked: Whether the planes are those of the chosen channels already.
    """

    page: tifffile.TiffPage
    num_channels: int
    levels: tuple[Level, ...]
    pixel_size: tuple[float, float] | None
    is_cuttable: bool
    is_unnamed: bool
    is_picked: bool


def find_image(path: Path, choice: PlaneChoice) -> TiffImage:
    """The image that is meant; its file is looked at once and then known as long as it does not change.

    Raises:
        FormatError: See ``read_tiff``.
    """
    state = path.stat()
    return _find_image(path, choice, (state.st_ino, state.st_size, state.st_mtime_ns))


def count_planes(path: Path, choice: PlaneChoice) -> int:
    """How many 2-D images ``z`` and ``t`` leave."""
    with _open(path) as tiff:
        return len(list_places(_list_stacks(tiff, path, choice)[1], choice, path))


def decode_whole(path: Path, choice: PlaneChoice, level: int) -> Shaped[np.ndarray, "height width channels"]:
    """A level of the image that is meant, of files whose parts cannot be decoded without the others."""
    with _open(path) as tiff:
        series, axes, place = _choose_series(tiff, path, choice)
        values = series.levels[level].asarray().reshape(series.levels[level].shape)
    order = [*axes.stack, axes.row, axes.column, *([] if axes.channel is None else [axes.channel])]
    rest = [axis for axis in range(values.ndim) if axis not in order]
    values = values.transpose([*order, *rest])[place]
    return values.reshape(*values.shape[:2], -1)


@lru_cache(_NUM_KEPT)
def _find_image(path: Path, choice: PlaneChoice, state: tuple[int, ...]) -> TiffImage:
    with _open(path) as tiff:
        series, axes, place = _choose_series(tiff, path, choice)
        page = series.keyframe
        if foreign := _FOREIGN_COLOURS.get(int(page.photometric)):
            raise FormatError(f"{path} holds {foreign} colours; save it as RGB")
        num_channels = 1 if axes.channel is None else series.shape[axes.channel]
        kept = [axis for axis, length in enumerate(series.shape) if length > 1 or series.axes[axis] in "YX"]
        # Channels that are pages of their own: only the chosen ones are read.
        is_picked = axes.channel is not None and axes.channel in kept[: len(kept) - len(_get_page_shape(page))]
        channels = index_channels(choice, num_channels, path) if is_picked else list(range(num_channels))
        # Planes are compared as a whole, and floats are mirrored within the range of all of them.
        is_mirrored = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and series.dtype.kind == "f"
        for code in _LATE_TAGS:
            page.tags.valueof(code)  # while the file is open
        _check_pyramid(series, axes, path)
        levels = tuple(_find_level(each, axes, place, channels, path) for each in series.levels)
        is_cuttable = not (axes.is_unnamed or is_mirrored) and all(level.planes for level in levels)
        for level in levels if is_cuttable else ():
            if not level.is_raw:
                check_declared_size(path, (*_get_segment_shape(level.page), level.page.shaped[-1]), series.dtype)
        if not is_cuttable:
            check_declared_size(path, series.shape, series.dtype)
        return TiffImage(
            page,
            len(channels) if is_picked and is_cuttable else num_channels,
            levels,
            read_pixel_size(tiff, page, tiff.series.index(series)),
            is_cuttable,
            axes.is_unnamed,
            is_picked and is_cuttable,
        )


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


def _list_series(tiff: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """The images of a file, without small copies and masks of them, and pictures of a slide's label."""
    return [
        series
        for series in tiff.series
        if not (series.keyframe.is_reduced or series.keyframe.is_mask)
        and not (series.kind in _SLIDES and series.name in _BESIDE)
    ]


def _list_stacks(tiff: tifffile.TiffFile, path: Path, choice: PlaneChoice) -> tuple[list[_Axes], list[Stack]]:
    """What the axes of each image mean, and the 2-D images that lie in it."""
    found = _list_series(tiff)
    if not found:
        raise FormatError(f"{path} holds 0 images, expected one; save each in a file of its own")
    axes = [_find_axes(series.shape, series.axes, path, choice) for series in found]
    stacks = []
    for series, each in zip(found, axes, strict=True):
        kept = [i for i, length in enumerate(series.shape) if length > 1 or series.axes[i] in "YX"]
        description = f"shape {tuple(series.shape[i] for i in kept)} (axes {''.join(series.axes[i] for i in kept)})"
        names, lengths = "".join(series.axes[i] for i in each.stack), tuple(series.shape[i] for i in each.stack)
        stacks.append(Stack(names, lengths, description))
    return axes, stacks


def _choose_series(
    tiff: tifffile.TiffFile, path: Path, choice: PlaneChoice
) -> tuple[tifffile.TiffPageSeries, _Axes, tuple[int, ...]]:
    """The image that is meant, what its axes mean, and its place along those of its stack."""
    axes, stacks = _list_stacks(tiff, path, choice)
    number, place = choose_place(stacks, choice, path)
    return _list_series(tiff)[number], axes[number], place


def _find_axes(shape: tuple[int, ...], names: str, path: Path, choice: PlaneChoice) -> _Axes:
    """What the axes of a series mean.

    The names are those of tifffile: Y, X, S samples, C channels, Q and I unknown; axes of length 1 mean nothing.
    """
    rest = [i for i, length in enumerate(shape) if length > 1 and names[i] not in "YX"]
    if names.count("Y") != 1 or names.count("X") != 1:
        raise FormatError(f"{path} has the axes {names} of shape {shape}, expected one 2-D image; save it as one")
    row, column = names.index("Y"), names.index("X")
    channel = next((i for name in "SC" for i in rest if names[i] == name), None)
    if channel is not None or len(rest) != 1 or names[rest[0]] not in "QI" or rest[0] > row:
        return _Axes(tuple(i for i in rest if i != channel), row, column, channel)
    unnamed = rest[0]
    # Rows of a few pixels are no rows of an image, but its channels, written without saying so.
    if names[unnamed] == "Q" and shape[column] <= _MAX_CHANNELS_LAST < shape[unnamed]:
        return _Axes((), unnamed, row, column)
    is_short = names[unnamed] == "Q" and shape[unnamed] <= _MAX_CHANNELS_LAST
    if choice.page is None and (choice.channels or is_short):
        return _Axes((), row, column, unnamed, is_unnamed=not choice.channels)
    return _Axes((unnamed,), row, column, None)


def _find_level(
    series: tifffile.TiffPageSeries, axes: _Axes, place: tuple[int, ...], channels: list[int], path: Path
) -> Level:
    """Where the pixels of an image lie at one resolution."""
    page, size = series.keyframe, (series.shape[axes.row], series.shape[axes.column])
    inner = _get_page_shape(page)
    kept = [axis for axis, length in enumerate(series.shape) if length > 1 or axis in (axes.row, axes.column)]
    outer, lengths = kept[: len(kept) - len(inner)], [series.shape[axis] for axis in kept]
    is_regular = (
        lengths[len(outer) :] == inner
        and axes.row not in outer
        and axes.column > axes.row
        and set(axes.stack) <= set(outer)
        and page.imagedepth == 1
        and series.transform is None
    )
    if not is_regular:
        _check_whole(list(series), path)
        return Level(size, series.dtype, page, ())
    # The pages of the image, by their numbers in the series: one, or one for each channel.
    index = [place[axes.stack.index(axis)] if axis in axes.stack else channels for axis in outer]
    numbers = np.arange(math.prod(lengths[: len(outer)])).reshape(lengths[: len(outer)])[*index].ravel().tolist()
    if series.dataoffset is not None and page.is_memmappable:
        check_length(path, series.dataoffset + series.nbytes)
        places = [
            _Plane(np.array([series.dataoffset + n * page.nbytes]), np.array([page.nbytes]), None) for n in numbers
        ]
        return Level(size, series.dtype, page, tuple(places), is_raw=True)
    if math.prod(lengths[: len(outer)]) != len(series):
        _check_whole(list(series), path)
        return Level(size, series.dtype, page, ())
    pages = [series[number] for number in numbers]
    _check_whole(pages, path)
    planes = tuple(
        _Plane(np.array(each.dataoffsets, np.int64), np.array(each.databytecounts, np.int64), each.jpegtables)
        for each in pages
        if each is not None
    )
    if any(len(plane.offsets) != math.prod(page.chunked) for plane in planes):
        return Level(size, series.dtype, page, ())
    page.init_decode()  # it is not safe that threads do it
    return Level(
        size,
        series.dtype,
        page,
        planes,
        is_raw=page.is_memmappable and all(_is_contiguous(each, series) for each in planes),
    )


def _is_contiguous(plane: _Plane, series: tifffile.TiffPageSeries) -> bool:
    """Whether a page's strips lie one behind the other, and as in memory."""
    ends = plane.offsets + plane.num_bytes
    is_aligned = plane.offsets[0] % series.dtype.itemsize == 0
    is_closed = bool((ends[:-1] == plane.offsets[1:]).all())
    return is_aligned and is_closed and plane.num_bytes.sum() == series.keyframe.nbytes


def _read_part(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _get_page_shape(page: tifffile.TiffPage) -> list[int]:
    """The shape of a page without axes of length 1 that are no side of the image."""
    return [length for length, name in zip(page.shape, page.axes, strict=True) if length > 1 or name in "YX"]


def _get_segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """(height, width) of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _check_pyramid(series: tifffile.TiffPageSeries, axes: _Axes, path: Path) -> None:
    """Refuse a file whose lower resolutions are not the same image made smaller.

    Raises:
        FormatError: The sides of one are not in proportion, or its channels or type are others.
    """
    height, width = series.shape[axes.row], series.shape[axes.column]
    for number, level in enumerate(series.levels[1:], start=1):
        sides = (axes.row, axes.column)
        others = [[n for axis, n in enumerate(each.shape) if axis not in sides] for each in (series, level)]
        is_alike = level.axes == series.axes and level.dtype == series.dtype and others[0] == others[1]
        if not (is_alike and is_smaller_copy((height, width), (level.shape[axes.row], level.shape[axes.column]))):
            raise FormatError(
                f"{path} is no pyramid: its level {number} is {' x '.join(map(str, level.shape))} of {level.dtype}, "
                f"which is no smaller copy of {' x '.join(map(str, series.shape))} of {series.dtype}; export it again"
            )


def _check_whole(pages: list[Any], path: Path) -> None:
    """Refuse a file that ends before its data do; some decoders would fill the rest with zeros.

    Strips and tiles of no bytes are whole: sparse files leave out what is empty (GDAL, SPARSE_OK), and readers fill it.
    """
    for page in pages:
        if page is None:
            raise FormatError(f"{path} lacks some of its pages; copy or export it again")
        # The decoder would fill what is not listed with zeros.
        num_parts = math.prod(page.keyframe.chunked)
        if len(page.dataoffsets) < num_parts:
            raise FormatError(
                f"{path} lists {len(page.dataoffsets)} of the {num_parts} strips or tiles of its size, so it is "
                "damaged; copy or export it again"
            )
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
        check_length(path, max((offset + num_bytes for offset, num_bytes in places if num_bytes), default=0))
