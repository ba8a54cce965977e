"""Intensities of an image brought to [0, 1], and its channels to three."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from manymask.errors import DatasetError
from manymask.imaging.intensities import keep_differences
from manymask.plan import Plan

# What becomes 0 and 1 with normalization=image, as in StarDist's and Cellpose's own scripts: a few hot pixels do not
# set the scale.
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8
# Values that percentiles are taken of: those of a larger image hardly move them.
NUM_SAMPLED_VALUES = 1 << 20
# With normalization=image a difference below so many standard deviations of the image's noise is not stretched to the
# whole of [0, 1]. The percentiles of noise alone lie 5.2 apart, so that an empty image fills half of it. Images with
# objects have more (measured): from 24 on in DSB2018 (591 images), from 17 on in EMPS (112), from 12 on in AxonDeepSeg.
LEAST_NOISE_MULTIPLE = 10.0
# Immerkaer 1996 (Fast noise variance estimation): the difference of two Laplacians, which is 0 on planes and straight
# edges; of noise of deviation 1 its deviation is 6.
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
# Standard deviation over median absolute value of a normal distribution; the median does not see the objects' edges.
DEVIATION_OVER_MEDIAN = 1.4826


def normalize_pixels(
    pixels: Shaped[np.ndarray, "height width channels"], source: str, plan: Plan
) -> Float32[Tensor, "3 height width"]:
    """Bring an image's values to [0, 1] as a plan says, and its channels to three.

    With ``normalization=image`` equal pictures become equal, whatever their type and the unit of their values.

    Args:
        pixels: The image as the file has it; the whole of it, since its own values may set the scale.
        source: The file, for messages.
        plan: The setting ``normalization``.

    Raises:
        DatasetError: A number of channels other than 1 or 3, values that are not finite, or with ``normalization=type``
            floats outside [0, 1].
    """
    if plan.normalization == "type":
        return scale_pixels(pixels, source)
    _check_channels(pixels, source)
    if not np.isfinite(pixels).all():
        raise DatasetError(
            f"expected finite intensities, found NaN or infinity in {source}; repair or remove the image"
        )
    values = keep_differences(pixels)
    low, high = measure_range(values)
    span = max(high - low, LEAST_NOISE_MULTIPLE * estimate_noise(values), float(np.finfo(values.dtype).tiny))
    real = values.dtype.type
    return _make_image(np.clip((values - real(low)) / real(span), 0, 1).astype(np.float32))


def measure_range(values: Float[np.ndarray, "height width channels"]) -> tuple[float, float]:
    """The values that ``normalization=image`` makes 0 and 1, of all channels together, so that colours stay."""
    step = _choose_step(values)
    low, high = np.percentile(values[::step, ::step], [LOW_PERCENTILE, HIGH_PERCENTILE]).tolist()
    return low, high


def estimate_noise(values: Float[np.ndarray, "height width channels"]) -> float:
    """Standard deviation of the noise of single pixels, of all channels together.

    It is 0 where most places are without noise, and in images of less than 3 x 3 pixels.
    """
    step, (height, width, _) = _choose_step(values), values.shape
    if min(height, width) < 3:
        return 0.0
    response = sum(
        float(NOISE_KERNEL[row, column]) * values[row : height - 2 + row : step, column : width - 2 + column : step]
        for row, column in np.ndindex(3, 3)
    )
    return DEVIATION_OVER_MEDIAN / 6 * float(np.median(np.abs(response)))


def _choose_step(values: np.ndarray) -> int:
    """Every so-manieth row and column are ``NUM_SAMPLED_VALUES``, or nearly."""
    return max(round((values.size / NUM_SAMPLED_VALUES) ** 0.5), 1)


def _get_unit(pixels: np.ndarray) -> float:
    """The largest number of an integer type, 1 for floats."""
    return float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else 1.0


def _check_channels(pixels: np.ndarray, source: str) -> None:
    if pixels.shape[2] not in (1, 3):
        raise DatasetError(f"expected 1 or 3 channels, found {pixels.shape[2]} in {source}; convert it to grey or RGB")


def _make_image(scaled: np.ndarray) -> Tensor:
    image = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
    return image if len(image) == 3 else image.repeat(3, 1, 1)


def scale_pixels(pixels: Shaped[np.ndarray, "height width channels"], source: str) -> Float32[Tensor, "3 height width"]:
    """Bring an image's values to [0, 1] and its channels to three.

    Integers are divided by their type's maximum, so that equal light gives equal values in every image; floats are
    taken as they are. Grey is repeated.

    Args:
        pixels: The image as the file has it.
        source: The file, for messages.

    Raises:
        DatasetError: Floats outside [0, 1] or not finite, or a number of channels other than 1 or 3.
    """
    _check_channels(pixels, source)
    scaled = pixels.astype(np.float32) / np.float32(_get_unit(pixels))
    low, high = float(scaled.min()), float(scaled.max())
    if not (low >= 0 and high <= 1):
        raise DatasetError(
            f"expected intensities in [0, 1], found {low:g} to {high:g} in {source}; set normalization=image, scale "
            "the image to [0, 1], or save it with 8 or 16 bits"
        )
    return _make_image(scaled)
