"""The architectures by name, and the weights that they start from."""

import difflib
import pickle
from collections.abc import Mapping
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.backbone_utils import (
    _resnet_fpn_extractor,  # pyright: ignore[reportPrivateUsage]
)
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from manymask.errors import CheckpointError, PlanError
from manymask.modeling.anchors import Float32AnchorGenerator
from manymask.modeling.checkpoint import read_state_dict
from manymask.modeling.mask_rcnn import MaskRCNN
from manymask.modeling.shipped import resolve_weights
from manymask.planning import Plan, make_plan

FPN_CHANNELS = 256
STRIDES = (4, 8, 16, 32)
# maskrcnn_compact, measured (benchmarks/RESULTS.md, "The compact architecture"): 9.8 M parameters.
COMPACT_CHANNELS, COMPACT_BOX_CHANNELS = 96, 512
COMPACT_STEM, COMPACT_WIDTHS = 32, (48, 96, 192, 384)
COMPACT_STRIDE = 2
# Boxes of this side and more, in pixels, are pooled from the level of stride 16, where they are 7 cells long.
COMPACT_CANONICAL_SCALE = 112
COMPACT_RPN_COUNTS = {"rpn_pre_nms_top_n_train": 500, "rpn_post_nms_top_n_train": 500}
COMPACT_RPN_COUNTS |= {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": 1000}
# Boxes that are nearly equal are one object also where masks decide: what is left for the mask head is little.
MASK_SUPPRESSION_BOX_IOU = 0.8
# torchvision's own counts, which a crowd's cap may only raise.
RPN_COUNTS = {"rpn_pre_nms_top_n_train": 2000, "rpn_post_nms_top_n_train": 2000}
RPN_COUNTS |= {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": 1000}
COCO_WEIGHTS = {
    "maskrcnn_resnet50_fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "maskrcnn_resnet50_fpn_v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}
# The parts that depend on the number of classes and are made anew for other classes.
CLASS_PARTS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")


def build_model(num_classes: int, architecture: str = "maskrcnn_resnet50_fpn_v2", **settings: Any) -> MaskRCNN:
    """Build a Mask R-CNN with its starting weights.

    Args:
        num_classes: Number of classes, background included.
        architecture: ``maskrcnn_resnet50_fpn``, ``maskrcnn_resnet50_fpn_v2``, ``maskrcnn_fpn`` with ``backbone``, or
            ``maskrcnn_compact``.
        **settings: Settings of a plan by name, among them ``weights`` (``coco`` by default), ``backbone``,
            ``min_size``, ``max_size``, ``detections_per_image``, ``min_score``, ``trainable_stages``.

    Raises:
        PlanError: A setting does not exist or does not fit.
        CheckpointError: The weights cannot be loaded.
    """
    if num_classes < 2:
        raise PlanError(f"num_classes is {num_classes}, expected at least 2: background counts as one")
    plan = make_plan("baseline", {"architecture": architecture, **settings}).resolve_detections(0)
    model = assemble_model(num_classes, plan)
    load_starting_weights(model, plan)
    return model


def assemble_model(num_classes: int, plan: Plan) -> MaskRCNN:
    """The architecture of a plan with random weights."""
    is_pretrained = plan.weights != "none"
    stages = plan.trainable_stages if is_pretrained else 5
    is_v2 = plan.architecture == "maskrcnn_resnet50_fpn_v2"
    arguments = _list_arguments(plan) | (_make_v2_heads(len(plan.aspect_ratios)) if is_v2 else {})
    if plan.architecture in ("maskrcnn_fpn", "maskrcnn_compact"):
        is_compact = plan.architecture == "maskrcnn_compact"
        channels = COMPACT_CHANNELS if is_compact else FPN_CHANNELS
        backbone = CompactBackbone() if plan.backbone is None else TimmBackbone(plan.backbone, channels)
        backbone.freeze(stages)
        expected = backbone.body.pretrained_cfg
        arguments |= {"image_mean": list(expected["mean"]), "image_std": list(expected["std"])}
        if is_compact:
            arguments |= _make_compact_heads(num_classes, len(plan.aspect_ratios), plan.max_detections)
    else:
        # torchvision's builders: v2 always has BatchNorm, also in its FPN; v1 freezes it in a pretrained backbone.
        norm_layer = FrozenBatchNorm2d if is_pretrained and not is_v2 else nn.BatchNorm2d
        body = resnet50(norm_layer=norm_layer)
        backbone = _resnet_fpn_extractor(body, stages, norm_layer=nn.BatchNorm2d if is_v2 else None)
    model = MaskRCNN(backbone, None if "box_predictor" in arguments else num_classes, **arguments)
    if plan.architecture == "maskrcnn_resnet50_fpn" and plan.weights == "coco":
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # as torchvision's builder does: its COCO weights were trained so
    return model


def _list_arguments(plan: Plan) -> dict[str, Any]:
    """Arguments of torchvision's constructor for the settings of a plan."""
    cap = plan.max_detections
    by_masks = plan.suppression == "mask"
    return {
        "min_size": plan.min_size,
        "max_size": plan.max_size,
        "scale": plan.scale,
        "mask_resolution": plan.mask_resolution,
        "is_exact": plan.mask_alignment == "exact",
        "rpn_anchor_generator": Float32AnchorGenerator(
            tuple((size,) for size in plan.anchor_sizes), (plan.aspect_ratios,) * len(plan.anchor_sizes)
        ),
        "rpn_nms_thresh": plan.rpn_nms,
        "box_nms_thresh": max(plan.nms, MASK_SUPPRESSION_BOX_IOU) if by_masks else plan.nms,
        "rpn_batch_size_per_image": plan.rpn_samples,
        "box_batch_size_per_image": plan.roi_samples,
        "box_score_thresh": plan.min_score,
        "box_detections_per_img": 2 * cap if by_masks else cap,  # suppression by masks comes after
        **{name: max(count, cap) for name, count in RPN_COUNTS.items()},
    }


def _make_v2_heads(num_anchors: int) -> dict[str, Any]:
    """The heads of torchvision's ``maskrcnn_resnet50_fpn_v2`` (arXiv 2111.11429)."""
    return {
        "rpn_head": RPNHead(FPN_CHANNELS, num_anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead((FPN_CHANNELS, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d),
        "mask_head": MaskRCNNHeads(FPN_CHANNELS, [256] * 4, 1, norm_layer=nn.BatchNorm2d),
    }


def _make_compact_heads(num_classes: int, num_anchors: int, cap: int) -> dict[str, Any]:
    """Narrow heads, and pooling of each box from the level on which it is 7 to 14 cells long.

    That holds for boxes of 14 to 224 pixels; the finest and the coarsest level take the others. A bin of the mask head
    then covers at most one cell, so that one sample a bin sees all of them; torchvision takes four from boxes of up to
    28 cells, and the backward pass through these samples was a third of a training step.
    """
    levels, pooling = ["0", "1", "2", "3"], {"canonical_scale": COMPACT_CANONICAL_SCALE, "canonical_level": 4}
    return {
        "rpn_head": RPNHead(COMPACT_CHANNELS, num_anchors),
        "box_roi_pool": MultiScaleRoIAlign(levels, 7, 1, **pooling),
        "box_head": TwoMLPHead(COMPACT_CHANNELS * 7 * 7, COMPACT_BOX_CHANNELS),
        "box_predictor": FastRCNNPredictor(COMPACT_BOX_CHANNELS, num_classes),
        "mask_roi_pool": MultiScaleRoIAlign(levels, 14, 1, **pooling),
        "mask_head": MaskRCNNHeads(COMPACT_CHANNELS, [COMPACT_CHANNELS] * 4, 1, norm_layer=nn.BatchNorm2d),
        "mask_predictor": MaskRCNNPredictor(COMPACT_CHANNELS, COMPACT_CHANNELS, num_classes),
        **{name: max(count, cap) for name, count in COMPACT_RPN_COUNTS.items()},
    }


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
            body = _create_timm_body(name)
            _probe(body)
            strides: list[int] = body.feature_info.reduction()
            places = [strides.index(stride) for stride in STRIDES]
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise PlanError(
                f"backbone {name!r} does not give feature maps of strides 4, 8, 16 and 32 for images of any size "
                f"({_first_line(error)}); choose one that does, for example resnet18 or convnext_tiny"
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


def _create_timm_body(name: str, *, is_pretrained: bool = False) -> Any:
    try:
        # What makes Swin take images of any size; other models do not know it.
        return timm.create_model(name, is_pretrained, features_only=True, strict_img_size=False)
    except TypeError:
        return timm.create_model(name, is_pretrained, features_only=True)


def load_starting_weights(model: MaskRCNN, plan: Plan) -> None:
    """Load what ``plan.weights`` names into a new model.

    Raises:
        CheckpointError: The weights cannot be downloaded or read, or are of another architecture.
    """
    if plan.weights == "none":
        return
    if plan.weights == "coco":
        load_weights(model, _download(COCO_WEIGHTS[plan.architecture]), "torchvision's COCO weights")
    elif plan.weights == "imagenet":
        _load_imagenet_weights(model, plan)
    else:
        load_weights(model, read_state_dict(resolve_weights(plan.weights)), plan.weights)


def _load_imagenet_weights(model: MaskRCNN, plan: Plan) -> None:
    body: Any = model.backbone.body
    if plan.backbone is not None:
        try:
            source = _create_timm_body(plan.backbone, is_pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:  # no network, a broken cache, no such weights
            raise _explain_download(f"timm's weights of {plan.backbone}", error) from error
        body.load_state_dict(source.state_dict())
        return
    state = _download(ResNet50_Weights.IMAGENET1K_V1)
    body.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})


def _download(weights: Any) -> dict[str, Tensor]:
    """Weights from torch's cache, or from torchvision's server."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _explain_download(weights.url, error) from error


def _explain_download(source: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"cannot download {source} ({_first_line(error)}); fetch it on a machine that can and set weights=FILE, or set "
        "weights=none to start from random weights"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def load_weights(model: MaskRCNN, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict with torchvision's keys; where its classes are others, the class-specific parts stay new.

    Raises:
        CheckpointError: A part besides the class-specific ones is missing, of another shape or not known.
    """
    own = model.state_dict()
    class_parts = {name for name in own if name.startswith(CLASS_PARTS)}
    if any(name in state and state[name].shape != own[name].shape for name in class_parts):
        state = {name: value for name, value in state.items() if name not in class_parts}
        state |= {name: own[name] for name in class_parts}
    wrong = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    if not wrong:
        # Not compared by name here: torchvision's modules rename the keys of its older files while loading.
        missing, unknown = model.load_state_dict(state, strict=False)
        wrong = sorted(missing + unknown)
    if wrong:
        raise CheckpointError(
            f"{source} does not fit the architecture: {len(wrong)} of its parts are missing, unknown or of another "
            f"shape, {wrong[0]} first; set architecture, backbone and aspect_ratios as the weights were trained with"
        )
