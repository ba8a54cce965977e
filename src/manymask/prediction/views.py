"""The instances of one image, seen in one or several views."""

import warnings
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F

from manymask.core import Instances, merge_views
from manymask.core.memory import find_full_memory
from manymask.errors import ManymaskError
from manymask.modeling.detections import make_instances, suppress_masks
from manymask.modeling.device import choose_precision
from manymask.modeling.scale import describe_lost_scale
from manymask.plan import Plan
from manymask.prediction.model import Model

TTA_FLIPS = ((False, False), (True, False), (False, True), (True, True))
TTA_FACTORS = (1.0, 1.25)
"""Flips (left to right, upside down) and enlargements that ``tta`` looks at an image in (benchmarks/RESULTS.md)."""


def predict_tensor(model: Model, image: torch.Tensor, source: str = "an image") -> Instances:
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
    if (lost := describe_lost_scale({source: size}, model.plan)) is not None:
        warnings.warn(lost, stacklevel=3)
    try:
        return _predict_views(model, image)
    except (MemoryError, RuntimeError) as error:
        if (memory := find_full_memory(error)) is None:
            raise
        raise ManymaskError(
            f"{memory} is full at {source} of {size[0]} x {size[1]}; lower max_size or detections_per_image, or "
            f"predict parts of the image{'' if model.device.type == 'cpu' else ', or set device=cpu'}"
        ) from error


def _predict_views(model: Model, image: torch.Tensor) -> Instances:
    if not model.plan.tta:
        return _predict_view(model, image)
    views = [
        _predict_view(model, image, *flips, factor) for factor in _list_factors(model, image) for flips in TTA_FLIPS
    ]
    if any(_is_capped(view, model.plan) for view in views):
        warnings.warn(
            f"a view of an image reached the cap of {model.plan.max_detections} detections, so that objects may be "
            "lost that other views see; set detections_per_image higher",
            stacklevel=4,
        )
    merged = merge_views(views)
    merged = merged[merged.scores >= model.plan.min_score]
    # Each view has suppressed by itself; what one saw as one object and another as two is left to masks.
    kept = suppress_masks(merged.runs, merged.labels, model.plan.nms)
    return merged[kept[: model.plan.max_detections]]


def _list_factors(model: Model, image: torch.Tensor) -> list[float]:
    """The factors by which views are really enlarged: not where ``min_size`` resizes, nor beyond ``max_size``."""
    plan = model.plan
    limit = 1.0 if plan.min_size else plan.max_size / (plan.scale * max(image.shape[-2:]))
    return [factor for factor in TTA_FACTORS if factor <= max(limit, 1.0)]


def _is_capped(instances: Instances, plan: Plan) -> bool:
    """Whether the cap may have cut off instances that the model is sure of."""
    return len(instances) == plan.max_detections and bool(instances.scores.min() >= plan.shown_score)


def _predict_view(
    model: Model, image: torch.Tensor, is_mirrored: bool = False, is_upside_down: bool = False, factor: float = 1.0
) -> Instances:
    """The instances of an image, at its own resolution, that a flipped and resized view of it shows."""
    precision = choose_precision(model.plan.precision, model.device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cast = torch.autocast(model.device.type, types[precision]) if precision in types else nullcontext()
    size = (image.shape[-2], image.shape[-1])
    axes = [axis for axis, is_flipped in ((2, is_mirrored), (1, is_upside_down)) if is_flipped]
    view = image.flip(axes)
    if factor != 1:
        view = F.interpolate(view[None], [round(side * factor) for side in size], mode="bilinear")[0]
    with torch.inference_mode(), cast:
        output = model.network([view.to(model.device)])[0]
    output["mask_probabilities"] = output["mask_probabilities"].flip(axes)
    output["boxes"] = _map_back(output["boxes"].float(), (view.shape[-2], view.shape[-1]), size, axes)
    return make_instances(output, size, model.plan)


def _map_back(boxes: torch.Tensor, view_size: tuple[int, int], size: tuple[int, int], axes: list[int]) -> torch.Tensor:
    """Boxes of a view, x1 y1 x2 y2, in the image that it was made of."""
    boxes = boxes * boxes.new_tensor([size[1] / view_size[1], size[0] / view_size[0]]).repeat(2)
    for axis in axes:
        column = 2 - axis  # axis 2 of an image runs along x
        boxes[:, [column, column + 2]] = size[axis - 1] - boxes[:, [column + 2, column]]
    return boxes


def _warn_of_cap(instances: Instances, plan: Plan, name: str | Path) -> None:
    """Say so where the cap on detections may have cut off instances that the model is sure of."""
    if _is_capped(instances, plan):
        warnings.warn(
            f"{name}: the cap of {plan.max_detections} detections is reached, and more instances may be there; set "
            f"detections_per_image higher",
            stacklevel=3,
        )
