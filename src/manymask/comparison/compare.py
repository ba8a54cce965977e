"""Compare runs, or stored predictions, on the same images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manymask.comparison.difference import (
    CLASS_METRICS,
    METRIC_NAMES,
    Difference,
    Estimates,
    MetricPath,
    compute_difference,
    describe,
)
from manymask.comparison.tables import write_comparison
from manymask.core import Dataset
from manymask.errors import DatasetError, PlanError
from manymask.evaluation import Tally, compute_interval, draw_weights, make_tally
from manymask.formats import read_dataset
from manymask.planning import read_plan
from manymask.scoring import DRAWS, group_images, open_source, read_validation, view_images

_TIE = 1e-9

SENTENCE_METRICS = ("mask AP50", "mask AP", "F1")
"""Metrics that each pair of variants gets a sentence on."""


@dataclass(frozen=True)
class Variant:
    """Runs that differ in nothing but their seed; or one run, or one set of stored predictions.

    Attributes:
        name: Its name in tables and figures.
        sources: Run folders, checkpoints, or predictions.
    """

    name: str
    sources: tuple[Path, ...]


def find_variants(paths: Sequence[str | Path]) -> list[Variant]:
    """What each path stands for: a source; a folder of runs ``seed_*``; or a folder of several such folders.

    Raises:
        PlanError: There are fewer than two, or one occurs twice.
    """
    variants: list[Variant] = []
    for path in map(Path, paths):
        inner = [folder for folder in sorted(path.glob("*/")) if _list_seeds(folder)] if path.is_dir() else []
        for folder in inner or [path]:
            variants.append(Variant(folder.name, tuple(_list_seeds(folder)) or (folder,)))
    if len(variants) < 2:
        raise PlanError("expected two or more runs or sets of predictions to compare; give at least two")
    if len({variant.sources for variant in variants}) < len(variants):
        raise PlanError("the same run or set of predictions is given twice; give each once")
    if len({variant.name for variant in variants}) < len(variants):
        variants = [
            Variant(str(v.sources[0] if len(v.sources) == 1 else v.sources[0].parent), v.sources) for v in variants
        ]
    return variants


def _list_seeds(folder: Path) -> list[Path]:
    """The runs of a variant, by their seeds."""
    runs = [run for run in folder.glob("seed_*/") if (run / "plan.json").is_file()]
    return sorted(runs, key=lambda run: (len(run.name), run.name))


def compare(
    sources: Sequence[str | Path],
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    data_format: str | None = None,
    group_by: str | None = None,
    draws: int = DRAWS,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Compare runs, or stored predictions, image by image; each with the first.

    Args:
        sources: Two or more of what ``evaluate`` takes; a folder of runs ``seed_*``, which are one variant; or an
            experiment's folder.
        data: The data to score on; by default the images that the runs held out, which must be the same.
        output: A folder to write ``comparison.json``, ``.csv`` and ``.md`` and the overlaid curves to.
        data_format: Name of the reader; found out from the folder by default.
        group_by: Regular expression that finds an image's group in its name; groups are drawn then, not images.
        draws: Bootstrap draws.
        device: Where models run.
        progress: Called with the number of images done and their number, of all sources together.
        **settings: Other values for settings that act at prediction.

    Raises:
        DatasetError: Runs were validated on different images and no data is given; or the data cannot be used.
        PlanError: There are fewer than two sources.
        ManymaskError: A source cannot be used.
    """
    variants = find_variants(sources)
    dataset = read_dataset(Path(data), data_format) if data else _read_common_validation(variants)
    groups = group_images(dataset, group_by)
    names = [record.name for record in sorted(dataset.records, key=lambda record: record.image_id)]
    units = names if groups is None else [groups[name] for name in names]
    weights = draw_weights(len(names), units, draws)
    num_sources = sum(len(variant.sources) for variant in variants)
    scored: list[ScoredVariant] = []
    notes: dict[str, None] = {}
    for variant in variants:
        tallies = []
        for path in variant.sources:
            source = open_source(path, dataset, device=device, settings=settings)
            notes |= dict.fromkeys(source.notes)
            num_before = sum(len(other.tallies) for other in scored) + len(tallies)
            report = _count_on(progress, num_before * len(dataset), num_sources * len(dataset))
            images = [view.scored for view in view_images(source, dataset, report)]
            tallies.append(make_tally(sorted(images, key=lambda image: image.image_id), source.categories))
        scored.append(ScoredVariant(variant, tallies, weights))
    _check_classes(scored)
    num_units = len(set(units))
    unit = f"{num_units} {'image' if groups is None else 'group'}{'s' * (num_units != 1)}"
    result = {
        "data": str(dataset.root),
        "num_images": len(dataset),
        "unit": unit,
        "draws": draws,
        "variants": [variant.summarize(num_units) for variant in scored],
        "comparisons": [_compare_two(scored[0], other, names, num_units, unit) for other in scored[1:]],
        "notes": [*notes, *_list_notes(scored, num_units)],
    }
    if output is not None:
        write_comparison(result, {v.name: v.sources for v in variants}, Path(output))
    return result


