"""Predictions to score: of a model, or stored in files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import ONE_CLASS, Category, Dataset, Instances, Sample, match_categories
from manymask.core.files import explain_reading
from manymask.errors import DatasetError, PlanError
from manymask.formats.stored import read_predictions
from manymask.imaging.files import make_key
from manymask.modeling.catalogue import find_model
from manymask.plan import READING, Plan, change_plan, list_marked
from manymask.prediction import Model, load_model, predict_tensor
from manymask.prediction.tiling import Tiling, find_instances, load_image
from manymask.wording import list_some


@dataclass(eq=False)
class Predictions(ABC):
    """Predictions on the images of a data set.

    Attributes:
        path: The checkpoint, or the file or folder of predictions.
        plan: The plan of a model's run; None for files.
        categories: The data's classes, then those that only the model has; label i + 1 is the i-th.
        truth_labels: For each label of the data (0 first) its label in ``categories``.
        max_detections: The cap on the predictions of an image, or of each of its tiles; None where nothing is cut off.
        score_threshold: Score from which a prediction counts where there is no ranking.
        min_score: Scores below were cut off; None where that is not known.
        has_scores: Whether there are scores to rank by; without them AP means little.
        notes: What a reader must know of these predictions and cannot see in their scores.
    """

    path: Path
    plan: Plan | None
    categories: tuple[Category, ...]
    truth_labels: np.ndarray
    max_detections: int | None
    score_threshold: float
    min_score: float | None
    has_scores: bool = True
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def predict(self, sample: Sample) -> tuple[Instances, int | None]:
        """The predictions of an image, with labels in ``categories``, and the cap on them."""

    def describe_reuse(self) -> list[str]:
        """Notes on those of the predicted images that training has seen."""
        return []


class ModelPredictions(Predictions):
    """Those that a model makes."""

    def __init__(self, model: Model, dataset: Dataset) -> None:
        match = match_categories(dataset.categories, model.categories)
        super().__init__(
            path=model.source,
            plan=model.plan,
            categories=match.categories,
            truth_labels=match.data_labels,
            max_detections=model.plan.max_detections,
            score_threshold=model.plan.shown_score,
            min_score=model.plan.min_score,
            notes=list(match.notes),
        )
        self.model, self.dataset, self._labels = model, dataset, match.model_labels
        self._digests: dict[str, str] = {}  # of the pixels of each image that was predicted, by its name

    def predict(self, sample: Sample) -> tuple[Instances, int | None]:
        """The predictions of an image, with labels in ``categories``, and the cap on them."""
        self._digests[sample.name] = sample.digest
        tiling, name = Tiling.of(self.model.plan), str(sample.path)
        loaded = load_image(sample.image, name, self.model.plan, tiling)
        cap = self.model.plan.max_detections
        if loaded.values is not None:
            return predict_tensor(self.model, loaded.values, name).relabel(self._labels), cap
        found = find_instances(self.model, loaded, tiling).relabel(self._labels)
        # Sizes that differ are looked at in several passes, each with the cap in each tile.
        return found, max(cap * len(loaded.tiles), len(found))

    def describe_reuse(self) -> list[str]:
        """Notes on those of the images that the model was trained or validated on."""
        notes = []
        holds_validation = _holds_validation(self.model.plan, self.dataset, self._digests)
        if shared := find_training_images(self.model.plan, self.dataset, self._digests):
            notes.append(
                f"{len(shared)} of {len(self.dataset)} images are among those that {self.path} was trained on, so its "
                f"scores there are too good: {list_some(shared)}."
            )
        if self.model.is_epoch_chosen and holds_validation:
            notes.append(
                "The epoch in best.ckpt was chosen on these very images, so scores are a little too good, more so "
                "where AP varies from epoch to epoch; score on other images, or score last.ckpt."
            )
        if self.model.is_threshold_chosen and holds_validation:
            notes.append(
                "The score threshold was chosen for F1 on these very images, so F1, PQ and AP(t) are a little too good."
            )
        return notes


class FilePredictions(Predictions):
    """Those that are stored in files."""

    def __init__(self, path: Path, dataset: Dataset, settings: Mapping[str, Any]) -> None:
        settable = ("score_threshold", "detections_per_image", *list_marked(READING))
        if wrong := sorted(settings.keys() - set(settable)):
            raise PlanError(
                f"{path} holds predictions that are already made, so {wrong[0]} cannot act on them; only "
                f"{', '.join(settable)} can be set"
            )
        plan = change_plan(Plan(), settings)
        if plan.score_threshold == "auto":
            raise PlanError(f"no validation chose a score threshold for the predictions in {path}; set a number")
        stored = self._stored = read_predictions(path, dataset)
        self._records = {record.name: record for record in dataset.records}
        # What a reader of the scores must know of these files.
        notes = list(stored.notes)
        if stored.missing:
            notes.append(
                f"{len(stored.missing)} of {len(dataset)} images have no predictions in {path} and are scored as all "
                f"missed: {list_some(stored.missing)}."
            )
        cap = plan.detections_per_image
        super().__init__(
            path=path,
            plan=None,
            categories=stored.categories or dataset.categories,
            truth_labels=np.arange(len(dataset.categories) + 1),
            max_detections=None if cap == "auto" else cap,
            score_threshold=plan.shown_score,
            min_score=None,
            has_scores=stored.has_scores,
            notes=notes,
        )
        self.is_classless = stored.categories is None

    def predict(self, sample: Sample) -> tuple[Instances, int | None]:
        """The predictions of an image, with labels in ``categories``, and the cap on them."""
        return self._stored.read(self._records[sample.name], sample.image.size), self.max_detections


class OneClassPredictions(Predictions):
    """The predictions of another source, with all classes taken as one; so are those of the instances."""

    def __init__(self, source: Predictions) -> None:
        self._source = source
        self._labels = np.minimum(np.arange(len(source.categories) + 1), 1)
        shared = {part.name: getattr(source, part.name) for part in fields(source)}
        super().__init__(**shared | {"categories": ONE_CLASS, "truth_labels": self._labels[source.truth_labels]})

    def predict(self, sample: Sample) -> tuple[Instances, int | None]:
        """The predictions of an image, all of one class, and the cap on them."""
        found, cap = self._source.predict(sample)
        return found.relabel(self._labels), cap

    def describe_reuse(self) -> list[str]:
        """Notes on those of the images that training has seen."""
        return self._source.describe_reuse()


@explain_reading()
def open_predictions(
    source: Model | str | Path, dataset: Dataset, *, device: str = "auto", settings: Mapping[str, Any] | None = None
) -> Predictions:
    """Open what is to be scored.

    Args:
        source: A model, its run folder or checkpoint; a JSON file of COCO results; a folder that ``predict`` wrote; or
            a folder of label images or drawn objects of any tool.
        dataset: The data to score on.
        device: Where a model runs.
        settings: Other values for settings that act at prediction; for files ``score_threshold`` and
            ``detections_per_image``; none for a model, which has its own from ``load_model``.

    Raises:
        ManymaskError: The source cannot be used, or does not go with the data.
    """
    settings = settings or {}
    if isinstance(source, Model):
        if settings:
            raise PlanError(f"a model that is loaded keeps its settings; give {min(settings)} to load_model")
        return ModelPredictions(source, dataset)
    path = Path(source)
    if find_model(path) is not None or (path / "plan.json").exists():
        return ModelPredictions(load_model(path, device=device, settings=settings), dataset)
    if not path.exists():
        raise DatasetError(
            f"expected a run folder, a checkpoint, a shipped model's name, a .json file of COCO results or a folder of "
            f"label images at {path}, found nothing"
        )
    stored = FilePredictions(path, dataset, settings)
    return OneClassPredictions(stored) if stored.is_classless else stored


def _holds_validation(plan: Plan, dataset: Dataset, digests: Mapping[str, str]) -> bool:
    """Whether a run was validated on any of the images."""
    record = plan.data
    if record is not None and record.val_digests:
        return not set(digests.values()).isdisjoint(record.val_digests)
    if record is None or Path(record.val_path or record.path).resolve() != dataset.root.resolve():
        return False
    return not {make_key(r.name) for r in dataset.records}.isdisjoint(map(make_key, record.val_names))


def find_training_images(plan: Plan, dataset: Dataset, digests: Mapping[str, str]) -> list[str]:
    """Names of the images that a run was trained on; a single image that served as both is not counted.

    Images are known by their pixels, wherever they lie and whatever they are called. Older plans hold names only, which
    say something about the folder that the run was trained on and about no other.

    Args:
        plan: The run's settings, with the record of its data.
        dataset: The images.
        digests: The digest of each image's pixels, by its name.
    """
    record = plan.data
    if record is None:
        return []
    if record.train_digests:
        is_one = len(record.train_names) == 1 and record.train_digests == record.val_digests
        trained = set() if is_one else set(record.train_digests)
        return sorted(name for name, digest in digests.items() if digest in trained)
    if Path(record.path).resolve() != dataset.root.resolve():
        return []
    own_val = () if record.val_path else record.val_names  # names of a separate set say nothing here
    trained = set(map(make_key, record.train_names)) - set(map(make_key, own_val))
    return sorted(r.name for r in dataset.records if make_key(r.name) in trained)
