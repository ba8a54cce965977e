"""The one pass over the masks: which predictions meet which instances. All scores are made from its result."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from manymask.core import Instances, RunLengths, compute_iou, concatenate_runs, intersect_runs
from manymask.metrics.assignment import find_assignment
from manymask.metrics.close_boxes import find_close_boxes

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.50, 0.55 .. 0.95, as COCO's."""


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of ``Instances`` without their masks.

    Attributes:
        labels: Class index, from 1.
        scores: Confidence in [0, 1].
        boxes: x1 y1 x2 y2 in pixels.
        areas: Pixels of the mask.
        iscrowd: Whether the row is a crowd region.
    """

    labels: Int64[np.ndarray, " instances"]
    scores: Float32[np.ndarray, " instances"]
    boxes: Float32[np.ndarray, "instances 4"]
    areas: Int64[np.ndarray, " instances"]
    iscrowd: Bool[np.ndarray, " instances"]

    @classmethod
    def from_instances(cls, instances: Instances) -> "Table":
        """Drop the masks."""
        return cls(instances.labels, instances.scores, instances.boxes, instances.runs.areas, instances.iscrowd)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Predictions and instances of the ground truth that overlap, ascending by prediction, then by instance.

    Attributes:
        prediction: Row of the prediction.
        instance: Row of the instance.
        iou: Intersection over union; with a crowd region over the prediction's area, as COCO has it.
        intersection: What both share, in square pixels.
    """

    prediction: Int64[np.ndarray, " pairs"]
    instance: Int64[np.ndarray, " pairs"]
    iou: Float64[np.ndarray, " pairs"]
    intersection: Float64[np.ndarray, " pairs"]

    def select(self, chosen: Bool[np.ndarray, " pairs"] | Int64[np.ndarray, " chosen"]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.prediction[chosen], self.instance[chosen], self.iou[chosen], self.intersection[chosen])


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """What an image adds to the scores; it holds no masks, so that a data set's images can all be kept.

    Attributes:
        image_id: Number of the image; images are ranked in its order, as in COCO.
        name: Name of the image.
        truth: The instances of the ground truth.
        predictions: The predictions by falling score, at most as many as the cap.
        mask_pairs: All pairs whose masks share pixels, whatever their classes.
        box_pairs: All pairs whose boxes have an IoU of at least 0.5.
        num_shown: Predictions whose score reaches the score threshold; they come first.
        num_found: Predictions before the cap.
        max_detections: The cap; None where nothing is cut off.
        foreground: Pixels of instances and shown predictions together, each counted once; crowd regions, and
            what lies in them, are left out.
        mask_boxes: The boxes of the predictions' own masks, which tell whether ``predictions.boxes`` can be right.
    """

    image_id: int
    name: str
    truth: Table
    predictions: Table
    mask_pairs: Pairs
    box_pairs: Pairs
    num_shown: int
    num_found: int
    max_detections: int | None
    foreground: int
    mask_boxes: Float32[np.ndarray, "predictions 4"]


def rank_predictions(predictions: Instances, max_detections: int | None) -> Instances:
    """The predictions that are scored: by falling score, at most ``max_detections`` where that is given."""
    return predictions[np.argsort(-predictions.scores, kind="stable")[:max_detections]]


def score_image(
    image_id: int,
    truth: Instances,
    predictions: Instances,
    *,
    max_detections: int | None,
    score_threshold: float,
    name: str = "",
) -> ScoredImage:
    """Match the predictions of one image with its ground truth.

    Args:
        image_id: Unique number of the image.
        truth: The ground truth; crowd regions neither help nor hurt.
        predictions: The predictions, with labels in the same category list as the truth's.
        max_detections: Predictions beyond so many, by falling score, are left out, as everywhere else;
            None keeps all.
        score_threshold: Score from which a prediction counts where there is no ranking; COCO's AP always uses all.
        name: Name of the image, for messages and tables.
    """
    ranked = rank_predictions(predictions, max_detections)
    num_shown = int((ranked.scores >= score_threshold).sum())
    overlaps = intersect_runs(ranked.runs, truth.runs)
    iou = compute_iou(overlaps, ranked.runs.areas, truth.runs.areas, truth.iscrowd)
    image = ScoredImage(
        image_id=image_id,
        name=name or str(image_id),
        truth=Table.from_instances(truth),
        predictions=Table.from_instances(ranked),
        mask_pairs=Pairs(overlaps.first, overlaps.second, iou, overlaps.intersection.astype(np.float64)),
        box_pairs=pair_boxes(ranked.boxes, truth.boxes, truth.iscrowd),
        num_shown=num_shown,
        num_found=len(predictions),
        max_detections=max_detections,
        foreground=0,
        mask_boxes=ranked.runs.boxes,
    )
    shown = ranked[:num_shown].runs
    if truth.iscrowd.any():
        shown = shown.select(match_shown(image, IOU_THRESHOLDS[0])[1])
    return replace(image, foreground=_count_covered(concatenate_runs([shown, truth[~truth.iscrowd].runs])))


def _count_covered(runs: RunLengths) -> int:
    """Pixels that belong to at least one mask."""
    order = np.argsort(runs.start, kind="stable")
    start, end = runs.start[order], (runs.start + runs.length)[order]
    reached = np.maximum.accumulate(np.append(0, end[:-1])) if len(end) else end
    return int(np.maximum(end - np.maximum(start, reached), 0).sum())


