"""The bodies that give feature maps, and the pyramid on them."""

import difflib
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from manymask.errors import PlanError

FPN_CHANNELS = 256
STRIDES = (4, 8, 16, 32)
# maskrcnn_compact, measured (benchmarks/RESULTS.md, "The compact architecture"): 9.8 M parameters.
COMPACT_CHANNELS, COMPACT_BOX_CHANNELS = 96, 512
COMPACT_STEM, COMPACT_WIDTHS = 64, (48, 96, 192, 384)
COMPACT_STRIDE = 2


def check_backbone(name: str) -> None:
    """Refuse a name that timm does not know; builds nothing.

    Raises:
        PlanError: timm has no such model.
    """
    import timm  # here and below, because it takes a while to load, and the compact architecture does without

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
        raise PlanError(f"timm has no model {name!r} to be the backbone; {hint}")


class LeanPyramid(FeaturePyramidNetwork):
    """torchvision's feature pyramid with fewer maps in memory at once: a large image's finest ones are most of it."""

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pyramid's maps by level name, finest first.

        Args:
            x: The body's maps, finest first; emptied, so that each is freed when the next is made.
        """
        names, results = list(x), list[Tensor]()
        above = None
        for name, inner, layer in zip(names[::-1], self.inner_blocks[::-1], self.layer_blocks[::-1], strict=True):
            lateral = inner(x.pop(name))
            if above is not None:
                lateral += F.interpolate(above, size=lateral.shape[-2:], mode="nearest")
            above = lateral
            results.insert(0, layer(above))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, [], names)
        return dict(zip(names, results, strict=True))


class PyramidBackbone(nn.Module):
    """A body's feature maps under a feature pyramid (arXiv 1612.03144).

    Args:
        body: Gives a list of feature maps, as a timm model with ``features_only``.
        widths: Their channels.
        places: Which four of its feature maps are taken, each of twice the stride of the one before.
        channels: Of the pyramid.
        first_stride: Stride of the first of them.
    """

    def __init__(self, body: Any, widths: list[int], places: list[int], channels: int, first_stride: int) -> None:
        super().__init__()
        self.body = body
        self.places = places
        self.first_stride = first_stride
        self.fpn = LeanPyramid([widths[place] for place in places], channels, LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Feature maps by level name, ``0`` to ``3`` and ``pool``."""
        maps: list[Tensor] = self.body(images)
        if getattr(self.body, "output_fmt", None) == "NHWC":
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]
        levels = {str(level): maps[place] for level, place in enumerate(self.places)}
        del maps
        return self.fpn(levels)

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


def find_input_convolution(body: nn.Module) -> tuple[str, nn.Conv2d]:
    """The convolution that a body sees images by, and its name."""
    return next((name, module) for name, module in body.named_modules() if isinstance(module, nn.Conv2d))


def set_input_channels(body: nn.Module, num_channels: int) -> None:
    """Give a body a first convolution for images of so many channels, with random weights and always trained."""
    _, convolution = find_input_convolution(body)
    if num_channels == convolution.in_channels:
        return
    weight = convolution.weight.new_empty(len(convolution.weight), num_channels, *convolution.kernel_size)
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    convolution.weight, convolution.in_channels = nn.Parameter(weight), num_channels


def spread_input_weights(weight: Float[Tensor, "out _ rows columns"], num_channels: int) -> Float[Tensor, "out _ _ _"]:
    """Weights of a first convolution for another number of channels: each gets the mean filter of the old ones.

    Scaled, so that equal channels give what they gave before. timm's ``adapt_input_conv`` repeats the filters of red,
    green and blue in turn with the same scale, which would prefer some channels to others.
    """
    return (weight.sum(dim=1, keepdim=True) / num_channels).repeat(1, num_channels, 1, 1)


class SeparableConv2d(nn.Sequential):
    """A 3 x 3 convolution of each channel by itself, then one of 1 x 1 (arXiv 1704.04861)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), nn.Conv2d(channels, channels, 1)
        )
        # As torchvision's pyramid, so that values keep their size.
        for convolution in self:
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self[1].bias)  # pyright: ignore[reportArgumentType]


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
        super().__init__(body, body.feature_info.channels(), places, channels, STRIDES[0])


class CompactBody(nn.Module):
    """The stem and the stages of a narrow ResNet-18, with timm's names of parts and its random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, COMPACT_STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(COMPACT_STEM)
        self.act1 = nn.ReLU(inplace=True)
        ends = (COMPACT_STEM, *COMPACT_WIDTHS)
        for place, (width_in, width) in enumerate(itertools.pairwise(ends), start=1):
            stride = 1 if place == 1 else 2
            shortcut = nn.Sequential(conv1x1(width_in, width, stride), nn.BatchNorm2d(width))
            blocks = BasicBlock(width_in, width, stride, shortcut), BasicBlock(width, width)
            self.add_module(f"layer{place}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                module.bn2.weight.data.zero_()  # pyright: ignore - each block begins as its shortcut

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """The feature maps of the stem and of each stage."""
        maps = [self.act1(self.bn1(self.conv1(images)))]
        for place in range(1, len(COMPACT_WIDTHS) + 1):
            maps.append(self.get_submodule(f"layer{place}")(maps[-1]))
        return maps


class CompactBackbone(PyramidBackbone):
    """A narrow ResNet-18 (arXiv 1512.03385) without its pooling: feature maps of strides 2, 4, 8 and 16.

    It sees objects of 10 pixels as the ResNet-18 sees them after enlarging the image twice. Its stages are three
    quarters as wide, which takes 0.56 of their multiply-adds.
    """

    def __init__(self) -> None:
        super().__init__(CompactBody(), [COMPACT_STEM, *COMPACT_WIDTHS], [1, 2, 3, 4], COMPACT_CHANNELS, COMPACT_STRIDE)
        # Convolutions on the CPU take about a tenth less time so; the feature maps follow the weights.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _probe(body: Any) -> list[Tensor]:
    """A body's feature maps of a small image that is not square."""
    body.eval()
    maps = body(torch.zeros(1, 3, 64, 96))
    body.train()
    return maps


def create_timm_body(name: str, *, is_pretrained: bool = False) -> Any:
    """A timm model that gives feature maps."""
    import timm

    try:
        # Swin takes images of any size only with this argument; other models do not know it.
        return timm.create_model(name, is_pretrained, features_only=True, strict_img_size=False)
    except TypeError:
        return timm.create_model(name, is_pretrained, features_only=True)


def first_line(error: Exception) -> str:
    """What an error says in its first line; the name of its class where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
