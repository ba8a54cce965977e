"""Random changes of training images, and the targets that the network trains on."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from manymask.core import InstanceLayers, compact_layers, encode_layers
from manymask.plan import Plan


def augment(
    image: Float32[Tensor, "3 height width"],
    layers: InstanceLayers,
    plan: Plan,
    generator: torch.Generator,
) -> tuple[Float32[Tensor, "3 crop_height crop_width"], InstanceLayers]:
    """A random crop, resized, mirrored, turned and lit, of an image and its layers; instances may lose pixels, or all.

    Args:
        image: In [0, 1].
        layers: The instances' ids at the same size.
        plan: The settings ``crop_size``, ``augmentation``, ``scale_jitter`` and ``intensity_jitter``.
        generator: All that the result depends on besides.
    """
    top, left, turn, is_mirrored = torch.rand(4, generator=generator).tolist()
    height, width = image.shape[-2:]
    factor = (1 + plan.scale_jitter) ** _draw(generator) if plan.scale_jitter else 1.0
    size = max(round(plan.crop_size / factor), 1) if plan.crop_size else max(height, width)
    top, left = int(top * (max(height - size, 0) + 1)), int(left * (max(width - size, 0) + 1))
    parts = [part.as_subclass(Tensor)[:, top : top + size, left : left + size] for part in (image, layers)]
    if factor != 1:
        # Whole crops have one size, so that batches need no padding.
        shape = [
            plan.crop_size if side == size and plan.crop_size else max(round(side * factor), 1)
            for side in parts[0].shape[-2:]
        ]
        parts = _resize(parts[0], parts[1], shape)
    if plan.augmentation == "dihedral":
        parts = [part.rot90(int(turn * 4), (1, 2)) for part in parts]
    if plan.augmentation != "none" and is_mirrored < 0.5:
        parts = [part.flip(2) for part in parts]
    image = parts[0].contiguous()
    if plan.intensity_jitter:
        image = _change_light(image, plan.intensity_jitter, generator)
    return image, InstanceLayers(parts[1].contiguous())


def _draw(generator: torch.Generator) -> float:
    """A number in [-1, 1)."""
    return 2 * torch.rand((), generator=generator).item() - 1


def _resize(image: Tensor, layers: Tensor, size: list[int]) -> list[Tensor]:
    """Both resized on one grid: each pixel of the layers takes the id nearest to where its centre lies."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in zip(size, image.shape[-2:], strict=True)
    )
    is_smaller = size[0] < image.shape[-2]
    image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=is_smaller)[0]
    return [image, layers[:, rows][:, :, columns]]


def _change_light(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random gamma, gain, offset and noise, and in colour images a gain of each channel; stays in [0, 1]."""
    image = image ** math.exp(strength * _draw(generator))
    if not (image[0] == image[1]).all():
        image = image * (1 + 0.5 * strength * (2 * torch.rand(3, 1, 1, generator=generator) - 1))
    image = image * (1 + 0.5 * strength * _draw(generator)) + 0.2 * strength * _draw(generator)
    noise = torch.randn(image.shape[-2:], generator=generator) * (0.1 * strength * abs(_draw(generator)))
    return (image + noise).clamp(0, 1)


def make_target(
    layers: InstanceLayers, labels: Int64[np.ndarray, " instances"], iscrowd: Bool[np.ndarray, " instances"]
) -> dict[str, Tensor]:
    """The target of one image: ``boxes`` (N, 4), ``labels`` (N,), ``layers`` (L, H, W).

    Crowd regions are left out, and so are ids without pixels; boxes are those of the pixels.
    """
    if iscrowd.any():
        is_kept = torch.from_numpy(np.concatenate([[False], ~iscrowd]))
        layers = InstanceLayers(torch.where(is_kept[layers.long()], layers.as_subclass(Tensor), 0))
    layers, kept = compact_layers(layers, len(labels))
    return {
        "boxes": torch.from_numpy(encode_layers(layers, len(kept)).boxes),
        "labels": torch.from_numpy(labels)[kept],
        "layers": layers,
    }
