"""What went wrong: every wrong prediction and every lost instance gets one cause, and each cause its cost in AP50."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from manymask.metrics.matching import Pairs, ScoredImage, assign_pairs, match_optimally, match_shown
from manymask.metrics.precision import Outcome, match_image, rank_outcomes

ERROR_KINDS = ("missed", "spurious", "duplicate", "merged", "split", "wrong_class", "loose_border")
"""The causes; which of them a prediction or an instance can have, ``split_errors`` says."""

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
    matched, is_counted, _ = match_shown(image, _IOU)
    pairs = image.mask_pairs.select(image.mask_pairs.prediction < image.num_shown)
    return _split_errors(image, pairs, matched, is_counted)


def _split_errors(
    image: ScoredImage, pairs: Pairs, matched: Pairs, is_counted: Bool[np.ndarray, " predictions"]
) -> ImageErrors:
    truth, labels = image.truth, image.predictions.labels
    predictions = np.where(is_counted, "spurious", "ignored").astype("U12")
    instances = np.where(truth.iscrowd, "ignored", "missed").astype("U12")
    predictions[matched.prediction], instances[matched.instance] = "correct", "found"
    ious = np.zeros(len(predictions)), np.zeros(len(instances))
    np.maximum.at(ious[0], pairs.prediction, pairs.iou)
    np.maximum.at(ious[1], pairs.instance, pairs.iou)
    pairs = pairs.select(is_counted[pairs.prediction] & ~truth.iscrowd[pairs.instance])

    def keep_free(chosen: Pairs) -> Pairs:
        is_free = predictions[chosen.prediction] == "spurious"
        return chosen.select(is_free & (instances[chosen.instance] == "missed"))

    close = keep_free(pairs)
    close = close.select(match_optimally(close, _IOU))
    predictions[close.prediction] = instances[close.instance] = "wrong_class"

    near = pairs.select(pairs.iou >= _IOU).prediction
    predictions[near[predictions[near] == "spurious"]] = "duplicate"

    over = pairs.select(pairs.intersection >= _SHARE * truth.areas[pairs.instance])
    num_covered = np.bincount(over.prediction, minlength=len(predictions))
    over = over.select(num_covered[over.prediction] > 1)
    predictions[over.prediction[predictions[over.prediction] == "spurious"]] = "merged"
    instances[over.instance[instances[over.instance] == "missed"]] = "merged"

    inside = pairs.select(pairs.intersection >= _SHARE * image.predictions.areas[pairs.prediction])
    num_parts = np.bincount(inside.instance, minlength=len(instances))
    parts = inside.select((num_parts[inside.instance] > 1) & (predictions[inside.prediction] == "spurious"))
    predictions[parts.prediction] = "split"
    instances[parts.instance[instances[parts.instance] == "missed"]] = "split"

    loose = keep_free(pairs.select(pairs.iou >= _LOOSE_IOU))
    loose = loose.select(labels[loose.prediction] == truth.labels[loose.instance])
    loose = loose.select(assign_pairs(loose, loose.iou))
    predictions[loose.prediction] = instances[loose.instance] = "loose_border"
    return ImageErrors(predictions, instances, *ious)


def summarize_errors(
    images: Sequence[ScoredImage], errors: Sequence[ImageErrors], num_classes: int
) -> dict[str, dict[str, float | int | None]]:
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
    result: dict[str, dict[str, float | int | None]] = {}
    for kind in ERROR_KINDS:
        mended = [_mend(*parts, kind) for parts in zip(images, outcomes, causes, strict=True)]
        without = _compute_ap50(images, mended, num_classes)
        cost = None if now is None or without is None else without - now
        result[kind] = {"predictions": predictions[kind], "instances": instances[kind], "AP50_cost": cost}
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
    values = np.array([own.compute_precision(weights).mean() for own in ranked])
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
