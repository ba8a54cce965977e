"""Instances that touch: where they do, and copies of instances that are made to touch others."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from manymask.core import InstanceLayers

# How far the borders of a copy and of its nearest neighbour are apart in pixels; below 0 they overlap.
_GAPS = (-2, 1)
_MAX_COPIES = 6
_SCALES = (0.8, 1.25)
# What the difference of a copy from its ground is multiplied by. Stained objects that are much paler look like glass.
_GAINS_OF_BRIGHT, _GAINS_OF_DARK = (0.6, 1.4), (0.8, 1.2)
# Pixels around an instance that are copied with it: its blurred border.
_RIM = 2
# Of the ring around an instance, that must show its ground: others in front of an instance cut its shape.
_MIN_GROUND = 0.9
# Places that are tried for a copy.
_NUM_TRIES = 200


def draw_contact(layers: InstanceLayers, generator: torch.Generator) -> tuple[int, int] | None:
    """Row and column of a pixel where two instances touch, each pair as likely as any other; None where none do.

    In one pass over the pixels. Instances that overlap are seen where the one of the higher id ends on the other.
    """
    ids = layers.as_subclass(Tensor).amax(0).numpy()
    pairs, places = [], []
    for first, second in ((ids[:, :-1], ids[:, 1:]), (ids[:-1], ids[1:])):
        place = np.nonzero((first != second) & (first > 0) & (second > 0))
        ends = np.stack([first[place], second[place]]).astype(np.int64)
        pairs.append(ends.min(axis=0) << 32 | ends.max(axis=0))
        places.append(np.stack(place, axis=1))
    _, first_of_pair = np.unique(np.concatenate(pairs), return_index=True)
    if len(first_of_pair) == 0:
        return None
    row, column = np.concatenate(places)[first_of_pair[_draw_index(len(first_of_pair), generator)]].tolist()
    return row, column


def paste_in_contact(
    image: Float32[Tensor, "channels height width"],
    layers: InstanceLayers,
    can_be_copied: Bool[np.ndarray, " instances"],
    generator: torch.Generator,
) -> tuple[Float32[Tensor, "channels height width"], InstanceLayers, Int64[np.ndarray, " copies"]]:
    """Copy one to six instances of an image, turned, scaled and lit at random, to where each touches another one.

    Copy-paste (arXiv 2012.07177) within an image, for the pairs that are hardest to tell apart. A copy lies on what it
    covers; a place where an instance would lose more than half of its pixels is not taken. Fewer copies are made, or
    none, where no place is found.

    Args:
        image: In [0, 1].
        layers: The instances' ids.
        can_be_copied: Of each id from 1 on. Instances that reach the border, where they may be cut, never are.
        generator: All that is random is drawn from it.

    Returns:
        The image; layers in which the copies have the next ids; and which row each copy is of (its id less one).
    """
    pixels, stack = image.permute(1, 2, 0).numpy().copy(), layers.as_subclass(Tensor).numpy().copy()
    areas = np.bincount(stack.ravel(), minlength=len(can_be_copied) + 1)
    is_source = (areas > 0) & np.append(False, can_be_copied)
    is_source[np.concatenate([stack[:, [0, -1]].ravel(), stack[:, :, [0, -1]].ravel()])] = False
    sources, is_object = np.flatnonzero(is_source), stack.any(axis=0)
    copied: list[int] = []
    if len(sources) == 0 or is_object.all():
        return image, layers, np.array(copied, dtype=np.int64)
    # Brighter objects cover darker ones, as where light adds up; darker ones brighter ones, as where stain does.
    is_bright = pixels[is_object].mean() > pixels[~is_object].mean()
    combine, gains = (np.maximum, _GAINS_OF_BRIGHT) if is_bright else (np.minimum, _GAINS_OF_DARK)
    for _ in range(1 + _draw_index(_MAX_COPIES, generator)):
        source = int(sources[_draw_index(len(sources), generator)])
        copy = _cut(pixels, stack, source, gains, generator)
        if copy is None or (place := _find_place(copy.is_object, stack, generator)) is None:
            continue
        here = stack[:, *place]
        covered = np.bincount(here[:, copy.is_object].ravel(), minlength=len(areas))
        left = np.bincount(stack.ravel(), minlength=len(areas)) - covered
        if ((covered > 0) & (left < areas / 2))[1:].any():
            continue
        there = pixels[place]
        is_free = ~here.any(axis=0)
        ground = np.median(there[is_free], axis=0) if is_free.any() else copy.ground
        there += copy.opacity * (combine(there, ground + copy.difference) - there)
        here[:, copy.is_object] = 0
        here[0, copy.is_object] = len(areas)
        areas = np.append(areas, np.count_nonzero(copy.is_object))
        copied.append(source - 1)
    image = torch.from_numpy(pixels.clip(0, 1).transpose(2, 0, 1).copy())
    return image, InstanceLayers(stack), np.array(copied, dtype=np.int64)


@dataclass(frozen=True)
class _Copy:
    """A turned instance with its rim: mask, difference to the ground around it, opacity, and that ground's values."""

    is_object: Bool[np.ndarray, "height width"]
    difference: Float32[np.ndarray, "height width channels"]
    opacity: Float32[np.ndarray, "height width 1"]
    ground: Float32[np.ndarray, " channels"]


