"""What finds objects in images: a network behind one call, whatever library runs it."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor

from manymask.modeling.detections import Detections
from manymask.modeling.device import autocast
from manymask.modeling.fast import speed_up
from manymask.modeling.network import MaskRCNN


@runtime_checkable
class Detector(Protocol):
    """Anything that finds objects in images that ``View.take`` made.

    Attributes:
        device: Where it wants the images.
    """

    device: torch.device

    def __call__(self, images: Sequence[Float32[Tensor, "3 _ _"]]) -> list[Detections]:
        """The detections of each image, in its own pixels; images may differ in size."""
        ...


class TorchDetector:
    """A network on its device, made fast for prediction.

    Args:
        network: The network, which stays as it is.
        device: Where it computes.
        precision: In which arithmetic, as the plan's setting.
    """

    def __init__(self, network: MaskRCNN, device: torch.device, precision: str) -> None:
        self.network = speed_up(network, device, precision)
        self.device = device
        self.precision = precision

    def __call__(self, images: Sequence[Float32[Tensor, "3 _ _"]]) -> list[Detections]:
        """The detections of each image, in its own pixels; images may differ in size."""
        with torch.inference_mode(), autocast(self.precision, self.device):
            return self.network([image.to(self.device) for image in images])
