"""The scores of a data set, as ``evaluation.json`` holds them; ``docs/metrics.md`` defines each."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core import Category
from manymask.metrics import record
from manymask.metrics.catalogue import EVALUATED, MetricPath
from manymask.metrics.diagnosis import explain_scores
from manymask.metrics.error_split import ImageErrors, split_errors, summarize_errors
from manymask.metrics.intervals import LEVEL, compute_interval, draw_weights
from manymask.metrics.matching import IOU_THRESHOLDS, ScoredImage, match_optimally, match_shown
from manymask.metrics.precision import ALL_AREAS, KINDS, compute_precision, mean_defined, rank_images
from manymask.metrics.tally import AP_THRESHOLDS, Statistics, Tally, make_tally, none_if_nan
from manymask.wording import count_of, format_score

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, ALL_AREAS[1])}
"""COCO's area ranges in square pixels."""

_NUM_BINS = 10
_WORST = 25  # instances, and as many predictions, that are listed


def summarize_scores(
    images: Sequence[ScoredImage],
    categories: Sequence[Category],
    max_detections: int | None,
    *,
    draws: int = 0,
    groups: Mapping[str, str] | None = None,
) -> record.Evaluation:
    """All scores of a data set.

    Args:
        images: The images, each once.
        categories: The classes; label i + 1 is the i-th.
        max_detections: The cap on the predictions of an image, or of each tile; None where nothing was cut off.
        draws: Bootstrap draws for the intervals; 0 for none.
        groups: Group of each image by its name, where groups are drawn instead of images.
    """
    images = sorted(images, key=lambda image: image.image_id)
    tally = make_tally(images, categories)
    errors = [split_errors(image) for image in images]
    result = nest_statistics(tally.compute())
    _add_numbers(result, tally)
    for kind in KINDS:
        result[kind]["by_size"] = _score_sizes(images, len(categories), kind)
    result["confusion"] = {
        "names": [category.name for category in categories],
        "matrix": sum((_confuse(image, len(categories)) for image in images), np.zeros((), int)).tolist(),
    }
    result["reliability"] = _check_reliability(tally)
    result["errors"] = summarize_errors(images, errors, len(categories))
    result["intervals"] = make_intervals(tally, images, draws, groups)
    result["precision_recall"] = _list_precision(tally)
    result["per_image"] = _list_images(images, tally)
    result["worst_instances"] = _list_worst(images, errors, categories)
    result["num_images"] = len(images)
    result["num_predictions"] = sum(len(image.predictions) for image in images)
    result["detections_per_image"] = max_detections
    result["notes"] = explain_scores(images, categories, has_intervals=draws > 0, groups=groups)
    return record.Evaluation.model_validate(result)


def summarize_headline(images: Sequence[ScoredImage], categories: Sequence[Category]) -> dict[MetricPath, float | None]:
    """The headline numbers alone, by their paths in ``evaluation.json``: what training looks at after each epoch."""
    statistics = make_tally(sorted(images, key=lambda image: image.image_id), categories).compute()
    return {path: none_if_nan(values[0]) for path, values in statistics.items()}


def nest_statistics(statistics: Statistics) -> dict[str, Any]:
    """Put the first draw of each number where its path says; NaN becomes None."""
    result: dict[str, Any] = {}
    for path, values in statistics.items():
        place = result
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = none_if_nan(values[0])
    return result


def _add_numbers(result: dict[str, Any], tally: Tally) -> None:
    """Add the numbers of instances, and of what was found, to the scores that are made of them."""
    counts = tally.counts[:, :, 0].sum(axis=0)
    names = ("TP", "FP", "FN")
    result["detection"] |= dict(zip(names, counts.sum(axis=0).tolist(), strict=True))
    for row, name in enumerate(tally.class_names):
        result["detection"]["per_class"][name] |= dict(zip(names, counts[row].tolist(), strict=True))
        for kind in KINDS:
            num_instances = int(tally.ranked[kind][row].num_positives.sum())
            result[kind]["per_class"][name]["num_instances"] = num_instances


