"""COCO's average precision, of all images or of images drawn again (bootstrap).

The matching of an image does not depend on which other images are there, so it is done once; a draw weights images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from manymask.metrics.matching import ScoredImage, keep_own_class, match_greedily

RECALLS = np.linspace(0, 1, 101)
"""Recall levels at which COCO reads the precision."""

ALL_AREAS = (0.0, 1e10)
"""Area range that holds every instance, in square pixels."""

KINDS = ("mask", "box")
"""What AP is computed of."""


@dataclass(frozen=True, eq=False)
class RankedPredictions:
    """All predictions of one class by falling score, with what became of each at each IoU threshold.

    Attributes:
        image: Row of its image.
        scores: Confidence.
        is_match: Whether it found an instance that counts.
        is_ignored: Whether it neither helps nor hurts.
        num_positives: Instances that count, of each image.
    """

    image: Int64[np.ndarray, " predictions"]
    scores: Float32[np.ndarray, " predictions"]
    is_match: Bool[np.ndarray, "thresholds predictions"]
    is_ignored: Bool[np.ndarray, "thresholds predictions"]
    num_positives: Int64[np.ndarray, " images"]

    @cached_property
    def _matches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """At each threshold the matches' places, and each prediction's weight: 0 where it is ignored."""
        return [(np.flatnonzero(found), ~left) for found, left in zip(self.is_match, self.is_ignored, strict=True)]

    def compute_precision(self, weights: Float64[np.ndarray, " images"]) -> Float64[np.ndarray, "thresholds recalls"]:
        """Precision at each recall level with images counted so many times; NaN where nothing is to be found."""
        num_positives = weights @ self.num_positives
        if num_positives == 0:
            return np.full((len(self.is_match), len(RECALLS)), np.nan)
        weight = weights[self.image]
        found_all = np.cumsum(weight)
        result = np.zeros((len(self.is_match), len(RECALLS)))
        for row, (places, is_counted) in enumerate(self._matches):
            num_ranked = found_all if is_counted.all() else np.cumsum(weight * is_counted)
            num_found = np.cumsum(weight[places])
            precision = num_found / (num_ranked[places] + np.spacing(1))
            highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or any higher one
            place = np.searchsorted(num_found / num_positives, RECALLS, "left")
            result[row] = np.append(highest, 0.0)[place]
        return result


def rank_images(
    images: Sequence[ScoredImage], num_classes: int, kind: str, areas: tuple[float, float] = ALL_AREAS
) -> list[RankedPredictions]:
    """Match each image as COCO does and rank all predictions of each class.

    Args:
        images: The images, in the order of their numbers.
        num_classes: Classes, without background.
        kind: ``mask`` or ``box``.
        areas: Smallest and largest area in square pixels: of the instances' masks, and of what the predictions have
            (masks or boxes). What lies outside neither helps nor hurts.
    """
    outcomes = [match_image(image, kind, areas) for image in images]
    return rank_outcomes(images, outcomes, num_classes)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of the predictions of one image.

    Attributes:
        labels: Class index of each prediction.
        matches: At each IoU threshold the instance that each prediction got, or -1.
        is_match: Whether that is one that counts.
        is_ignored: Whether the prediction neither helps nor hurts.
        positives: Class index of each instance that counts.
    """

    labels: Int64[np.ndarray, " predictions"]
    matches: Int64[np.ndarray, "thresholds predictions"]
    is_match: Bool[np.ndarray, "thresholds predictions"]
    is_ignored: Bool[np.ndarray, "thresholds predictions"]
    positives: Int64[np.ndarray, " positives"]


