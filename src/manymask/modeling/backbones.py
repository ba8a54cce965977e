"""The bodies that give feature maps, and the pyramid on them."""

import difflib
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from manymask.errors import PlanError

FPN_CHANNELS = 256
STRIDES = (4, 8, 16, 32)
# maskrcnn_compact, measured (benchmarks/RESULTS.md, "The compact architecture"): 9.8 M parameters.
COMPACT_CHANNELS, COMPACT_BOX_CHANNELS = 96, 512
COMPACT_STEM, COMPACT_WIDTHS = 32, (48, 96, 192, 384)
COMPACT_STRIDE = 2


def check_backbone(name: str) -> None:
    """Refuse a name that timm does not know; builds nothing.

    Raises:
        PlanError: timm has no such model.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
        raise PlanError(f"timm has no model {name!r} to be the backbone; {hint}")


class PyramidBackbone(nn.Module):
    """A body's feature maps under a feature pyramid (arXiv 1612.03144).

    Args:
        body: A timm model with ``features_only``.
        places: Which four of its feature maps are taken, each of twice the stride of the one before.
        channels: Of the pyramid.
        first_stride: Stride of the first of them.
    """

    def __init__(self, body: Any, places: list[int], channels: int, first_stride: int) -> None:
        super().__init__()
        self.body = body
        self.places = places
        self.first_stride = first_stride
        widths: list[int] = body.feature_info.channels()
        self.fpn = FeaturePyramidNetwork([widths[place] for place in places], channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Feature maps by level name, ``0`` to ``3`` and ``pool``."""
        maps: list[Tensor] = self.body(images)
        if getattr(self.body, "output_fmt", None) == "NHWC":
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        return self.fpn({str(level): maps[place] for level, place in enumerate(self.places)})

    def freeze(self, trainable_stages: int) -> None:
        """Freeze all but the last stages, which end at the pyramid's levels; 5 trains the stem before them too.

        A stem without a feature map of its own, as ConvNeXt's and Swin's, belongs to the first stage.
        """
        self.body.requires_grad_(True)
        if trainable_stages == 5:
            return
        frozen = [feature_map.sum() for feature_map in _probe(self.body)[: self.places[-1] + 1 - trainable_stages]]
        parameters = list(self.body.parameters())
        # A part belongs to a stage if the stage's feature map has a gradient for it, however timm names the parts.
        gradients = torch.autograd.grad(frozen, parameters, allow_unused=True) if frozen else ()
        for parameter, gradient in zip(parameters, gradients, strict=False):
            parameter.requires_grad_(gradient is None)


class TimmBackbone(PyramidBackbone):
    """A timm model's feature maps of strides 4, 8, 16 and 32 under a feature pyramid.

    Raises:
        PlanError: timm has no such model, or it lacks one of the strides, or it takes images of one size only.
    """

    def __init__(self, name: str, channels: int = FPN_CHANNELS) -> None:
        check_backbone(name)
        try:
            body = create_timm_body(name)
            _probe(body)
            strides: list[int] = body.feature_info.reduction()
            places = [strides.index(stride) for stride in STRIDES]
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise PlanError(
                f"backbone {name!r} does not give feature maps of strides 4, 8, 16 and 32 for images of any size "
                f"({first_line(error)}); choose one that does, for example resnet18 or convnext_tiny"
            ) from error
        super().__init__(body, places, channels, STRIDES[0])


class CompactBackbone(PyramidBackbone):
    """A narrow ResNet-18 (arXiv 1512.03385) without its pooling: feature maps of strides 2, 4, 8 and 16.

    It sees objects of 10 pixels as the ResNet-18 sees them after enlarging the image twice. Its stages are three
    quarters as wide, which takes 0.56 of their multiply-adds.
    """

    def __init__(self) -> None:
        body: Any = timm.create_model("resnet18", features_only=True, channels=COMPACT_WIDTHS, stem_width=COMPACT_STEM)
        body["maxpool"] = nn.Identity()
        super().__init__(body, [1, 2, 3, 4], COMPACT_CHANNELS, COMPACT_STRIDE)
        # Convolutions on the CPU take about a tenth less time so.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Feature maps by level name, ``0`` to ``3`` and ``pool``."""
        return super().forward(images.contiguous(memory_format=torch.channels_last))


def _probe(body: Any) -> list[Tensor]:
    """A body's feature maps of a small image that is not square."""
    body.eval()
    maps = body(torch.zeros(1, 3, 64, 96))
    body.train()
    return maps


def create_timm_body(name: str, *, is_pretrained: bool = False) -> Any:
    """A timm model that gives feature maps."""
    try:
        # Swin takes images of any size only with this argument; other models do not know it.
        return timm.create_model(name, is_pretrained, features_only=True, strict_img_size=False)
    except TypeError:
        return timm.create_model(name, is_pretrained, features_only=True)


def first_line(error: Exception) -> str:
    """What an error says in its first line; the name of its class where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
