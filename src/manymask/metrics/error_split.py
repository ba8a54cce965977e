"""What went wrong: every wrong prediction and every lost instance gets one cause, and each cause its cost in AP50."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from manymask.metrics.matching import Pairs, ScoredImage, assign_pairs, match_optimally, match_shown
from manymask.metrics.precision import Outcome, match_image, mean_defined, rank_outcomes
from manymask.metrics.record import ErrorKind

ERROR_KINDS = ("missed", "spurious", "duplicate", "merged", "split", "wrong_class", "loose_border")
"""The causes; which of them a prediction or an instance can have, ``split_errors`` says."""

_LEFT, _RIGHT, _IGNORED = 0, 1, 2  # codes of predictions and instances; those of the kinds in _CLAIMED follow
_CLAIMED = ("wrong_class", "duplicate", "merged", "split", "loose_border")
_IOU = 0.5  # as of AP50
_LOOSE_IOU = 0.1  # TIDE's lower limit for a localisation error (Bolya et al. 2020, section 2.2)
_SHARE = 0.5  # of an area that lies in another, to say that one lies over the other


@dataclass(frozen=True, eq=False)
class ImageErrors:
    """The cause of each error in one image, at mask IoU 0.5.

    Attributes:
        predictions: ``correct``, ``ignored`` (in a crowd region), ``spurious``, ``duplicate``, ``merged``, ``split``,
            ``wrong_class`` or ``loose_border``.
        instances: ``found``, ``ignored`` (a crowd region), ``missed``, ``merged``, ``split``, ``wrong_class`` or
            ``loose_border``.
        prediction_ious: Highest IoU of each prediction with any instance.
        instance_ious: Highest IoU of each instance with any of the predictions.
    """

    predictions: Shaped[np.ndarray, " predictions"]
    instances: Shaped[np.ndarray, " instances"]
    prediction_ious: Float64[np.ndarray, " predictions"]
    instance_ious: Float64[np.ndarray, " instances"]


def split_errors(image: ScoredImage) -> ImageErrors:
    """Find the cause of each error among the shown predictions.

    The first that fits, in this order:
    ``wrong_class``: a prediction and an instance, both left over, of different classes with IoU >= 0.5.
    ``duplicate``: a prediction with IoU >= 0.5 with an instance that is taken.
    ``merged``: a prediction over (half or more of) several instances, and those of them that nothing else found.
    ``split``: several predictions that lie (by half or more of each) in one instance, and the instance.
    ``loose_border``: a prediction and an instance of one class, both left over, with IoU from 0.1 to 0.5.
    ``spurious`` and ``missed``: what is left.
    """
    matched, is_counted = match_shown(image, _IOU)
    pairs = image.mask_pairs.select(image.mask_pairs.prediction < image.num_shown)
    return _split_errors(image, pairs, matched, is_counted)


def _split_errors(
    image: ScoredImage, pairs: Pairs, matched: Pairs, is_counted: Bool[np.ndarray, " predictions"]
) -> ImageErrors:
    truth, labels = image.truth, image.predictions.labels
    # Each row is left over until a step claims it, and no later step can claim it again.
    predictions = np.where(is_counted, _LEFT, _IGNORED)
    instances = np.where(truth.iscrowd, _IGNORED, _LEFT)
    predictions[matched.prediction] = instances[matched.instance] = _RIGHT
    prediction_ious, instance_ious = np.zeros(len(predictions)), np.zeros(len(instances))
    np.maximum.at(prediction_ious, pairs.prediction, pairs.iou)
    np.maximum.at(instance_ious, pairs.instance, pairs.iou)
    pairs = pairs.select(is_counted[pairs.prediction] & ~truth.iscrowd[pairs.instance])

    # The matches were made within classes: what still fits is of another class.
    close = _keep_left(pairs, predictions, instances)
    close = close.select(match_optimally(close, _IOU))
    _claim(predictions, close.prediction, "wrong_class")
    _claim(instances, close.instance, "wrong_class")

    # What fits an instance that another prediction has.
    _claim(predictions, pairs.prediction[pairs.iou >= _IOU], "duplicate")

    # One prediction over several instances, of which it may have found one.
    over = pairs.select(pairs.intersection >= _SHARE * truth.areas[pairs.instance])
    num_covered = np.bincount(over.prediction, minlength=len(predictions))
    over = over.select(num_covered[over.prediction] > 1)
    _claim(predictions, over.prediction, "merged")
    _claim(instances, over.instance, "merged")

    # Several predictions in one instance, which one of them may have found.
    inside = pairs.select(pairs.intersection >= _SHARE * image.predictions.areas[pairs.prediction])
    num_parts = np.bincount(inside.instance, minlength=len(instances))
    inside = inside.select((num_parts[inside.instance] > 1) & (predictions[inside.prediction] == _LEFT))
    _claim(predictions, inside.prediction, "split")
    _claim(instances, inside.instance, "split")

    # The right object, whose outline fits too badly for a match: pairs with the highest sum of IoU.
    loose = _keep_left(pairs, predictions, instances)
    loose = loose.select((loose.iou >= _LOOSE_IOU) & (labels[loose.prediction] == truth.labels[loose.instance]))
    loose = loose.select(assign_pairs(loose, loose.iou))
    _claim(predictions, loose.prediction, "loose_border")
    _claim(instances, loose.instance, "loose_border")
    return ImageErrors(
        np.array(["spurious", "correct", "ignored", *_CLAIMED])[predictions],
        np.array(["missed", "found", "ignored", *_CLAIMED])[instances],
        prediction_ious,
        instance_ious,
    )


def _keep_left(
    pairs: Pairs, predictions: Int64[np.ndarray, " predictions"], instances: Int64[np.ndarray, " instances"]
) -> Pairs:
    """The pairs of which both sides are left over."""
    return pairs.select((predictions[pairs.prediction] == _LEFT) & (instances[pairs.instance] == _LEFT))


def _claim(codes: Int64[np.ndarray, " all"], rows: Int64[np.ndarray, " claimed"], kind: str) -> None:
    """Give a kind to those of the rows that are left over."""
    codes[rows[codes[rows] == _LEFT]] = _CLAIMED.index(kind) + 3


def summarize_errors(
    images: Sequence[ScoredImage], errors: Sequence[ImageErrors], num_classes: int
) -> dict[str, ErrorKind]:
    """Number of predictions and instances of each kind, and what it costs.

    ``AP50_cost`` is by how much mask AP50 of all predictions would be higher without the errors of that kind: wrong
    classes and loose borders made right, other wrong predictions taken away, and instances that were missed, merged or
    split not asked for (after TIDE, Bolya et al. 2020, with merged and split of our own).
    """
    predictions = Counter(kind for image in errors for kind in image.predictions.tolist())
    instances = Counter(kind for image in errors for kind in image.instances.tolist())
    outcomes = [match_image(image, "mask") for image in images]
    outcomes = [
        Outcome(o.labels, o.matches[:1], o.is_match[:1], o.is_ignored[:1], o.positives) for o in outcomes
    ]  # AP50 needs the lowest IoU threshold alone
    causes = [_find_causes(image, outcome) for image, outcome in zip(images, outcomes, strict=True)]
    now = _compute_ap50(images, outcomes, num_classes)
    result = {}
    for kind in ERROR_KINDS:
        mended = [_mend(*parts, kind) for parts in zip(images, outcomes, causes, strict=True)]
        without = _compute_ap50(images, mended, num_classes)
        cost = None if now is None or without is None else without - now
        result[kind] = ErrorKind(predictions=predictions[kind], instances=instances[kind], AP50_cost=cost)
    return result


def _find_causes(image: ScoredImage, outcome: Outcome) -> ImageErrors:
    """The causes of the errors among all predictions, matched as COCO does."""
    chosen = np.flatnonzero(outcome.is_match[0])
    instance = outcome.matches[0][chosen]
    matched = Pairs(chosen, instance, np.zeros(len(chosen)), np.zeros(len(chosen)))
    return _split_errors(image, image.mask_pairs, matched, ~outcome.is_ignored[0])


def _mend(image: ScoredImage, outcome: Outcome, causes: ImageErrors, kind: str) -> Outcome:
    """The outcome without the errors of one kind."""
    is_wrong, is_lost = causes.predictions == kind, causes.instances == kind
    if kind == "loose_border":
        return replace(outcome, is_match=outcome.is_match | is_wrong)
    if kind == "wrong_class":
        labels, close = outcome.labels.copy(), image.mask_pairs
        close = close.select(is_wrong[close.prediction] & is_lost[close.instance])
        close = close.select(match_optimally(close, _IOU))
        labels[close.prediction] = image.truth.labels[close.instance]
        return replace(outcome, labels=labels, is_match=outcome.is_match | is_wrong)
    positives = image.truth.labels[~is_lost & ~image.truth.iscrowd]
    return replace(outcome, is_ignored=outcome.is_ignored | is_wrong, positives=positives)


def _compute_ap50(images: Sequence[ScoredImage], outcomes: Sequence[Outcome], num_classes: int) -> float | None:
    ranked = rank_outcomes(images, outcomes, num_classes)
    weights = np.ones(len(images))
    return mean_defined(np.array([own.compute_precision(weights).mean() for own in ranked]))
