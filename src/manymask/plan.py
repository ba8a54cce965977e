"""The plan: every setting of a run, with its range and its meaning.

``plan.json`` is a plan as JSON. Settings can be set by name (``--set name=value``); a name that does not exist is
refused with the nearest one that does. The file is long because most of it is this one table of settings.
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from manymask.core.files import write_file
from manymask.errors import PlanError

MIN_DETECTIONS = 100


class Mark(Enum):
    """What may be done with a setting apart from choosing it before training."""

    INFERENCE = "a trained model can be given another value"
    INHERITED = "weights of an earlier run were made for it"
    RESUMABLE = "a resumed run may change it, as it does not change the result"
    SCHEDULE = "fits a run into a time budget, whatever its recipe"
    READING = "says how labels are read, and so what is trained on and scored"


INFERENCE, INHERITED, RESUMABLE, SCHEDULE, READING = Mark


def _none_from_text(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in {"none", "null", ""} else value


def _text_from_path(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _number_from_text(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _list_from_text(value: Any) -> Any:
    return [part for part in value.replace(" ", ",").split(",") if part] if isinstance(value, str) else value


def _list_or_auto(value: Any) -> Any:
    return value if value == "auto" else _list_from_text(value)


def _list_from_one(value: Any) -> Any:
    found = _list_from_text(_none_from_text(value))
    return [found] if isinstance(found, int | float) else found or []


def _name_nan(value: Any) -> Any:
    return "nan" if str(value).lower() == "nan" else value


_OR_NONE, _LIST = BeforeValidator(_none_from_text), BeforeValidator(_list_from_text)

Labels = tuple[Annotated[int | Literal["nan"], BeforeValidator(_name_nan)], ...]
"""Values of label images."""
GivenLabels = int | float | str | Sequence[int | float | str] | None
"""The same as users give them: one or several, text with commas too; a float is NaN."""


ObjectSizes = tuple[float, float, float, float, float]
"""The 5 %, 25 %, 50 %, 75 % and 95 % quantiles of objects' sizes."""


def count_inputs(num_channels: int) -> int:
    """Channels that a network takes for images of so many: three for grey and RGB."""
    return 3 if num_channels == 1 else num_channels


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
        train_digests: Of the pixels of each of ``train_names``, by which an image is known in any place; none in plans
            of before these were kept.
        val_digests: The same of ``val_names``.
        object_sizes: 5 %, 25 %, 50 %, 75 % and 95 % quantiles of the training objects' size, the square root of their
            area in pixels of the file; none in plans of before these were kept.
        longest_object: Side in pixels of the file that is longer than 99.9 % of the longest sides of the training
            objects' boxes; none in plans of before it was kept.
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
    train_digests: tuple[str, ...] = ()
    val_digests: tuple[str, ...] = ()
    object_sizes: ObjectSizes | None = None
    longest_object: float | None = None