def _score_sizes(images: Sequence[ScoredImage], num_classes: int, kind: str) -> dict[str, record.SizePrecision]:
    """AP of COCO's sizes, and of the smallest, middle and largest third of these very instances."""
    areas = np.concatenate([image.truth.areas[~image.truth.iscrowd] for image in images])
    ranges = dict(SIZES)
    if len(areas):
        first, second = (float(value) for value in np.floor(np.quantile(areas, [1 / 3, 2 / 3])))
        # Areas of masks are whole numbers, those of predicted boxes are not: half a pixel leaves no gap for them.
        ranges |= {"lower_tercile": (0.0, first + 0.5), "middle_tercile": (first + 0.5, second + 0.5)}
        ranges["upper_tercile"] = (second + 0.5, ALL_AREAS[1])
    result = {}
    for name, limits in ranges.items():
        ranked = rank_images(images, num_classes, kind, limits)
        precision = compute_precision(ranked)
        result[name] = record.SizePrecision(
            **{score: mean_defined(precision[place]) for score, place in AP_THRESHOLDS.items()},
            num_instances=int(sum(own.num_positives.sum() for own in ranked)),
            min_area=limits[0],
            max_area=None if limits[1] == ALL_AREAS[1] else limits[1],
        )
    return result


def _confuse(image: ScoredImage, num_classes: int) -> Int64[np.ndarray, "true predicted"]:
    """Count true and predicted classes: pairs of one class, then of those left over; the last of both is no one's."""
    matched, is_spurious = match_shown(image, IOU_THRESHOLDS[0])
    is_positive = ~image.truth.iscrowd
    is_spurious[matched.prediction] = False
    is_lost = is_positive.copy()
    is_lost[matched.instance] = False
    pairs = image.mask_pairs.select(image.mask_pairs.prediction < image.num_shown)
    pairs = pairs.select(is_spurious[pairs.prediction] & is_lost[pairs.instance])
    confused = pairs.select(match_optimally(pairs, IOU_THRESHOLDS[0]))
    is_spurious[confused.prediction] = False
    predicted = np.full(len(image.truth), num_classes)
    for chosen in (matched, confused):
        predicted[chosen.instance] = image.predictions.labels[chosen.prediction] - 1
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    np.add.at(matrix, (image.truth.labels[is_positive] - 1, predicted[is_positive]), 1)
    np.add.at(matrix[num_classes], image.predictions.labels[: image.num_shown][is_spurious] - 1, 1)
    return matrix


def _check_reliability(tally: Tally) -> record.Reliability:
    """How often predictions of a score are right (at mask IoU 0.5), against the score (Guo et al. 2017, section 2)."""
    ranked = tally.ranked["mask"]
    is_counted = np.concatenate([~own.is_ignored[0] for own in ranked])
    scores = np.concatenate([own.scores for own in ranked])[is_counted].astype(np.float64)
    is_match = np.concatenate([own.is_match[0] for own in ranked])[is_counted]
    # Rounded, because a score of 0.7 in 32 bits is a little less.
    bins = np.minimum((scores * _NUM_BINS).round(5).astype(np.int64), _NUM_BINS - 1)
    rows, error = [], 0.0
    for place in range(_NUM_BINS):
        chosen = bins == place
        mean_score, precision = mean_defined(scores[chosen]), mean_defined(is_match[chosen].astype(np.float64))
        if mean_score is not None and precision is not None:
            error += abs(mean_score - precision) * chosen.sum() / len(scores)
        rows.append(
            record.ReliabilityBin(
                low=place / _NUM_BINS,
                high=(place + 1) / _NUM_BINS,
                num_predictions=int(chosen.sum()),
                mean_score=mean_score,
                precision=precision,
            )
        )
    return record.Reliability(expected_calibration_error=float(error) if len(scores) else None, bins=rows)


def make_intervals(
    tally: Tally, images: Sequence[ScoredImage], draws: int, groups: Mapping[str, str] | None = None
) -> record.Intervals | None:
    """The interval of each headline number; None with fewer than two images or groups, or no draws."""
    units = None if groups is None else [groups[image.name] for image in images]
    num_units = len(set(units)) if units else len(images)
    if num_units < 2 or draws == 0:
        return None
    drawn = tally.compute(draw_weights(len(images), units, draws))
    return record.Intervals(
        level=LEVEL,
        draws=draws,
        unit="image" if units is None else "group",
        num_units=num_units,
        values={".".join(path): compute_interval(values, num_units) for path, values in drawn.items()},
    )


