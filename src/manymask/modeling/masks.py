"""From the mask head's small masks to runs, inside each box."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from manymask.core import Instances, RunLengths, encode_crops


def paste_masks(
    probabilities: Float32[Tensor, "instances bins bins"],
    boxes: Float32[Tensor, "instances 4"],
    size: tuple[int, int],
    threshold: float = 0.5,
) -> RunLengths:
    """Enlarge each small mask to its box and turn it into runs of the image; no full-size mask is made.

    The pixels are those of torchvision's ``paste_masks_in_image`` followed by ``> threshold``.

    Args:
        probabilities: The mask head's output for each instance's own class, in [0, 1].
        boxes: x1 y1 x2 y2 in pixels of the image.
        size: (height, width) of the image.
        threshold: Probability above which a pixel belongs to the instance.
    """
    if len(boxes) == 0:
        return RunLengths.empty(size)
    padded, scale = expand_masks(probabilities[:, None].float().cpu(), padding=1)
    corners = expand_boxes(boxes.float().cpu(), scale).to(torch.int64)
    return encode_crops(_paste_crops(padded, corners.tolist(), size, threshold), size)


def _paste_crops(
    padded: Tensor, corners: list[list[int]], size: tuple[int, int], threshold: float
) -> Iterator[tuple[int, int, np.ndarray]]:
    """For each instance the corner of its box's visible part, and the mask there."""
    height, width = size
    for mask, (x1, y1, x2, y2) in zip(padded, corners, strict=True):
        # Boxes end at their last pixel here, as in torchvision's paste_mask_in_image.
        shape = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        left, right = max(x1, 0), min(x2 + 1, width)
        top, bottom = max(y1, 0), min(y2 + 1, height)
        enlarged = F.interpolate(mask[None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        crop = enlarged[top - y1 : max(bottom - y1, 0), left - x1 : max(right - x1, 0)] > threshold
        yield left, top, crop.numpy()


def make_instances(output: dict[str, Tensor], size: tuple[int, int], mask_threshold: float) -> Instances:
    """The instances of one image, by falling score.

    Args:
        output: What ``MaskRCNN`` returns for the image.
        size: (height, width) of the image.
        mask_threshold: Probability above which a pixel belongs to a mask.
    """
    runs = paste_masks(output["mask_probabilities"], output["boxes"].float(), size, mask_threshold)
    return Instances.from_runs(
        runs,
        output["labels"].cpu().numpy(),
        scores=output["scores"].float().cpu().numpy(),
        boxes=output["boxes"].float().cpu().numpy(),
    )
