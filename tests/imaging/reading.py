"""Reading that compares what the header and windows say with the whole image."""

from pathlib import Path

import numpy as np

from manymask.core import Window
from manymask.imaging import open_image


def read_pixels(path: str | Path) -> np.ndarray:
    """``manymask.imaging.read_pixels``, with every kind of window of the file looked at by itself."""
    image = open_image(path)
    pixels = image.read()
    assert (image.size, image.num_channels, image.dtype) == (pixels.shape[:2], pixels.shape[2], pixels.dtype)
    height, width = image.size
    for top, left in ((0, 0), (height // 3, width // 2), (height - 1, width - 1)):
        for shape in ((1, 1), (height // 2 + 1, width // 3 + 1), (height - top, width - left)):
            window = Window(top, left, min(shape[0], height - top), min(shape[1], width - left))
            part = open_image(path).read(window)
            assert part.dtype == pixels.dtype
            np.testing.assert_array_equal(part, pixels[window.slices], str(window))
    return pixels
