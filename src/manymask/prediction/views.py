"""The instances of one image, seen in one or several views."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64
from torch import Tensor

from manymask.core import Instances, Window, merge_scales, merge_views
from manymask.core.memory import find_full_memory
from manymask.errors import ManymaskError
from manymask.modeling.detections import Detections, Postprocessing, make_instances, suppress_masks
from manymask.modeling.preprocessing import Preprocessing, Size, View
from manymask.prediction.detectors import Detector
from manymask.prediction.model import Model
from manymask.prediction.object_size import FactorChoice, Scaling, find_scaling, measure_objects

logger = logging.getLogger(__name__)

TTA_FLIPS = ((False, False), (True, False), (False, True), (True, True))
TTA_FACTORS = (1.0, 1.25)
"""Flips (left to right, upside down) and enlargements that ``tta`` looks at an image in (benchmarks/RESULTS.md)."""


def predict_tensor(
    model: Model,
    image: Float32[Tensor, "channels height width"],
    source: str = "an image",
    factor: float | None = None,
) -> Instances:
    """Find the instances of one image, (3, height, width) in [0, 1]; with ``tta`` in several views of it.

    With ``object_size`` the image is resized first so that its objects look as large as in training; where they are
    clearly of two sizes, each size is looked for by itself.

    Args:
        model: The model.
        image: The image.
        source: The file, for messages.
        factor: That the image is resized by, in place of what ``object_size`` asks for.

    Raises:
        ManymaskError: Memory is full.
        PlanError: ``object_size`` is set, and the model does not know the sizes of its training objects.
    """
    size = (image.shape[-2], image.shape[-1])
    with _explain_full_memory(source, size):
        looks = _Looks(model, image)
        scaling = _choose_scaling(model, looks, size, source) if factor is None else Scaling((factor,))
        passes = [_predict_at(each, model, looks, size, source) for each in scaling.factors]
        if len(passes) == 1:
            return passes[0]
        if any(is_capped(found, model.postprocessing) for found in passes):
            _warn_of_hidden_cap(f"{source}: a pass over the image", "the other pass sees", model.postprocessing)
        return merge_scales(passes, scaling.limits)[: model.postprocessing.max_detections]


def predict_alike(
    model: Model,
    images: Sequence[Float32[Tensor, "channels height width"]],
    sources: Sequence[str],
    factor: float | None = None,
) -> list[Instances]:
    """As ``predict_tensor``, of several images of one size, which go through the network at once.

    One after the other they do where each is looked at several times.
    """
    if model.plan.tta or (factor is None and model.plan.object_size is not None):
        pairs = zip(images, sources, strict=True)
        return [predict_tensor(model, image, source, factor) for image, source in pairs]
    size = (images[0].shape[-2], images[0].shape[-1])
    with _explain_full_memory(f"{len(images)} images such as {sources[0]}", size):
        view = View(Window(0, 0, *size), model.preprocessing, factor=factor or 1.0)
        found = model.detector([view.take(image.to(model.detector.device)) for image in images])
        return [make_instances(view.map_back(detections), size, model.postprocessing) for detections in found]


@contextmanager
def _explain_full_memory(source: str, size: Size) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (memory := find_full_memory(error)) is None:
            raise
        raise ManymaskError(
            f"{memory} is full at {source} of {size[0]} x {size[1]}; lower detections_per_image or the tile_size of "
            f"predict{'' if memory == 'memory' else ', or set device=cpu'}"
        ) from error


class _Looks:
    """What the network finds in the whole of an image at each factor; each is looked at once."""

    def __init__(self, model: Model, image: Float32[Tensor, "channels height width"]) -> None:
        self.model, self.image = model, image
        self._found: dict[float, Detections] = {}

    def detect(self, factor: float) -> Detections:
        """The detections, in pixels of the image."""
        if factor not in self._found:
            size = (self.image.shape[-2], self.image.shape[-1])
            views = list_views(size, self.model.preprocessing, factor=factor)
            (self._found[factor],) = detect_views(self.model.detector, self.image, views)
        return self._found[factor]

    def measure(self, factor: float) -> Float64[np.ndarray, " objects"]:
        """The sizes of what it is sure of."""
        size, plan = (self.image.shape[-2], self.image.shape[-1]), self.model.plan
        return measure_objects(self.detect(factor), size, plan.shown_score, plan.mask_threshold)


def _choose_scaling(model: Model, looks: _Looks, size: Size, source: str) -> Scaling:
    if (wanted := model.plan.object_size) is None:
        return Scaling()
    choice = FactorChoice.of(model.trained_sizes, size, model.preprocessing)
    if wanted != "auto":
        return Scaling((choice.choose(wanted),))
    return find_scaling(choice, looks.measure, size, source)


def _predict_at(factor: float, model: Model, looks: _Looks, size: Size, source: str) -> Instances:
    """The instances that are found at a factor, in one or several views."""
    _, *others = list_views(size, model.preprocessing, tta=model.plan.tta, factor=factor)
    found = chain([looks.detect(factor)], detect_views(model.detector, looks.image, others))
    views = [make_instances(detections, size, model.postprocessing) for detections in found]
    return views[0] if len(views) == 1 else _merge(views, model.postprocessing, source)


def list_views(size: Size, preprocessing: Preprocessing, *, tta: bool = False, factor: float = 1.0) -> list[View]:
    """The views of an image of ``size``: the whole resized by ``factor``, with ``tta`` flipped and enlarged too.

    Views are enlarged where ``min_size`` does not resize them.
    """
    whole = View(Window(0, 0, *size), preprocessing, factor=factor)
    if not tta:
        return [whole]
    factors = [factor] if preprocessing.min_size else [factor * further for further in TTA_FACTORS]
    return [replace(whole, flips=flips, factor=factor) for factor in factors for flips in TTA_FLIPS]


def detect_views(
    detector: Detector, image: Float32[Tensor, "channels height width"], views: Sequence[View], batch_size: int = 1
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
        _warn_of_hidden_cap(f"{source}: a view of the image", "other views see", postprocessing)
    merged = merge_views(views)
    merged = merged[merged.scores >= postprocessing.min_score]
    # Each view was suppressed by itself; where one saw one object and another saw two, the masks decide.
    kept = suppress_masks(merged.runs, merged.labels, postprocessing.nms)
    return merged[kept[: postprocessing.max_detections]]


def _warn_of_hidden_cap(what: str, others: str, postprocessing: Postprocessing) -> None:
    """Say of a part of what was looked at what the merged instances no longer show."""
    logger.warning(
        f"{what} reached the cap of {postprocessing.max_detections} detections, so that objects may be lost that "
        f"{others}; set detections_per_image higher"
    )


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