class Plan(BaseModel):
    """All settings of a run. The defaults are the baseline recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    version: Literal[1] = 1
    """Of this list of settings."""
    recipe: str = "baseline"
    """The recipe that the settings started from."""
    architecture: Annotated[
        Literal["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_fpn", "maskrcnn_compact"], INHERITED
    ] = "maskrcnn_resnet50_fpn_v2"
    """torchvision's two models, ``maskrcnn_fpn`` with any timm backbone, or ``maskrcnn_compact`` for CPUs and small
    objects."""
    backbone: Annotated[str | None, _OR_NONE, INHERITED] = None
    """Name of a timm model with ``features_only``, for ``maskrcnn_fpn``, or in place of ``maskrcnn_compact``'s own."""
    convolutions: Annotated[Literal["full", "separable"], INHERITED] = "full"
    """Those of ``maskrcnn_compact`` that take most of its time, of the RPN's head and of the finest pyramid level:
    ``separable`` ones have a ninth of the multiply-adds."""
    weights: Annotated[str, BeforeValidator(_text_from_path)] = "coco"
    """Where training starts: ``coco``, ``imagenet``, ``none``, a shipped model (``manymask models``), a run
    folder (its best checkpoint) or a file."""
    trainable_stages: int = Field(default=3, ge=0, le=5)
    """Backbone stages that are trained, counted from the last; all of them where there are no weights."""
    anchor_sizes: Annotated[tuple[float, ...], _LIST, INHERITED] = (32, 64, 128, 256, 512)
    """Side of the square anchor of each of the five feature levels, in pixels of the resized image."""
    aspect_ratios: Annotated[tuple[float, ...], _LIST, INHERITED] = (0.5, 1, 2)
    """Height over width of the anchors at each place."""
    rpn_samples: int = Field(default=256, ge=2)
    """Anchors an image that the RPN's loss is computed on (Faster R-CNN, section 3.1.3)."""
    roi_samples: int = Field(default=512, ge=4)
    """Proposals an image that the heads' losses are computed on (Mask R-CNN, section 3.1, with FPN)."""
    roi_positives: float = Field(default=0.25, gt=0, le=1)
    """Share of these that may be objects, as many of the proposals are in crowds."""
    mask_samples: Annotated[Annotated[int, Field(ge=1)] | None, _OR_NONE] = None
    """Of those that are objects, how many an image the mask's loss is computed on; ``none`` for all."""
    mask_resolution: Annotated[Literal[14, 28, 56], BeforeValidator(_number_from_text)] = 28
    """Side of the mask head's output, in bins over the box."""
    mask_alignment: Annotated[Literal["torchvision", "exact"], INHERITED] = "torchvision"
    """How features, mask targets and pasted masks lie on the pixels: as torchvision's COCO weights expect it, up to a
    pixel off; or exactly."""
    box_stages: Annotated[int, INHERITED] = Field(default=1, ge=1, le=2)
    """Box heads in a row: a second one refines what the first found and is trained for closer boxes (Cascade R-CNN)."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Loss of the box heads' boxes: smooth L1 of their four numbers, or generalised IoU (arXiv 1902.09630)."""
    dense_loss: float = Field(default=0.0, ge=0, lt=100)
    """Weight of a loss at every cell of the finest level: foreground, borders between touching objects, and offsets to
    their centres. Its head is there in training alone."""
    epochs: Annotated[int, SCHEDULE] = Field(default=100, ge=1)
    """Number of epochs; each ends with a validation and a checkpoint."""
    epoch_steps: Annotated[Annotated[int, Field(ge=1)] | None, _OR_NONE, SCHEDULE] = None
    """Optimizer steps an epoch; ``none`` for one pass over the training images."""
    max_steps: Annotated[Annotated[int, Field(ge=1)] | None, _OR_NONE] = None
    """Optimizer steps after which training ends, in the middle of an epoch if need be; ``none`` for no limit."""
    minutes: Annotated[Annotated[float, Field(gt=0)] | None, _OR_NONE] = None
    """Time that the whole command may take: the steps of each epoch are fitted to it; ``none`` for no limit."""
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
    scheduler: Literal["multistep", "cosine", "trapezoid", "none"] = "multistep"
    """Learning rate over the run: times 0.1 at 80 % and 90 % of the epochs, a half cosine to zero, constant and in the
    last fifth down to zero, or constant. A run with ``trapezoid`` and without ``minutes`` can be resumed with other
    ``epochs`` or ``max_steps`` from any checkpoint of before that."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises linearly from zero."""
    weight_average: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of the moving average of the weights, which is what is validated, predicted with and shipped; 0 for
    the weights as they are. Early in a run the average reaches back over a tenth of the steps at most."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], INFERENCE] = "auto"
    """Arithmetic of the network: ``auto`` is fp16 on CUDA, bf16 on processors that have it, else fp32."""
    deterministic: bool = False
    """Bit-for-bit repeatable on CUDA too, which is slower; on the CPU it always is."""
    min_size: Annotated[int, INFERENCE] = Field(default=800, ge=0)
    """Shorter side that images are resized to, in pixels; 0 keeps each image's own size."""
    max_size: Annotated[int, INFERENCE] = Field(default=1333, ge=1)
    """Longest side after resizing by ``min_size``, in pixels; where that is 0, nothing is limited by it."""
    scale: Annotated[float, INFERENCE, INHERITED] = Field(default=1.0, ge=0.1, le=8)
    """Factor that images are resized by where ``min_size`` is 0."""
    crop_size: int = Field(default=0, ge=0)
    """Side of the random crop of an image that a training step takes, in pixels of the file; 0 for the whole image, or
    where ``min_size`` is 0 for a tile of prediction's size (1,728 pixels after resizing) of an image that is longer."""
    normalization: Annotated[Literal["type", "image"], INHERITED] = "type"
    """What becomes 0 and 1: 0 and the largest number of the file's type, or the image's own 1 % and 99.8 % values. A
    difference of these of less than ten times the image's noise is not stretched that far."""
    channels: Annotated[Literal["auto"] | tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_list_or_auto)] = (
        "auto"
    )
    """Channels of the files that the network sees, counted from 1, in this order; ``auto`` is all of them. Grey is
    repeated to three; of two, four or more each is normalized by itself, and the network takes as many."""
    augmentation: Literal["none", "flip", "dihedral"] = "none"
    """What training images are put through at random: nothing, left-right flips, or all flips and quarter turns."""
    scale_jitter: float = Field(default=0.0, ge=0, le=1)
    """Share that training images are made larger or smaller by at random, at most; 1 is half to twice the size."""
    intensity_jitter: float = Field(default=0.0, ge=0, le=1)
    """Strength of random changes of the training images' gamma, brightness, colours and noise."""
    stain_jitter: float = Field(default=0.0, ge=0, le=1)
    """Share that the stains of training images in colour on a bright ground are made stronger or weaker by, at most."""
    contact_paste: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that one to six of their own objects are copied into, in contact with others."""
    touching_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that hold a place where two objects touch, of images where some do."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """How often images are drawn: all alike; or balanced by kind (in colour or grey, with objects brighter or darker
    than the rest), by the root of how many crops they hold, and by how rare their classes are."""
    crowd_as_objects: Annotated[bool, INFERENCE, READING] = False
    """Whether COCO's crowd regions (``iscrowd`` 1), as which CVAT writes brush strokes, are objects like the others, in
    training and in scores."""
    ignore_label: Annotated[Labels, BeforeValidator(_list_from_one), INFERENCE, READING] = ()
    """Values in label images that mean pixels to ignore, such as ``-1``, ``255`` or ``nan``: no object, no background
    to train on, and predictions there cost nothing in scores."""
    val_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the images that are held out for validation, at least one image."""
    group_by: Annotated[str | None, _OR_NONE] = None
    """Pattern that finds an image's group (slide, patient) in its name; groups are held out whole."""
    split_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the split; apart from ``seed``, so that runs of several seeds are scored on the same images."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the order of images, the initial weights and the sampling of proposals."""
    num_workers: Annotated[int, INFERENCE, RESUMABLE] = Field(default=2, ge=0, le=256)
    """Processes that load images."""
    device: Annotated[str, RESUMABLE] = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    detections_per_image: Annotated[int | Literal["auto"], INFERENCE] = "auto"
    """The one cap on detections, proposals and scored predictions; ``auto`` is max(100, 1.5 x the largest count)."""
    min_score: Annotated[float, INFERENCE] = Field(default=0.05, ge=0, lt=1)
    """Predictions below this score are neither written nor scored."""
    rpn_nms: Annotated[float, INFERENCE] = Field(default=0.7, gt=0, le=1)
    """Box IoU above which the RPN keeps the better of two proposals."""
    suppression: Annotated[Literal["box", "mask"], INFERENCE] = "box"
    """What two predictions of a class are compared by, to keep the better one: their boxes or their masks."""
    nms: Annotated[float, INFERENCE] = Field(default=0.5, gt=0, le=1)
    """IoU above which the better of two predictions of a class is kept."""
    score_threshold: Annotated[Annotated[float, Field(ge=0, le=1)] | Literal["auto"], INFERENCE] = 0.5
    """Score from which a prediction is shown in label images and overlays and counted in F1 and AP(t); ``auto`` is what
    gives the highest F1 on the validation images."""
    mask_threshold: Annotated[float, INFERENCE] = Field(default=0.5, gt=0, lt=1)
    """Probability from which a pixel belongs to a predicted mask."""
    tta: Annotated[bool, INFERENCE] = False
    """Test-time augmentation: predict flipped and enlarged views of an image too, and merge what they find; training's
    own validations do without."""
    object_size: Annotated[Annotated[float, Field(ge=1)] | Literal["auto"] | None, _OR_NONE, INFERENCE] = None
    """Size of an image's objects, the square root of their area in pixels of the file, by which the image is resized so
    that they look as large as those in training; ``auto`` measures it in each image, ``none`` leaves images as they
    are. Training's own validations do without."""
    keep_checkpoints: Literal["all", "best"] = "all"
    """Which epochs' checkpoints stay: all, or only the best and the last."""
    data: DataRecord | None = None
    """What the run was trained on; written by training."""

    @model_validator(mode="after")
    def _check_settings_fit(self) -> "Plan":
        for is_wrong, message in self._list_checks():
            if is_wrong:
                raise ValueError(message)
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise ValueError(f"group_by is {self.group_by!r}, which is not a regular expression ({error})") from error
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device is {self.device!r}, expected auto, cpu, cuda or cuda:N")
        return self

    def _list_checks(self) -> list[tuple[bool, str]]:
        """Whether settings do not fit each other, with what to say then."""
        name, cap, has_backbone = self.architecture, self.detections_per_image, self.backbone is not None
        takes_backbone = name in ("maskrcnn_fpn", "maskrcnn_compact")
        return [
            (takes_backbone and self.weights == "coco",
             f"there are no COCO weights of {name}; set weights to imagenet, none or a file"),
            (has_backbone and not takes_backbone,
             f"backbone goes with architecture=maskrcnn_fpn or maskrcnn_compact only, not with {name}"),
            (name == "maskrcnn_fpn" and not has_backbone,
             "architecture=maskrcnn_fpn needs backbone=<timm name>, for example backbone=resnet18"),
            (name == "maskrcnn_compact" and not has_backbone and self.weights == "imagenet",
             "there are no ImageNet weights of maskrcnn_compact's own body; set backbone=<timm name>"),
            (name != "maskrcnn_compact" and self.convolutions != "full",
             f"convolutions={self.convolutions} goes with architecture=maskrcnn_compact only, not with {name}"),
            (self.min_size > 0 and self.scale != 1,
             f"min_size is {self.min_size} and scale {self.scale:g}; set min_size=0 to resize by a factor"),
            (self.min_size > 0 and self.crop_size > 0,
             f"min_size is {self.min_size} and crop_size {self.crop_size}: crops would be enlarged more than whole "
             "images; set min_size=0"),
            (self.min_size > 0 and self.scale_jitter > 0,
             f"min_size is {self.min_size}, which would undo scale_jitter; set min_size=0"),
            (self.min_size > 0 and self.object_size is not None,
             f"min_size is {self.min_size}, which would undo object_size; set min_size=0"),
            (self.min_size > self.max_size, f"min_size is {self.min_size}, but max_size only {self.max_size}"),
            (cap != "auto" and cap < 1, f"detections_per_image is {cap}, expected auto or at least 1"),
            (len(self.anchor_sizes) != 5 or min(self.anchor_sizes) < 2,
             f"anchor_sizes is {list(self.anchor_sizes)}, expected five sizes of at least 2 pixels"),
            (not self.aspect_ratios or not all(0.05 <= ratio <= 20 for ratio in self.aspect_ratios),
             f"aspect_ratios is {list(self.aspect_ratios)}, expected numbers from 0.05 to 20"),
            (self.channels != "auto" and not 0 < len(self.channels) == len(set(self.channels)),
             f"channels is {list(self.channels)}, expected auto or numbers that differ"),
            (self.roi_samples * self.roi_positives < 1,
             f"roi_positives is {self.roi_positives:g}, less than one of roi_samples={self.roi_samples}, so that the "
             "mask head would never learn; set one of them higher"),
            (self.minutes is not None and self.max_steps is not None,
             "minutes and max_steps both end a run; set one of them to none"),
        ]  # fmt: skip

    @property
    def max_detections(self) -> int:
        """The cap as a number.

        Raises:
            PlanError: The cap is still ``auto``; ``resolve_detections`` makes it a number.
        """
        if self.detections_per_image == "auto":
            raise PlanError("detections_per_image is auto, but there is no training data to take it from; set a number")
        return self.detections_per_image

    @property
    def in_channels(self) -> int:
        """Channels that the network takes; grey becomes three."""
        return count_inputs(3 if self.channels == "auto" else len(self.channels))

    @property
    def reading(self) -> dict[str, Any]:
        """The settings that say how labels are read, by name, as ``read_dataset`` takes them."""
        return {name: getattr(self, name) for name in list_marked(READING)}

    @property
    def shown_score(self) -> float:
        """``score_threshold`` as a number; 0.5 while ``auto`` has not been chosen yet."""
        return 0.5 if self.score_threshold == "auto" else self.score_threshold

    def resolve_detections(self, max_instances: int) -> "Plan":
        """The plan with ``auto`` replaced by max(100, 1.5 x the largest count of the training data)."""
        if self.detections_per_image != "auto":
            return self
        return self.model_copy(update={"detections_per_image": max(MIN_DETECTIONS, -(-3 * max_instances // 2))})


RECIPES: dict[str, Plan] = {"baseline": Plan()}
"""Recipes whose settings are fixed. ``baseline`` is the course report's system that manymask began with."""

AUTO = "auto"
"""The recipe whose settings follow from the data (``planning.rules``)."""

SETTINGS: tuple[str, ...] = tuple(name for name in Plan.model_fields if name not in {"version", "recipe", "data"})
"""Names that ``--set`` takes."""

LENGTH = ("epochs", "max_steps")
"""How long a run is."""

_RETIRED = {
    "min_contrast": "the noise of each image now says how far it is stretched, whatever the type of its values",
}
"""Settings of earlier versions, each with what replaced it; they are left out when an old plan is read."""


def list_marked(mark: Mark) -> tuple[str, ...]:
    """The settings with a mark, in the order of the plan."""
    return tuple(name for name in SETTINGS if mark in Plan.model_fields[name].metadata)


def list_changes(old: Plan, new: Plan) -> list[str]:
    """The settings that differ and that a resumed run may not change, as they change the result."""
    # With a time budget the learning rate follows the clock, which steps say nothing of.
    has_free_length = old.scheduler == "trapezoid" and old.minutes is None
    free = list_marked(RESUMABLE) + (LENGTH if has_free_length else ())
    fixed = [name for name in ("recipe", *SETTINGS) if name not in free]
    return [name for name in fixed if getattr(old, name) != getattr(new, name)]


def make_plan(recipe: str = "baseline", settings: Mapping[str, Any] | None = None) -> Plan:
    """A recipe with some settings of one's own.

    Args:
        recipe: One of ``RECIPES``; a ``plan.json``; or ``auto``, which gives a draft: settings that its rules
            decide later, when they see the data, are still as in ``baseline``.
        settings: Values by name, which may be text.

    Raises:
        PlanError: The recipe or a setting does not exist, is out of range, or settings do not fit each other.
    """
    settings = settings or {}
    if recipe in RECIPES:
        return change_plan(RECIPES[recipe], settings)
    if recipe == AUTO:
        values = parse_values(settings)
        if values.get("backbone") or values.get("weights") == "imagenet":
            values = {"architecture": "maskrcnn_fpn", **values}
        if values.get("architecture") == "maskrcnn_fpn":
            values = {"backbone": "resnet18", **values}
        elif values.get("weights") != "coco":
            values = {"architecture": "maskrcnn_compact", **values}
        return change_plan(Plan(recipe=AUTO), {"weights": "none", "min_size": 0, **values})
    if not Path(recipe).is_file():
        names = ", ".join((AUTO, *RECIPES))
        raise PlanError(f"there is no recipe {recipe!r}; there are: {names}, or give the plan.json of a run")
    return change_plan(read_plan(Path(recipe)).model_copy(update={"data": None}), settings)


def change_plan(plan: Plan, settings: Mapping[str, Any]) -> Plan:
    """The plan with other values for some settings; values may be text.

    Raises:
        PlanError: A setting does not exist, is out of range, or settings do not fit each other.
    """
    check_names(settings)
    return _validate({**plan.model_dump(), **settings}, "the settings")


def check_names(settings: Iterable[str]) -> None:
    """Refuse names of settings that do not exist.

    Raises:
        PlanError: A name does not exist; the message gives the nearest one that does, or what replaced an old one.
    """
    for name in settings:
        if name in _RETIRED:
            raise PlanError(f"there is no setting {name!r} any more; leave it out: {_RETIRED[name]}")
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(SETTINGS)}"
            raise PlanError(f"there is no setting {name!r}; {hint}")


def parse_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the values of settings, which may be text, each by itself; whether they fit each other is not checked.

    Raises:
        PlanError: A setting does not exist or is out of range.
    """
    check_names(settings)
    values: dict[str, Any] = {}
    for name, value in settings.items():
        field = Plan.model_fields[name]
        try:
            expected: Any = Annotated[field.annotation, field]  # pyright: ignore[reportInvalidTypeForm]
            values[name] = TypeAdapter(expected).validate_python(value)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise PlanError(f"in the settings, {name} is {value!r}: {message}") from error
    return values


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
    write_file(path, plan.model_dump_json(indent=2) + "\n")


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
    settings = {name: value for name, value in cast(dict[str, Any], values).items() if name not in _RETIRED}
    plan = _validate(settings, source)
    # Older runs have no ``split_seed``: they split the data by ``seed``.
    return plan if "split_seed" in settings else plan.model_copy(update={"split_seed": plan.seed})


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
