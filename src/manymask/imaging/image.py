"""Images in files, of which parts are read."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from manymask.core import ImageSource, Window
from manymask.imaging.decoding import read_raster
from manymask.imaging.raster import Raster, turn, turn_back


class FileSource(ImageSource):
    """An image file of which only the header is read yet.

    A window is decoded by itself where the file can be read so: TIFF that is not compressed, or in strips or tiles.
    Other files are decoded whole, once, and then kept in memory for as long as the source is.

    Args:
        path: The file.
        header: What reading it without its values gave.
        orientation: The tag by which the image is turned, 1 as it is stored.
    """

    def __init__(self, path: Path, header: Raster, orientation: int = 1) -> None:
        shown = header.show()
        self.path, self.orientation = path, orientation
        height, width = header.size
        self.size = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
        self.num_channels, self.dtype = shown.shape[2], shown.dtype
        self._is_cuttable = header.is_cuttable
        self._pixels: Shaped[np.ndarray, "height width channels"] | None = None

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the image, by default the whole; see ``ImageSource.read``."""
        window = self._locate(window, level)
        if self._pixels is None and self._is_cuttable and window != (0, 0, *self.size):
            return self._decode(turn_back(window, self.size, self.orientation))
        if self._pixels is None:
            self._pixels = self._decode(None)
        return self._pixels[window.slices]

    def _decode(self, window: Window | None) -> Shaped[np.ndarray, "height width channels"]:
        return np.ascontiguousarray(turn(read_raster(self.path, window).show(), self.orientation))
