"""The scores of a data set, which ``evaluate`` returns and ``evaluation.json`` holds; see ``docs/metrics.md``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from manymask.core import read_json
from manymask.core.files import write_file
from manymask.errors import FormatError
from manymask.metrics.catalogue import MetricPath

VERSION = 1
"""Of ``evaluation.json``; another one is not read."""

Score = float | None
"""None where it is undefined."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AveragePrecision(_Record):
    """COCO's average precision: mean over IoU 0.50 to 0.95, at 0.50 and at 0.75."""

    AP: Score
    AP50: Score
    AP75: Score


class ClassPrecision(AveragePrecision):
    """That of the instances of a class."""

    num_instances: int


class SizePrecision(ClassPrecision):
    """That of the instances of a size, whose masks have from ``min_area`` to ``max_area`` square pixels."""

    min_area: float
    max_area: float | None


class RankedScores(AveragePrecision):
    """Average precision of masks or of boxes."""

    per_class: dict[str, ClassPrecision]
    by_size: dict[str, SizePrecision]


class ThresholdScores(_Record):
    """AP(t) by IoU threshold (``"0.50"`` to ``"0.95"``): of all images together, and mean of the images' own."""

    pooled: dict[str, Score]
    per_image: dict[str, Score]


class ClassDetection(_Record):
    """Which shown predictions are right, and which instances are found, at mask IoU 0.5."""

    precision: Score
    recall: Score
    F1: Score
    TP: int
    FP: int
    FN: int


class Detection(ClassDetection):
    """The same of all classes together and of each."""

    per_class: dict[str, ClassDetection]


class ClassPanoptic(_Record):
    """Panoptic, segmentation and recognition quality."""

    PQ: Score
    SQ: Score
    RQ: Score


class Panoptic(ClassPanoptic):
    """The same of all classes together and of each, and the mean PQ of the classes."""

    mPQ_plus: Score  # noqa: N815 - as it is written in papers
    per_class: dict[str, ClassPanoptic]


class AggregatedJaccard(_Record):
    """The aggregated Jaccard index in three definitions, mean over the images."""

    AJI: Score
    AJI_plus: Score
    AJI_foreground: Score


class ClassCounting(_Record):
    """Shown predictions minus instances, mean over the images, with and without sign."""

    mean_error: Score
    mean_absolute_error: Score


class Counting(ClassCounting):
    """The same of all classes together and of each."""

    per_class: dict[str, ClassCounting]


class Confusion(_Record):
    """How many instances of each class (rows) were predicted as each (columns); the last of both is none."""

    names: list[str]
    matrix: list[list[int]]


class ReliabilityBin(_Record):
    """The predictions with scores from ``low`` to ``high``: their mean score, and the share of them that is right."""

    low: float
    high: float
    num_predictions: int
    mean_score: Score
    precision: Score


class Reliability(_Record):
    """How far scores can be believed."""

    expected_calibration_error: Score
    bins: list[ReliabilityBin]


class ErrorKind(_Record):
    """Predictions and instances with one kind of error, and the mask AP50 that it costs."""

    predictions: int
    instances: int
    AP50_cost: Score


class Intervals(_Record):
    """The interval of each headline number by its path, as ``mask.AP50``; made by drawing images or groups anew."""

    level: float
    draws: int
    unit: Literal["image", "group"]
    num_units: int
    values: dict[str, tuple[float, float] | None]


class PrecisionCurves(_Record):
    """Precision of masks at 101 recall levels, by IoU threshold."""

    all: dict[str, list[float] | None]
    per_class: dict[str, dict[str, list[float] | None]]


class ImageCounts(_Record):
    """What was found in an image, at mask IoU 0.5."""

    name: str
    image_id: int
    num_instances: int
    num_predictions: int
    TP: int
    FP: int
    FN: int
    F1: Score


class Mistake(_Record):
    """A wrong prediction, or an instance that was not found, with its best IoU and its box (x1 y1 x2 y2)."""

    image: str
    what: Literal["instance", "prediction"]
    kind: str
    category: str
    score: float | None
    iou: float
    box: list[float]


class Evaluation(_Record):
    """All scores of a data set, with what they are of: ``evaluation.mask.AP50``.

    ``model`` or ``predictions`` is what was scored, on ``data``.
    """

    version: Literal[1] = VERSION
    mask: RankedScores
    box: RankedScores
    ap_t: ThresholdScores
    detection: Detection
    panoptic: Panoptic
    aji: AggregatedJaccard
    counts: Counting
    confusion: Confusion
    reliability: Reliability
    errors: dict[str, ErrorKind]
    intervals: Intervals | None
    precision_recall: PrecisionCurves
    per_image: list[ImageCounts]
    worst_instances: list[Mistake]
    num_images: int
    num_predictions: int
    detections_per_image: int | None
    notes: list[str]
    model: str | None = None
    predictions: str | None = None
    data: str | None = None
    min_score: float | None = None
    score_threshold: float | None = None

    def get_value(self, path: MetricPath) -> Score:
        """The score at a path, such as a metric's ``path``, or ``metric.of_class(name)``."""
        value: Any = self
        for name in path:
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        return value

    def get_interval(self, path: MetricPath) -> tuple[float, float] | None:
        """The interval of the score at a path, where there is one."""
        return None if self.intervals is None else self.intervals.values.get(".".join(path))

    def write(self, path: Path) -> None:
        """Write ``evaluation.json``."""
        content = self.model_dump(mode="json", exclude={"model" if self.model is None else "predictions"})
        write_file(path, json.dumps(content, indent=2, allow_nan=False))


def read_evaluation(path: Path) -> Evaluation:
    """Read ``evaluation.json``.

    Raises:
        FormatError: The file is not there, is of another version, or was changed since it was written.
    """
    content = read_json(path)
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        found = "none" if version is None else f"version {version}"
        raise FormatError(f"expected scores of version {VERSION} in {path}, found {found}; run evaluate anew")
    try:
        return Evaluation.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(map(str, found["loc"]))
        raise FormatError(f"{path} is not as evaluate wrote it ({place}: {found['msg']}); run evaluate anew") from error
