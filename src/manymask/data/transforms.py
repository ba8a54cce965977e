"""From a sample of a data set to the image and target that the network takes."""

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from manymask.core import Sample, compact_layers, encode_layers
from manymask.errors import DatasetError


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
    if pixels.shape[2] not in (1, 3):
        raise DatasetError(f"expected 1 or 3 channels, found {pixels.shape[2]} in {source}; convert it to grey or RGB")
    if np.issubdtype(pixels.dtype, np.integer):
        scaled = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    else:
        scaled = pixels.astype(np.float32)
    low, high = float(scaled.min()), float(scaled.max())
    if not (low >= 0 and high <= 1):
        raise DatasetError(
            f"expected intensities in [0, 1], found {low:g} to {high:g} in {source}; scale the image to [0, 1], or "
            "save it with 8 or 16 bits"
        )
    image = torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))
    return image if len(image) == 3 else image.repeat(3, 1, 1)


def make_target(sample: Sample) -> dict[str, Tensor]:
    """The target of one image: ``boxes`` (N, 4), ``labels`` (N,), ``layers`` (L, H, W).

    Crowd regions are left out, and so are ids without pixels; boxes are those of the pixels.
    """
    num_instances = len(sample.labels)
    layers = sample.layers
    if sample.iscrowd.any():
        is_kept = torch.from_numpy(np.concatenate([[False], ~sample.iscrowd]))
        layers = torch.where(is_kept[layers.long()], layers.as_subclass(Tensor), 0)
    layers, kept = compact_layers(layers, num_instances)
    return {
        "boxes": torch.from_numpy(encode_layers(layers, len(kept)).boxes),
        "labels": torch.from_numpy(sample.labels)[kept],
        "layers": layers,
    }
