"""Mask R-CNN of torchvision's parts."""

import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from manymask.modeling.backbones import PyramidBackbone
from manymask.modeling.roi_heads import CrowdRoIHeads
from manymask.modeling.rpn import CrowdRegionProposalNetwork
from manymask.plan import Plan


class ResizeTransform(GeneralizedRCNNTransform):
    """torchvision's normalisation, resizing and batching, or with a ``min_size`` of 0 resizing by one factor.

    Args:
        plan: The settings ``min_size``, ``max_size`` and ``scale``, the factor; images are enlarged until their longest
            side is ``max_size``, if that comes first.
        image_mean: Mean of each channel in the images that the backbone was first trained on.
        image_std: Their standard deviation.
    """

    def __init__(self, plan: Plan, image_mean: list[float], image_std: list[float]) -> None:
        super().__init__(plan.min_size, plan.max_size, image_mean, image_std)
        self.scale = plan.scale

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


class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN for crowded images; parameters and state-dict keys are torchvision's.

    In training it takes images (C, H, W) in [0, 1] and targets with ``boxes`` (N, 4), ``labels`` (N,) and ``layers``
    (L, H, W), and returns the five losses. Else it returns, for each image, ``boxes``, ``labels``, ``scores`` at the
    image's own resolution and ``mask_probabilities`` (N, 28, 28), which ``paste_masks`` turns into runs.
    ``manymask.modeling.build`` puts the parts together.
    """

    def __init__(
        self,
        backbone: PyramidBackbone | BackboneWithFPN,
        rpn: CrowdRegionProposalNetwork,
        roi_heads: CrowdRoIHeads,
        transform: ResizeTransform,
    ) -> None:
        super().__init__(backbone, rpn, roi_heads, transform)
