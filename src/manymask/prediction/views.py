"""The instances of one image, seen in one or several views."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from manymask.core import Instances, Window, merge_views
from manymask.core.memory import find_full_memory
from manymask.errors import ManymaskError
from manymask.modeling.detections import Detections, Postprocessing, make_instances, suppress_masks
from manymask.modeling.preprocessing import Preprocessing, Size, View
from manymask.prediction.detectors import Detector
from manymask.prediction.model import Model

logger = logging.getLogger(__name__)

TTA_FLIPS = ((False, False), (True, False), (False, True), (True, True))
TTA_FACTORS = (1.0, 1.25)
"""Flips (left to right, upside down) and enlargements that ``tta`` looks at an image in (benchmarks/RESULTS.md)."""


def predict_tensor(model: Model, image: Float32[Tensor, "3 height width"], source: str = "an image") -> Instances:
    """Find the instances of one image, (3, height, width) in [0, 1]; with ``tta`` in several views of it.

    Warns where the image is too long for the scale that the model was trained with.

    Args:
        model: The model.
        image: The image.
        source: The file, for messages.

    Raises:
        ManymaskError: Memory is full.
    """
    size = (image.shape[-2], image.shape[-1])
    if (lost := model.preprocessing.describe_lost_scale({source: size})) is not None:
        logger.warning(lost)
    try:
        found = detect_views(model.detector, image, list_views(size, model.preprocessing, tta=model.plan.tta))
        views = [make_instances(detections, size, model.postprocessing) for detections in found]
        return views[0] if len(views) == 1 else _merge(views, model.postprocessing, source)
    except (MemoryError, RuntimeError) as error:
        if (memory := find_full_memory(error)) is None:
            raise
        raise ManymaskError(
            f"{memory} is full at {source} of {size[0]} x {size[1]}; lower max_size or detections_per_image, or "
            f"predict parts of the image{'' if memory == 'memory' else ', or set device=cpu'}"
        ) from error


def list_views(size: Size, preprocessing: Preprocessing, *, tta: bool = False) -> list[View]:
    """The views of an image of ``size``: the whole as it is, with ``tta`` flipped and enlarged too.

    Views are really enlarged: not where ``min_size`` resizes, nor beyond ``max_size``.
    """
    whole = View(Window(0, 0, *size), preprocessing)
    if not tta:
        return [whole]
    limit = 1.0 if preprocessing.min_size else preprocessing.max_size / (preprocessing.scale * max(size))
    factors = [factor for factor in TTA_FACTORS if factor <= max(limit, 1.0)]
    return [replace(whole, flips=flips, factor=factor) for factor in factors for flips in TTA_FLIPS]


def detect_views(
    detector: Detector, image: Float32[Tensor, "3 height width"], views: Sequence[View], batch_size: int = 1
) -> Iterator[Detections]:
    """The detections of each view in turn, in pixels of the image.

    Args:
        detector: What finds them.
        image: In [0, 1].
        views: Of the image.
        batch_size: Views of one size that go through the network at once; more than one may give other last digits.
    """
    image = image.to(detector.device)
    for _, group in groupby(views, key=lambda view: view.size):
        same = list(group)
        for first in range(0, len(same), batch_size):
            batch = same[first : first + batch_size]
            found = detector([view.take(image) for view in batch])
            yield from (view.map_back(detections) for view, detections in zip(batch, found, strict=True))


def _merge(views: list[Instances], postprocessing: Postprocessing, source: str) -> Instances:
    if any(is_capped(view, postprocessing) for view in views):
        logger.warning(
            f"{source}: a view of the image reached the cap of {postprocessing.max_detections} detections, so that "
            "objects may be lost that other views see; set detections_per_image higher"
        )
    merged = merge_views(views)
    merged = merged[merged.scores >= postprocessing.min_score]
    # Each view was suppressed by itself; where one saw one object and another saw two, the masks decide.
    kept = suppress_masks(merged.runs, merged.labels, postprocessing.nms)
    return merged[kept[: postprocessing.max_detections]]


def is_capped(instances: Instances, postprocessing: Postprocessing) -> bool:
    """Whether the cap may have cut off instances that the model is sure of."""
    is_full = len(instances) == postprocessing.max_detections
    return is_full and bool(instances.scores.min() >= postprocessing.shown_score)


def warn_of_cap(instances: Instances, postprocessing: Postprocessing, name: str | Path) -> None:
    """Say so where the cap on detections may have cut off instances that the model is sure of."""
    if is_capped(instances, postprocessing):
        logger.warning(
            f"{name}: the cap of {postprocessing.max_detections} detections is reached, and more instances may be "
            "there; set detections_per_image higher"
        )
