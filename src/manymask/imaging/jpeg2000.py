"""JPEG 2000 files (ISO 15444-1): what their headers say."""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from manymask.errors import FormatError

MAGICS = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""First bytes: of a file in boxes (.jp2), and of a bare codestream (.j2k)."""

_START = MAGICS[1]
_END = b"\xff\xd9"
# Length, capabilities, then right and bottom, left and top edge of the image, the tiles' size and offset, channels.
_SIZES = struct.Struct(">HH4I4IH")


class Header(NamedTuple):
    """What a JPEG 2000 file declares.

    Attributes:
        shape: Height, width, and channels with alpha.
        dtype: Of the decoded values.
        alpha: The channel, counted from 0, that the file calls opacity.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    alpha: int | None


def read_header(data: bytes, path: Path) -> Header:
    """Read the headers of a JPEG 2000 file.

    Raises:
        FormatError: It is cut short, or its channels differ in their type or size.
    """
    start = data.find(_START)
    if start < 0 or data.rfind(_END, start) < len(data) - 1024:  # other boxes may follow the pixels
        raise FormatError(f"{path} is cut short: parts of the image are not in the file; copy it again")
    place = start + len(_START)
    _, _, right, bottom, left, top, *_, number = _SIZES.unpack_from(data, place)
    channels = data[place + _SIZES.size :][: 3 * number]
    if len({channels[i : i + 3] for i in range(0, 3 * number, 3)}) != 1:
        raise FormatError(f"{path} holds channels that differ in size or type; save it as one image of equal channels")
    bits, is_signed = (channels[0] & 0x7F) + 1, channels[0] > 0x7F
    size = next(size for size in (8, 16, 32, 64) if bits <= size)
    dtype = np.dtype(f"{'int' if is_signed else 'uint'}{size}")
    return Header((bottom - top, right - left, number), dtype, _find_alpha(data[:start]))


def _find_alpha(boxes: bytes) -> int | None:
    """The channel that the box of channel definitions calls opacity."""
    place = boxes.find(b"cdef")
    if place < 0:
        return None
    (number,) = struct.unpack_from(">H", boxes, place + 4)
    kinds = (struct.unpack_from(">HH", boxes, place + 6 + 6 * i) for i in range(number))
    return next((channel for channel, kind in kinds if kind in (1, 2)), None)
