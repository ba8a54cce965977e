"""Whole slides in the formats of scanners that only OpenSlide reads."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from manymask.core import ImageSource, Window
from manymask.errors import DatasetError, FormatError, ManymaskError
from manymask.imaging.pixel_size import check_pixel_size
from manymask.imaging.planes import ONE_PLANE, PlaneChoice, Stack, choose_place
from manymask.imaging.raster import check_declared_size

SLIDE_SUFFIXES = (".bif", ".czi", ".mrxs", ".scn", ".svslide", ".vms", ".vmu")
"""What OpenSlide is asked to read; other slides are TIFF."""

_NUM_OPEN = 8  # slides that stay open


class SlideSource(ImageSource):
    """A slide that is read by OpenSlide; what was not scanned has the slide's own background colour.

    Args:
        path: The slide.
        choice: Which of its channels are taken; it holds one image.

    Raises:
        FormatError: It cannot be read, or something is chosen that it does not have.
        ManymaskError: OpenSlide is not installed.
    """

    def __init__(self, path: Path, choice: PlaneChoice = ONE_PLANE) -> None:
        if not path.is_file():
            raise DatasetError(f"{path} does not exist or is not a file; expected a slide")
        choose_place([Stack()], choice, path)
        slide = _open(path, path.stat().st_mtime_ns)
        self.path, self.choice, self.dtype = path, choice, np.dtype(np.uint8)
        self._level_sizes = tuple((height, width) for width, height in slide.level_dimensions)
        self.size = self._level_sizes[0]
        self.num_channels = choice.pick_channels(np.zeros((1, 3), np.uint8), path).shape[1]
        # Micrometres of a pixel, in every vendor's slides under these names.
        sizes = [float(slide.properties.get(f"openslide.mpp-{axis}", 0)) for axis in "yx"]
        self.pixel_size = check_pixel_size((sizes[0], sizes[1]))

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each resolution."""
        return self._level_sizes

    def read(self, window: Window | None = None, level: int = 0) -> Shaped[np.ndarray, "height width channels"]:
        """The pixels of a part of the slide; see ``ImageSource.read``."""
        top, left, height, width = self._locate(window, level)
        check_declared_size(self.path, (height, width, 4), np.uint8)
        slide = _open(self.path, self.path.stat().st_mtime_ns)
        downsample = slide.level_downsamples[level]
        try:
            corner = (round(left * downsample), round(top * downsample))  # in pixels of the full resolution
            values = np.asarray(slide.read_region(corner, level, (width, height)))
        except MemoryError:
            raise
        except Exception as error:  # of OpenSlide, and of the operating system's
            _forget()  # OpenSlide reads nothing more of a slide after an error
            raise FormatError(
                f"{self.path} cannot be read at row {top}, column {left} of level {level} ({error}); copy or export it "
                "again"
            ) from error
        return self.choice.pick_channels(_put_on_background(values, slide), self.path)


def _put_on_background(values: UInt8[np.ndarray, "height width 4"], slide: Any) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of RGBA; pixels that were not scanned are transparent."""
    color = np.array(list(bytes.fromhex(slide.properties.get("openslide.background-color", "ffffff"))), np.uint8)
    return np.where(values[..., 3:] == 0, color, values[..., :3])


@lru_cache(_NUM_OPEN)
def _open(path: Path, changed: int) -> Any:
    """The slide, which threads may share."""
    try:
        import openslide
    except ImportError as error:
        raise ManymaskError(
            f"{error.name} is not installed, which reads {path}; run pip install 'manymask[slides]'"
        ) from error
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise FormatError(f"{path} cannot be read as a slide ({error}); copy or export it again") from error


def _forget() -> None:
    _open.cache_clear()
