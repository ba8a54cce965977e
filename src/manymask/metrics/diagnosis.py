"""Why a score is 0, undefined or not to be trusted, in words."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from manymask.core import Category
from manymask.metrics.matching import ScoredImage, keep_own_class

FEW_UNITS = 20
"""Below so many images or groups a bootstrap interval is often too short (Hesterberg 2015)."""


_FEW_HOLDERS = 5
"""Images that hold a class, below which its interval says little."""

_FEW_HIT = 0.02
"""Share of the instances that chance may hit with masks of other images."""


def explain_scores(
    images: Sequence[ScoredImage],
    categories: Sequence[Category],
    *,
    has_intervals: bool = True,
    groups: Mapping[str, str] | None = None,
) -> list[str]:
    """Sentences on what a reader of the scores must know; none where all is well."""
    if not any((~image.truth.iscrowd).any() for image in images):
        return ["The data have no instances, so AP and recall are undefined."]
    notes = [
        *_explain_truth(images, categories, has_intervals),
        *_explain_predictions(images),
        *_explain_cap(images),
        *_explain_boxes(images),
        *_explain_classes(images, categories),
    ]
    return notes + _explain_intervals(images, groups) if has_intervals else notes


def _explain_truth(images: Sequence[ScoredImage], categories: Sequence[Category], has_intervals: bool) -> list[str]:
    labels = np.concatenate([image.truth.labels[~image.truth.iscrowd] for image in images])
    counts = np.bincount(labels, minlength=len(categories) + 1)[1:]
    absent = [category.name for category, count in zip(categories, counts, strict=True) if count == 0]
    notes = []
    if absent:
        notes.append(
            f"No instances of {', '.join(absent)} in the data: their AP is undefined and left out of the means."
        )
    holders = [np.unique(image.truth.labels[~image.truth.iscrowd]) for image in images]
    num_images = np.bincount(np.concatenate(holders), minlength=len(categories) + 1)[1:]
    few = min(_FEW_HOLDERS, len(images))
    rare = [f"{c.name} ({n})" for c, n in zip(categories, num_images.tolist(), strict=True) if 0 < n < few]
    if has_intervals and rare:
        notes.append(f"Classes that few images hold have no interval, or a rough one: {', '.join(rare)}.")
    return notes


def _explain_predictions(images: Sequence[ScoredImage]) -> list[str]:
    scores = np.concatenate([image.predictions.scores for image in images])
    if not len(scores):
        return [
            "There are no predictions at all, so AP, recall, F1, PQ and AJI are 0. From a model: set min_score "
            "lower, or train longer."
        ]
    if sum(image.num_shown for image in images) == 0:
        return [
            f"No prediction reaches the score threshold (the highest score is {scores.max():.3f}): F1, PQ, AJI and "
            "AP(t) count none; set score_threshold lower, or train the model longer."
        ]
    if len(scores) > 1 and scores.min() == scores.max():
        return ["All scores are equal, so AP has nothing to rank by; go by AP(t), F1 and PQ."]
    return []


def _explain_cap(images: Sequence[ScoredImage]) -> list[str]:
    limited = [(image, image.max_detections) for image in images if image.max_detections is not None]
    counts = {image.image_id: int((~image.truth.iscrowd).sum()) for image, _ in limited}
    over = [(image, cap) for image, cap in limited if counts[image.image_id] > cap]
    full = [(image, cap) for image, cap in limited if image.num_shown == cap]
    cut = [(image, cap) for image, cap in limited if image.num_found > cap]
    notes = []
    if over:
        fullest, cap = max(over, key=lambda each: counts[each[0].image_id])
        notes.append(
            f"In {len(over)} of {len(images)} images there are more instances than the cap of {cap} detections "
            f"({fullest.name}: {counts[fullest.image_id]}), so the rest cannot be found; set "
            "detections_per_image higher."
        )
    if full and not over:
        image, cap = full[0]
        notes.append(
            f"In {len(full)} of {len(images)} images there are as many sure detections as the cap of {cap} allows "
            f"({image.name}), and more instances may be there; set detections_per_image higher."
        )
    if cut:
        notes.append(
            f"In {len(cut)} of {len(images)} images there are more predictions than the cap of {cut[0][1]}; those of "
            "lowest score were left out."
        )
    return notes


def _explain_boxes(images: Sequence[ScoredImage]) -> list[str]:
    """Compare the predictions' boxes with those of their own masks."""
    boxes = np.concatenate([image.predictions.boxes for image in images]).astype(np.float64)
    own = np.concatenate([image.mask_boxes for image in images]).astype(np.float64)
    has_mask = (own[:, 2] > own[:, 0]) & (own[:, 3] > own[:, 1])
    boxes, own = boxes[has_mask], own[has_mask]
    if len(boxes) == 0 or _agree(boxes, own):
        return []
    size = boxes[:, 2:] - boxes[:, :2]
    readings = {
        "x1 y1 x2 y2 where COCO wants x y width height": np.concatenate([boxes[:, :2], size], axis=1),
        "y x height width where COCO wants x y width height": boxes[:, [1, 0, 3, 2]],
        "y1 x1 y2 x2 where COCO wants x y width height": np.concatenate([boxes[:, 1::-1], size[:, ::-1]], axis=1),
        "centre, width and height where COCO wants the corner": boxes - np.tile(size / 2, 2),
    }
    for reading, values in readings.items():
        if _agree(values, own):
            return [f"The boxes do not fit their own masks; they look as if written as {reading}. Box AP is void."]
    if boxes.max() <= 1 and _agree(_undo_division(images)[has_mask], own):
        return ["The boxes do not fit their own masks; they look divided by the image's size. Box AP is void."]
    scale = np.median((own[:, 2:] - own[:, :2]) / np.maximum(size, 1e-12))
    if _agree(boxes * scale, own):
        return [f"The boxes do not fit their own masks; they look scaled by 1 / {scale:.4g}. Box AP is void."]
    return ["The boxes do not fit their own masks, in no order or scale that is known. Box AP is void."]