def rank_outcomes(
    images: Sequence[ScoredImage], outcomes: Sequence[Outcome], num_classes: int
) -> list[RankedPredictions]:
    """Rank the predictions of all images by falling score, each class by itself."""
    scores = np.concatenate([image.predictions.scores for image in images])
    order = np.argsort(-scores, kind="stable")
    image_rows = np.repeat(np.arange(len(images)), [len(image.predictions) for image in images])[order]
    labels = np.concatenate([outcome.labels for outcome in outcomes])[order]
    is_match = np.concatenate([outcome.is_match for outcome in outcomes], axis=1)[:, order]
    is_ignored = np.concatenate([outcome.is_ignored for outcome in outcomes], axis=1)[:, order]
    positives = np.stack([np.bincount(outcome.positives, minlength=num_classes + 1) for outcome in outcomes], axis=1)
    return [
        RankedPredictions(
            image_rows[own], scores[order][own], is_match[:, own], is_ignored[:, own], positives[class_index]
        )
        for class_index in range(1, num_classes + 1)
        for own in [labels == class_index]
    ]


def match_image(image: ScoredImage, kind: str, areas: tuple[float, float] = ALL_AREAS) -> Outcome:
    """Match the predictions of one image as COCO does; the arguments are those of ``rank_images``."""
    truth, predictions = image.truth, image.predictions
    pairs = keep_own_class(image.mask_pairs if kind == "mask" else image.box_pairs, truth, predictions)
    is_positive = ~truth.iscrowd & (truth.areas >= areas[0]) & (truth.areas <= areas[1])
    matches = match_greedily(pairs, len(predictions), ~is_positive, truth.iscrowd)
    has_match = matches >= 0
    is_match = has_match & np.append(is_positive, False)[matches]
    if kind == "mask":
        found = predictions.areas
    else:
        found = np.prod(predictions.boxes[:, 2:].astype(np.float64) - predictions.boxes[:, :2], axis=1)
    is_outside = (found < areas[0]) | (found > areas[1])
    is_ignored = np.where(has_match, ~is_match, is_outside)
    return Outcome(predictions.labels, matches, is_match, is_ignored, truth.labels[is_positive])


def compute_precision(ranked: Sequence[RankedPredictions]) -> Float64[np.ndarray, "thresholds recalls classes"]:
    """Precision at IoU 0.50 .. 0.95 and recall 0 .. 1; NaN where a class has no instances (COCO's -1)."""
    weights = np.ones(len(ranked[0].num_positives))
    return np.stack([own.compute_precision(weights) for own in ranked], axis=2)


def compute_average_precision(
    ranked: Sequence[RankedPredictions], weights: Float64[np.ndarray, "draws images"]
) -> Float64[np.ndarray, "draws thresholds classes"]:
    """AP of each draw, IoU threshold and class: the mean precision over the recall levels; NaN where undefined."""
    result = np.full((len(weights), len(ranked[0].is_match), len(ranked)), np.nan)
    present = [(column, own) for column, own in enumerate(ranked) if own.num_positives.any()]
    for draw, row in enumerate(weights):
        for column, own in present:
            result[draw, :, column] = own.compute_precision(row).mean(axis=1)
    return result


def mean_defined(values: np.ndarray) -> float | None:
    """Mean of the values that are defined; None where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def choose_score_threshold(images: Sequence[ScoredImage]) -> float:
    """The score from which predictions give the highest F1 at mask IoU 0.5, all images and classes together.

    It lies halfway to the next score below, so that it does not hang on one prediction; 0.5 where nothing is found.
    """
    outcomes = [match_image(image, "mask") for image in images]
    scores = np.concatenate([image.predictions.scores for image in images])
    is_counted = ~np.concatenate([outcome.is_ignored[0] for outcome in outcomes])
    is_match = np.concatenate([outcome.is_match[0] for outcome in outcomes])[is_counted]
    scores = scores[is_counted]
    if not is_match.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, num_found = scores[order].astype(np.float64), is_match[order].cumsum()
    num_positives = sum(len(outcome.positives) for outcome in outcomes)
    f1 = 2 * num_found / (np.arange(1, len(scores) + 1) + num_positives)
    is_last = np.append(scores[1:] < scores[:-1], True)  # a threshold takes all predictions of one score or none
    best = int(np.argmax(np.where(is_last, f1, -1.0)))
    following = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + following) / 2)
