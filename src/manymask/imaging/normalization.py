"""Intensities of an image brought to [0, 1], and its channels to three."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from manymask.core import ArraySource, ImageSource, Window
from manymask.errors import DatasetError
from manymask.imaging.intensities import keep_differences
from manymask.plan import Plan

# What becomes 0 and 1 with normalization=image, as in StarDist's and Cellpose's own scripts: a few hot pixels do not
# set the scale.
LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.8
# Percentiles are taken of about this many values of an image; more would hardly change them.
NUM_SAMPLED_VALUES = 1 << 20
# Images are measured in squares of this side, so that memory does not grow with the image.
BLOCK_SIDE = 1024
# With normalization=image a difference below so many standard deviations of the image's noise is not stretched to the
# whole of [0, 1]. The percentiles of noise alone lie 5.2 apart, so that an empty image fills half of it. Images with
# objects have more (measured): from 24 on in DSB2018 (591 images), from 17 on in EMPS (112), from 12 on in AxonDeepSeg.
LEAST_NOISE_MULTIPLE = 10.0
# Immerkaer 1996 (Fast noise variance estimation): the difference of two Laplacians, which is 0 on planes and straight
# edges; of noise of deviation 1 its deviation is 6.
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
# Standard deviation over median absolute value of a normal distribution; the median does not see the objects' edges.
DEVIATION_OVER_MEDIAN = 1.4826


@dataclass(frozen=True)
class Normalization:
    """How values become numbers from 0 to 1.

    Attributes:
        by: ``type``: 0 and the largest number of an integer type become 0 and 1, floats are taken as they are, so that
            equal light gives equal values in every image. ``image``: the image's own percentiles do, so that equal
            pictures become equal, whatever their type and the unit of their values.
    """

    by: Literal["type", "image"] = "type"

    @classmethod
    def of(cls, plan: Plan) -> "Normalization":
        """The one that a plan's setting ``normalization`` asks for."""
        return cls(plan.normalization)


@dataclass(frozen=True)
class Scale:
    """What brings the values of one image to [0, 1], measured on the whole of it and good for every part.

    Attributes:
        low: The value that becomes 0.
        span: How far above it lies the value that becomes 1.
        origin: What integers of more than 16 bits are counted from (``keep_differences``); None: values as float32.
    """

    low: float
    span: float
    origin: int | None = None

    def apply(self, pixels: Shaped[np.ndarray, "height width channels"]) -> Float32[Tensor, "3 height width"]:
        """The image or a part of it, its grey repeated."""
        values = pixels.astype(np.float32) if self.origin is None else keep_differences(pixels, self.origin)
        real = values.dtype.type
        scaled = np.clip((values - real(self.low)) / real(self.span), 0, 1).astype(np.float32)
        image = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
        return image if len(image) == 3 else image.repeat(3, 1, 1)


Scales = dict[tuple[Path, Normalization], Scale]
"""The scales of images, by file and normalization."""


def normalize_pixels(
    pixels: Shaped[np.ndarray, "height width channels"], source: str, normalization: Normalization
) -> Float32[Tensor, "3 height width"]:
    """Bring the values of a whole image to [0, 1], and its channels to three.

    Args:
        pixels: The image as the file has it.
        source: The file, for messages.
        normalization: How.

    Raises:
        DatasetError: See ``measure_scale``.
    """
    return measure_scale(ArraySource(pixels), source, normalization).apply(pixels)


def measure_scale(image: ImageSource, source: str, normalization: Normalization) -> Scale:
    """Measure what brings an image to [0, 1]; the whole image is decoded, unless its type alone decides.

    It is read in blocks; what is measured does not depend on them.

    Raises:
        DatasetError: A number of channels other than 1 or 3, values that are not finite, or by ``type`` values below 0
            or floats above 1.
    """
    check_channels(image, source)
    if normalization.by == "type":
        return _measure_type(image, source)
    # Values of up to 16 bits are exact from any origin; of wider ones the smallest in the image is subtracted.
    is_counted = image.dtype.kind in "iu" and image.dtype.itemsize > 2
    origin = min(int(pixels.min()) for _, pixels in _read_blocks(image)) if is_counted else 0
    samples = [_sample_block(*block, origin, _choose_step(image), source) for block in _read_blocks(image)]
    values, responses = (np.concatenate(part) for part in zip(*samples, strict=True))
    low, high = np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE]).tolist()
    noise = DEVIATION_OVER_MEDIAN / 6 * float(np.median(np.abs(responses))) if len(responses) else 0.0
    return Scale(low, max(high - low, LEAST_NOISE_MULTIPLE * noise, float(np.finfo(values.dtype).tiny)), origin)