def _undo_division(images: Sequence[ScoredImage]) -> Float64[np.ndarray, "boxes 4"]:
    """The boxes times the width and height that the masks' right and lower sides ask for, image by image."""
    parts = [np.zeros((0, 4))]
    for image in images:
        boxes = image.predictions.boxes.astype(np.float64)
        factors = image.mask_boxes[:, 2:] / np.maximum(boxes[:, 2:], 1e-12)
        parts.append(boxes * np.tile(np.median(factors, axis=0), 2) if len(boxes) else boxes)
    return np.concatenate(parts)


def _agree(boxes: Float64[np.ndarray, "boxes 4"], others: Float64[np.ndarray, "boxes 4"]) -> bool:
    """Whether most boxes have an IoU of 0.5 or more with the other of the same row."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, others)]
    return bool(np.median(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12)) >= 0.5)


def _explain_classes(images: Sequence[ScoredImage], categories: Sequence[Category]) -> list[str]:
    """Say so where nothing is found: because of the classes, or because nothing lies where it should."""
    pairs = [image.mask_pairs.select(~image.truth.iscrowd[image.mask_pairs.instance]) for image in images]
    any_class = [own.iou.max(initial=0) for own in pairs]
    if not sum(len(image.predictions) for image in images):
        return []
    num_instances = sum(int((~image.truth.iscrowd).sum()) for image in images)
    num_hit = sum(len(np.unique(own.instance[own.iou >= 0.5])) for own in pairs)
    if num_hit < _FEW_HIT * num_instances:
        return [
            f"Only {num_hit} of {num_instances} instances have a prediction with an IoU of 0.5 (the best has "
            f"{max(any_class):.2f}): either the model has learnt too little, or the masks are not of these very "
            "images, in their orientation and size."
        ]
    same = [
        keep_own_class(own, i.truth, i.predictions).iou.max(initial=0) for own, i in zip(pairs, images, strict=True)
    ]
    if max(same) >= 0.5:
        return []
    names = ", ".join(category.name for category in categories)
    return [f"Predictions lie on instances, but never on one of their own class ({names}): are the classes mixed up?"]


def _explain_intervals(images: Sequence[ScoredImage], groups: Mapping[str, str] | None) -> list[str]:
    num_units = len(images) if groups is None else len({groups[image.name] for image in images})
    unit = "image" if groups is None else "group"
    if num_units == 1:
        return [
            f"One {unit} only: how much scores vary from {unit} to {unit} cannot be told, so there are no intervals."
        ]
    if num_units < FEW_UNITS:
        return [f"Only {num_units} {unit}s: the intervals are rough, and often too short."]
    return []
