"""Random changes of training images, and the targets that the network trains on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from manymask.core import InstanceLayers, Window, compact_layers, encode_layers
from manymask.plan import Plan
from manymask.training.contacts import draw_contact

# Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001).
_STAINS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Of the strength, by which an offset of a stain changes; the factor changes by all of it.
_STAIN_OFFSET = 0.125


@dataclass(frozen=True)
class Augmentation:
    """The settings by which training images are changed at random; see the plan's of these names."""

    crop_size: int = 0
    turns: Literal["none", "flip", "dihedral"] = "none"
    scale_jitter: float = 0.0
    intensity_jitter: float = 0.0
    stain_jitter: float = 0.0
    touching_share: float = 0.0

    @classmethod
    def of(cls, plan: Plan) -> "Augmentation":
        """Those of a plan."""
        return cls(
            plan.crop_size,
            plan.augmentation,
            plan.scale_jitter,
            plan.intensity_jitter,
            plan.stain_jitter,
            plan.touching_share,
        )


@dataclass(frozen=True)
class Draw:
    """The random change of one image, drawn before its pixels are read.

    Attributes:
        window: The part of it that is taken.
        size: (height, width) that the part is resized to.
        num_turns: Quarter turns, counter-clockwise.
        is_mirrored: Whether it is mirrored left to right, after that.
        light: Strength of the change of its light.
        stain: Strength of the change of its stains.
    """

    window: Window
    size: tuple[int, int]
    num_turns: int
    is_mirrored: bool
    light: float
    stain: float


def draw_augmentation(settings: Augmentation, layers: InstanceLayers, generator: torch.Generator) -> Draw:
    """Draw a change for an image, whose layers say how large it is and where its instances touch."""
    size = (layers.shape[1], layers.shape[2])
    top, left, turn, mirror = torch.rand(4, generator=generator).tolist()
    factor = (1 + settings.scale_jitter) ** _draw(generator) if settings.scale_jitter else 1.0
    side = max(round(settings.crop_size / factor), 1) if settings.crop_size else max(size)
    top, left = (int(part * (max(length - side, 0) + 1)) for part, length in zip((top, left), size, strict=True))
    height, width = (min(side, length) for length in size)
    if (
        settings.touching_share
        and side < max(size)
        and torch.rand((), generator=generator).item() < settings.touching_share
    ):
        top, left = _move_to_contact(Window(top, left, height, width), layers, generator)
    # Whole crops have one size, so that batches need no padding.
    new_height, new_width = (
        settings.crop_size if length == side and settings.crop_size else max(round(length * factor), 1)
        for length in (height, width)
    )
    return Draw(
        Window(top, left, height, width),
        (new_height, new_width),
        int(turn * 4) if settings.turns == "dihedral" else 0,
        settings.turns != "none" and mirror < 0.5,
        settings.intensity_jitter,
        settings.stain_jitter,
    )


def _move_to_contact(window: Window, layers: InstanceLayers, generator: torch.Generator) -> tuple[int, int]:
    """Top and left of a window that holds, anywhere in it, a place where two instances touch; its own if none do."""
    contact = draw_contact(layers, generator)
    if contact is None:
        return window[:2]
    inside = torch.rand(2, generator=generator).tolist()
    top, left = (
        min(max(place - int(part * length), 0), full - length)
        for place, part, length, full in zip(contact, inside, window[2:], layers.shape[1:], strict=True)
    )
    return top, left


def apply_augmentation(
    image: Float32[Tensor, "channels height width"], layers: InstanceLayers, draw: Draw, generator: torch.Generator
) -> tuple[Float32[Tensor, "channels new_height new_width"], InstanceLayers]:
    """Resize, mirror, turn and light the drawn part of an image and of its layers; instances may lose pixels, or all.

    Args:
        image: The part, in [0, 1].
        layers: The instances' ids in the same part.
        draw: What to do.
        generator: That of the draw, from which the light is drawn here: it depends on whether the image is in colour.
    """
    parts: Sequence[Tensor] = (image, layers.as_subclass(Tensor))
    if draw.size != draw.window[2:]:
        parts = _resize(*parts, draw.size)
    parts = [part.rot90(draw.num_turns, (1, 2)) for part in parts]
    if draw.is_mirrored:
        parts = [part.flip(2) for part in parts]
    image = parts[0].contiguous()
    if draw.stain:
        image = _change_stain(image, parts[1], draw.stain, generator)
    if draw.light:
        image = _change_light(image, draw.light, generator)
    return image, InstanceLayers(parts[1].contiguous())


