"""Score a model, or predictions that are stored in files, on labelled images."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from manymask.core import Dataset, Instances, Sample, read_json
from manymask.core.files import copy_file
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError, PlanError
from manymask.evaluation.data import read_data
from manymask.evaluation.predictions import Predictions, open_predictions
from manymask.inspection import group_images
from manymask.inspection.doubts import LabelDoubts
from manymask.metrics import Evaluation, ScoredImage, rank_predictions, score_image, summarize_scores
from manymask.modeling.catalogue import find_model
from manymask.outputs import CocoResults, ImageEntry, close_writers
from manymask.prediction import Model, work_beside
from manymask.run_folder import find_run

logger = logging.getLogger(__name__)

DRAWS = 1000
"""Bootstrap draws, enough for 95 % intervals (Efron and Tibshirani 1993, section 13.3)."""


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


def view_images(source: Predictions, dataset: Dataset, progress: Progress | None = None) -> Iterator[View]:
    """Predict and score one image after the other; after the last, ``source.notes`` name those that training has seen.

    Raises:
        DatasetError: There are no images, or one cannot be read.
        FormatError: Predictions are of another size than their image.
    """
    if len(dataset) == 0:
        raise DatasetError(f"expected labelled images in {dataset.root}, found none; there is nothing to score on")
    doubts = LabelDoubts()

    def load(index: int) -> Sample:
        sample = dataset[index]
        sample.load()  # here, while the image before is looked at
        return sample

    samples = work_beside(load, range(len(dataset)))
    for sample in track(samples, len(dataset), "scoring", progress):
        found, cap = source.predict(sample)
        truth = sample.to_instances().relabel(source.truth_labels)
        doubts.add(sample, truth)
        limits = {"max_detections": cap, "score_threshold": source.score_threshold}
        scored = score_image(sample.image_id, truth, found, name=sample.name, **limits)
        yield View(sample, truth, rank_predictions(found, cap), scored)
    source.notes.extend(note for note in doubts.describe() if note not in source.notes)
    source.notes.extend(source.describe_reuse())


def choose_folder(source: Path) -> Path:
    """The folder of a source, which is the default place for outputs: the source itself, or the folder that holds it.

    Raises:
        PlanError: The source is a shipped model, and the working folder is a run, whose own files would be replaced.
    """
    folder = source if source.is_dir() else source.parent
    found = find_model(source)
    if found is not None and found.is_shipped and find_run(folder) is not None:
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
    progress: Progress | None = None,
) -> Evaluation:
    """Score a model or stored predictions on labelled images.

    Args:
        source: A model, its run folder or checkpoint; a JSON file of COCO results; a folder that ``predict`` wrote; or
            a folder of label images or drawn objects (GeoJSON, ImageJ's ROIs, labelme) of any tool.
        data: A data set, or its folder; by default the images that the run held out.
        output: A folder to write ``evaluation.json`` to, and a model's ``predictions.json`` with
            ``images.json``.
        data_format: Name of the reader; found out from the folder by default.
        group_by: Regular expression that finds an image's group in its name; intervals then draw groups, not images.
        draws: Bootstrap draws for the intervals; 0 for none.
        device: Where a model runs.
        settings: Other values, by name, for settings that act at prediction; for files ``score_threshold``,
            ``detections_per_image``, ``crowd_as_objects`` and ``ignore_label``.
        progress: Called with the number of images done, their number, and what is being done.

    Returns:
        The scores, as in ``evaluation.json``, such as ``scores.mask.AP50``; ``docs/metrics.md`` defines each.

    Raises:
        ManymaskError: The data or the predictions cannot be used.
    """
    if draws < 0:
        raise PlanError(f"draws is {draws}, expected 0 or more")
    dataset = read_data(source, data, data_format, settings)
    groups = group_images(dataset, group_by)
    opened = open_predictions(source, dataset, device=device, settings=settings)
    image_names = [record.name for record in dataset.records]
    # Predictions in files are there already.
    prediction_files = CocoResults.list_files(image_names) if opened.plan is not None else []
    names = ["evaluation.json", *prediction_files]
    if output is not None:
        check_outputs(Path(output), "evaluate", names)
    images: list[ScoredImage] = []
    # What an earlier call wrote stays until all is scored.
    with TemporaryDirectory() as scratch:
        writer = CocoResults(Path(scratch), image_names, opened.categories, 0.0)
        with close_writers([writer]):
            for view in view_images(opened, dataset, progress):
                images.append(view.scored)
                entry = ImageEntry(view.sample.image_id, view.sample.name, view.sample.path.name, view.sample.image)
                if prediction_files and output is not None:
                    writer.write(entry, view.predictions)
        scores = summarize(opened, dataset, images, groups=groups, draws=draws)
        if output is None:
            return scores
        if (replaced := _read_scored_data(Path(output) / "evaluation.json")) not in (None, str(dataset.root)):
            logger.warning(f"{output} held the scores on {replaced}, which are now replaced")
        # Predictions that were scored may lie there too, from an earlier call; they stay.
        with record_outputs(Path(output), "evaluate", names, is_whole=opened.plan is not None):
            for name in prediction_files:
                copy_file(Path(scratch) / name, Path(output) / name)
            scores.write(Path(output) / "evaluation.json")
    return scores


def _read_scored_data(path: Path) -> str | None:
    """The data that an earlier ``evaluation.json`` is of."""
    scores = read_json(path) if path.is_file() else None
    return scores.get("data") if isinstance(scores, dict) else None


def summarize(
    source: Predictions,
    dataset: Dataset,
    images: list[ScoredImage],
    *,
    groups: dict[str, str] | None = None,
    draws: int = DRAWS,
) -> Evaluation:
    """All scores of the images, with what they are of; warns of what the notes say."""
    scores = summarize_scores(images, source.categories, source.max_detections, draws=draws, groups=groups)
    notes = source.notes + scores.notes
    for note in notes:
        logger.warning(note)
    return scores.model_copy(
        update={
            "notes": notes,
            "model" if source.plan else "predictions": str(source.path),
            "data": str(dataset.root),
            "min_score": source.min_score,
            "score_threshold": source.score_threshold,
        }
    )
