"""What an image file stores, before anybody decides what it means."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy.typing import DTypeLike

from manymask.core import Window
from manymask.errors import FormatError, PlanError
from manymask.imaging.planes import PlaneChoice

LIMIT_NAME = "MANYMASK_MAX_GIGABYTES"
"""Environment variable for the largest image that is decoded."""

_LIMIT = 4.0
"""Gigabytes of one decoded image: RGB of 8 bits with 36,000 pixels a side."""


_MAX_ROUNDING = 0.02
"""Share by which the factors of a pyramid's two sides differ at most, but for rounding."""


@dataclass(frozen=True, eq=False)
class Raster:
    """The content of an image file, as it is stored: neither turned nor converted to what a viewer shows.

    Attributes:
        values: Without alpha; indices where there is a palette.
        size: (height, width) of the whole image, of which ``values`` may be a part.
        palette: The colour of each index.
        alpha: Opacity, 0 for transparent.
        orientation: The EXIF and TIFF orientation tag, 1 to 8; 1 is as it is stored.
        num_bits: Bits of a value, where the file says so: 4 for values from 0 to 15.
        is_inverted: Whether the smallest value means white.
        lossy: The codec that may have changed values when the file was saved.
        is_cuttable: Whether parts of the file can be decoded, and shown, without the others.
        level_sizes: (height, width) of each resolution of a pyramid, the full one first; empty where there is no other.
        pixel_size: (height, width) of a pixel in micrometres, where the file gives it.
    """

    values: Shaped[np.ndarray, "height width channels"]
    size: tuple[int, int]
    palette: UInt8[np.ndarray, "colors shown"] | None = None
    alpha: Shaped[np.ndarray, "height width"] | None = None
    orientation: int = 1
    num_bits: int | None = None
    is_inverted: bool = False
    lossy: str | None = None
    is_cuttable: bool = False
    level_sizes: tuple[tuple[int, int], ...] = ()
    pixel_size: tuple[float, float] | None = None

    @property
    def white(self) -> int | None:
        """The largest value that the file can hold; None for floats."""
        if self.values.dtype.kind == "f":
            return None
        return (1 << self.num_bits) - 1 if self.num_bits else int(np.iinfo(self.values.dtype).max)

    def show(self) -> Shaped[np.ndarray, "height width channels"]:
        """The values that a viewer shows, not turned: colours of a palette, white as the largest value."""
        if self.palette is not None:
            return self.palette[self.values[..., 0]]
        values = self.values
        if self.is_inverted and self.white is None:  # floats are mirrored within their own range
            values = np.nanmin(values) + np.nanmax(values) - values
        elif self.is_inverted:
            values = ~values if values.dtype.kind == "i" else values.dtype.type(self.white) - values
        # Grey of 1, 2 and 4 bits fills its byte, so that white is 255 whatever the file's type.
        return values * np.uint8(255 // self.white) if self.white in (1, 3, 15) else values

    def pick_channels(self, choice: PlaneChoice, path: Path) -> "Raster":
        """The chosen channels, of a palette those of its colours.

        Raises:
            FormatError: The file has fewer.
        """
        if self.palette is None:
            return replace(self, values=choice.pick_channels(self.values, path))
        return replace(self, palette=choice.pick_channels(self.palette, path))


def turn(values: Shaped[np.ndarray, "_ _ *channels"], orientation: int) -> Shaped[np.ndarray, "_ _ *channels"]:
    """Turn and mirror as the EXIF and TIFF orientation tag (1 to 8, 1 as it is) says."""
    if orientation in (2, 7):
        values = values[:, ::-1]
    if orientation in (4, 5):
        values = values[::-1]
    quarter_turns = {3: 2, 5: -1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.rot90(values, quarter_turns)


def turn_back(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """The window of the stored image that becomes ``window`` of the turned image, which is of ``size``."""
    top, left, height, width = window
    bottom, right = size[0] - top - height, size[1] - left - width
    corners = {2: (top, right), 3: (bottom, right), 4: (bottom, left)}
    corners |= {5: (left, top), 6: (right, top), 7: (right, bottom), 8: (left, bottom)}
    shape = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    return Window(*corners.get(orientation, (top, left)), *shape)


def check_declared_size(path: Path, shape: Sequence[int], dtype: DTypeLike, what: str = "values") -> None:
    """Refuse a file that says it is larger than the limit, before anything of it is decoded.

    Args:
        path: The file.
        shape: Of what is decoded at once.
        dtype: Of its values.
        what: What the values are, for the message.

    Raises:
        FormatError: It is. A few kilobytes may unfold to more than the machine's memory.
        PlanError: The limit is no number above 0.
    """
    text = os.environ.get(LIMIT_NAME, str(_LIMIT))
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise PlanError(f"the environment variable {LIMIT_NAME} is {text!r}, expected gigabytes as a number above 0")
    size = math.prod(shape) * np.dtype(dtype).itemsize / 1e9
    if size > limit:
        raise FormatError(
            f"{path} declares {' x '.join(map(str, shape))} {what}, {size:.3g} GB once decoded, more than the limit of "
            f"{limit:g} GB; cut it into tiles, or set the environment variable {LIMIT_NAME} higher"
        )


def check_length(path: Path, end: int) -> None:
    """Refuse a file that is shorter than ``end``, the position in bytes where its data end.

    Raises:
        FormatError: It is.
    """
    if path.stat().st_size < end:
        raise FormatError(f"{path} is cut short: parts of the image are not in the file; copy it again")


def is_smaller_copy(full: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a level of a pyramid can be the full image of (height, width) made smaller: its sides are in proportion.

    Sides are rounded to whole pixels from level to level, so that those of a few pixels may differ by much.
    """
    factors = full[0] / size[0], full[1] / size[1]
    return max(factors) > 1 and abs(factors[0] / factors[1] - 1) <= _MAX_ROUNDING + 2 / min(size)