def _list_precision(tally: Tally) -> record.PrecisionCurves:
    """Precision of masks at the 101 recall levels, of all classes on average and of each."""
    precision = compute_precision(tally.ranked["mask"])

    def at(values: Float64[np.ndarray, "thresholds recalls"]) -> dict[str, list[float] | None]:
        places = {f"{t:.2f}": IOU_THRESHOLDS.index(t) for t in (0.5, 0.75, 0.9)}
        return {name: None if np.isnan(values[i, 0]) else values[i].tolist() for name, i in places.items()}

    is_defined = ~np.isnan(precision[0, 0])
    mean = np.where(is_defined, precision, 0).sum(axis=2) / max(is_defined.sum(), 1)
    mean[:, :] = mean if is_defined.any() else np.nan
    per_class = {name: at(precision[:, :, i]) for i, name in enumerate(tally.class_names)}
    return record.PrecisionCurves(all=at(mean), per_class=per_class)


def _list_images(images: Sequence[ScoredImage], tally: Tally) -> list[record.ImageCounts]:
    """What was found in each image, worst first."""
    rows = []
    for image, (found, wrong, missed) in zip(images, tally.counts[:, :, 0].sum(axis=1).tolist(), strict=True):
        total = 2 * found + wrong + missed
        rows.append(
            record.ImageCounts(
                name=image.name,
                image_id=image.image_id,
                num_instances=found + missed,
                num_predictions=found + wrong,
                TP=found,
                FP=wrong,
                FN=missed,
                F1=2 * found / total if total else None,
            )
        )
    return sorted(rows, key=lambda row: (2 if row.F1 is None else row.F1, -row.FN - row.FP))


def _list_worst(
    images: Sequence[ScoredImage], errors: Sequence[ImageErrors], categories: Sequence[Category]
) -> list[record.Mistake]:
    """The largest instances that were not found, and the wrong predictions of highest score."""
    found: dict[Literal["instance", "prediction"], list[Any]] = {"instance": [], "prediction": []}
    for image, error in zip(images, errors, strict=True):
        truth, predictions = image.truth, image.predictions
        lost = (truth.areas, truth, error.instances, error.instance_ious)
        wrong = (predictions.scores, predictions, error.predictions, error.prediction_ious)
        for rows, (sizes, table, kinds, ious) in zip(found.values(), (lost, wrong), strict=True):
            for row in np.flatnonzero(~np.isin(kinds, ("found", "correct", "ignored"))).tolist():
                rows.append((sizes[row], image.name, table, row, kinds, ious))
    return [
        record.Mistake(
            image=name,
            what=what,
            kind=str(kinds[row]),
            category=categories[table.labels[row] - 1].name,
            score=float(table.scores[row]) if what == "prediction" else None,
            iou=float(ious[row]),
            box=table.boxes[row].tolist(),
        )
        for what, places in found.items()
        for _, name, table, row, kinds, ious in sorted(places, key=lambda place: -place[0])[:_WORST]
    ]


def format_scores(scores: record.Evaluation) -> tuple[str, list[str], list[list[str]]]:
    """Title, header and rows of a table: the headline numbers of all classes and of each, with their intervals."""
    classes = list(scores.mask.per_class)
    shown = classes if len(classes) > 1 else []  # a single class would say the same twice

    def text(path: MetricPath) -> str:
        return format_score(scores.get_value(path), scores.get_interval(path))

    rows = [
        [m.label + m.formula, text(m.path), *(text(m.of_class(name)) if m.is_per_class else "" for name in shown)]
        for m in EVALUATED
    ]
    counts = {name: entry.num_instances for name, entry in scores.mask.per_class.items()}
    rows.append(["instances", str(sum(counts.values())), *(str(counts[name]) for name in shown)])
    cap = scores.detections_per_image
    title = count_of(scores.num_images, "image") + (f", at most {cap} detections each, or each tile" if cap else "")
    title += "; in brackets the 95 % interval" if scores.intervals else ""
    return title, ["", "all", *shown], rows
