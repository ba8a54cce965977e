"""A network for prediction alone: BatchNorm becomes part of the weights, and convolutions multiply less."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from manymask.modeling.backbones import SeparableConv2d, find_input_convolution
from manymask.modeling.device import choose_precision
from manymask.modeling.network import MaskRCNN

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)
# Pixels from which on NNPACK gets one map of a batch after the other: of several it makes slower Fourier transforms.
LARGE_MAP = 32 * 32
# Pixels of a large map that are computed at a time: what lies between input and output is then little and stays in the
# cache. NNPACK alone would hold half a gigabyte for a large tile, and keep it.
STRIPE_PIXELS = 1 << 14
# Rows of NNPACK's tiles: in stripes of whole tiles all outputs are the same to the last digit.
STRIPE_ROWS = 6
# Of the largest value of an output: what rounding in another order explains, a wrong folding does not.
FOLDING_TOLERANCE = 1e-3


def speed_up(network: MaskRCNN, device: torch.device, precision: str) -> MaskRCNN:
    """A copy of a network for prediction alone, in evaluation mode; it gives the same but for rounding.

    Each BatchNorm becomes part of the convolution before it. On a CPU separable convolutions are computed in stripes,
    and in fp32 other 3 x 3 convolutions by Winograd's minimal filtering (arXiv 1509.09308), where torch has NNPACK,
    which keeps the number of threads that torch had at its first convolution.

    Args:
        network: The network, which stays as it is.
        device: Where the copy is to compute.
        precision: In which arithmetic, as the plan's setting.
    """
    plain = deepcopy(network).cpu().eval()
    fast = deepcopy(plain)
    fold_norms(fast, lambda: _run_parts(fast))
    pairs = zip(_run_parts(plain), _run_parts(fast), strict=True)
    # A body may use a convolution's output beside the norm too, which the norm's input alone does not tell.
    if any((a - b).abs().max() > FOLDING_TOLERANCE * a.abs().max() for a, b in pairs):
        fast = plain
    if device.type == "cpu":
        cut_stripes(fast)
        if choose_precision(precision, device) == "fp32" and torch._nnpack_available():  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            use_winograd(fast)
    return fast.to(device)


@torch.no_grad()
def _run_parts(network: MaskRCNN) -> list[Tensor]:
    """What all convolutions of a network make of a small image and one box."""
    parts: Any = network
    num_channels = find_input_convolution(parts.backbone.body)[1].in_channels
    image = torch.rand(1, num_channels, 64, 96, generator=torch.Generator().manual_seed(0))
    features, size = parts.backbone(image), [(64, 96)]
    levels = list(features.values())
    objectness, deltas = parts.rpn.head(levels)
    boxes = [torch.tensor([[0.0, 0.0, 64.0, 64.0]])]
    heads = parts.roi_heads
    stages = [heads] if heads.second is None else [heads, heads.second]
    of_boxes = [output for stage in stages for output in stage._run_box_head(features, boxes, size)]
    return [*levels, *objectness, *deltas, *of_boxes, heads._run_mask_head(features, boxes, size)]


def fold_norms(network: nn.Module, run: Callable[[], object]) -> None:
    """Make each BatchNorm part of the convolution before it; one that does not follow a convolution stays.

    Which convolution's output a BatchNorm gets is seen while the network runs, however its parts are named and ordered.

    Args:
        network: The network, in evaluation mode.
        run: Runs all of it once.
    """
    makers: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the output's id; the output is kept, so that no id is reused
    sources: dict[Any, set[nn.Conv2d | None]] = {}

    def note_output(convolution: nn.Module, _: Any, output: Tensor) -> None:
        makers[id(output)] = convolution, output  # pyright: ignore[reportArgumentType]

    def note_input(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sources.setdefault(norm, set()).add(makers.get(id(inputs[0]), (None,))[0])

    hooks = [m.register_forward_hook(note_output) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(note_input) for m in network.modules() if isinstance(m, NORMS)]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in network.named_modules()}
    followed = [convolution for found in sources.values() for convolution in found]
    for norm, (convolution, *others) in sources.items():
        if convolution is None or others or followed.count(convolution) > 1:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        network.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))  # timm's hold the activation


def use_winograd(network: nn.Module) -> None:
    """Let NNPACK do the 3 x 3 convolutions of a network that computes in fp32 on a CPU."""
    # What NNPACK takes and gives; in channels-last, which the compact architecture prefers, each would be a copy.
    network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    fitting = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and fitting.items() <= vars(module).items():
            network.set_submodule(name, WinogradConv2d(module))


def cut_stripes(network: nn.Module) -> None:
    """Compute the separable convolutions of a network stripe by stripe."""
    for name, module in list(network.named_modules()):
        if type(module) is SeparableConv2d:
            network.set_submodule(name, StripedSeparableConv2d(module))


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution with a stride of 1: 36 outputs of 64 products a channel, where a plain one takes 324."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        torch._nnpack_available()  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]  # makes it ready

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch _ height width"]:
        """The convolution of maps on the CPU."""
        # NNPACK takes fp32 only and no empty batch, and other libraries' graphs do not know it.
        if torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu") or len(maps) == 0:
            return F.conv2d(maps, self.weight, self.bias, padding=1)
        convolve: Any = torch._nnpack_spatial_convolution  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        if maps.shape[2] * maps.shape[3] <= LARGE_MAP:
            return convolve(maps, self.weight, self.bias, 1)
        output = maps.new_empty(len(maps), len(self.weight), *maps.shape[2:])
        return _fill_stripes(output, maps, lambda rows: convolve(rows, self.weight, self.bias, (0, 1)))


class StripedSeparableConv2d(nn.Module):
    """A separable convolution stripe by stripe, which on a CPU takes half of the time and of the memory."""

    def __init__(self, convolutions: SeparableConv2d) -> None:
        super().__init__()
        self.of_each, self.of_all = convolutions

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The convolution of maps."""
        if torch.compiler.is_exporting():
            return self.of_all(self.of_each(maps))
        weight: Any = self.of_each.weight
        return _fill_stripes(
            torch.empty_like(maps),
            maps,
            lambda rows: self.of_all(F.conv2d(rows, weight, padding=(0, 1), groups=len(weight))),
        )


def _fill_stripes(
    output: Float[Tensor, "batch _ height width"],
    maps: Float[Tensor, "batch channels height width"],
    convolve: Callable[[Tensor], Tensor],
) -> Float[Tensor, "batch _ height width"]:
    """A convolution of 3 x 3 of each map, some rows at a time.

    Args:
        output: Where to write it; returned.
        maps: The maps.
        convolve: Computes it of rows of a map, for all but the first and the last of them.
    """
    height, width = maps.shape[2:]
    num_rows = max(STRIPE_PIXELS // width // STRIPE_ROWS, 1) * STRIPE_ROWS
    for index in range(len(maps)):
        for top in range(0, height, num_rows):
            bottom = min(top + num_rows, height)
            rows = F.pad(maps[index : index + 1, :, max(top - 1, 0) : bottom + 1], (0, 0, top == 0, bottom == height))
            output[index, :, top:bottom] = convolve(rows)[0]
    return output
