"""What a network finds in an image, and from its small masks to runs, inside each box."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from manymask.core import Instances, RunLengths, encode_crops, intersect_runs
from manymask.core.merging import keep_better
from manymask.plan import Plan


@dataclass(frozen=True, eq=False)
class Detections:
    """What a network finds in one image, by falling score; tensors on any device.

    Attributes:
        boxes: x1 y1 x2 y2 in pixels of the image that the network was given.
        labels: The class of each, from 1.
        scores: In [0, 1].
        mask_probabilities: A mask of each, over its box.
    """

    boxes: Float32[Tensor, "instances 4"]
    labels: Int64[Tensor, " instances"]
    scores: Float32[Tensor, " instances"]
    mask_probabilities: Float32[Tensor, "instances bins bins"]


@dataclass(frozen=True)
class Postprocessing:
    """How detections become instances; can be written as JSON. The attributes are the plan's of these names."""

    mask_threshold: float
    mask_alignment: str
    suppression: str
    nms: float
    max_detections: int
    min_score: float
    shown_score: float

    @classmethod
    def of(cls, plan: Plan) -> "Postprocessing":
        """That of a plan."""
        return cls(*(getattr(plan, field.name) for field in fields(cls)))


def paste_masks(
    probabilities: Float32[Tensor, "instances bins bins"],
    boxes: Float32[Tensor, "instances 4"],
    size: tuple[int, int],
    threshold: float = 0.5,
    *,
    is_exact: bool = False,
) -> RunLengths:
    """Enlarge each small mask to its box and turn it into runs of the image; no full-size mask is made.

    The pixels are those of torchvision's ``paste_masks_in_image`` followed by ``> threshold``, which moves boxes to
    whole pixels; exactly (``is_exact``), the mask is read bilinearly at each pixel's centre, with zeros outside the
    box.

    Args:
        probabilities: The mask head's output for each instance's own class, in [0, 1].
        boxes: x1 y1 x2 y2 in pixels of the image.
        size: (height, width) of the image.
        threshold: Probability above which a pixel belongs to the instance.
        is_exact: Whether boxes keep their fractions of a pixel.
    """
    if len(boxes) == 0:
        return RunLengths.empty(size)
    if is_exact:
        return encode_crops(_read_crops(probabilities.float().cpu(), boxes.float().cpu(), size, threshold), size)
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


def _read_crops(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> Iterator[tuple[int, int, np.ndarray]]:
    """The same by reading each mask at the centres of the pixels in its box."""
    limits = torch.tensor([size[1], size[0]]).repeat(2)
    # Pixel i has its centre at i + 0.5.
    corners = (boxes - 0.5).ceil().long().clamp(min=torch.zeros(4, dtype=torch.long), max=limits)
    places = zip(masks.numpy(), boxes.tolist(), corners.tolist(), strict=True)
    for mask, (x1, y1, x2, y2), (left, top, right, bottom) in places:
        across = _weigh_bins(left, right, x1, x2, mask.shape[1])
        down = _weigh_bins(top, bottom, y1, y2, mask.shape[0])
        yield left, top, down @ mask @ across.T > threshold


def _weigh_bins(first: int, last: int, start: float, end: float, num_bins: int) -> Float32[np.ndarray, "pixels bins"]:
    """The share of each bin of [start, end] in the value at the centre of each pixel from first to last.

    In NumPy, whose calls on so few numbers take a tenth of torch's time.
    """
    pixels, bins = np.arange(first, last, dtype=np.float32), np.arange(num_bins, dtype=np.float32)
    place = (pixels + 0.5 - start) / max(end - start, 1e-6) * num_bins - 0.5
    return np.maximum(1 - np.abs(place[:, None] - bins), 0)


def suppress_masks(
    runs: RunLengths, labels: Int64[np.ndarray, " instances"], threshold: float
) -> Int64[np.ndarray, " kept"]:
    """The rows that are left when of two masks of a class that overlap more than ``threshold`` (IoU) the first stays.

    Args:
        runs: The masks, best first.
        labels: The class of each.
        threshold: In (0, 1].
    """
    pairs = intersect_runs(runs, runs)
    is_rival = (pairs.first < pairs.second) & (labels[pairs.first] == labels[pairs.second])
    first, second = pairs.first[is_rival], pairs.second[is_rival]
    areas = runs.areas
    iou = pairs.intersection[is_rival] / (areas[first] + areas[second] - pairs.intersection[is_rival])
    return keep_better(first[iou > threshold], second[iou > threshold], len(runs))


def make_instances(detections: Detections, size: tuple[int, int], postprocessing: Postprocessing) -> Instances:
    """The instances of one image, by falling score.

    Args:
        detections: What was found, in pixels of the image.
        size: (height, width) of the image.
        postprocessing: How masks are pasted and suppressed.
    """
    is_exact = postprocessing.mask_alignment == "exact"
    boxes = detections.boxes
    runs = paste_masks(detections.mask_probabilities, boxes, size, postprocessing.mask_threshold, is_exact=is_exact)
    labels, scores = detections.labels.cpu().numpy(), detections.scores.cpu().numpy()
    instances = Instances.from_runs(runs, labels, scores=scores, boxes=boxes.cpu().numpy())
    if postprocessing.suppression == "mask":
        instances = instances[suppress_masks(runs, labels, postprocessing.nms)[: postprocessing.max_detections]]
    return instances
