"""The networks by name, built for a plan."""

from typing import Any

from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import (
    _resnet_fpn_extractor,  # pyright: ignore[reportPrivateUsage]
)
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from manymask.errors import PlanError
from manymask.modeling.backbones import (
    COMPACT_BOX_CHANNELS,
    COMPACT_CHANNELS,
    FPN_CHANNELS,
    CompactBackbone,
    TimmBackbone,
)
from manymask.modeling.network import MaskRCNN
from manymask.modeling.rpn import Float32AnchorGenerator
from manymask.modeling.weights import load_starting_weights
from manymask.plan import Plan, make_plan

# Boxes of this side and more, in pixels, are pooled from the level of stride 16, where they are 7 cells long.
COMPACT_CANONICAL_SCALE = 112
COMPACT_RPN_COUNTS = {"rpn_pre_nms_top_n_train": 500, "rpn_post_nms_top_n_train": 500}
COMPACT_RPN_COUNTS |= {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": 1000}
# Boxes that are nearly equal are one object also where masks decide: what is left for the mask head is little.
MASK_SUPPRESSION_BOX_IOU = 0.8
# torchvision's own counts, which a crowd's cap may only raise.
RPN_COUNTS = {"rpn_pre_nms_top_n_train": 2000, "rpn_post_nms_top_n_train": 2000}
RPN_COUNTS |= {"rpn_pre_nms_top_n_test": 1000, "rpn_post_nms_top_n_test": 1000}


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
