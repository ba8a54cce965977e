"""Every headline number, of all images or of images drawn again: sums over images, weighted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from manymask.core import Category
from manymask.metrics.catalogue import MetricPath
from manymask.metrics.matching import IOU_THRESHOLDS, ScoredImage, assign_pairs, match_shown
from manymask.metrics.precision import KINDS, RankedPredictions, compute_average_precision, rank_images

AJI_KINDS = ("AJI", "AJI_plus", "AJI_foreground")
"""Kumar's, with pairs found one to one, and Cellpose's."""

Statistics = dict[MetricPath, Float64[np.ndarray, " draws"]]
"""A value of each draw by its path in ``evaluation.json``; NaN where undefined."""

AP_THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Which of ``IOU_THRESHOLDS`` each average precision is of."""


@dataclass(frozen=True, eq=False)
class Tally:
    """What all headline numbers are sums of, image by image.

    Attributes:
        class_names: Names of the classes.
        ranked: For masks and boxes, the ranked predictions of each class.
        counts: True positives, false positives and false negatives, of shown predictions.
        iou_sums: Sum of the IoU of the true positives at threshold 0.5.
        aji: Numerator over denominator of each AJI; NaN where there is neither instance nor prediction.
        count_errors: Shown predictions minus instances.
    """

    class_names: tuple[str, ...]
    ranked: dict[str, list[RankedPredictions]]
    counts: Int64[np.ndarray, "images classes thresholds 3"]
    iou_sums: Float64[np.ndarray, "images classes"]
    aji: Float64[np.ndarray, "images 3"]
    count_errors: Int64[np.ndarray, "images classes"]

    def compute(self, weights: Float64[np.ndarray, "draws images"] | None = None) -> Statistics:
        """All headline numbers with images counted so many times; by default each once."""
        if weights is None:
            weights = np.ones((1, len(self.counts)))
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                **self._compute_ap(weights),
                **self._compute_ap_t(weights),
                **self._compute_detection(weights),
                **self._compute_panoptic(weights),
                **self._compute_means(weights),
            }

    def _compute_ap(self, weights: np.ndarray) -> Statistics:
        result: Statistics = {}
        for kind in KINDS:
            ap = compute_average_precision(self.ranked[kind], weights)
            by_class = {name: ap[:, thresholds].mean(axis=1) for name, thresholds in AP_THRESHOLDS.items()}
            result |= {(kind, name): _mean_defined(values) for name, values in by_class.items()}
            for i, c in enumerate(self.class_names):
                result |= {(kind, "per_class", c, name): values[:, i] for name, values in by_class.items()}
        return result

    def _compute_ap_t(self, weights: np.ndarray) -> Statistics:
        counts = self.counts.sum(axis=1)
        pooled = _sum(weights, counts)
        pooled = pooled[..., 0] / pooled.sum(axis=2)
        each = _average(weights, counts[..., 0] / counts.sum(axis=2))
        names = [f"{threshold:.2f}" for threshold in IOU_THRESHOLDS]
        return {
            ("ap_t", kind, name): values[:, i]
            for kind, values in (("pooled", pooled), ("per_image", each))
            for i, name in enumerate(names)
        }

    def _compute_detection(self, weights: np.ndarray) -> Statistics:
        found, wrong, missed = np.moveaxis(_sum(weights, self.counts[:, :, 0]), 2, 0)
        result: Statistics = {}
        for path, (tp, fp, fn) in self._by_class("detection", found, wrong, missed):
            result[*path, "precision"] = tp / (tp + fp)
            result[*path, "recall"] = tp / (tp + fn)
            result[*path, "F1"] = 2 * tp / (2 * tp + fp + fn)
        return result

    def _compute_panoptic(self, weights: np.ndarray) -> Statistics:
        found, wrong, missed = np.moveaxis(_sum(weights, self.counts[:, :, 0]), 2, 0)
        result: Statistics = {}
        for path, (tp, fp, fn, iou) in self._by_class("panoptic", found, wrong, missed, weights @ self.iou_sums):
            result[*path, "PQ"] = iou / (tp + fp / 2 + fn / 2)
            result[*path, "SQ"] = iou / tp
            result[*path, "RQ"] = tp / (tp + fp / 2 + fn / 2)
        by_class = [result["panoptic", "per_class", name, "PQ"] for name in self.class_names]
        result["panoptic", "mPQ_plus"] = _mean_defined(np.stack(by_class, axis=1))
        return result

    def _by_class(self, name: str, *sums: np.ndarray) -> list[tuple[tuple[str, ...], list[np.ndarray]]]:
        """The sums of all classes together, then of each, with the path where what is made of them belongs."""
        parts = [((name,), [values.sum(axis=1) for values in sums])]
        parts += [((name, "per_class", c), [values[:, i] for values in sums]) for i, c in enumerate(self.class_names)]
        return parts

    def _compute_means(self, weights: np.ndarray) -> Statistics:
        aji = _average(weights, self.aji)
        result: Statistics = {("aji", name): aji[:, i] for i, name in enumerate(AJI_KINDS)}
        for path, (error,) in self._by_class("counts", self.count_errors):
            result[*path, "mean_error"] = _average(weights, error[:, None].astype(float))[:, 0]
            result[*path, "mean_absolute_error"] = _average(weights, abs(error[:, None]).astype(float))[:, 0]
        return result


