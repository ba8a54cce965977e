"""Scores of predictions: COCO's AP of masks and boxes, and AP(t) = TP / (TP + FP + FN)."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from manymask.core import Category, Instances, Overlaps, compute_iou, encode_coco_rle, intersect_runs
from manymask.core.files import replace_file

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55 .. 0.95, as COCO's."""


@dataclass(frozen=True)
class ScoredImage:
    """What an image adds to the scores; small, so that a data set's images can all be held.

    Attributes:
        image: COCO's image entry.
        truth: COCO annotations of the ground truth.
        predictions: COCO results.
        counts: True positives, false positives and false negatives at each IoU threshold, (thresholds, 3).
    """

    image: dict[str, Any]
    truth: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    counts: Int64[np.ndarray, "thresholds 3"]


def score_image(
    image_id: int, truth: Instances, predictions: Instances, *, max_detections: int, score_threshold: float
) -> ScoredImage:
    """Prepare one image for ``summarize_scores``.

    Args:
        image_id: Unique number of the image.
        truth: The ground truth; crowd regions neither help nor hurt.
        predictions: The predictions, with labels in the same category list as the truth's.
        max_detections: Predictions beyond so many, by falling score, are left out, as everywhere else.
        score_threshold: Predictions below this score do not count in AP(t); COCO's AP always uses all.
    """
    order = np.argsort(-predictions.scores, kind="stable")[:max_detections]
    predictions = predictions[order]
    height, width = truth.size
    return ScoredImage(
        image={"id": image_id, "height": height, "width": width},
        truth=_list_annotations(truth, image_id, "iscrowd"),
        predictions=_list_annotations(predictions, image_id, "score"),
        counts=count_matches(truth, predictions[predictions.scores >= score_threshold]),
    )


def _list_annotations(instances: Instances, image_id: int, kind: str) -> list[dict[str, Any]]:
    boxes = instances.boxes.astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    values = instances.iscrowd.astype(int) if kind == "iscrowd" else instances.scores.astype(float)
    columns = (encode_coco_rle(instances.runs), boxes, instances.labels, instances.runs.areas, values)
    return [
        {"image_id": image_id, "category_id": label, "segmentation": rle, "bbox": box, "area": area, kind: value}
        for rle, box, label, area, value in zip(columns[0], *(c.tolist() for c in columns[1:]), strict=True)
    ]


def count_matches(truth: Instances, predictions: Instances) -> Int64[np.ndarray, "thresholds 3"]:
    """Count true positives, false positives and false negatives at each IoU threshold.

    A prediction matches an instance of its own class at IoU >= t; among all ways to match, one with the most matches is
    taken (the optimal assignment whose first criterion is the threshold, as ``stardist.matching`` and
    ``cellpose.metrics`` do), and of those one with the fewest false positives. A prediction that matches nothing and
    lies in a crowd region of its class by the share t is left out.
    """
    overlaps = intersect_runs(predictions.runs, truth.runs)
    iou = compute_iou(overlaps, predictions.runs.areas, truth.runs.areas, truth.iscrowd)
    is_class = predictions.labels[overlaps.first] == truth.labels[overlaps.second]
    is_crowd = truth.iscrowd[overlaps.second]
    shape = (len(predictions), len(truth))
    counts = np.zeros((len(IOU_THRESHOLDS), 3), dtype=np.int64)
    for index, threshold in enumerate(IOU_THRESHOLDS):
        is_pair = is_class & (iou >= threshold)
        is_ignored = np.zeros(len(predictions), dtype=bool)
        is_ignored[overlaps.first[is_pair & is_crowd]] = True
        is_pair &= ~is_crowd
        num_matched = _match(shape, overlaps, is_pair)
        # Every matching of some predictions can grow to a largest one that keeps them (Berge's augmenting paths).
        num_claimed = _match(shape, overlaps, is_pair & ~is_ignored[overlaps.first])
        counts[index] = num_matched, (~is_ignored).sum() - num_claimed, (~truth.iscrowd).sum() - num_matched
    return counts


def _match(shape: tuple[int, int], overlaps: Overlaps, is_pair: Bool[np.ndarray, " pairs"]) -> int:
    """Number of pairs in a largest matching of the chosen pairs."""
    if not is_pair.any():
        return 0
    edges = np.ones(int(is_pair.sum()), dtype=np.int8)
    graph = csr_array((edges, (overlaps.first[is_pair], overlaps.second[is_pair])), shape=shape)
    return int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())


def summarize_scores(
    images: Iterable[ScoredImage], categories: tuple[Category, ...], max_detections: int
) -> dict[str, Any]:
    """The scores of a data set, as ``evaluation.json`` holds them; undefined values are None.

    Args:
        images: The images, each once.
        categories: The classes; label i + 1 is the i-th.
        max_detections: The cap, which is COCO's ``maxDets``.
    """
    images = list(images)
    truth = _make_ground_truth(images, categories)
    predictions = [prediction for image in images for prediction in image.predictions]
    result: dict[str, Any] = {
        kind: _compute_ap(truth, predictions, iou_type, categories, max_detections)
        for kind, iou_type in (("mask", "segm"), ("box", "bbox"))
    }
    result["ap_t"] = summarize_ap_t(np.stack([image.counts for image in images]))
    result["num_images"] = len(images)
    result["num_predictions"] = len(predictions)
    result["detections_per_image"] = max_detections
    return result


