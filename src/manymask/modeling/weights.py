"""The weights that a network starts from."""

import pickle
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.models import ResNet50_Weights
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights, MaskRCNN_ResNet50_FPN_Weights

from manymask.errors import CheckpointError
from manymask.modeling.backbones import create_timm_body, find_input_convolution, first_line, spread_input_weights
from manymask.modeling.catalogue import resolve_weights
from manymask.modeling.checkpoint import DENSE_PART, read_state_dict
from manymask.modeling.network import MaskRCNN
from manymask.plan import Plan

COCO_WEIGHTS = {
    "maskrcnn_resnet50_fpn": MaskRCNN_ResNet50_FPN_Weights.COCO_V1,
    "maskrcnn_resnet50_fpn_v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
}
# The parts that depend on the number of classes and are made anew for other classes.
SECOND_STAGE = "roi_heads.second."
CLASS_PARTS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.", f"{SECOND_STAGE}box_predictor.")


def load_starting_weights(model: MaskRCNN, plan: Plan) -> None:
    """Load what ``plan.weights`` names into a new model.

    Raises:
        CheckpointError: The weights cannot be downloaded or read, or are of another architecture.
    """
    if plan.weights == "none":
        return
    if plan.weights == "coco":
        load_weights(model, _download(COCO_WEIGHTS[plan.architecture]), "torchvision's COCO weights")
    elif plan.weights == "imagenet":
        _load_imagenet_weights(model, plan)
    else:
        load_weights(model, read_state_dict(resolve_weights(plan.weights)), plan.weights)


def _load_imagenet_weights(model: MaskRCNN, plan: Plan) -> None:
    body: Any = model.backbone.body
    if plan.backbone is not None:
        try:
            source = create_timm_body(plan.backbone, is_pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:  # no network, a broken cache, no such weights
            raise _explain_download(f"timm's weights of {plan.backbone}", error) from error
        state = source.state_dict()
    else:
        state = _download(ResNet50_Weights.IMAGENET1K_V1)
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    name, convolution = find_input_convolution(body)
    body.load_state_dict(_fit_input(state, f"{name}.weight", convolution.in_channels))


def _fit_input(state: Mapping[str, Tensor], name: str, num_channels: int) -> dict[str, Tensor]:
    """The weights, those of the first convolution for so many channels."""
    weight = state.get(name)
    if weight is None or weight.ndim != 4 or weight.shape[1] == num_channels:
        return dict(state)
    return {**state, name: spread_input_weights(weight, num_channels)}


def _download(weights: Any) -> dict[str, Tensor]:
    """Weights from torch's cache, or from torchvision's server."""
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _explain_download(weights.url, error) from error


def _explain_download(source: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"cannot download {source} ({first_line(error)}); fetch it on a machine that can and set weights=FILE, or set "
        "weights=none to start from random weights"
    )


def load_weights(model: MaskRCNN, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict with torchvision's keys; where its classes are others, the class-specific parts stay new.

    A first convolution for another number of channels gets their mean filter (``spread_input_weights``).
    A second box stage that the weights lack starts as a copy of the first. The head of the dense loss stays new where
    they lack it, and is left out where the model lacks it.

    Raises:
        CheckpointError: A part besides the class-specific ones is missing, of another shape or not known.
    """
    own = model.state_dict()
    body: Any = model.backbone.body
    name, convolution = find_input_convolution(body)
    state = _fit_input(state, f"backbone.body.{name}.weight", convolution.in_channels)
    state = {name: value for name, value in state.items() if name in own or not name.startswith(DENSE_PART)}
    lacking = [part for part in (DENSE_PART, SECOND_STAGE) if not any(name.startswith(part) for name in state)]
    state |= {name: value for name, value in own.items() if name.startswith(tuple(lacking))}
    class_parts = {name for name in own if name.startswith(CLASS_PARTS)}
    if any(name in state and state[name].shape != own[name].shape for name in class_parts):
        state = {name: value for name, value in state.items() if name not in class_parts}
        state |= {name: own[name] for name in class_parts}
    wrong = [name for name, value in state.items() if name in own and own[name].shape != value.shape]
    if not wrong:
        # Not compared by name here: torchvision's modules rename the keys of its older files while loading.
        missing, unknown = model.load_state_dict(state, strict=False)
        wrong = sorted(missing + unknown)
    if wrong:
        raise CheckpointError(
            f"{source} does not fit the architecture: {len(wrong)} of its parts are missing, unknown or of another "
            f"shape, {wrong[0]} first; set architecture, backbone, aspect_ratios and box_stages as the weights were "
            "trained with"
        )
    heads: Any = model.roi_heads
    if heads.second is not None and SECOND_STAGE in lacking:
        heads.copy_first_stage()
