"""Images that a user has in memory: NumPy arrays, torch tensors and Pillow images."""

from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from manymask.errors import DatasetError

# Pillow's modes whose values are grey or RGB as they stand; others (palettes, CMYK, YCbCr ..) are converted to RGB.
_PLAIN_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L", "F")
_CHANNELS = (1, 3)


Pixels = np.ndarray | torch.Tensor | Image.Image
"""An image in memory; images of one call differ in size, and channels may come first."""


def is_pixels(value: object) -> TypeGuard[Pixels]:
    """Whether a value is one image in memory."""
    return isinstance(value, Pixels)


def get_pixels(image: Any) -> Shaped[np.ndarray, "height width channels"]:
    """The values of an image in memory, as reading it from a file would give them.

    A grey image may lack the axis of channels. Channels may come first, as in torch: 1 or 3 of them if the last axis is
    not of length 1 or 3, others if the first axis is the shortest. True of bool becomes 255; alpha of Pillow's images
    is left out.

    Raises:
        DatasetError: It is no image in memory, or its shape or values are not those of one image.
    """
    if not is_pixels(image):
        raise DatasetError(
            f"expected a file, a NumPy array, a torch tensor or a Pillow image, found {type(image).__name__}; make an "
            "array of it: numpy.asarray(image)"
        )
    if isinstance(image, Image.Image):
        pixels = np.asarray(image if image.mode in _PLAIN_MODES else image.convert("RGB"))
        pixels = pixels[..., :-1] if image.mode in ("LA", "RGBA") else pixels
    elif isinstance(image, torch.Tensor):
        pixels = image.detach().cpu()
        pixels = (pixels.float() if pixels.dtype == torch.bfloat16 else pixels).numpy()
    else:
        pixels = image
    if pixels.ndim not in (2, 3) or pixels.size == 0 or pixels.dtype.kind not in "buif":
        raise DatasetError(
            f"expected pixels of shape (height, width, channels) or (height, width), found an array of shape "
            f"{pixels.shape} of {pixels.dtype}; give each image by itself, as numbers"
        )
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    is_first = pixels.shape[0] in _CHANNELS or pixels.shape[0] < min(pixels.shape[1:])
    if pixels.shape[2] not in _CHANNELS and is_first:
        pixels = np.moveaxis(pixels, 0, 2)
    return pixels * np.uint8(255) if pixels.dtype == bool else pixels
