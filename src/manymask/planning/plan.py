"""The plan: every setting of a run, with its range and its meaning.

``plan.json`` is a plan as JSON. Settings can be set by name (``--set name=value``); a name that does not exist is
refused with the nearest one that does.
"""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from manymask.core.files import replace_file
from manymask.errors import PlanError

MIN_DETECTIONS = 100


def _none_from_text(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in {"none", "null", ""} else value


def _text_from_path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _list_from_text(value: Any) -> Any:
    return [part for part in value.replace(" ", ",").split(",") if part] if isinstance(value, str) else value


class DataRecord(BaseModel):
    """What a run was trained on, so that a resume on other data is refused and a model knows its classes.

    Attributes:
        path: The training data.
        val_path: The validation data, where a separate set was given.
        data_format: Name of the reader.
        fingerprint: Hash of all pixels, labels, names and classes of the training data and the validation data.
        categories: (id, name) of the classes; class index i + 1 is the i-th.
        train_names: Images trained on.
        val_names: Images validated on.
        max_instances: The largest number of instances in a training image.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    val_path: str | None
    data_format: str
    fingerprint: str
    categories: tuple[tuple[int, str], ...]
    train_names: tuple[str, ...]
    val_names: tuple[str, ...]
    max_instances: int


class Plan(BaseModel):
    """All settings of a run. The defaults are the baseline recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    recipe: str = "baseline"
    """The recipe that the settings started from."""
    architecture: Literal["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_fpn"] = (
        "maskrcnn_resnet50_fpn_v2"
    )
    """torchvision's two models, or ``maskrcnn_fpn`` with any timm backbone."""
    backbone: Annotated[str | None, BeforeValidator(_none_from_text)] = None
    """Name of a timm model with ``features_only``, for ``maskrcnn_fpn`` only."""
    weights: Annotated[str, BeforeValidator(_text_from_path)] = "coco"
    """Where training starts: ``coco``, ``imagenet``, ``none`` or a file."""
    trainable_stages: int = Field(default=3, ge=0, le=5)
    """Backbone stages that are trained, counted from the last; all of them where there are no weights."""
    anchor_sizes: Annotated[tuple[float, ...], BeforeValidator(_list_from_text)] = (32, 64, 128, 256, 512)
    """Side of the square anchor of each of the five feature levels, in pixels of the resized image."""
    rpn_samples: int = Field(default=256, ge=2)
    """Anchors an image that the RPN's loss is computed on (Faster R-CNN, section 3.1.3)."""
    roi_samples: int = Field(default=512, ge=4)
    """Proposals an image that the heads' losses are computed on (Mask R-CNN, section 3.1, with FPN)."""
    epochs: int = Field(default=100, ge=1)
    """Passes over the training images."""
    max_steps: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_none_from_text)] = None
    """Optimizer steps after which training ends, in the middle of an epoch if need be; ``none`` for no limit."""
    batch_size: int = Field(default=2, ge=1)
    """Images a forward pass."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes an optimizer step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer."""
    learning_rate: float = Field(default=0.005, gt=0, lt=100)
    """The highest learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, first beta of AdamW."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of all parameters."""
    gradient_clip: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient; 0 leaves it as it is."""
    scheduler: Literal["multistep", "cosine", "none"] = "multistep"
    """Learning rate over the run: times 0.1 at 80 % and 90 % of the epochs, a half cosine to zero, or constant."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises linearly from zero."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network: ``auto`` is fp16 on CUDA, bf16 on processors that have it, else fp32."""
    deterministic: bool = False
    """Bit-for-bit repeatable on CUDA too, which is slower; on the CPU it always is."""
    min_size: int = Field(default=800, ge=0)
    """Shorter side that images are resized to, in pixels; 0 keeps each image's own size."""
    max_size: int = Field(default=1333, ge=1)
    """Longest side after resizing, in pixels; without meaning where ``min_size`` is 0."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the images that are held out for validation, at least one image."""
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the split; apart from ``seed``, so that runs of several seeds are scored on the same images."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the order of images, the initial weights and the sampling of proposals."""
    num_workers: int = Field(default=2, ge=0, le=256)
    """Processes that load images."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    detections_per_image: int | Literal["auto"] = "auto"
    """The one cap on detections, proposals and scored predictions; ``auto`` is max(100, 1.5 x the largest count)."""
    min_score: float = Field(default=0.05, ge=0, lt=1)
    """Predictions below this score are neither written nor scored."""
    score_threshold: float = Field(default=0.5, ge=0, le=1)
    """Score from which a prediction is shown in label images and overlays and counted in AP(t)."""
    mask_threshold: float = Field(default=0.5, gt=0, lt=1)
    """Probability from which a pixel belongs to a predicted mask."""
    keep_checkpoints: Literal["all", "best"] = "all"
    """Which epochs' checkpoints stay: all, or only the best and the last."""
    data: DataRecord | None = None
    """What the run was trained on; written by training."""

    @model_validator(mode="after")
    def _check_settings_fit(self) -> "Plan":
        if self.architecture == "maskrcnn_fpn":
            if self.backbone is None:
                raise ValueError("architecture=maskrcnn_fpn needs backbone=<timm name>, for example backbone=resnet18")
            if self.weights == "coco":
                raise ValueError("there are no COCO weights of maskrcnn_fpn; set weights to imagenet, none or a file")
        elif self.backbone is not None:
            raise ValueError(f"backbone goes with architecture=maskrcnn_fpn only, not with {self.architecture}")
        if self.min_size > self.max_size:
            raise ValueError(f"min_size is {self.min_size}, but max_size only {self.max_size}")
        if self.detections_per_image != "auto" and self.detections_per_image < 1:
            raise ValueError(f"detections_per_image is {self.detections_per_image}, expected auto or at least 1")
        if len(self.anchor_sizes) != 5 or min(self.anchor_sizes) < 2:
            raise ValueError(f"anchor_sizes is {list(self.anchor_sizes)}, expected five sizes of at least 2 pixels")
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device is {self.device!r}, expected auto, cpu, cuda or cuda:N")
        return self

    @property
    def max_detections(self) -> int:
        """The cap as a number.

        Raises:
            PlanError: The cap is still ``auto``; ``resolve_detections`` makes it a number.
        """
        if self.detections_per_image == "auto":
            raise PlanError("detections_per_image is auto, but there is no training data to take it from; set a number")
        return self.detections_per_image

    def resolve_detections(self, max_instances: int) -> "Plan":
        """The plan with ``auto`` replaced by max(100, 1.5 x the largest count of the training data)."""
        if self.detections_per_image != "auto":
            return self
        return self.model_copy(update={"detections_per_image": max(MIN_DETECTIONS, -(-3 * max_instances // 2))})


RECIPES: dict[str, Plan] = {"baseline": Plan()}
"""Named starting points. ``baseline`` is the course report's system that manymask began with."""

SETTINGS: tuple[str, ...] = tuple(name for name in Plan.model_fields if name not in {"recipe", "data"})
"""Names that ``--set`` takes."""

CHANGEABLE: frozenset[str] = frozenset({"num_workers", "device"})
"""Settings that a resumed run may change: they do not change its result."""


def make_plan(recipe: str = "baseline", settings: Mapping[str, Any] | None = None) -> Plan:
    """A recipe with some settings of one's own.

    Raises:
        PlanError: The recipe or a setting does not exist, is out of range, or settings do not fit each other.
    """
    if recipe not in RECIPES:
        raise PlanError(f"there is no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    return change_plan(RECIPES[recipe], settings or {})


def change_plan(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with other values for some settings; values may be text.

    Raises:
        PlanError: A setting does not exist, is out of range, or settings do not fit each other.
    """
    for name in settings:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SETTINGS)}"
            raise PlanError(f"there is no setting {name!r}; {hint}")
    return _validate({**plan.model_dump(), **settings}, "the settings")


def parse_settings(assignments: list[str]) -> dict[str, str]:
    """Split texts like ``scheduler=none``.

    Raises:
        PlanError: A text has no ``=``, or a name is given twice.
    """
    settings: dict[str, str] = {}
    for assignment in assignments:
        name, is_found, value = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not is_found:
            raise PlanError(f"expected name=value, found {assignment!r}; for example --set scheduler=none")
        if name in settings:
            raise PlanError(f"the setting {name!r} is given twice")
        settings[name] = value.strip()
    return settings


def write_plan(plan: Plan, path: Path) -> None:
    """Write ``plan.json``."""
    with replace_file(path, "w") as f:
        f.write(plan.model_dump_json(indent=2) + "\n")


def read_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises:
        PlanError: The file is not there or not a plan.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"expected a plan at {path}: {error.strerror}; is this a run folder?") from error
    except ValueError as error:
        raise PlanError(f"{path} is not JSON ({error}); restore it or start the run anew") from error
    return load_plan(values, str(path))


def load_plan(values: Any, source: str) -> Plan:
    """Make a plan of a mapping that was read from ``source``.

    Raises:
        PlanError: It is not a mapping of settings, or a value is not allowed.
    """
    if not isinstance(values, dict):
        raise PlanError(f"expected settings by name in {source}, found {type(values).__name__}")
    plan = _validate(cast(dict[str, Any], values), source)
    # Runs from when the split went by the seed know no other.
    return plan if "split_seed" in values else plan.model_copy(update={"split_seed": plan.seed})


def _validate(values: dict[str, Any], source: str) -> Plan:
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        depth = 2 if found["loc"][:1] == ("data",) else 1  # deeper parts are pydantic's own
        name = ".".join(str(part) for part in found["loc"][:depth])
        message = found["msg"].removeprefix("Value error, ")
        text = f"{name} is {found['input']!r}: {message}" if name else message
        raise PlanError(f"in {source}, {text}") from error