def _cut(
    pixels: np.ndarray, stack: np.ndarray, source: int, gains: tuple[float, float], generator: torch.Generator
) -> _Copy | None:
    """A copy of an instance; None where others or no pixels at all lie around it (``_MIN_GROUND``)."""
    margin = 2 * _RIM + 1
    rows, columns = (np.flatnonzero((stack == source).any(axis=(0, axis))) for axis in (2, 1))
    part = tuple(slice(max(found[0] - margin, 0), found[-1] + margin + 1) for found in (rows, columns))
    mask = (stack[:, *part] == source).any(axis=0).astype(np.uint8)
    is_free = ~stack[:, *part].any(axis=0)
    rim, ring = (cv2.dilate(mask, np.ones((2 * width + 1,) * 2, np.uint8)) > 0 for width in (_RIM, 2 * _RIM))
    is_ground = ring & ~rim & is_free
    if is_ground.sum() < max(_MIN_GROUND * (ring & ~rim).sum(), 1):
        return None
    ground = np.median(pixels[part][is_ground], axis=0)
    angle, scale, gain = torch.rand(3, generator=generator).tolist()
    factor, gain = (low * (high / low) ** share for (low, high), share in ((_SCALES, scale), (gains, gain)))
    opacity = cv2.blur((rim & (is_free | (mask > 0))).astype(np.float32), (3, 3))  # a feather of one pixel
    difference = (pixels[part] - ground) * gain
    # Onto a canvas that holds the part however it is turned.
    height, width = mask.shape
    side = math.ceil(factor * math.hypot(height, width)) + 2
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 360 * angle, factor)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    mask, opacity, difference = (
        cv2.warpAffine(values, matrix, (side, side)) for values in (mask.astype(np.float32), opacity, difference)
    )
    seen = np.nonzero(opacity)
    tight = tuple(slice(found.min(), found.max() + 1) for found in seen)
    is_object = mask[tight] > 0.5
    return _Copy(is_object, difference[tight], opacity[tight][..., None], ground) if is_object.any() else None


def _find_place(
    is_copy: Bool[np.ndarray, "height width"], stack: np.ndarray, generator: torch.Generator
) -> tuple[slice, slice] | None:
    """Where in the image a copy lies within ``_GAPS`` of an instance; None where none of some random places is so."""
    taken = np.asarray(stack.any(axis=0), dtype=np.uint8)
    free = np.asarray(taken == 0, dtype=np.uint8)
    # Distance from each pixel to the nearest instance, below 0 within one; 1 beside it.
    distance = cv2.distanceTransform(free, cv2.DIST_L2, 5) - cv2.distanceTransform(taken, cv2.DIST_L2, 5)
    height, width = is_copy.shape
    num_rows, num_columns = (full - own + 1 for full, own in zip(taken.shape, is_copy.shape, strict=True))
    if min(num_rows, num_columns) < 1:
        return None
    is_border = is_copy & (cv2.erode(is_copy.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) == 0)
    y, x = np.nonzero(is_border)
    middle = (height // 2, width // 2)
    radii = np.hypot(y - middle[0], x - middle[1])
    lowest, highest = _GAPS[0], _GAPS[1] + 1
    centre = distance[middle[0] : middle[0] + num_rows, middle[1] : middle[1] + num_columns]
    places = np.flatnonzero((centre >= radii.min() + lowest) & (centre <= radii.max() + highest))
    if len(places) == 0:
        return None
    tried = places[torch.randint(len(places), (_NUM_TRIES,), generator=generator).numpy()]
    top, left = np.divmod(tried, num_columns)
    gaps = distance[top[:, None] + y, left[:, None] + x].min(axis=1)
    fitting = np.flatnonzero((gaps >= lowest) & (gaps <= highest))
    if len(fitting) == 0:
        return None
    top, left = int(top[fitting[0]]), int(left[fitting[0]])
    return slice(top, top + height), slice(left, left + width)


def _draw_index(number: int, generator: torch.Generator) -> int:
    """A whole number below ``number``."""
    return int(torch.randint(number, (), generator=generator))
