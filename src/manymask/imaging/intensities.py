"""Values of images as floats that keep their differences, whatever the type of the file."""

import numpy as np
from jaxtyping import Float, Shaped

# Floats are divided by this power of two, which is exact: sums of 16 values and differences of two are finite then.
_HEADROOM = 64


def keep_differences(pixels: Shaped[np.ndarray, "*shape"], origin: int | None = None) -> Float[np.ndarray, "*shape"]:
    """The values, shifted or scaled, as floats that keep the difference of any two.

    A plain cast to float32 loses differences: it knows no numbers between 100,000,000 and 100,000,008. Types of up to
    16 bits are exact in float32. Wider integers become their distance from ``origin`` (the smallest value of the whole
    image, by default of ``pixels``) in float64. Wider floats become float64 and are divided by 64, so that the
    difference of no two of them is infinite.
    """
    if pixels.dtype.itemsize <= 2:
        return pixels.astype(np.float32)
    if pixels.dtype.kind in "iu":
        # Modulo 2^64 the difference from the smallest value is right also where it is negative, or fits no int64.
        origin = int(pixels.min()) if origin is None else origin
        return (pixels.astype(np.uint64) - np.uint64(origin % 2**64)).astype(np.float64)
    return pixels.astype(np.float64) / _HEADROOM
