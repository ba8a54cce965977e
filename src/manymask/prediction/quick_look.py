"""A quick look at an image that is seen in tiles, for the size of its objects."""

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64
from torch import Tensor

from manymask.core import ImageSource, Window
from manymask.imaging.normalization import Scale
from manymask.modeling.preprocessing import Size, View
from manymask.prediction.model import Model
from manymask.prediction.object_size import (
    FINEST_LOOK,
    LARGEST_FACTOR,
    SHORT_SIDE,
    SMALLEST_FACTOR,
    FactorChoice,
    Scaling,
    find_scaling,
    measure_objects,
)

# A look is at this many windows along a side, each of so many pixels of the network; as much work as one tile.
WINDOWS, WINDOW_SIDE = 3, 576
# Longest side in pixels that is read at once.
BLOCK_SIDE = 2048
# Longer images are looked at as those of this length: a smaller first look would find what no factor is for.
LONGEST_LOOKED_AT = round(2 * FINEST_LOOK * SHORT_SIDE / SMALLEST_FACTOR)


def choose_tiled_scaling(model: Model, image: ImageSource, scale: Scale, name: str) -> Scaling:
    """How ``object_size=auto`` sees an image that is too large to be seen whole; memory does not grow with the image.

    Args:
        model: The model.
        image: The image.
        scale: What brings it to [0, 1].
        name: The file, for messages.

    Raises:
        FormatError: A part of the image cannot be decoded.
    """

    @cache
    def look(factor: float) -> Float64[np.ndarray, " objects"]:
        side = math.ceil(WINDOW_SIDE / (model.plan.scale * factor))
        found = [_measure(model, image, scale, window, factor) for window in spread_windows(image.size, side)]
        return np.concatenate(found)

    length = min(max(image.size), LONGEST_LOOKED_AT)
    return find_scaling(FactorChoice(model.trained_sizes, LARGEST_FACTOR), look, (length, length), name)


def _measure(
    model: Model, image: ImageSource, scale: Scale, window: Window, factor: float
) -> Float64[np.ndarray, " objects"]:
    """The sizes of what is found in a window that is seen at a factor, in pixels of the file."""
    values = read_resized(image, scale, window, factor)
    size = (values.shape[-2], values.shape[-1])
    view = View(Window(0, 0, *size), model.preprocessing)
    (found,) = model.detector([view.take(values.to(model.detector.device))])
    return measure_objects(view.map_back(found), size, model.plan.shown_score, model.plan.mask_threshold) / factor


def spread_windows(size: Size, side: int) -> Iterator[Window]:
    """Up to three by three windows of a side, spread evenly over an image of ``size``; the whole where that is less."""
    for top, height in _spread(size[0], side):
        for left, width in _spread(size[1], side):
            yield Window(top, left, height, width)


def _spread(length: int, side: int) -> list[tuple[int, int]]:
    if length <= WINDOWS * side:
        return [(0, length)]
    return [(round((2 * place + 1) / (2 * WINDOWS) * length - side / 2), side) for place in range(WINDOWS)]


def read_resized(
    image: ImageSource, scale: Scale, window: Window, factor: float
) -> Float32[Tensor, "channels new_height new_width"]:
    """A window of an image in [0, 1], resized by a factor, of the smallest resolution that has as many pixels.

    It is read and resized in blocks, which suffices for a look.
    """
    sizes = image.level_sizes
    level = max((place for place, size in enumerate(sizes) if size[0] >= factor * sizes[0][0]), default=0)
    shrinking = [small / full for small, full in zip(sizes[level], sizes[0], strict=True)]
    begins = [math.floor(begin * ratio) for begin, ratio in zip(window[:2], shrinking, strict=True)]
    lengths = [max(round(length * ratio), 1) for length, ratio in zip(window[2:], shrinking, strict=True)]
    begins = [min(begin, full - length) for begin, length, full in zip(begins, lengths, sizes[level], strict=True)]
    new_lengths = [max(round(length * factor), 1) for length in window[2:]]
    rows, columns = (list(_cut(*axis)) for axis in zip(begins, lengths, new_lengths, strict=True))
    return torch.cat([
        torch.cat([
            _resize(scale.apply(image.read(Window(top, left, height, width), level)), (new_height, new_width))
            for left, width, new_width in columns
        ], dim=2)
        for top, height, new_height in rows
    ], dim=1)  # fmt: skip


def _cut(begin: int, length: int, new_length: int) -> Iterator[tuple[int, int, int]]:
    """Begin and length of each block along a side, and the length that it is resized to."""
    number = min(math.ceil(length / BLOCK_SIDE), new_length)
    ends, new_ends = (np.linspace(0, whole, number + 1).round().astype(int).tolist() for whole in (length, new_length))
    for (first, last), (new_first, new_last) in zip(pairwise(ends), pairwise(new_ends), strict=True):
        yield begin + first, last - first, new_last - new_first


def _resize(
    values: Float32[Tensor, "channels height width"], size: Size
) -> Float32[Tensor, "channels new_height new_width"]:
    is_smaller = size[0] < values.shape[-2] or size[1] < values.shape[-1]
    return F.interpolate(values[None], list(size), mode="bilinear", antialias=is_smaller)[0]