def make_tally(images: Sequence[ScoredImage], categories: Sequence[Category]) -> Tally:
    """Count each image once; ``images`` in the order of their numbers."""
    num_classes = len(categories)
    parts = [_count_image(image, num_classes) for image in images]
    counts, iou_sums, aji, errors = (np.stack(column) for column in zip(*parts, strict=True))
    return Tally(
        class_names=tuple(category.name for category in categories),
        ranked={kind: rank_images(images, num_classes, kind) for kind in KINDS},
        counts=counts,
        iou_sums=iou_sums,
        aji=aji,
        count_errors=errors,
    )


def _count_image(image: ScoredImage, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    labels, truth_labels = image.predictions.labels[: image.num_shown], image.truth.labels
    counts = np.zeros((num_classes + 1, len(IOU_THRESHOLDS), 3), dtype=np.int64)
    iou_sums, is_kept = np.zeros(num_classes + 1), np.ones(0, dtype=bool)
    for column, threshold in enumerate(IOU_THRESHOLDS):
        matched, is_counted = match_shown(image, threshold)
        found = np.bincount(truth_labels[matched.instance], minlength=num_classes + 1)
        num_counted = np.bincount(labels[is_counted], minlength=num_classes + 1)
        num_positive = np.bincount(truth_labels[~image.truth.iscrowd], minlength=num_classes + 1)
        counts[:, column] = np.stack([found, num_counted - found, num_positive - found], axis=1)
        if column == 0:
            np.add.at(iou_sums, truth_labels[matched.instance], matched.iou)
            is_kept = is_counted
    errors = counts[:, 0, 1] - counts[:, 0, 2]
    return counts[1:], iou_sums[1:], _compute_aji(image, is_kept), errors[1:]


def _compute_aji(image: ScoredImage, is_kept: Bool[np.ndarray, " shown"]) -> Float64[np.ndarray, " kinds"]:
    """Each AJI of one image, whatever the classes.

    ``AJI``: each instance takes the prediction of highest IoU, which others may take too (Kumar et al. 2017, equation
    4). ``AJI_plus``: pairs are found one to one, with the highest sum of IoU (Graham et al. 2019). In both the
    denominator adds what is in no pair. ``AJI_foreground``: the shared area over the image's whole foreground, with as
    many pairs of IoU >= 0.5 as can be, then the highest sum of IoU (``cellpose.metrics.aggregated_jaccard_index``).
    """
    is_positive = ~image.truth.iscrowd
    areas, truth_areas = image.predictions.areas[: image.num_shown], image.truth.areas
    pairs = image.mask_pairs
    pairs = pairs.select(pairs.prediction < image.num_shown)
    pairs = pairs.select(is_kept[pairs.prediction] & is_positive[pairs.instance])
    # The last of each instance's pairs by rising IoU.
    order = np.lexsort((-pairs.prediction, pairs.iou, pairs.instance))
    is_last = np.append(np.diff(pairs.instance[order]) > 0, True)[: len(order)]
    best, matched = pairs.select(order[is_last]), pairs.select(assign_pairs(pairs, pairs.iou))
    ratios = []
    for chosen in (best, matched):
        shared = chosen.intersection.sum()
        union = areas[chosen.prediction].sum() + truth_areas[chosen.instance].sum() - shared
        alone = areas[np.setdiff1d(np.flatnonzero(is_kept), chosen.prediction)].sum()
        alone += truth_areas[np.setdiff1d(np.flatnonzero(is_positive), chosen.instance)].sum()
        ratios.append((shared, union + alone))
    good_first = pairs.select(assign_pairs(pairs, pairs.iou + 2.0 * len(areas) * (pairs.iou >= IOU_THRESHOLDS[0])))
    ratios.append((good_first.intersection.sum(), image.foreground))
    return np.array([shared / union if union > 0 else np.nan for shared, union in ratios])


def none_if_nan(value: float | np.floating) -> float | None:
    """A number as JSON has it."""
    return None if np.isnan(value) else float(value)


def _sum(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum over images, of each draw."""
    return np.tensordot(weights, values, axes=1)


def _average(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over the images whose value is defined, of each draw."""
    is_defined = ~np.isnan(values)
    return weights @ np.where(is_defined, values, 0) / (weights @ is_defined)


def _mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that are defined; NaN where none is."""
    is_defined = ~np.isnan(values)
    return np.where(is_defined, values, 0).sum(axis=1) / is_defined.sum(axis=1)
