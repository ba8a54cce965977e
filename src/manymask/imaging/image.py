"""Images in files, of which parts are read."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from manymask.core import ImageSource, Window
from manymask.imaging.decoding import read_raster
from manymask.imaging.planes import ONE_PLANE, PlaneChoice
from manymask.imaging.raster import Raster, turn, turn_back


class FileSource(ImageSource):
    """An image file of which only the header is read yet.

    A window is decoded by itself where the file can be read so: TIFF that is not compressed, or in strips or tiles.
    Other files are decoded whole, once, and then kept in memory for as long as the source is.

    Args:
        path: The file.
        header: What reading it without its values gave.
        orientation: The tag by which the image is turned, 1 as it is stored.
        choice: Which image is taken of a file that holds several.

    Attributes:
        is_cuttable: Whether a window is decoded by itself.
    """

    def __init__(self, path: Path, header: Raster, orientation: int = 1, choice: PlaneChoice = ONE_PLANE) -> None:
        shown = header.show()
        self.path, self.orientation, self.choice = path, orientation, choice
        first, second = (1, 0) if orientation in (5, 6, 7, 8) else (0, 1)  # such images are turned on their side
        sizes = header.level_sizes or (header.size,)
        self._level_sizes = tuple((size[first], size[second]) for size in sizes)
        self.size, pixel_size = self._level_sizes[0], header.pixel_size
        self.pixel_size = (pixel_size[first], pixel_size[second]) if pixel_size else None
        self.num_channels, self.dtype = shown.shape[2], shown.dtype
        self.is_cuttable = header.is_cuttable
        self._wholes: dict[int, Shaped[np.ndarray, "height width channels"]] = {}  # by level

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each resolution."""
        return self._level_sizes

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the image, by default the whole; see ``ImageSource.read``."""
        window, size = self._locate(window, level), self._level_sizes[level]
        whole = self._wholes.get(level)
        if whole is None and self.is_cuttable and window != (0, 0, *size):
            return self._decode(turn_back(window, size, self.orientation), level)
        if whole is None:
            whole = self._wholes[level] = self._decode(None, level)
        return whole[window.slices]

    def _decode(self, window: Window | None, level: int) -> Shaped[np.ndarray, "height width channels"]:
        raster = read_raster(self.path, window, choice=self.choice, level=level)
        return np.ascontiguousarray(turn(raster.show(), self.orientation))
