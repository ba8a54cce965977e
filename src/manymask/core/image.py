"""Images that are read in parts, with one interface for those in memory and those in files."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped


class Window(NamedTuple):
    """A part of an image in pixels: ``height`` rows from row ``top`` on, ``width`` columns from column ``left`` on."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and its columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@runtime_checkable
class ImageSource(Protocol):
    """An image whose size, channels and type are known before its pixels are read.

    Attributes:
        size: (height, width) in pixels.
        num_channels: 1 for grey, 3 for RGB, or any other number.
        dtype: Of the values, the file's own.
        pixel_size: (height, width) of a pixel in micrometres, where the file gives it.
        window: The part of the file's image that it is; None for the whole.
    """

    size: tuple[int, int]
    num_channels: int
    dtype: np.dtype
    pixel_size: tuple[float, float] | None = None
    window: Window | None = None

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each resolution that can be read; level 0 is the full one."""
        return (self.size,)

    @property
    def num_levels(self) -> int:
        """How many resolutions can be read."""
        return len(self.level_sizes)

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the image, by default the whole; they may be a view, so do not write to them.

        Threads may read at once.

        Args:
            window: The part, in pixels of the level.
            level: The resolution.

        Raises:
            FormatError: The file is damaged.
            IndexError: There is no such level, or the window is not inside of it.
        """
        ...

    def _locate(self, window: Window | None, level: int) -> Window:
        """The window to read: the given one, which is checked, or that of the whole image."""
        if not 0 <= level < self.num_levels:
            raise IndexError(f"level {level} is not in an image of {self.size} and {self.num_levels} level")
        size = self.level_sizes[level]
        top, left, height, width = window = Window(0, 0, *size) if window is None else window
        is_inside = top >= 0 <= left and top + height <= size[0] and left + width <= size[1]
        if not (is_inside and min(height, width) > 0):
            raise IndexError(f"{window} of level {level} is not in an image of {size} and {self.num_levels} level")
        return window


class ArraySource(ImageSource):
    """An image in memory, (height, width, channels)."""

    def __init__(self, pixels: Shaped[np.ndarray, "height width channels"]) -> None:
        self.pixels = pixels
        self.size, self.num_channels, self.dtype = (pixels.shape[0], pixels.shape[1]), pixels.shape[2], pixels.dtype

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """A view of the array."""
        return self.pixels[self._locate(window, level).slices]


class Region(ImageSource):
    """A part of an image as an image of its own.

    Args:
        image: The whole, no region itself.
        window: The part.

    Raises:
        IndexError: The part is not inside of the image.
    """

    def __init__(self, image: ImageSource, window: Window) -> None:
        self.image = image
        self._top, self._left, *_ = self.window = image._locate(window, 0)
        self.size, self.num_channels, self.dtype = (window.height, window.width), image.num_channels, image.dtype
        self.pixel_size = image.pixel_size

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the part."""
        top, left, height, width = self._locate(window, level)
        return self.image.read(Window(self._top + top, self._left + left, height, width))