def _read_common_validation(variants: Sequence[Variant]) -> Dataset:
    """The images that all runs held out."""
    paths = [path for variant in variants for path in variant.sources]
    if strange := [path for path in paths if not (path / "plan.json").is_file()]:
        raise DatasetError(f"{strange[0]} is no run folder, so it does not say what to score on; give --data")
    plans = [read_plan(path / "plan.json") for path in paths]
    held_out = [(p.data.fingerprint, p.data.val_names) if p.data else None for p in plans]
    for path, images in zip(paths, held_out, strict=True):
        if images != held_out[0]:
            raise DatasetError(
                f"{paths[0]} and {path} were validated on different images, so their scores cannot be compared; "
                "give --data with images that none of them was trained on"
            )
    return read_validation(plans[0], paths[0])


def _count_on(
    progress: Callable[[int, int], None] | None, num_before: int, total: int
) -> Callable[[int, int], None] | None:
    """Progress over all sources from that of one."""
    return None if progress is None else lambda num_done, _: progress(num_before + num_done, total)


class ScoredVariant:
    """A variant with the scores of its runs.

    Attributes:
        variant: What it is.
        tallies: One a run.
        estimates: Each metric, in all runs and in all draws.
    """

    def __init__(self, variant: Variant, tallies: list[Tally], weights: np.ndarray) -> None:
        self.variant, self.tallies = variant, tallies
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
        return self.tallies[0].class_names

    def compute_f1(self) -> np.ndarray:
        """F1 of each image, the mean over the runs; NaN where there is nothing to find and nothing found."""
        counts = np.stack([tally.counts[:, :, 0].sum(axis=1) for tally in self.tallies])
        with np.errstate(invalid="ignore"):
            return (2 * counts[..., 0] / (counts.sum(axis=2) + counts[..., 0])).mean(axis=0)

    def summarize(self, num_units: int) -> dict[str, Any]:
        """Each metric with its runs, its spread over seeds and its interval over images."""
        metrics = {}
        for path, name in METRIC_NAMES.items():
            own = self.estimates[path]
            metrics[name] = {
                "mean": _to_json(own.mean),
                "runs": [_to_json(value) for value in own.values.tolist()],
                "seed_deviation": own.seed_deviation,
                "interval": compute_interval(own.draws, num_units),
            }
        sources = [str(path) for path in self.variant.sources]
        return {"name": self.variant.name, "sources": sources, "metrics": metrics}


def _to_json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _check_classes(scored: Sequence[ScoredVariant]) -> None:
    """Refuse to compare AP over several classes with AP of one."""
    for other in scored[1:]:
        if not set(other.class_names) & set(scored[0].class_names):
            first, second = (f"{v.variant.name} ({', '.join(v.class_names)})" for v in (scored[0], other))
            raise DatasetError(
                f"the classes of {first} and {second} do not meet; compare predictions with equal classes"
            )


def _compare_two(
    first: ScoredVariant, second: ScoredVariant, images: Sequence[str], num_units: int, unit: str
) -> dict[str, Any]:
    def differ(path: MetricPath, name: str) -> Difference:
        return compute_difference(name, first.estimates[path], second.estimates[path], num_units)

    differences = [differ(path, name) for path, name in METRIC_NAMES.items()]
    names = (first.variant.name, second.variant.name)
    runs = (len(first.tallies), len(second.tallies))
    classes = [name for name in first.class_names if name in second.class_names]
    gains = second.compute_f1() - first.compute_f1()
    order = [row for row in np.argsort(gains) if not math.isnan(gains[row])]
    return {
        "first": names[0],
        "second": names[1],
        "sentences": [describe(d, names, unit, runs) for d in differences if d.metric in SENTENCE_METRICS],
        "differences": [asdict(d) for d in differences],
        "per_class": {
            name: [
                asdict(differ((*path[:1], "per_class", name, *path[1:]), label))
                for path, label in CLASS_METRICS.items()
            ]
            for name in classes
        },
        "images": {
            "won": int((gains > _TIE).sum()),
            "lost": int((gains < -_TIE).sum()),
            "tied": int((abs(gains) <= _TIE).sum()),
            "largest_losses": [{"name": images[row], "F1": float(gains[row])} for row in order[:5]],
            "largest_gains": [{"name": images[row], "F1": float(gains[row])} for row in order[:-6:-1]],
        },
    }


def _list_notes(scored: Sequence[ScoredVariant], num_units: int) -> list[str]:
    notes = []
    if num_units < 2:
        notes.append("One image or group only: no interval can be given, so no difference can be told.")
    elif num_units < 20:
        notes.append(f"Only {num_units} images or groups: the intervals are rough, and often too short.")
    if any(len(variant.tallies) == 1 and variant.variant.sources[0].is_dir() for variant in scored):
        notes.append(
            "A variant has one run only: the intervals say what other images would change, not what another seed "
            "would; train several seeds (manymask experiment) to know that."
        )
    return notes
