"""Pictures for browsers."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

QUALITY = 90


def encode_webp(pixels: UInt8[np.ndarray, "height width 3"], *, is_exact: bool = False) -> bytes:
    """A picture as WebP; unless it ``is_exact``, with losses that the eye hardly sees."""
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(file, "WEBP", quality=QUALITY, method=0, lossless=is_exact)
    return file.getvalue()
