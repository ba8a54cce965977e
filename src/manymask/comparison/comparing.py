"""Compare runs, or stored predictions, on the same images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manymask.comparison.difference import Difference, Estimates, compute_difference, describe
from manymask.comparison.tables import COMPARISON_NAMES, write_comparison
from manymask.core import ONE_CLASS, Dataset
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress
from manymask.errors import CheckpointError, DatasetError, PlanError
from manymask.evaluation.data import choose_reading, read_data, read_validation
from manymask.evaluation.evaluating import DRAWS, view_images
from manymask.evaluation.predictions import OneClassPredictions, Predictions, open_predictions
from manymask.inspection import group_images
from manymask.metrics import FEW_UNITS, Tally, compute_interval, draw_weights, explain_scores, make_tally, none_if_nan
from manymask.metrics.catalogue import COMPARED, COMPARED_BY_CLASS, TOLD, TOLD_UNRANKED, Metric, MetricPath
from manymask.plan import read_plan
from manymask.run_folder import count_epochs, find_run, read_metrics
from manymask.wording import count_of

_TIE = 1e-9


Variants = dict[str, tuple[Path, ...]]
"""By its name in tables and figures, each variant's runs, which differ in nothing but their seed; or its one run, or
its one set of stored predictions."""


def find_variants(paths: Sequence[str | Path] | Mapping[str, str | Path | Sequence[str | Path]]) -> Variants:
    """What each path stands for: a source; a folder of runs ``seed_*``; or a folder of several such folders.

    Without names of their own, variants are called after the ends of their paths, as short as tells them apart.

    Raises:
        PlanError: There are fewer than two, or one occurs twice.
    """
    if isinstance(paths, str | Path):  # whose letters would be taken for paths
        paths = [paths]
    if isinstance(paths, Mapping):
        variants = {
            name: (Path(sources),) if isinstance(sources, str | Path) else tuple(map(Path, sources))
            for name, sources in paths.items()
        }
        if not all(variants.values()):
            raise PlanError("a variant has no runs; give at least one for each name")
        _name_folders([path for sources in variants.values() for path in sources])  # refuses one that is given twice
    else:
        folders: list[Path] = []
        for path in map(Path, paths):
            inner = [folder for folder in sorted(path.glob("*/")) if _list_seeds(folder)] if path.is_dir() else []
            folders += inner or [path]
        names = _name_folders(folders)
        variants = {n: tuple(_list_seeds(f)) or (f,) for n, f in zip(names, folders, strict=True)}
    if len(variants) < 2:
        raise PlanError("expected two or more runs or sets of predictions to compare; give at least two")
    return variants


def _name_folders(folders: Sequence[Path]) -> list[str]:
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    if twice := [folder for folder, part in zip(folders, parts, strict=True) if parts.count(part) > 1]:
        raise PlanError(f"{twice[0]} is given twice; give each run or set of predictions once")
    names, length = [part[-1] for part in parts], 1
    while len(set(names)) < len(names):
        length += 1
        names = ["/".join(part[-length:]) for part in parts]
    return names


def _list_seeds(folder: Path) -> list[Path]:
    """The runs of a variant, by their seeds."""
    runs = [run for run in folder.glob("seed_*/") if (run / "plan.json").is_file()]
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def compare(
    sources: Sequence[str | Path] | Mapping[str, str | Path | Sequence[str | Path]],
    data: Dataset | str | Path | None = None,
    *,
    output: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    draws: int = DRAWS,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare runs, or stored predictions, image by image; each with the first.

    Args:
        sources: Two or more of what ``evaluate`` takes; a folder of runs ``seed_*``, which are one variant; or an
            experiment's folder. Or the runs of each variant by its name.
        data: The data to score on; by default the images that the runs held out, which must be the same.
        output: A folder to write ``comparison.json``, ``.csv`` and ``.md`` and the overlaid curves to.
        data_format: Name of the reader; found out from the folder by default.
        group_by: Regular expression that finds an image's group in its name; groups are drawn then, not images.
        draws: Bootstrap draws.
        device: Where models run.
        settings: Other values, by name, for settings that act at prediction.
        progress: Called with the number of images done, their number, and what is being done.

    Raises:
        DatasetError: Runs were validated on different images and no data is given; or the data cannot be used.
        PlanError: There are fewer than two sources, or one is given twice.
        ManymaskError: A source cannot be used.
    """
    variants = find_variants(sources)
    if draws < 1:
        raise PlanError(f"draws is {draws}, expected at least 1")
    if output is not None:
        check_outputs(Path(output), "compare", COMPARISON_NAMES)
    paths = [path for runs in variants.values() for path in runs]
    if isinstance(data, Dataset):
        dataset = read_data(paths[0], data, data_format, settings)
    else:
        reading = choose_reading(paths, settings or {})
        if data is None:
            dataset = _read_common_validation(paths, reading)
        else:
            dataset = read_data(paths[0], data, data_format, reading)
    # The same draws of images for all variants, so that what makes images hard for both cancels out.
    groups = group_images(dataset, group_by)
    names = [record.name for record in sorted(dataset.records, key=lambda record: record.image_id)]
    units = None if groups is None else [groups[name] for name in names]
    weights = draw_weights(len(names), units, draws)
    sources_by_path, notes = _score_sources(paths, dataset, device, settings, progress)
    scored = [
        ScoredVariant(name, runs, [sources_by_path[path].tally for path in runs], weights)
        for name, runs in variants.items()
    ]
    # Each variant is compared with the first.
    num_units = len(set(units or names))
    unit = count_of(num_units, "image" if groups is None else "group")
    told = TOLD if all(source.has_scores for source in sources_by_path.values()) else TOLD_UNRANKED
    result = {
        "data": str(dataset.root),
        "num_images": len(dataset),
        "unit": unit,
        "draws": draws,
        "variants": [variant.summarize(num_units) for variant in scored],
        "comparisons": [_compare_two(scored[0], other, names, num_units, unit, told) for other in scored[1:]],
        "notes": notes + _list_notes(variants, sources_by_path, num_units, unit),
    }
    if output is not None:
        with record_outputs(Path(output), "compare", COMPARISON_NAMES):
            write_comparison(result, variants, Path(output))
    return result