def check_channels(image: ImageSource, source: str) -> None:
    """Refuse an image that is neither grey nor RGB; nothing is decoded.

    Raises:
        DatasetError: It has another number of channels than 1 or 3.
    """
    if image.num_channels not in (1, 3):
        raise DatasetError(
            f"expected 1 or 3 channels, found {image.num_channels} in {source}; convert it to grey or RGB, or "
            "choose what to predict: --channels 1"
        )


def _measure_type(image: ImageSource, source: str) -> Scale:
    """The largest number of an integer type, 1 for floats."""
    unit = float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else 1.0
    if image.dtype.kind != "u":
        ends = [(pixels.min(), pixels.max()) for _, pixels in _read_blocks(image)]
        low, high = (
            float(value.astype(np.float32) / np.float32(unit))
            for value in (np.min([low for low, _ in ends]), np.max([high for _, high in ends]))
        )
        if not (low >= 0 and high <= 1):
            raise DatasetError(
                f"expected intensities in [0, 1], found {low:g} to {high:g} in {source}; set normalization=image, "
                "scale the image to [0, 1], or save it with 8 or 16 bits"
            )
    return Scale(0.0, unit)


def _read_blocks(image: ImageSource) -> Iterator[tuple[Window, Shaped[np.ndarray, "rows columns channels"]]]:
    """The image in squares, each with two rows and columns more, as far as it reaches."""
    height, width = image.size
    for top in range(0, height, BLOCK_SIDE):
        for left in range(0, width, BLOCK_SIDE):
            square = Window(top, left, min(BLOCK_SIDE, height - top), min(BLOCK_SIDE, width - left))
            rows, columns = min(BLOCK_SIDE + 2, height - top), min(BLOCK_SIDE + 2, width - left)
            yield square, image.read(Window(top, left, rows, columns))


def _sample_block(
    square: Window, pixels: Shaped[np.ndarray, "rows columns channels"], origin: int, step: int, source: str
) -> tuple[Float[np.ndarray, " values"], Float[np.ndarray, " responses"]]:
    """The values at every ``step``-th row and column of the image that lie in a block, and the noise filter's there.

    Args:
        square: The block.
        pixels: Its pixels, with up to two rows and columns more for the filter.
        origin: As in ``Scale``.
        step: See above.
        source: The file, for messages.

    Raises:
        DatasetError: A value is not finite.
    """
    if not np.isfinite(pixels).all():
        raise DatasetError(
            f"expected finite intensities, found NaN or infinity in {source}; repair or remove the image"
        )
    top, left = -square.top % step, -square.left % step
    values = keep_differences(pixels[top:, left:], origin)
    height, width = square.height - top, square.width - left
    # Filtered are places that have all their neighbours in the image.
    rows, columns = min(height, values.shape[0] - 2), min(width, values.shape[1] - 2)
    if min(rows, columns) < 1:
        response = values[:0]
    else:
        response = sum(
            float(NOISE_KERNEL[row, column]) * values[row : rows + row : step, column : columns + column : step]
            for row, column in np.ndindex(3, 3)
        )
    return values[:height:step, :width:step].ravel(), np.ravel(response)


def _choose_step(image: ImageSource) -> int:
    """The step of rows and columns that leaves about ``NUM_SAMPLED_VALUES`` values."""
    return max(round((image.size[0] * image.size[1] * image.num_channels / NUM_SAMPLED_VALUES) ** 0.5), 1)
