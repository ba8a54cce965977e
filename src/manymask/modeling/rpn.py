"""The region proposal network, whose anchors are matched without a full matrix of IoU."""

import math
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from manymask.modeling.anchors import AnchorGrid, match_anchors
from manymask.modeling.targets import find_ignored

# So many proposals are taken in use where none is likely to be an object.
_FALLBACK_PROPOSALS = 100


class Float32AnchorGenerator(AnchorGenerator):
    """torchvision's anchors in float32 also under autocast, where bfloat16 would round coordinates to 4 in 1,000."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Move the anchors around the origin to the features' device, but leave their type."""
        super().set_cell_anchors(torch.float32, device)


class Float32BoxCoder(BoxCoder):
    """torchvision's box arithmetic in float32 also under autocast, where it would take the type of the deltas."""

    def decode(self, rel_codes: Tensor, boxes: list[Tensor]) -> Tensor:
        """Boxes of the deltas ``rel_codes`` from ``boxes``."""
        return super().decode(rel_codes.float(), boxes)


class CrowdRegionProposalNetwork(RegionProposalNetwork):
    """torchvision's RPN with anchor matching by windows; same parameters, same losses.

    Args:
        *arguments: torchvision's.
        least_objectness: Probability below which a proposal is dropped in use. What is found then depends on what lies
            there, where a fixed number of proposals gives each object of a larger or fuller image fewer of them.
        pixels_per_proposal: In use, ``pre_nms_top_n`` and ``post_nms_top_n`` are at least one in so many pixels.
        **settings: torchvision's.
    """

    def __init__(
        self,
        *arguments: Any,
        least_objectness: float = 0.0,
        pixels_per_proposal: float = math.inf,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.box_coder = Float32BoxCoder(self.box_coder.weights)
        self.least_objectness, self.pixels_per_proposal = least_objectness, pixels_per_proposal

    def pre_nms_top_n(self) -> int:
        """The most proposals of a level before suppression."""
        return max(super().pre_nms_top_n(), self._count_by_area())

    def post_nms_top_n(self) -> int:
        """The most proposals after suppression."""
        return max(super().post_nms_top_n(), self._count_by_area())

    def _count_by_area(self) -> int:
        return 0 if self.training else int(math.prod(self._input_size) / self.pixels_per_proposal)

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """As torchvision's; remembers the sizes that the anchors' grids follow from."""
        self._input_size, self._image_sizes = images.tensors.shape[-2:], images.image_sizes
        self._feature_sizes = [tuple(feature.shape[-2:]) for feature in features.values()]
        if self.training:
            return super().forward(images, features, targets)
        maps = list(features.values())
        objectness, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)[0].split([level[0].numel() for level in objectness])
        levels = [self._choose_proposals(*level) for level in zip(objectness, deltas, anchors, strict=True)]
        scores, boxes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        counts = [level.shape[1] for level, _ in levels]
        return self.filter_proposals(boxes, scores, images.image_sizes, counts)[0], {}

    def _choose_proposals(
        self,
        objectness: Float[Tensor, "images shapes rows columns"],
        deltas: Float[Tensor, "images four_shapes rows columns"],
        anchors: Float32[Tensor, "anchors 4"],
    ) -> tuple[Float[Tensor, "images chosen"], Float32[Tensor, "images chosen 4"]]:
        """The anchors of a level that score highest, and their boxes; torchvision decodes all before it chooses."""
        num_images, num_shapes = objectness.shape[:2]
        scores = objectness.permute(0, 2, 3, 1).flatten(1)  # in the order of the anchors
        scores, chosen = scores.topk(min(self.pre_nms_top_n(), scores.shape[1]), dim=1)
        image = torch.arange(num_images, device=chosen.device)[:, None]
        by_shape = deltas.unflatten(1, (num_shapes, 4)).flatten(3)
        own = by_shape[image, chosen % num_shapes, :, chosen // num_shapes]
        boxes = self.box_coder.decode_single(own.flatten(0, 1).float(), anchors[chosen].flatten(0, 1))
        return scores, boxes.view(num_images, -1, 4)

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, with scores in float32: in bfloat16 most of the good ones are equal, and NMS picks any."""
        objectness, self.score_thresh = objectness.float(), 0.0
        if not self.training and self.least_objectness:
            scores, self.score_thresh = objectness.sigmoid(), torch.finfo(torch.float32).tiny
            objectness = objectness.where(scores >= self._choose_thresholds(scores), -math.inf)
        return super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)

    def _choose_thresholds(self, scores: Float32[Tensor, "images proposals"]) -> Float32[Tensor, "images 1"]:
        """The least objectness; in an image where no proposal has it, as after few steps, that of the best few."""
        best = scores.topk(min(_FALLBACK_PROPOSALS, scores.shape[1]), dim=1).values
        return best[:, -1:].where(best[:, :1] < self.least_objectness, self.least_objectness)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label every anchor 1 (object), 0 (background) or -1 (neither) and give it a box to regress to.

        What would be background where half of it is to be ignored is neither.
        """
        grids = self._make_grids()
        labels, matched_boxes = [], []
        for image_anchors, target in zip(anchors, targets, strict=True):
            boxes = target["boxes"].to(image_anchors.dtype)
            if len(boxes) == 0:
                labels.append(image_anchors.new_zeros(len(image_anchors)))
                matched_boxes.append(torch.zeros_like(image_anchors))
                continue
            matcher = self.proposal_matcher
            matches = match_anchors(boxes, grids, matcher.high_threshold, matcher.low_threshold)
            labels.append(torch.where(matches >= 0, 1.0, torch.where(matches == -1, 0.0, -1.0)))
            matched_boxes.append(boxes[matches.clamp(min=0)])
        for own, image_anchors, target, size in zip(labels, anchors, targets, self._image_sizes, strict=True):
            if "ignored" in target:
                own[(own == 0) & find_ignored(target["ignored"], image_anchors, size)] = -1
        return labels, matched_boxes

    def _make_grids(self) -> list[AnchorGrid]:
        grids, first = [], 0
        for (rows, columns), shapes in zip(self._feature_sizes, self.anchor_generator.cell_anchors, strict=True):
            stride = (self._input_size[0] // rows, self._input_size[1] // columns)
            grids.append(AnchorGrid(shapes, rows, columns, stride, first))
            first += rows * columns * len(shapes)
        return grids
