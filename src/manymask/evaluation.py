"""Score a model, or predictions that are stored in files, on labelled images."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import (
    ONE_CLASS,
    Category,
    Dataset,
    Instances,
    Record,
    Sample,
    match_categories,
    read_json,
    write_json,
)
from manymask.core.files import explain_reading
from manymask.core.outputs import check_outputs, record_outputs
from manymask.errors import DatasetError, PlanError
from manymask.formats import encode_coco_results, read_dataset, read_predictions
from manymask.formats.stored import IMAGES_NAME, PREDICTIONS_NAME
from manymask.imaging.files import make_key
from manymask.imaging.normalization import normalize_pixels
from manymask.imaging.orientation import CHOICE_NAME
from manymask.inspection import group_images
from manymask.inspection.doubts import LabelDoubts
from manymask.metrics import ScoredImage, rank_predictions, score_image, summarize_scores, write_scores
from manymask.modeling.catalogue import list_shipped
from manymask.modeling.checkpoint import read_training_plan
from manymask.plan import Plan, change_plan, load_plan, read_plan
from manymask.prediction import Model, load_model, predict_tensor, read_ahead
from manymask.run_folder import find_run
from manymask.wording import list_some

DRAWS = 1000
"""Bootstrap draws, enough for 95 % intervals (Efron and Tibshirani 1993, section 13.3)."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where predictions come from: a model, or files.

    Attributes:
        path: The checkpoint, or the file or folder of predictions.
        plan: The plan of a model's run; None for files.
        categories: The data's classes, then those that only the model has; label i + 1 is the i-th.
        predict: The predictions of an image, with labels in ``categories``.
        truth_labels: For each label of the data (0 first) its label in ``categories``.
        max_detections: The cap; None where nothing is cut off.
        score_threshold: Score from which a prediction counts where there is no ranking.
        min_score: Scores below were cut off; None where that is not known.
        has_scores: Whether there are scores to rank by; without them AP means little.
        notes: What must be said of these predictions, beside what their scores tell; whether a model knows the images
            is added when all have been seen.
        describe_reuse: What must be said where training has seen some of the images: of the digest of each, by name.
    """

    path: Path
    plan: Plan | None
    categories: tuple[Category, ...]
    predict: Callable[[Sample], Instances]
    truth_labels: np.ndarray
    max_detections: int | None
    score_threshold: float
    min_score: float | None
    has_scores: bool = True
    notes: list[str] = field(default_factory=list)
    describe_reuse: Callable[[Mapping[str, str]], list[str]] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """One image with what was found in it.

    Attributes:
        sample: The image and its labels.
        truth: The instances, with labels in the source's categories.
        predictions: The predictions by falling score, at most as many as the cap.
        scored: What the image adds to the scores.
    """

    sample: Sample
    truth: Instances
    predictions: Instances
    scored: ScoredImage


@explain_reading()
def open_source(
    source: Model | str | Path, dataset: Dataset, *, device: str = "auto", settings: Mapping[str, Any] | None = None
) -> Source:
    """Find out what predictions come from.

    Args:
        source: A model, its run folder or checkpoint; a JSON file of COCO results; a folder that ``predict`` wrote; or
            a folder of label images of any tool.
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
        return _open_model(source, dataset)
    path = Path(source)
    if not path.exists() and str(path) not in list_shipped():
        raise DatasetError(
            f"expected a run folder, a checkpoint, a shipped model's name, a .json file of COCO results or a folder of "
            f"label images at {path}, found nothing"
        )
    is_run = any((path / name).exists() for name in ("plan.json", "best.ckpt", "last.ckpt"))
    if is_run or str(path) in list_shipped() or (not path.is_dir() and path.suffix.lower() != ".json"):
        return _open_model(load_model(path, device=device, settings=settings), dataset)
    return _open_files(path, dataset, settings)


def _open_model(model: Model, dataset: Dataset) -> Source:
    match = match_categories(dataset.categories, model.categories)
    return Source(
        path=model.source,
        plan=model.plan,
        categories=match.categories,
        predict=lambda sample: predict_tensor(
            model, normalize_pixels(sample.pixels, str(sample.path), model.plan), str(sample.path)
        ).relabel(match.model_labels),
        truth_labels=match.data_labels,
        max_detections=model.plan.max_detections,
        score_threshold=model.plan.shown_score,
        min_score=model.plan.min_score,
        notes=list(match.notes),
        describe_reuse=partial(_describe_reuse, model, dataset),
    )


