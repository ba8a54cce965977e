"""Mask R-CNN of torchvision's parts."""

import math
from typing import Any

import torch.nn.functional as F
import torchvision.models.detection as detection
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper  # pyright: ignore[reportPrivateImportUsage]

from manymask.modeling.roi_heads import CrowdRoIHeads, Float32BoxCoder
from manymask.modeling.rpn import CrowdRegionProposalNetwork


class ResizeTransform(GeneralizedRCNNTransform):
    """torchvision's normalisation, resizing and batching, or with a ``min_size`` of 0 resizing by one factor.

    Attributes:
        scale: The factor; images are enlarged until their longest side is ``max_size``, if that comes first.
    """

    scale = 1.0

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize the image and its boxes; layers keep the image's own resolution."""
        if self.min_size != (0,):
            return super().resize(image, target)
        height, width = image.shape[-2:]
        factor = min(self.scale, max(self.max_size / max(height, width), 1.0))
        if factor == 1:
            return image, target
        size = [max(round(height * factor), 1), max(round(width * factor), 1)]
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False, antialias=factor < 1)[0]
        if target is not None:
            target = {**target, "boxes": resize_boxes(target["boxes"], [height, width], size)}
        return image, target

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pad the images to one size, of two cells of stride 32 at least: of one, BatchNorm can measure nothing."""
        batch = super().batch_images(images, size_divisible)
        return F.pad(batch, (0, size_divisible)) if batch.shape[-2:] == (size_divisible, size_divisible) else batch


class MaskRCNN(detection.MaskRCNN):
    """Mask R-CNN for crowded images; parameters and state-dict keys are torchvision's.

    In training it takes images (C, H, W) in [0, 1] and targets with ``boxes`` (N, 4), ``labels`` (N,) and ``layers``
    (L, H, W), and returns the five losses. Else it returns, for each image, ``boxes``, ``labels``, ``scores`` at the
    image's own resolution and ``mask_probabilities`` (N, 28, 28), which ``paste_masks`` turns into runs.

    Args:
        backbone: Gives the feature maps by level name.
        num_classes: Background included; None where ``settings`` hold predictors made for them.
        min_size: Shorter side that images are resized to; 0 resizes by ``scale``.
        max_size: Longest side after resizing.
        scale: Factor that images are resized by.
        mask_resolution: Side of the predicted masks, 28 in the paper.
        is_exact: Whether boxes lie exactly on features and mask targets (``mask_alignment``).
        **settings: torchvision's arguments.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int | None,
        *,
        min_size: int,
        max_size: int,
        scale: float = 1.0,
        mask_resolution: int = 28,
        is_exact: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, num_classes, min_size=min_size, max_size=max_size, **settings)
        old = self.transform
        self.transform = ResizeTransform(min_size, max_size, old.image_mean, old.image_std)
        self.transform.scale = scale
        # The same modules and parameters with the crowd-safe methods: nothing is built twice.
        rpn: Any = self.rpn
        rpn.__class__ = CrowdRegionProposalNetwork
        roi_heads: Any = self.roi_heads
        roi_heads.__class__ = CrowdRoIHeads
        roi_heads.is_exact = is_exact
        roi_heads.mask_roi_pool.output_size = (mask_resolution // 2, mask_resolution // 2)  # the predictor doubles it
        for part in (rpn, roi_heads):
            part.box_coder = Float32BoxCoder(part.box_coder.weights)
        for pooler in (roi_heads.box_roi_pool, roi_heads.mask_roi_pool):
            _fix_scales(pooler, getattr(backbone, "first_stride", 4))


def _fix_scales(pooler: MultiScaleRoIAlign, first_stride: int) -> None:
    """Set the levels' scales (1/4 .. 1/32) instead of guessing them from the first image, padding left out.

    torchvision's guess takes a 33-pixel image that was padded to 64 for one of stride 2, and keeps that for all others.
    """
    pooler.scales = [1 / (first_stride * 2**level) for level in range(len(pooler.featmap_names))]
    pooler.map_levels = initLevelMapper(
        int(-math.log2(pooler.scales[0])),
        int(-math.log2(pooler.scales[-1])),
        canonical_scale=pooler.canonical_scale,
        canonical_level=pooler.canonical_level,
    )
