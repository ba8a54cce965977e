"""Random crowded scenes as layers and as the dense masks that torchvision wants."""

import numpy as np
import torch
from torch import Tensor, nn

from manymask.core import InstanceLayers, encode_crops, paint_layers


def make_scene(
    num_instances: int, size: int, seed: int = 0, max_side: int = 40
) -> tuple[InstanceLayers, Tensor, Tensor]:
    """Ellipses that may overlap: layers, dense masks (N, size, size) uint8, boxes (N, 4)."""
    rng = np.random.default_rng(seed)
    crops = []
    for _ in range(num_instances):
        height, width = rng.integers(3, max_side, 2)
        top, left = rng.integers(0, size - height), rng.integers(0, size - width)
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        crops.append((int(left), int(top), y * y + x * x <= 1.01))
    runs = encode_crops(iter(crops), (size, size))
    layers = paint_layers(runs)
    masks = torch.zeros(num_instances, size, size, dtype=torch.uint8)
    for i, (left, top, crop) in enumerate(crops):
        masks[i, top : top + crop.shape[0], left : left + crop.shape[1]] = torch.from_numpy(crop)
    return layers, masks, torch.from_numpy(runs.boxes)


def shift_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model with other numbers."""
    return {name: value + 0.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
