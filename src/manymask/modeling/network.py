"""Mask R-CNN of torchvision's parts."""

from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList

from manymask.modeling.backbones import PyramidBackbone
from manymask.modeling.detections import Detections
from manymask.modeling.roi_heads import CrowdRoIHeads
from manymask.modeling.rpn import CrowdRegionProposalNetwork

# Sides are padded to a multiple of the largest stride.
LARGEST_STRIDE = 32


class PadTransform(nn.Module):
    """torchvision's batching, without the preprocessing that it does on the way."""

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Pad the images to one size, of two cells of stride 32 at least: of one, BatchNorm can measure nothing."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (-(-max(sides) // LARGEST_STRIDE) * LARGEST_STRIDE for sides in zip(*sizes, strict=True))
        if height == width == LARGEST_STRIDE:
            width *= 2
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[-2], : image.shape[-1]] = image
        return ImageList(batch, sizes), targets

    def postprocess(self, result: list[Detections], *sizes: list[tuple[int, int]]) -> list[Detections]:
        """The detections as they are, in pixels of the images that were padded."""
        return result


class MaskRCNN(GeneralizedRCNN):
    """Mask R-CNN for crowded images; parameters and state-dict keys are torchvision's.

    It takes images (C, H, W), three channels by default, as ``manymask.modeling.preprocessing`` makes them. In training
    it takes targets too, with ``boxes`` (N, 4) in pixels of the image, ``labels`` (N,), ``layers`` (L, H', W') of any
    resolution, and where there are pixels that are no background ``ignored`` (H', W'); it returns the losses by name.
    Else it returns the ``Detections`` of each image, with mask probabilities (N, 28, 28), which ``paste_masks`` turns
    into runs. ``manymask.modeling.build`` puts the parts together.
    """

    def __init__(
        self, backbone: PyramidBackbone | BackboneWithFPN, rpn: CrowdRegionProposalNetwork, roi_heads: CrowdRoIHeads
    ) -> None:
        super().__init__(backbone, rpn, roi_heads, PadTransform())
