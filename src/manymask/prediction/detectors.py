"""What finds objects in images: a network behind one call, whatever library runs it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from manymask.modeling.build import LEVELS
from manymask.modeling.detections import Detections
from manymask.modeling.device import autocast
from manymask.modeling.fast import speed_up
from manymask.modeling.network import MaskRCNN
from manymask.prediction.runtimes import SECOND_BOX_HEAD, Graph, to_array


@runtime_checkable
class Detector(Protocol):
    """Anything that finds objects in images that ``View.take`` made.

    Attributes:
        device: Where it wants the images.
    """

    device: torch.device

    def __call__(self, images: Sequence[Float32[Tensor, "channels _ _"]]) -> list[Detections]:
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

    def __call__(self, images: Sequence[Float32[Tensor, "channels _ _"]]) -> list[Detections]:
        """The detections of each image, in its own pixels; images may differ in size."""
        with torch.inference_mode(), autocast(self.precision, self.device):
            return self.network([image.to(self.device) for image in images])


class GraphDetector(TorchDetector):
    """The network with its layers computed by another library, on the CPU; what joins them is the same code.

    Args:
        network: That of the plan, with any weights: its layers are dropped.
        graphs: What computes them, by the names of ``split_network``.
    """

    def __init__(self, network: MaskRCNN, graphs: Mapping[str, Graph]) -> None:
        trunk = _GraphTrunk(graphs["trunk"])
        network.backbone, network.rpn.head = trunk, _TrunkHead(trunk)
        heads: Any = network.roi_heads
        heads.box_head, heads.box_predictor = _GraphLayers(graphs["box_head"]), nn.Identity()
        heads.mask_head, heads.mask_predictor = _GraphLayers(graphs["mask_head"]), nn.Identity()
        if heads.second is not None:
            heads.second.box_head, heads.second.box_predictor = _GraphLayers(graphs[SECOND_BOX_HEAD]), nn.Identity()
        self.network, self.device, self.precision = network.eval(), torch.device("cpu"), "fp32"


def split_network(network: MaskRCNN) -> dict[str, nn.Module]:
    """The parts of a network that become graphs; proposals, pooling and suppression lie between them.

    ``trunk`` makes of a batch of images, padded to a multiple of ``LARGEST_STRIDE``, the five levels of the pyramid
    with their channels last, then the RPN's logits and its deltas on each; ``box_head`` of pooled features class logits
    and deltas, as ``box_head_2`` of a second box stage does; ``mask_head`` mask logits.
    """
    rpn: Any = network.rpn
    heads: Any = network.roi_heads
    parts: dict[str, nn.Module] = {
        "trunk": _Trunk(network.backbone, rpn.head),
        "box_head": nn.Sequential(heads.box_head, heads.box_predictor),
        "mask_head": nn.Sequential(heads.mask_head, heads.mask_predictor),
    }
    if heads.second is not None:
        parts[SECOND_BOX_HEAD] = nn.Sequential(heads.second.box_head, heads.second.box_predictor)
    return parts


class _Trunk(nn.Module):
    def __init__(self, backbone: nn.Module, rpn_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.rpn_head = backbone, rpn_head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        levels = list(self.backbone(images).values())
        logits, deltas = self.rpn_head(levels)
        return (*(level.permute(0, 2, 3, 1) for level in levels), *logits, *deltas)


class _GraphLayers(nn.Module):
    """Layers that a graph computes."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, values: Tensor) -> Any:
        """One tensor, or a tuple of several."""
        given = values if len(values) else values.new_zeros(1, *values.shape[1:])  # the libraries take no empty input
        outputs = [torch.from_numpy(output)[: len(values)] for output in self.graph(to_array(given))]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]


class _GraphTrunk(_GraphLayers):
    """The backbone, whose graph computes the RPN's head too."""

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Feature maps by level name, in channels-last memory, as pooling wants them."""
        outputs = super().forward(values)
        levels, self.logits, self.deltas = (list(outputs[n * LEVELS : (n + 1) * LEVELS]) for n in range(3))
        return {
            name: level.permute(0, 3, 1, 2) for name, level in zip(("0", "1", "2", "3", "pool"), levels, strict=True)
        }


class _TrunkHead(nn.Module):
    """The RPN's head, which hands over what the trunk has computed."""

    def __init__(self, trunk: _GraphTrunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.trunk.logits, self.trunk.deltas