def _describe_reuse(model: Model, dataset: Dataset, digests: Mapping[str, str]) -> list[str]:
    """What must be said where the model was trained or validated on some of the images; ``digests`` by name."""
    notes = []
    holds_validation = _holds_validation(model.plan, dataset, digests)
    if shared := find_training_images(model.plan, dataset, digests):
        notes.append(
            f"{len(shared)} of {len(dataset)} images are among those that {model.source} was trained on, so its scores "
            f"there are too good: {list_some(shared)}."
        )
    if model.source.name == "best.ckpt" and holds_validation:
        notes.append(
            "The epoch in best.ckpt was chosen on these very images, so scores are a little too good, more so where AP "
            "varies from epoch to epoch; score on other images, or score last.ckpt."
        )
    if model.is_threshold_chosen and holds_validation:
        notes.append(
            "The score threshold was chosen for F1 on these very images, so F1, PQ and AP(t) are a little too good."
        )
    return notes


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

    Images are known by their pixels, wherever they lie and whatever they are called. Plans of before digests were kept
    know names only, which mean something in the folder that the run was trained on.

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


def _open_files(path: Path, dataset: Dataset, settings: Mapping[str, Any]) -> Source:
    if wrong := sorted(settings.keys() - {"score_threshold", "detections_per_image", "crowd_as_objects"}):
        raise PlanError(
            f"{path} holds predictions that are already made, so {wrong[0]} cannot act on them; only score_threshold, "
            "detections_per_image and crowd_as_objects can be set"
        )
    plan = change_plan(Plan(), settings)
    if plan.score_threshold == "auto":
        raise PlanError(f"no validation chose a score threshold for the predictions in {path}; set a number")
    stored = read_predictions(path, dataset)
    records = {record.name: record for record in dataset.records}
    notes = list(stored.notes)
    if stored.missing:
        notes.append(
            f"{len(stored.missing)} of {len(dataset)} images have no predictions in {path} and are scored as all "
            f"missed: {list_some(stored.missing)}."
        )
    if stored.categories is None and not stored.notes:
        notes.append(f"{path} knows no classes: instances of all classes are scored as one.")
    cap = plan.detections_per_image
    source = Source(
        path=path,
        plan=None,
        categories=stored.categories or dataset.categories,
        predict=lambda sample: stored.read(records[sample.name], sample.pixels.shape[:2]),
        truth_labels=np.arange(len(dataset.categories) + 1),
        max_detections=None if cap == "auto" else cap,
        score_threshold=plan.shown_score,
        min_score=None,
        has_scores=stored.has_scores,
        notes=notes,
    )
    return source if stored.categories else merge_classes(source)


def merge_classes(source: Source) -> Source:
    """The same predictions with all classes taken for one, of instances and of predictions."""
    ones = np.minimum(np.arange(len(source.categories) + 1), 1)
    return replace(
        source,
        categories=ONE_CLASS,
        predict=lambda sample: source.predict(sample).relabel(ones),
        truth_labels=ones[source.truth_labels],
    )


