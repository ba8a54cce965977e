"""Intensities of an image brought to [0, 1], and its channels to those of the network."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
        channels: Which are taken, as the plan's setting.
    """

    by: Literal["type", "image"] = "type"
    channels: Literal["auto"] | tuple[int, ...] = "auto"

    @classmethod
    def of(cls, plan: Plan) -> "Normalization":
        """The one that a plan's settings ask for."""
        return cls(plan.normalization, plan.channels)

    def find_channels(self, image: ImageSource, source: str) -> tuple[int, ...] | None:
        """The channels of an image that are taken, counted from 0; None for all. Nothing is decoded.

        Raises:
            DatasetError: It lacks one of them, or by ``auto`` is neither grey nor RGB.
        """
        if self.channels == "auto" and image.num_channels not in (1, 3):
            raise DatasetError(
                f"expected 1 or 3 channels, found {image.num_channels} in {source}; convert it to grey or RGB, or "
                "choose what to predict: --channels 1"
            )
        if self.channels == "auto":
            return None
        if image.num_channels < max(self.channels):
            raise DatasetError(
                f"expected {max(self.channels)} channels or more, found {image.num_channels} in {source}: channels "
                f"{','.join(map(str, self.channels))} are taken; give images like those of training, or choose "
                f"{len(self.channels)} of their channels: --channels"
            )
        return tuple(number - 1 for number in self.channels)


@dataclass(frozen=True)
class Scale:
    """What brings the values of one image to [0, 1], measured on the whole of it and good for every part.

    Attributes:
        low: The value that becomes 0; one for all channels, or one for each.
        span: How far above it lies the value that becomes 1.
        origin: What integers of more than 16 bits are counted from (``keep_differences``); None: values as float32.
        channels: Which are taken, counted from 0; None for all.
    """

    low: float | tuple[float, ...]
    span: float | tuple[float, ...]
    origin: int | None = None
    channels: tuple[int, ...] | None = None

    def apply(self, pixels: Shaped[np.ndarray, "height width channels"]) -> Float32[Tensor, "taken height width"]:
        """The image or a part of it, its grey repeated to three channels."""
        pixels = _take(pixels, self.channels)
        values = pixels.astype(np.float32) if self.origin is None else keep_differences(pixels, self.origin)
        low, span = np.asarray(self.low, values.dtype), np.asarray(self.span, values.dtype)
        scaled = np.clip((values - low) / span, 0, 1).astype(np.float32)
        image = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
        return image.repeat(3, 1, 1) if len(image) == 1 else image


def _take(
    pixels: Shaped[np.ndarray, "height width channels"], channels: tuple[int, ...] | None
) -> Shaped[np.ndarray, "height width taken"]:
    return pixels if channels is None else pixels[..., list(channels)]


Scales = dict[tuple[Path, Normalization], Scale]
"""The scales of images, by file and normalization."""


def normalize_pixels(
    pixels: Shaped[np.ndarray, "height width channels"], source: str, normalization: Normalization
) -> Float32[Tensor, "taken height width"]:
    """Bring the values of a whole image to [0, 1], and its channels to those of the network.

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
        DatasetError: Channels that are not there, or by ``auto`` a number of them other than 1 or 3; values that are
            not finite; or by ``type`` values below 0 or floats above 1.
    """
    channels = normalization.find_channels(image, source)
    if normalization.by == "type":
        return replace(_measure_type(image, channels, source), channels=channels)
    # Values of up to 16 bits are exact from any origin; of wider ones the smallest in the image is subtracted.
    is_counted = image.dtype.kind in "iu" and image.dtype.itemsize > 2
    origin = min(int(pixels.min()) for _, pixels in _read_blocks(image, channels)) if is_counted else 0
    step = _choose_step(image.size, image.num_channels if channels is None else len(channels))
    samples = [_sample_block(*block, origin, step, source) for block in _read_blocks(image, channels)]
    values, responses = (np.concatenate(part) for part in zip(*samples, strict=True))
    if values.shape[1] in (1, 3):  # the colours of an image keep their balance
        values, responses = values.reshape(-1, 1), responses.reshape(-1, 1)
    scales = [_scale_values(*columns) for columns in zip(values.T, responses.T, strict=True)]
    low, span = zip(*scales, strict=True)
    return Scale(low, span, origin, channels)


def _scale_values(values: Float[np.ndarray, " values"], responses: Float[np.ndarray, " places"]) -> tuple[float, float]:
    """What becomes 0, and how far above it lies what becomes 1, by some values and the noise filter's responses."""
    low, high = np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE]).tolist()
    noise = DEVIATION_OVER_MEDIAN / 6 * float(np.median(np.abs(responses))) if len(responses) else 0.0
    return low, max(high - low, LEAST_NOISE_MULTIPLE * noise, float(np.finfo(values.dtype).tiny))


def _measure_type(image: ImageSource, channels: tuple[int, ...] | None, source: str) -> Scale:
    """The largest number of an integer type, 1 for floats."""
    unit = float(np.iinfo(image.dtype).max) if image.dtype.kind in "iu" else 1.0
    if image.dtype.kind != "u":
        ends = [(pixels.min(), pixels.max()) for _, pixels in _read_blocks(image, channels)]
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


def _read_blocks(
    image: ImageSource, channels: tuple[int, ...] | None
) -> Iterator[tuple[Window, Shaped[np.ndarray, "rows columns taken"]]]:
    """The image in squares, each with two rows and columns more, as far as it reaches."""
    height, width = image.size
    for top in range(0, height, BLOCK_SIDE):
        for left in range(0, width, BLOCK_SIDE):
            square = Window(top, left, min(BLOCK_SIDE, height - top), min(BLOCK_SIDE, width - left))
            rows, columns = min(BLOCK_SIDE + 2, height - top), min(BLOCK_SIDE + 2, width - left)
            yield square, _take(image.read(Window(top, left, rows, columns)), channels)


def _sample_block(
    square: Window, pixels: Shaped[np.ndarray, "rows columns channels"], origin: int, step: int, source: str
) -> tuple[Float[np.ndarray, "values channels"], Float[np.ndarray, "places channels"]]:
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
    num_channels = values.shape[2]
    return values[:height:step, :width:step].reshape(-1, num_channels), np.reshape(response, (-1, num_channels))


def _choose_step(size: tuple[int, int], num_channels: int) -> int:
    """The step of rows and columns that leaves about ``NUM_SAMPLED_VALUES`` values."""
    return max(round((size[0] * size[1] * num_channels / NUM_SAMPLED_VALUES) ** 0.5), 1)