@dataclass(frozen=True, eq=False)
class ScoredSource:
    """What is kept of a source once it is scored; its model is not.

    Attributes:
        tally: Its scores.
        is_model: Whether a model made the predictions, or files hold them.
        has_scores: Whether there are scores to rank by.
        score_threshold: Score from which a prediction counts where there is no ranking.
    """

    tally: Tally
    is_model: bool
    has_scores: bool
    score_threshold: float


def _score_sources(
    paths: Sequence[Path],
    dataset: Dataset,
    device: str,
    settings: Mapping[str, Any] | None,
    progress: Progress | None,
) -> tuple[dict[Path, ScoredSource], list[str]]:
    """Score each source, and list what must be said of them."""

    def open_path(path: Path) -> Predictions:
        return open_predictions(path, dataset, device=device, settings=settings)

    # Opened here too, so that errors come before the first image; not kept, so that memory holds one model at a time.
    is_classless = ONE_CLASS in [open_path(path).categories for path in paths]
    scored: dict[Path, ScoredSource] = {}
    notes: list[str] = []
    for path in paths:
        report = _count_on(progress, len(scored) * len(dataset), len(paths) * len(dataset))
        source = OneClassPredictions(open_path(path)) if is_classless else open_path(path)
        images = [view.scored for view in view_images(source, dataset, report)]
        images.sort(key=lambda image: image.image_id)
        tally = make_tally(images, source.categories)
        scored[path] = ScoredSource(tally, source.plan is not None, source.has_scores, source.score_threshold)
        found = explain_scores(images, source.categories, has_intervals=False)
        notes += [*source.notes, *(f"{path}: {note}" for note in found)]
    return scored, list(dict.fromkeys(notes))


def _read_common_validation(paths: Sequence[Path], reading: Mapping[str, Any]) -> Dataset:
    """The images that all runs held out."""
    runs = [find_run(path) for path in paths]
    if None in runs:
        strange = paths[runs.index(None)]
        raise DatasetError(f"{strange} is no run folder, so it does not say what to score on; give --data")
    plans = [read_plan(run / "plan.json") for run in runs if run]
    held_out = [(p.data.fingerprint, p.data.val_names) if p.data else None for p in plans]
    for path, images in zip(paths, held_out, strict=True):
        if images != held_out[0]:
            raise DatasetError(
                f"{paths[0]} and {path} were validated on different images, so their scores cannot be compared; "
                "give --data with images that none of them was trained on"
            )
    return read_validation(plans[0], paths[0], reading)


def _count_on(progress: Progress | None, num_before: int, total: int) -> Progress | None:
    """Turn the progress of one source into that over all sources."""
    return None if progress is None else lambda num_done, _, what: progress(num_before + num_done, total, what)


