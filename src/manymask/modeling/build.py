"""The networks by name, built for a plan."""

from collections.abc import Callable, Container, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, cast

from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    _resnet_fpn_extractor,  # pyright: ignore[reportPrivateUsage]
)
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import FrozenBatchNorm2d

from manymask.errors import PlanError
from manymask.modeling.backbones import (
    COMPACT_BOX_CHANNELS,
    COMPACT_CHANNELS,
    FPN_CHANNELS,
    STRIDES,
    CompactBackbone,
    PyramidBackbone,
    SeparableConv2d,
    TimmBackbone,
    set_input_channels,
)
from manymask.modeling.dense_head import DenseHead
from manymask.modeling.network import MaskRCNN
from manymask.modeling.roi_heads import CrowdRoIHeads, LevelPooler
from manymask.modeling.rpn import CrowdRegionProposalNetwork, Float32AnchorGenerator
from manymask.modeling.weights import load_starting_weights
from manymask.plan import Plan, make_plan

# Boxes of this side and more, in pixels, are pooled from the level of stride 16, where they are 7 cells long.
COMPACT_CANONICAL_SCALE = 112
# Boxes that are nearly equal are one object also where masks decide: what is left for the mask head is little.
MASK_SUPPRESSION_BOX_IOU = 0.8
# Proposals an image: in training, torchvision's number and that of maskrcnn_compact; at prediction. A higher cap on
# detections raises them.
PROPOSALS, COMPACT_PROPOSALS, PROPOSALS_IN_USE = 2000, 500, 1000
# In use maskrcnn_compact takes all proposals that are more likely an object than not, so that an object is found alike
# in a tile, in the whole image and in a crowd (benchmarks/RESULTS.md). The numbers only bound memory; the most that an
# image of up to 160,000 pixels had was 3,342.
COMPACT_LEAST_OBJECTNESS, COMPACT_PROPOSALS_IN_USE, COMPACT_PIXELS_PER_PROPOSAL = 0.5, 4000, 128.0
# IoU from which a box is an object, for each box stage, and what the second stage multiplies deltas by (Cascade R-CNN,
# arXiv 1712.00726, section 4.2; the first has torchvision's 10, 10, 5, 5).
FIRST_IOU, SECOND_IOU, SECOND_DELTA_WEIGHTS = 0.5, 0.6, (20.0, 20.0, 10.0, 10.0)
# Feature levels that anchors lie on: the four of the pyramid and the one that is pooled from the last.
LEVELS = 5


def build_model(num_classes: int, settings: Mapping[str, Any] | None = None) -> MaskRCNN:
    """Build a Mask R-CNN with its starting weights, for images as ``Preprocessing.of`` the plan makes them.

    Args:
        num_classes: Number of classes, background included.
        settings: Settings of a plan by name, among them ``architecture`` (``maskrcnn_resnet50_fpn_v2`` by default),
            ``weights`` (``coco`` by default), ``backbone``, ``detections_per_image``, ``min_score`` and
            ``trainable_stages``.

    Raises:
        PlanError: A setting does not exist or does not fit.
        CheckpointError: The weights cannot be loaded.
    """
    if num_classes < 2:
        raise PlanError(f"num_classes is {num_classes}, expected at least 2: background counts as one")
    plan = make_plan("baseline", settings).resolve_detections(0)
    model = assemble_model(num_classes, plan)
    load_starting_weights(model, plan)
    return model


