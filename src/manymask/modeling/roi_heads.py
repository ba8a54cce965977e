"""The box and mask heads, with a mask branch that holds no full-size masks."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, generalized_box_iou_loss
from torchvision.ops.poolers import initLevelMapper  # pyright: ignore[reportPrivateImportUsage]

from manymask.core import find_layers
from manymask.modeling.dense_head import DenseHead
from manymask.modeling.detections import Detections
from manymask.modeling.pooling import pool_boxes
from manymask.modeling.rpn import Float32BoxCoder
from manymask.modeling.targets import find_ignored, sample_mask_targets

# Detections that go through the mask head at once: 256 x 256 channels x 14 x 14 are 51 MB in float32.
DETECTIONS_AT_ONCE = 256
# Proposals of an image that go through the box head at once in use: 1,000 x 256 channels x 7 x 7 are 50 MB.
PROPOSALS_AT_ONCE = 1000
# Entries of the (instances x proposals) IoU that are looked at at once.
IOUS_AT_ONCE = 1 << 20
# Of the generalised IoU, whose sum is divided by all samples, as mmdetection's faster_rcnn_r50_fpn_giou_1x has it: with
# a quarter of them objects (roi_positives) each counts 2.5 times, where DETR (arXiv 2005.12872) takes 2.
GIOU_WEIGHT = 10.0
# Of the losses of the second box stage, as mmdetection's cascade_rcnn has it.
SECOND_STAGE_WEIGHT = 0.5


class LevelPooler(MultiScaleRoIAlign):
    """torchvision's pooling of each box from one level, with the levels' strides given.

    torchvision guesses them from the first image, padding left out: a 33-pixel image that was padded to 64 makes it
    take the first level for one of stride 2, and it keeps that for all others.

    Args:
        output_size: Bins a side.
        sampling_ratio: Samples a side of each bin.
        first_stride: Stride of the finest of the four levels.
        canonical_scale: Side of the boxes, in pixels, that are pooled from the level of stride 16.
    """

    def __init__(self, output_size: int, sampling_ratio: int, first_stride: int, canonical_scale: int = 224) -> None:
        super().__init__(["0", "1", "2", "3"], output_size, sampling_ratio, canonical_scale=canonical_scale)
        self.scales = [1 / (first_stride * 2**level) for level in range(len(self.featmap_names))]
        self.map_levels = initLevelMapper(
            int(-math.log2(self.scales[0])),
            int(-math.log2(self.scales[-1])),
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Float[Tensor, "boxes channels bins bins"]:
        """The features of each box, from its level."""
        if x[self.featmap_names[0]].is_cuda:
            return super().forward(x, boxes, image_shapes)
        levels = self.map_levels(boxes)
        images = torch.cat([torch.full_like(own[:, :1], index) for index, own in enumerate(boxes)])
        located = torch.cat([images, torch.cat(boxes)], dim=1)
        members = [torch.nonzero(levels == level).flatten() for level in range(len(self.featmap_names))]
        pooled = [
            pool_boxes(x[name], located[own], self.output_size[0], scale, self.sampling_ratio)
            for name, own, scale in zip(self.featmap_names, members, self.scales, strict=True)
        ]
        return torch.cat(pooled)[torch.cat(members).argsort()]


class CrowdRoIHeads(RoIHeads):
    """torchvision's RoI heads with ground-truth masks as layers and predicted masks as 28 x 28 probabilities.

    Args:
        *arguments: torchvision's.
        is_exact: Whether boxes are placed on features and layers exactly (``mask_alignment``). Feature cells of strides
            4 to 32 have their centres on pixels 0, 4, 8 ..., whose coordinates in a box are 0.5, 4.5, 8.5;
            torchvision's pooling takes them for 0, 4, 8, and its mask targets are half a pixel off likewise. That holds
            for bodies whose strides come from odd kernels, as ResNet's; cells of patches (ConvNeXt, Swin) lie up to
            half a stride further on, which training has to learn. Boxes below 4 pixels are pooled as if of 4.
        box_loss: ``smooth_l1`` or ``giou``.
        mask_samples: How many sampled objects an image the mask's loss is computed on; None for all.
        second: The second box stage of Cascade R-CNN (arXiv 1712.00726), which gets the boxes that the first has
            refined, and whose thresholds and weights of deltas are for closer ones; only its box head is used.
        dense_head: A head of the finest features, which is trained beside the others.
        **settings: torchvision's.
    """

    def __init__(
        self,
        *arguments: Any,
        is_exact: bool,
        box_loss: str = "smooth_l1",
        mask_samples: int | None = None,
        second: "CrowdRoIHeads | None" = None,
        dense_head: DenseHead | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.is_exact, self.box_loss, self.mask_samples = is_exact, box_loss, mask_samples
        self.second, self.dense_head = second, dense_head
        self.box_coder = Float32BoxCoder(self.box_coder.weights)

    def _shift(self, boxes: list[Tensor]) -> list[Tensor]:
        """Boxes as indices of pixels, which pooling reads them as."""
        return [b - 0.5 for b in boxes] if self.is_exact else boxes

    def check_targets(self, targets: list[dict[str, Tensor]] | None) -> None:
        """Refuse targets without boxes, labels or layers."""
        for target in targets or [{}]:
            if missing := {"boxes", "labels", "layers"} - target.keys():
                raise ValueError(f"expected targets with boxes, labels and layers, {sorted(missing)} missing")

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As torchvision's, over chunks of proposals, so that memory does not grow as instances x proposals."""
        rows, labels = [], []
        for image_proposals, boxes, box_labels in zip(proposals, gt_boxes, gt_labels, strict=True):
            at_once = max(IOUS_AT_ONCE // max(len(boxes), 1), 1)
            parts = [
                super(CrowdRoIHeads, self).assign_targets_to_proposals([chunk], [boxes], [box_labels])
                for chunk in image_proposals.split(at_once)
            ]
            rows.append(torch.cat([part[0][0] for part in parts]))
            labels.append(torch.cat([part[1][0] for part in parts]))
        return rows, labels

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Losses in training, else detections."""
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
        targets = targets or []
        proposals = self._drop_ignored(proposals, image_shapes, targets)
        proposals, rows, labels, _ = self.select_training_samples(proposals, targets)
        outputs = self._run_box_head(features, proposals, image_shapes)
        own = self._compute_box_losses(*outputs, proposals, rows, labels, targets)
        second = {} if self.second is None else self._train_second(features, *outputs, proposals, image_shapes, targets)
        is_object = [image_labels > 0 for image_labels in labels]
        chosen = [torch.nonzero(keep).flatten() for keep in is_object]
        if self.mask_samples is not None:
            # In any order: the sampler gives them by their places among the proposals, the best ones first.
            chosen = [own[torch.randperm(len(own), device=own.device)[: self.mask_samples]] for own in chosen]
        proposals = [boxes[own] for boxes, own in zip(proposals, chosen, strict=True)]
        rows = [image_rows[own] for image_rows, own in zip(rows, chosen, strict=True)]
        loss_mask = self._compute_mask_loss(features, proposals, rows, image_shapes, targets)
        losses = {"loss_classifier": own[0], "loss_box_reg": own[1], "loss_mask": loss_mask, **second}
        if self.dense_head is not None:
            losses["loss_dense"] = self.dense_head.compute_loss(features["0"], image_shapes, targets)
        return [], losses

    def _drop_ignored(
        self, proposals: list[Tensor], image_shapes: list[tuple[int, int]], targets: list[dict[str, Tensor]]
    ) -> list[Tensor]:
        """The proposals without those that would be background where half of them is to be ignored."""
        kept = []
        for own, size, target in zip(proposals, image_shapes, targets, strict=True):
            if "ignored" in target:
                _, labels = self.assign_targets_to_proposals([own], [target["boxes"].to(own.dtype)], [target["labels"]])
                own = own[(labels[0] > 0) | ~find_ignored(target["ignored"], own, size)]
            kept.append(own)
        return kept

    def _compute_box_losses(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        rows: list[Tensor],
        labels: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """The losses of the classes and of the boxes of those proposals that are objects."""
        # The box of zeros is for proposals of an image without any.
        matched = [F.pad(target["boxes"].float(), (0, 0, 0, 1))[own] for target, own in zip(targets, rows, strict=True)]
        if self.box_loss == "smooth_l1":
            return fastrcnn_loss(class_logits, box_regression, labels, self.box_coder.encode(matched, proposals))
        classes = torch.cat(labels)
        objects = torch.nonzero(classes > 0).flatten()
        boxes = self.box_coder.decode(box_regression, proposals)[objects, classes[objects]]
        loss = generalized_box_iou_loss(boxes, torch.cat(matched)[objects], reduction="sum")
        return F.cross_entropy(class_logits, classes), GIOU_WEIGHT * loss / len(classes)

    def _train_second(
        self,
        features: dict[str, Tensor],
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The losses of the second stage, on all that the first made of its samples."""
        second: Any = self.second
        refined = self._refine(class_logits.detach(), box_regression.detach(), proposals, image_shapes)
        refined = second._drop_ignored(refined, image_shapes, targets)
        boxes, classes = ([target[name] for target in targets] for name in ("boxes", "labels"))
        rows, labels = second.assign_targets_to_proposals(refined, [own.float() for own in boxes], classes)
        outputs = second._run_box_head(features, refined, image_shapes)
        losses = second._compute_box_losses(*outputs, refined, rows, labels, targets)
        names = ("loss_classifier_2", "loss_box_reg_2")
        return {name: SECOND_STAGE_WEIGHT * loss for name, loss in zip(names, losses, strict=True)}

    def _refine(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Tensor]:
        """The box that its likeliest class gives each proposal."""
        likeliest = class_logits[:, 1:].argmax(dim=1) + 1
        boxes = self.box_coder.decode(box_regression, proposals)[torch.arange(len(likeliest)), likeliest]
        parts = boxes.split([len(own) for own in proposals])
        return [clip_boxes_to_image(own, shape) for own, shape in zip(parts, image_shapes, strict=True)]

    @torch.no_grad()
    def copy_first_stage(self) -> None:
        """Make the second stage a copy of the first: of a box it makes what the first would make."""
        second: Any = self.second
        for name in ("box_head", "box_predictor"):
            second.get_submodule(name).load_state_dict(self.get_submodule(name).state_dict())
        # Its coder divides by other weights.
        factor = torch.tensor(second.box_coder.weights) / torch.tensor(self.box_coder.weights)
        deltas = second.box_predictor.bbox_pred
        deltas.weight *= factor.repeat(len(deltas.weight) // 4)[:, None]
        deltas.bias *= factor.repeat(len(deltas.bias) // 4)

    def _run_box_head(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas, in float32 also under autocast."""
        if not self.training and len(proposals) == 1 and len(proposals[0]) > PROPOSALS_AT_ONCE:
            # A crowded tile has thousands, whose features would take more memory than the rest of the network.
            chunks = [[chunk] for chunk in proposals[0].split(PROPOSALS_AT_ONCE)]
            parts = [self._run_box_head(features, chunk, image_shapes) for chunk in chunks]
            class_logits, box_regression = (torch.cat(part) for part in zip(*parts, strict=True))
            return class_logits, box_regression
        features_of_boxes = self.box_roi_pool(features, self._shift(proposals), image_shapes)
        class_logits, box_regression = self.box_predictor(self.box_head(features_of_boxes))
        return class_logits.float(), box_regression.float()

    def _run_mask_head(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Mask logits (boxes, classes, 28, 28)."""
        return self.mask_predictor(self.mask_head(self.mask_roi_pool(features, self._shift(boxes), image_shapes)))  # pyright: ignore[reportOptionalCall]

    def _compute_mask_loss(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        rows: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """Mean binary cross-entropy of the true class's mask (Mask R-CNN, section 3)."""
        logits = self._run_mask_head(features, proposals, image_shapes)
        if logits.numel() == 0:
            return logits.sum() * 0  # a batch without objects still needs a loss that every rank can differentiate
        labels = torch.cat([target["labels"][r] for target, r in zip(targets, rows, strict=True)])
        num_bins = logits.shape[-1]
        mask_targets = [
            sample_mask_targets(
                target["layers"].as_subclass(Tensor),
                find_layers(target["layers"], len(target["boxes"])),
                r,
                map_boxes(boxes.float(), shape, tuple(target["layers"].shape[-2:]), is_exact=self.is_exact),
                num_bins,
            )
            for target, r, boxes, shape in zip(targets, rows, proposals, image_shapes, strict=True)
        ]
        chosen = logits[torch.arange(len(labels), device=labels.device), labels]
        return F.binary_cross_entropy_with_logits(chosen.float(), torch.cat(mask_targets))

    def _detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[Detections]:
        class_logits, box_regression = self._run_box_head(features, proposals, image_shapes)
        last = self
        if self.second is not None:
            last, proposals = self.second, self._refine(class_logits, box_regression, proposals, image_shapes)
            logits, box_regression = last._run_box_head(features, proposals, image_shapes)
            class_logits = ((class_logits.softmax(dim=1) + logits.softmax(dim=1)) / 2).log()  # softmax gives the mean
        detections = last.postprocess_detections(class_logits, box_regression, proposals, image_shapes)
        results = []
        for index, (boxes, scores, labels) in enumerate(zip(*detections, strict=True)):
            of_image = {name: feature[index : index + 1] for name, feature in features.items()}
            probabilities = []
            for chunk, own in zip(boxes.split(DETECTIONS_AT_ONCE), labels.split(DETECTIONS_AT_ONCE), strict=True):
                pooled = self.mask_roi_pool(of_image, self._shift([chunk]), [image_shapes[index]])  # pyright: ignore[reportOptionalCall]
                probabilities.append(self._predict_masks(self.mask_head(pooled), own).float().sigmoid())  # pyright: ignore[reportOptionalCall]
            results.append(Detections(boxes, labels, scores, torch.cat(probabilities)))
        return results

    def _predict_masks(
        self, features: Float[Tensor, "boxes channels bins bins"], labels: Int64[Tensor, " boxes"]
    ) -> Float[Tensor, "boxes new_bins new_bins"]:
        """What the mask predictor gives for each box's own class, which alone is computed.

        Its deconvolution has a stride as large as its kernel, so that each cell becomes 2 x 2 others by itself: a
        product of matrices.
        """
        if not isinstance(self.mask_predictor, MaskRCNNPredictor):  # another library has computed it with the head
            return features[torch.arange(len(labels)), labels]
        parts: Any = self.mask_predictor
        deconvolution, classifier = parts.conv5_mask, parts.mask_fcn_logits
        (num_boxes, channels, bins), channels_out = features.shape[:3], deconvolution.out_channels
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
        weight = deconvolution.weight.permute(0, 2, 3, 1).reshape(channels, -1)
        hidden = F.relu(torch.addmm(deconvolution.bias.repeat(4), cells, weight), inplace=True)
        own = classifier.weight[labels, :, 0], classifier.bias[labels, None, None]
        logits = hidden.view(num_boxes, bins * bins * 4, channels_out) @ own[0] + own[1]
        logits = logits.view(num_boxes, bins, bins, 2, 2)  # row, column, row within the cell, column within the cell
        return logits.permute(0, 1, 3, 2, 4).reshape(num_boxes, 2 * bins, 2 * bins)


def map_boxes(
    boxes: Float32[Tensor, "boxes 4"], from_size: tuple[int, ...], to_size: tuple[int, ...], *, is_exact: bool = False
) -> Float32[Tensor, "boxes 4"]:
    """Carry sampling boxes from a resized image to the original, keeping pixel centres on pixel centres.

    Bilinear resizing takes pixel i of the small grid to (i + 0.5) * scale - 0.5 of the large one, and ``roi_align``
    without alignment reads coordinates as pixel indices; so sampling the original inside the mapped box sees what
    sampling the resized mask inside the box would. Exactly (``is_exact``), edge x lies at index x - 0.5 in both.

    Args:
        boxes: x1 y1 x2 y2 in the resized image.
        from_size: (height, width) of the resized image.
        to_size: (height, width) of the original image.
        is_exact: Whether edges are carried as edges.
    """
    scale = boxes.new_tensor([to_size[1] / from_size[1], to_size[0] / from_size[0]]).repeat(2)
    if is_exact:
        return boxes * scale - 0.5
    return boxes if tuple(from_size) == tuple(to_size) else (boxes + 0.5) * scale - 0.5