def pair_boxes(
    predictions: Float32[np.ndarray, "predictions 4"],
    truth: Float32[np.ndarray, "instances 4"],
    iscrowd: Bool[np.ndarray, " instances"],
) -> Pairs:
    """Pairs of boxes with an IoU of at least 0.5, ascending by prediction, then by instance; as ``Pairs`` says."""
    boxes, others = predictions.astype(np.float64), truth.astype(np.float64)
    objects, crowds = np.flatnonzero(~iscrowd), np.flatnonzero(iscrowd)
    row, column = find_close_boxes(boxes, others[objects], alike=True)
    # A prediction of any size may lie in a crowd region: by half, so that its centre lies there.
    crowd, inside = find_close_boxes(others[crowds], boxes, alike=False)
    row, column = np.append(row, inside), np.append(objects[column], crowds[crowd])
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    areas, other_areas = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others))
    sides = np.minimum(boxes[row, 2:], others[column, 2:]) - np.maximum(boxes[row, :2], others[column, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    union = np.where(iscrowd[column], areas[row], areas[row] + other_areas[column] - shared)
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    is_pair = iou >= IOU_THRESHOLDS[0] - 1e-9
    return Pairs(row[is_pair], column[is_pair], iou[is_pair], shared[is_pair])


def keep_own_class(pairs: Pairs, truth: Table, predictions: Table) -> Pairs:
    """The pairs whose prediction and instance are of one class."""
    return pairs.select(predictions.labels[pairs.prediction] == truth.labels[pairs.instance])


def match_greedily(
    pairs: Pairs,
    num_predictions: int,
    is_ignored: Bool[np.ndarray, " instances"],
    iscrowd: Bool[np.ndarray, " instances"],
) -> Int64[np.ndarray, "thresholds predictions"]:
    """COCO's matching at each IoU threshold: the instance that each prediction gets, or -1.

    By falling score each prediction takes the instance of highest IoU that is still free, one that is not ignored if
    there is any; crowd regions are never used up (``COCOeval.evaluateImg`` of pycocotools 2.0).

    Args:
        pairs: Pairs of one class each; the rows of predictions by falling score.
        num_predictions: Number of predictions.
        is_ignored: Instances that neither help nor hurt.
        iscrowd: Which of these are crowd regions.
    """
    limits = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    matches = np.full((len(limits), num_predictions), -1)
    pairs = pairs.select(pairs.iou >= limits[0])
    is_alone = np.bincount(pairs.prediction, minlength=num_predictions)[pairs.prediction] == 1
    num_rivals = np.bincount(pairs.instance, minlength=len(iscrowd))[pairs.instance]
    is_simple = is_alone & ((num_rivals == 1) | iscrowd[pairs.instance])
    simple = pairs.select(is_simple)
    matches[:, simple.prediction] = np.where(simple.iou >= limits[:, None], simple.instance, -1)
    contested = pairs.select(~is_simple)
    order = np.lexsort((contested.instance, is_ignored[contested.instance], contested.prediction))
    rows = [c[order].tolist() for c in (contested.prediction, contested.instance, contested.iou)]
    candidates: dict[int, list[tuple[int, float]]] = {}
    for prediction, instance, iou in zip(*rows, strict=True):
        candidates.setdefault(prediction, []).append((instance, iou))
    for place, limit in enumerate(limits.tolist()):
        taken: set[int] = set()
        for prediction, choices in candidates.items():
            best = _choose(choices, limit, taken, is_ignored)
            matches[place, prediction] = best
            if best >= 0 and not iscrowd[best]:
                taken.add(best)
    return matches


def _choose(choices: list[tuple[int, float]], limit: float, taken: set[int], is_ignored: np.ndarray) -> int:
    """The free instance of highest IoU, the last of equals; ignored ones come last and only where no other is free."""
    best = -1
    for instance, iou in choices:
        if instance in taken or iou < limit:
            continue
        if best >= 0 and is_ignored[instance] and not is_ignored[best]:
            break
        best, limit = instance, iou
    return best


def assign_pairs(pairs: Pairs, weights: Float64[np.ndarray, " pairs"]) -> Int64[np.ndarray, " matched"]:
    """Choose pairs so that no prediction and no instance occurs twice and the sum of weights (above 0) is largest."""
    return find_assignment(pairs.prediction, pairs.instance, weights)


def match_optimally(
    pairs: Pairs, threshold: float, is_preferred: Bool[np.ndarray, " predictions"] | None = None
) -> Int64[np.ndarray, " matched"]:
    """The largest number of pairs with IoU >= threshold; of these the most preferred predictions, then the highest IoU.

    This is what ``stardist.matching`` and ``cellpose.metrics`` compute; none is preferred there.
    """
    allowed = np.flatnonzero(pairs.iou >= threshold)
    chosen = pairs.select(allowed)
    num = max(len(np.unique(chosen.prediction)), 1)
    weights = 4.0 * num * num + chosen.iou
    if is_preferred is not None:
        weights += 2.0 * num * is_preferred[chosen.prediction]
    return allowed[assign_pairs(chosen, weights)]


def match_shown(image: ScoredImage, threshold: float) -> tuple[Pairs, Bool[np.ndarray, " shown"]]:
    """Match the shown predictions with the instances of their class, as many as can be.

    Returns:
        The matched pairs, and the shown predictions that count: matched ones, and others unless they lie in a crowd
        region of their class by the share ``threshold``.
    """
    pairs = image.mask_pairs.select(image.mask_pairs.prediction < image.num_shown)
    pairs = keep_own_class(pairs, image.truth, image.predictions)
    is_crowd = image.truth.iscrowd[pairs.instance]
    is_counted = np.ones(image.num_shown, dtype=bool)
    is_counted[pairs.prediction[is_crowd & (pairs.iou >= threshold)]] = False
    candidates = pairs.select(~is_crowd)
    matched = candidates.select(match_optimally(candidates, threshold, is_counted))
    is_counted[matched.prediction] = True
    return matched, is_counted
