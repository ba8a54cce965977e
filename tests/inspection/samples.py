"""Samples made of masks, and their facts."""

from pathlib import Path

import numpy as np

from manymask.core import ArraySource, Instances, Sample
from manymask.inspection.measurement import ImageFacts, measure_sample

SIZE = (60, 80)


def draw_masks(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of each box top, left, bottom, right."""
    masks = np.zeros((len(boxes), *size), dtype=bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def draw_pixels(size: tuple[int, int] = SIZE, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth grey from 20 to 220, another one for each seed."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    a, b, c, d = np.random.default_rng(seed).uniform(3, 25, 4)
    waves = np.sin(a * x + b * y) + np.sin(c * x - d * y + seed)
    grey = 20 + 200 * (waves - waves.min()) / np.ptp(waves)
    return np.repeat(grey[..., None], channels, axis=2).astype(np.uint8)


def make_sample(
    masks: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    name: str = "a",
    labels: list[int] | None = None,
    iscrowd: list[bool] | None = None,
) -> Sample:
    masks = draw_masks((10, 10, 20, 20)) if masks is None else masks
    pixels = draw_pixels(masks.shape[1:]) if pixels is None else pixels
    layers = Instances.from_masks(masks, [1] * len(masks)).to_layers()
    crowd = np.array(iscrowd or [False] * len(masks), dtype=bool)
    classes = np.array(labels or [1] * len(masks), dtype=np.int64)
    return Sample(1, name, Path(f"{name}.png"), ArraySource(pixels), layers, classes, crowd)


def measure(*args, **options) -> ImageFacts:
    return measure_sample(make_sample(*args, **options))