class ScoredVariant:
    """A variant with the scores of its runs.

    Attributes:
        name: Its name.
        sources: Its runs, or its predictions.
        tallies: One a run.
        estimates: Each metric, in all runs and in all draws.
    """

    def __init__(self, name: str, sources: tuple[Path, ...], tallies: list[Tally], weights: np.ndarray) -> None:
        self.name, self.sources, self.tallies = name, sources, tallies
        values = [tally.compute() for tally in tallies]
        draws = [tally.compute(weights) for tally in tallies]
        self.estimates = {
            path: Estimates(np.array([v[path][0] for v in values]), np.mean([d[path] for d in draws], axis=0))
            for path in values[0]
            if all(path in v for v in values)
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that all runs are scored on."""
        first, *others = (tally.class_names for tally in self.tallies)
        return tuple(name for name in first if all(name in other for other in others))

    def compute_f1(self) -> np.ndarray:
        """F1 of each image, the mean over the runs; 1 where there is nothing to find and nothing found."""
        counts = np.stack([tally.counts[:, :, 0].sum(axis=1) for tally in self.tallies])
        total = counts.sum(axis=2) + counts[..., 0]
        return np.where(total == 0, 1, 2 * counts[..., 0] / np.maximum(total, 1)).mean(axis=0)

    def summarize(self, num_units: int) -> dict[str, Any]:
        """Each metric with its runs, its spread over seeds and its interval over images."""
        metrics = {}
        for metric in COMPARED:
            own = self.estimates[metric.path]
            metrics[metric.label] = {
                "mean": none_if_nan(own.mean),
                "runs": [none_if_nan(value) for value in own.values.tolist()],
                "seed_deviation": own.seed_deviation,
                "interval": compute_interval(own.draws, num_units),
            }
        return {"name": self.name, "sources": [str(path) for path in self.sources], "metrics": metrics}


def _compare_two(
    first: ScoredVariant,
    second: ScoredVariant,
    images: Sequence[str],
    num_units: int,
    unit: str,
    told: Sequence[Metric],
) -> dict[str, Any]:
    def differ(metric: Metric, path: MetricPath) -> Difference:
        return compute_difference(metric, first.estimates[path], second.estimates[path], num_units)

    differences = [differ(metric, metric.path) for metric in COMPARED]
    names = (first.name, second.name)
    runs = (len(first.tallies), len(second.tallies))
    classes = [name for name in first.class_names if name in second.class_names]
    # Which images the second variant gains or loses most on.
    gains = second.compute_f1() - first.compute_f1()
    lost, won = np.flatnonzero(gains < -_TIE), np.flatnonzero(gains > _TIE)
    worst, best = lost[np.argsort(gains[lost], kind="stable")], won[np.argsort(-gains[won], kind="stable")]
    return {
        "first": names[0],
        "second": names[1],
        "sentences": [describe(d, names, unit, runs) for d in differences if d.metric in told],
        "differences": [d.to_json() for d in differences],
        "per_class": {
            name: [differ(metric, metric.of_class(name)).to_json() for metric in COMPARED_BY_CLASS] for name in classes
        },
        "images": {
            "won": len(won),
            "lost": len(lost),
            "tied": len(images) - len(won) - len(lost),
            "largest_losses": [{"name": images[row], "F1": float(gains[row])} for row in worst[:5]],
            "largest_gains": [{"name": images[row], "F1": float(gains[row])} for row in best[:5]],
        },
    }


def _list_notes(variants: Variants, scored: Mapping[Path, ScoredSource], num_units: int, unit: str) -> list[str]:
    notes = []
    thresholds = sorted({source.score_threshold for source in scored.values()})
    if len(thresholds) > 1:
        notes.append(
            f"F1, PQ, AJI and AP(t) are at different score thresholds ({', '.join(f'{t:g}' for t in thresholds)}); set "
            "score_threshold for all."
        )
    notes += [note for path in scored if (note := _describe_unfinished(path))]
    if num_units < 2:
        notes.append(f"Only {unit}: no interval can be given, so no difference can be told.")
    elif num_units < FEW_UNITS:
        notes.append(f"Only {unit}: the intervals are rough, and often too short.")
    if any(len(runs) == 1 and scored[runs[0]].is_model for runs in variants.values()):
        notes.append(
            "A variant has one run only: the intervals say what other images would change, not what another seed "
            "would; train several seeds (manymask experiment) to know that."
        )
    return notes


def _describe_unfinished(path: Path) -> str | None:
    """A sentence on a run that more epochs belong in."""
    run = find_run(path)
    if run is None or not (rows := read_metrics(run)):
        return None
    try:
        num_epochs = count_epochs(run / "last.ckpt", read_plan(run / "plan.json"), rows)
    except CheckpointError as error:  # another checkpoint of the run was compared, which is good
        return f"Whether {run} is trained to its end cannot be told: {error}."
    if len(rows) >= num_epochs:
        return None
    return f"{run} is not trained to its end: {len(rows)} of {num_epochs} epochs are done."