def assemble_model(num_classes: int, plan: Plan) -> MaskRCNN:
    """The architecture of a plan with random weights, which follow from the order in which its parts are made."""
    is_compact = plan.architecture == "maskrcnn_compact"
    num_anchors = len(plan.aspect_ratios)
    parts = _make_v2_heads(num_anchors) if plan.architecture == "maskrcnn_resnet50_fpn_v2" else {}
    backbone = _make_backbone(plan)
    parts |= _make_compact_heads(num_classes, num_anchors) if is_compact else {}
    parts |= _make_missing_heads(parts, num_classes, num_anchors)
    if plan.convolutions == "separable":
        finest: Any = backbone.fpn.layer_blocks[0]
        finest[0] = SeparableConv2d(COMPACT_CHANNELS)
        cast(Any, parts["rpn_head"]).conv = nn.Sequential(SeparableConv2d(COMPACT_CHANNELS), nn.ReLU(inplace=True))
    first_stride = backbone.first_stride if isinstance(backbone, PyramidBackbone) else STRIDES[0]
    pooling = (1, first_stride, COMPACT_CANONICAL_SCALE) if is_compact else (2, first_stride)
    counts = {
        "training": max(COMPACT_PROPOSALS if is_compact else PROPOSALS, plan.max_detections),
        "testing": max(COMPACT_PROPOSALS_IN_USE if is_compact else PROPOSALS_IN_USE, plan.max_detections),
    }
    choice = (
        {"least_objectness": COMPACT_LEAST_OBJECTNESS, "pixels_per_proposal": COMPACT_PIXELS_PER_PROPOSAL}
        if is_compact
        else {}
    )
    rpn = CrowdRegionProposalNetwork(
        Float32AnchorGenerator(tuple((size,) for size in plan.anchor_sizes), (plan.aspect_ratios,) * LEVELS),
        parts["rpn_head"],
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=plan.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=counts,
        nms_thresh=plan.rpn_nms,
        **choice,
    )
    by_masks = plan.suppression == "mask"
    make_heads = partial(
        CrowdRoIHeads,
        LevelPooler(7, *pooling),
        batch_size_per_image=plan.roi_samples,
        positive_fraction=plan.roi_positives,
        score_thresh=plan.min_score,
        nms_thresh=max(plan.nms, MASK_SUPPRESSION_BOX_IOU) if by_masks else plan.nms,
        detections_per_img=2 * plan.max_detections if by_masks else plan.max_detections,  # masks are compared later
        is_exact=plan.mask_alignment == "exact",
        box_loss=plan.box_loss,
    )
    box_parts, second = (parts["box_head"], parts["box_predictor"]), None
    if plan.box_stages == 2:
        second = make_heads(*deepcopy(box_parts), SECOND_IOU, SECOND_IOU, bbox_reg_weights=SECOND_DELTA_WEIGHTS)
    roi_heads = make_heads(
        *box_parts,
        FIRST_IOU,
        FIRST_IOU,
        bbox_reg_weights=None,
        mask_roi_pool=LevelPooler(plan.mask_resolution // 2, *pooling),  # the predictor doubles it
        mask_head=parts["mask_head"],
        mask_predictor=parts["mask_predictor"],
        mask_samples=plan.mask_samples,
        second=second,
        # Last, so that the other parts' random weights are the same with it.
        dense_head=DenseHead(backbone.out_channels, first_stride, plan.dense_loss) if plan.dense_loss else None,
    )
    if second is not None:
        roi_heads.copy_first_stage()
    body: Any = backbone.body
    set_input_channels(body, plan.in_channels)  # last too
    model = MaskRCNN(backbone, rpn, roi_heads)
    if plan.architecture == "maskrcnn_resnet50_fpn" and plan.weights == "coco":
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0  # as torchvision's builder does: its COCO weights were trained so
    return model


def _make_backbone(plan: Plan) -> PyramidBackbone | BackboneWithFPN:
    is_pretrained = plan.weights != "none"
    stages = plan.trainable_stages if is_pretrained else 5
    if plan.architecture in ("maskrcnn_fpn", "maskrcnn_compact"):
        channels = COMPACT_CHANNELS if plan.architecture == "maskrcnn_compact" else FPN_CHANNELS
        backbone = CompactBackbone() if plan.backbone is None else TimmBackbone(plan.backbone, channels)
        backbone.freeze(stages)
        return backbone
    is_v2 = plan.architecture == "maskrcnn_resnet50_fpn_v2"
    # torchvision's builders: v2 always has BatchNorm, also in its FPN; v1 freezes it in a pretrained backbone.
    body = resnet50(norm_layer=FrozenBatchNorm2d if is_pretrained and not is_v2 else nn.BatchNorm2d)
    return _resnet_fpn_extractor(body, stages, norm_layer=nn.BatchNorm2d if is_v2 else None)


def _make_v2_heads(num_anchors: int) -> dict[str, nn.Module]:
    """The heads of torchvision's ``maskrcnn_resnet50_fpn_v2`` (arXiv 2111.11429)."""
    return {
        "rpn_head": RPNHead(FPN_CHANNELS, num_anchors, conv_depth=2),
        "box_head": FastRCNNConvFCHead((FPN_CHANNELS, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d),
        "mask_head": MaskRCNNHeads(FPN_CHANNELS, [256] * 4, 1, norm_layer=nn.BatchNorm2d),
    }


def _make_compact_heads(num_classes: int, num_anchors: int) -> dict[str, nn.Module]:
    """Narrow heads; each box is pooled from the level on which it is 7 to 14 cells long.

    That holds for boxes of 14 to 224 pixels; the finest and the coarsest level take the others. A bin of the mask head
    then covers at most one cell, so that one sample a bin sees all of them; torchvision takes four from boxes of up to
    28 cells, and the backward pass through these samples was a third of a training step.
    """
    return {
        "rpn_head": RPNHead(COMPACT_CHANNELS, num_anchors),
        "box_head": TwoMLPHead(COMPACT_CHANNELS * 7 * 7, COMPACT_BOX_CHANNELS),
        "box_predictor": FastRCNNPredictor(COMPACT_BOX_CHANNELS, num_classes),
        "mask_head": MaskRCNNHeads(COMPACT_CHANNELS, [COMPACT_CHANNELS] * 4, 1, norm_layer=nn.BatchNorm2d),
        "mask_predictor": MaskRCNNPredictor(COMPACT_CHANNELS, COMPACT_CHANNELS, num_classes),
    }


def _make_missing_heads(parts: Container[str], num_classes: int, num_anchors: int) -> dict[str, nn.Module]:
    """Those of torchvision's ``maskrcnn_resnet50_fpn`` that are not there yet, in its order."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "mask_head": lambda: MaskRCNNHeads(FPN_CHANNELS, [256] * 4, 1),
        "mask_predictor": lambda: MaskRCNNPredictor(256, 256, num_classes),
        "rpn_head": lambda: RPNHead(FPN_CHANNELS, num_anchors),
        "box_head": lambda: TwoMLPHead(FPN_CHANNELS * 7 * 7, 1024),
        "box_predictor": lambda: FastRCNNPredictor(1024, num_classes),
    }
    return {name: make() for name, make in makers.items() if name not in parts}