def _make_ground_truth(images: list[ScoredImage], categories: tuple[Category, ...]) -> COCO:
    annotations = [annotation for image in images for annotation in image.truth]
    return COCO(
        {
            "images": [image.image for image in images],
            "annotations": [{"id": index + 1, **annotation} for index, annotation in enumerate(annotations)],
            "categories": [{"id": index + 1, "name": category.name} for index, category in enumerate(categories)],
        }
    )


def compute_precision(
    truth: COCO, predictions: list[dict[str, Any]], iou_type: str, max_detections: int
) -> Float64[np.ndarray, "thresholds recalls classes"]:
    """COCO's precision at IoU 0.50 .. 0.95 and recall 0 .. 1 for all sizes; -1 where a class has no instances."""
    evaluator = COCOeval(truth, truth.load_res(predictions), iou_type)
    evaluator.params.max_dets = [max_detections]
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray((evaluator.eval or {})["precision"])[:, :, :, 0, -1]


def _compute_ap(
    truth: COCO,
    predictions: list[dict[str, Any]],
    iou_type: str,
    categories: tuple[Category, ...],
    max_detections: int,
) -> dict[str, Any]:
    counts = np.bincount([a["category_id"] for a in truth.dataset["annotations"] if not a["iscrowd"]])
    counts = np.pad(counts, (0, max(len(categories) + 1 - len(counts), 0)))[1:]
    if predictions:
        precision = compute_precision(truth, predictions, iou_type, max_detections)
    else:  # nothing found: precision 0 at every recall, where there was something to find
        precision = np.where(counts > 0, 0.0, -1.0) * np.ones((len(IOU_THRESHOLDS), 101, 1))
    per_class = {
        category.name: {**_average(precision[:, :, index]), "num_instances": int(counts[index])}
        for index, category in enumerate(categories)
    }
    return {**_average(precision), "per_class": per_class}


def _average(precision: Float64[np.ndarray, "thresholds ..."]) -> dict[str, float | None]:
    def mean(values: np.ndarray) -> float | None:
        defined = values[values > -1]
        return float(defined.mean()) if defined.size else None

    return {
        "AP": mean(precision),
        "AP50": mean(precision[IOU_THRESHOLDS.index(0.5)]),
        "AP75": mean(precision[IOU_THRESHOLDS.index(0.75)]),
    }


def summarize_ap_t(counts: Int64[np.ndarray, "images thresholds 3"]) -> dict[str, dict[str, float | None]]:
    """AP(t) = TP / (TP + FP + FN), over all images pooled, and as the mean of each image's (of those that have any)."""

    def by_threshold(values: np.ndarray) -> dict[str, float | None]:
        return {f"{t:.2f}": None if math.isnan(v) else v for t, v in zip(IOU_THRESHOLDS, values.tolist(), strict=True)}

    with np.errstate(invalid="ignore"):
        pooled = counts[..., 0].sum(axis=0) / counts.sum(axis=(0, 2))
        each = counts[..., 0] / counts.sum(axis=2)
    is_defined = ~np.isnan(each)
    num_defined = np.maximum(is_defined.sum(axis=0), 1)
    per_image = np.where(is_defined.any(axis=0), np.where(is_defined, each, 0).sum(axis=0) / num_defined, np.nan)
    return {"pooled": by_threshold(pooled), "per_image": by_threshold(per_image)}


def merge_categories(
    data: tuple[Category, ...], model: tuple[Category, ...]
) -> tuple[tuple[Category, ...], Int64[np.ndarray, " labels"]]:
    """Bring a model's classes and a data set's together: by name, and what is left by id.

    Returns:
        The data's categories followed by those that only the model has (under a new id where theirs is taken), and for
        each label of the model (0 first, which is background) its label in that list.
    """
    merged = list(data)
    model_names = {category.name for category in model}
    names = {category.name: index for index, category in enumerate(data)}
    ids = {category.id: index for index, category in enumerate(data) if category.name not in model_names}
    labels = [0]
    for category in model:
        index = names.get(category.name, ids.get(category.id))
        if index is None:
            index, taken = len(merged), {other.id for other in merged}
            merged.append(replace(category, id=max(taken) + 1) if category.id in taken else category)
        labels.append(index + 1)
    return tuple(merged), np.array(labels, dtype=np.int64)


def format_scores(scores: Mapping[str, Any]) -> list[list[str]]:
    """Rows of text for a table: name, then mask AP, AP50, AP75, box AP, AP50, AP75 and the number of instances."""

    def texts(entry: Mapping[str, Any]) -> list[str]:
        return ["-" if entry[name] is None else f"{entry[name]:.3f}" for name in ("AP", "AP50", "AP75")]

    rows = [
        [name, *texts(mask), *texts(scores["box"]["per_class"][name]), str(mask["num_instances"])]
        for name, mask in scores["mask"]["per_class"].items()
    ]
    total = sum(int(row[-1]) for row in rows)
    return [["all", *texts(scores["mask"]), *texts(scores["box"]), str(total)], *rows]


def write_scores(scores: Mapping[str, Any], path: Path) -> None:
    """Write ``evaluation.json``."""
    with replace_file(path, "w") as f:
        json.dump(scores, f, indent=2, allow_nan=False)