def view_images(source: Source, dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Iterator[View]:
    """Predict and score one image after the other; after the last the source's notes say which training has seen.

    Raises:
        DatasetError: There are no images, or one cannot be read.
        FormatError: Predictions are of another size than their image.
    """
    if len(dataset) == 0:
        raise DatasetError(f"expected labelled images in {dataset.root}, found none; there is nothing to score on")
    doubts = LabelDoubts()
    digests: dict[str, str] = {}
    for index, sample in enumerate(read_ahead(dataset.__getitem__, range(len(dataset)))):
        if source.describe_reuse is not None:
            digests[sample.name] = sample.digest_pixels()
        found = source.predict(sample)
        truth = sample.to_instances().relabel(source.truth_labels)
        doubts.add(sample, truth)
        limits = {"max_detections": source.max_detections, "score_threshold": source.score_threshold}
        scored = score_image(sample.image_id, truth, found, name=sample.name, **limits)
        yield View(sample, truth, rank_predictions(found, source.max_detections), scored)
        if progress is not None:
            progress(index + 1, len(dataset))
    source.notes.extend(note for note in doubts.describe() if note not in source.notes)
    if source.describe_reuse is not None:
        source.notes.extend(source.describe_reuse(digests))


def choose_crowds(sources: Iterable[Model | str | Path], settings: Mapping[str, Any]) -> bool:
    """Whether COCO's crowd regions count as objects: as the user sets it, else as models were trained.

    Raises:
        PlanError: Models were trained with different values, or the user's is no truth value.
    """
    if "crowd_as_objects" in settings:
        return change_plan(Plan(), {"crowd_as_objects": settings["crowd_as_objects"]}).crowd_as_objects
    found = {plan.crowd_as_objects for source in sources if (plan := _find_plan(source)) is not None}
    if len(found) > 1:
        raise PlanError("some of the models were trained with crowd_as_objects=true, others without; set it to one")
    return found == {True}


def _find_plan(source: Model | str | Path) -> Plan | None:
    """The plan of a model; None for predictions in files and for what is not there."""
    if isinstance(source, Model):
        return source.plan
    path = Path(source)
    if (run := find_run(path)) is not None:
        return read_plan(run / "plan.json")
    is_checkpoint = path.is_file() and path.suffix.lower() != ".json"
    values = read_training_plan(path) if is_checkpoint else None
    return None if values is None else load_plan(values, str(path))


def read_validation(plan: Plan, run: Path, crowd_as_objects: bool | None = None) -> Dataset:
    """The images that a run was validated on; reading one checks that its pixels are still the same.

    COCO's crowd regions are taken as the run took them, unless ``crowd_as_objects`` says otherwise.

    Raises:
        DatasetError: They are not where they were, or, when one is read, are others.
    """
    record = plan.data
    if record is None:
        raise DatasetError(f"{run} does not say which images it was validated on; give the data")
    if not record.val_names:
        raise DatasetError(f"{run} is a shipped model, which holds no images to score on; give the data")
    path = Path(record.val_path or record.path)
    if not path.exists():
        raise DatasetError(f"the validation images of {run} are no longer in {path}; give the data")
    if crowd_as_objects is None:
        crowd_as_objects = plan.crowd_as_objects
    dataset = read_dataset(path, record.data_format, crowd_as_objects=crowd_as_objects)
    places = {make_key(r.name): index for index, r in enumerate(dataset.records)}
    if lost := [name for name in record.val_names if make_key(name) not in places]:
        raise DatasetError(
            f"{path} no longer holds {len(lost)} of the images that {run} was validated on ({', '.join(lost[:5])}); "
            "restore them, or give the data"
        )
    dataset = dataset.subset([places[make_key(name)] for name in record.val_names])
    if not record.val_digests:
        return dataset
    digests = dict(zip(map(make_key, record.val_names), record.val_digests, strict=True))
    return replace(dataset, read_record=partial(_read_unchanged, dataset.read_record, digests, run))


def _read_unchanged(
    read_record: Callable[[Record, tuple[Category, ...]], Sample],
    digests: Mapping[str, str],
    run: Path,
    record: Record,
    categories: tuple[Category, ...],
) -> Sample:
    """An image that a run was validated on.

    Raises:
        DatasetError: Its pixels are others than then.
    """
    sample = read_record(record, categories)
    if sample.digest_pixels() != digests[make_key(record.name)]:
        raise DatasetError(
            f"{record.path} is no longer the image that {run} was validated on, its pixels have changed (or "
            f"{CHOICE_NAME} was set otherwise then); restore it, or give the data"
        )
    return sample


@explain_reading()
def read_data(
    source: Model | str | Path,
    data: Dataset | str | Path | None,
    data_format: str | None,
    settings: Mapping[str, Any] | None = None,
) -> Dataset:
    """The data to score on; where none is given, the images that the run held out.

    Args:
        source: What is scored.
        data: A data set, or its folder.
        data_format: Name of the reader; found out from the folder by default.
        settings: The user's settings, of which ``crowd_as_objects`` acts here; by default it is as in training.

    Raises:
        DatasetError: No data is given and the source is no run, or its images are no longer there.
        PlanError: ``crowd_as_objects`` is given for a data set, whose labels are read already.
    """
    if isinstance(data, Dataset):
        if "crowd_as_objects" in (settings or {}):
            raise PlanError(
                f"the data set of {data.root} is read already, so crowd_as_objects cannot act on it; leave it out, and "
                "read the data with it: read_dataset(path, crowd_as_objects=True)"
            )
        return data
    crowd_as_objects = choose_crowds([source], settings or {})
    if data is not None:
        return read_dataset(Path(data), data_format, crowd_as_objects=crowd_as_objects)
    if isinstance(source, Model):
        return read_validation(source.plan, source.source, crowd_as_objects)
    if str(source) in list_shipped() and not Path(source).exists():
        raise DatasetError(f"{source} is a shipped model, which holds no images to score on; give the data")
    if not Path(source).exists():
        raise DatasetError(f"{source} does not exist; expected a run folder, a checkpoint or predictions")
    if (run := find_run(Path(source))) is None:
        raise DatasetError(f"{source} is no run folder, so it does not say what to score on; give the data")
    return read_validation(read_plan(run / "plan.json"), run, crowd_as_objects)


def choose_folder(source: Path) -> Path:
    """Where what is made of a source goes by default: the folder that it is, or that it lies in.

    Raises:
        PlanError: The source is a shipped model, and the working folder is a run, whose own files would be replaced.
    """
    folder = source if source.is_dir() else source.parent
    if str(source) in list_shipped() and not source.exists() and find_run(folder) is not None:
        raise PlanError(f"{folder.resolve()} is a run, which {source} is no part of; give an --output elsewhere")
    return folder


def evaluate(
    source: Model | str | Path,
    data: Dataset | str | Path | None = None,
    *,
    output: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    draws: int = DRAWS,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a model or stored predictions on labelled images.

    Args:
        source: A model, its run folder or checkpoint; a JSON file of COCO results; a folder that ``predict`` wrote; or
            a folder of label images of any tool.
        data: A data set, or its folder; by default the images that the run held out.
        output: A folder to write ``evaluation.json`` to, and a model's ``predictions.json`` with
            ``images.json``.
        data_format: Name of the reader; found out from the folder by default.
        group_by: Regular expression that finds an image's group in its name; intervals then draw groups, not images.
        draws: Bootstrap draws for the intervals; 0 for none.
        device: Where a model runs.
        settings: Other values, by name, for settings that act at prediction; for files ``score_threshold``,
            ``detections_per_image`` and ``crowd_as_objects``.
        progress: Called with the number of images done and their number.

    Returns:
        The scores, as in ``evaluation.json``; ``docs/metrics.md`` defines each.

    Raises:
        ManymaskError: The data or the predictions cannot be used.
    """
    if draws < 0:
        raise PlanError(f"draws is {draws}, expected 0 or more")
    dataset = read_data(source, data, data_format, settings)
    groups = group_images(dataset, group_by)
    opened = open_source(source, dataset, device=device, settings=settings)
    names = ("evaluation.json", PREDICTIONS_NAME, IMAGES_NAME) if opened.plan is not None else ("evaluation.json",)
    if output is not None:
        check_outputs(Path(output), "evaluate", names)
    images, results, entries = [], [], []
    for view in view_images(opened, dataset, progress):
        images.append(view.scored)
        if output is not None and opened.plan is not None:
            results += encode_coco_results(view.predictions, view.sample.image_id, opened.categories)
            entries.append({"id": view.sample.image_id, "file_name": view.sample.path.name, "name": view.sample.name})
    scores = summarize(opened, dataset, images, groups=groups, draws=draws)
    for note in scores["notes"]:
        warnings.warn(note, stacklevel=2)
    if output is None:
        return scores
    if (replaced := _read_scored_data(Path(output) / "evaluation.json")) not in (None, str(dataset.root)):
        warnings.warn(f"{output} held the scores on {replaced}, which are now replaced", stacklevel=2)
    # Predictions that were scored may lie there too, from an earlier call; they stay.
    with record_outputs(Path(output), "evaluate", names, is_whole=opened.plan is not None):
        if opened.plan is not None:
            write_json(Path(output) / PREDICTIONS_NAME, results)
            write_json(Path(output) / IMAGES_NAME, entries)
        write_scores(scores, Path(output) / "evaluation.json")
    return scores


def _read_scored_data(path: Path) -> str | None:
    """The data that an earlier ``evaluation.json`` is of."""
    scores = read_json(path) if path.is_file() else None
    return scores.get("data") if isinstance(scores, dict) else None


def summarize(
    source: Source,
    dataset: Dataset,
    images: list[ScoredImage],
    *,
    groups: dict[str, str] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """All scores of the images, with what they are of."""
    scores = summarize_scores(images, source.categories, source.max_detections, draws=draws, groups=groups)
    scores["notes"] = source.notes + scores["notes"]
    scores["model" if source.plan else "predictions"] = str(source.path)
    scores["data"] = str(dataset.root)
    scores["min_score"], scores["score_threshold"] = source.min_score, source.score_threshold
    return scores
