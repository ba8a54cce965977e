"""From a sample of a data set to the image and target that the network takes."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor

from manymask.core import InstanceLayers, compact_layers, encode_layers
from manymask.core.intensities import keep_differences
from manymask.errors import DatasetError
from manymask.planning import Plan

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