def _draw(generator: torch.Generator) -> float:
    """A number in [-1, 1)."""
    return 2 * torch.rand((), generator=generator).item() - 1


def _resize(image: Tensor, layers: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Both resized on one grid: each pixel of the layers takes the id nearest to where its centre lies."""
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in zip(size, image.shape[-2:], strict=True)
    )
    is_smaller = size[0] < image.shape[-2]
    image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=is_smaller)[0]
    return [image, layers[:, rows][:, :, columns]]


def _change_light(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random gamma, gain, offset and noise, and a gain of each channel where these differ; stays in [0, 1]."""
    image = image ** math.exp(strength * _draw(generator))
    if not (image[0] == image[1]).all():
        image = image * (1 + 0.5 * strength * (2 * torch.rand(len(image), 1, 1, generator=generator) - 1))
    image = image * (1 + 0.5 * strength * _draw(generator)) + 0.2 * strength * _draw(generator)
    noise = torch.randn(image.shape[-2:], generator=generator) * (0.1 * strength * abs(_draw(generator)))
    return (image + noise).clamp(0, 1)


def _change_stain(image: Tensor, layers: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random amounts of haematoxylin, eosin and DAB (Tellez et al. 2018, arXiv 1808.05896).

    Optical density is a sum of the stains' (Ruifrok and Johnston 2001), each of which gets a factor and an offset. Only
    in images in colour on a bright ground.
    """
    change = strength * (2 * torch.rand(2, 3, generator=generator) - 1)
    is_ground = (layers == 0).all(dim=0)
    if len(image) != 3 or (image[0] == image[1]).all() or not is_ground.any() or image[:, is_ground].mean() < 0.5:
        return image
    density = -image.clamp(min=1 / 255).log()
    stains = torch.einsum("chw,cs->shw", density, _STAINS.inverse())
    factor, offset = (part[:, None, None] for part in (1 + change[0], _STAIN_OFFSET * change[1]))
    return torch.einsum("shw,sc->chw", stains * factor + offset, _STAINS).neg().exp().clamp(0, 1)


def drop_crowds(layers: InstanceLayers, iscrowd: Bool[np.ndarray, " instances"]) -> InstanceLayers:
    """The layers without the pixels of crowd regions; the other ids stay as they are."""
    if not iscrowd.any():
        return layers
    stack, is_kept = layers.as_subclass(Tensor), torch.from_numpy(np.append(False, ~iscrowd))
    return InstanceLayers(torch.where(is_kept[stack], stack, 0))


def make_target(
    layers: InstanceLayers, labels: Int64[np.ndarray, " instances"], iscrowd: Bool[np.ndarray, " instances"]
) -> dict[str, Tensor]:
    """The target of one image: ``boxes`` (N, 4), ``labels`` (N,), ``layers`` (L, H, W).

    Crowd regions are left out, and so are ids without pixels; boxes are those of the pixels. Where there are crowd
    regions, ``ignored`` (H, W) says which pixels are of them alone.
    """
    stack = layers.as_subclass(Tensor)
    layers, kept = compact_layers(drop_crowds(layers, iscrowd), len(labels))
    target = {
        "boxes": torch.from_numpy(encode_layers(layers, len(kept)).boxes),
        "labels": torch.from_numpy(labels)[kept],
        "layers": layers,
    }
    is_ignored = (stack > 0).any(dim=0) & ~(layers.as_subclass(Tensor) > 0).any(dim=0)
    return {**target, "ignored": is_ignored} if is_ignored.any() else target
