"""A copy of a data set in the format of another tool, and what of it that format cannot hold."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from manymask.core import Instances, RunLengths
from manymask.core.dataset import Category, Dataset, Format, Record, Sample
from manymask.core.files import check_writable, explain_reading
from manymask.core.label_painting import find_overlapped, rank_instances
from manymask.core.outlines import iterate_outlines
from manymask.core.outputs import is_unused
from manymask.core.polygons import Ring
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError, ManymaskError, PlanError
from manymask.formats.datasets import FORMATS, open_dataset
from manymask.formats.drawn import DrawnImage, has_own_classes
from manymask.formats.label_images import CELLPOSE
from manymask.formats.label_samples import IGNORED
from manymask.formats.splits import get_splits
from manymask.plan import GivenLabels
from manymask.wording import count_of, find_name, list_some

TARGETS: dict[str, Format] = {
    format.name: format for format in (*FORMATS.values(), CELLPOSE) if format.copy_format in ("", format.name)
}
"""The formats that can be written, by their names."""

# Pixels; outlines nearer than this to the edges of pixels lie on them, as files round their numbers.
_ON_EDGE = 1e-3


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` wrote.

    Attributes:
        output: The folder.
        num_images: Images in it.
        num_objects: Objects in it, crowd regions too.
        lost: What the format could not hold, counted, as a line each.
        left_out: Images and entries that could not be used, each with the reason.
    """

    output: Path
    num_images: int
    num_objects: int
    lost: tuple[str, ...]
    left_out: tuple[str, ...]

    def describe(self) -> list[str]:
        """What was done, as lines to print."""
        some = list_some(self.left_out, separator="; ")
        left_out = [f"left out {len(self.left_out)} that cannot be used: {some}"] if self.left_out else []
        lost = [f"lost: {line}" for line in self.lost]
        images, objects = count_of(self.num_images, "image"), count_of(self.num_objects, "object")
        return [*left_out, *lost, f"{images} with {objects} written to {self.output}"]


@explain_reading()
def convert(
    data: str | Path,
    *,
    to: str,
    output: str | Path,
    data_format: str | None = None,
    crowd_as_objects: bool = False,
    ignore_label: GivenLabels = (),
    progress: Progress | None = None,
) -> Conversion:
    """Write a data set in the format of another tool.

    Files of images are copied byte for byte. Images and entries that cannot be used are left out, as are objects
    without any pixel. Outlines run along the edges of pixels. Each part of a data set that is split becomes a folder.

    Args:
        data: Folder of labelled images, or a COCO file.
        to: The format to write: one of ``TARGETS``.
        output: A new or empty folder.
        data_format: Name of the reader; found out by default.
        crowd_as_objects: Take COCO's crowd regions for objects like the others.
        ignore_label: Value of pixels to ignore in label images, or several; COCO gets them as crowd regions, label
            images and class folders as -1.
        progress: Called with the number of images done, their number, and what is being done.

    Raises:
        PlanError: There is no such format, or the folder is in use or lies in the data.
        DatasetError: The data cannot be read, or nothing in them can be used.
    """
    to = find_name(to, TARGETS, f"cannot write data format '{to}'")
    target, data, output = TARGETS[to], Path(data), Path(output)
    check_new_folder(output, data, "--output")
    parts = {output / name: part for name, part in get_splits(data).items()} or {output: data}
    try:
        reading = {"crowd_as_objects": crowd_as_objects, "ignore_label": ignore_label}
        datasets = {folder: open_dataset(part, data_format, **reading) for folder, part in parts.items()}
    except DatasetError as error:
        if (data / "predictions.json").is_file():
            raise DatasetError(
                f"{data} holds predictions, not labelled images; to write them for another tool, predict again with "
                "--format, as in: manymask predict MODEL IMAGES --format geojson --format imagej"
            ) from error
        raise
    # COCO's copies of COCO keep the lists of classes as they are, and each part has its own.
    if len(datasets) > 1 and not (to == "coco" and all(dataset.format is target for dataset in datasets.values())):
        datasets = dict(zip(datasets, _share_classes(list(datasets.values())), strict=True))
    with _undo_on_failure(output):
        done = [_write(dataset, target, folder, progress) for folder, dataset in datasets.items()]
        if len(done) > 1 and target.join_parts is not None:
            target.join_parts(output, [part.output.name for part in done], next(iter(datasets.values())).categories)
    if len(done) == 1:
        return done[0]
    lost: dict[str, list[str]] = {}
    for part in done:
        for line in part.lost:
            lost.setdefault(line, []).append(part.output.name)
    return Conversion(
        output,
        sum(part.num_images for part in done),
        sum(part.num_objects for part in done),
        tuple(f"{', '.join(names)}: {line}" for line, names in lost.items()),
        tuple(line for part in done for line in part.left_out),
    )


@contextmanager
def _undo_on_failure(output: Path) -> Iterator[None]:
    """Remove what was written into a folder where the rest cannot be, so that the same command can be run again."""
    was_there, before = output.is_dir(), set(output.iterdir()) if output.is_dir() else set[Path]()
    try:
        yield
    except BaseException:
        for path in set(output.iterdir()) - before if output.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not was_there and output.is_dir():
            output.rmdir()
        raise


def _share_classes(parts: Sequence[Dataset]) -> Sequence[Dataset]:
    """The parts with the classes of all of them, by their names, so that a number means one class."""
    found = [category for part in parts if has_own_classes(part) for category in part.categories]
    names, shared = dict.fromkeys(each.name for each in found), sorted(set(found), key=lambda each: each.id)
    if not len(shared) == len(names) == len({each.id for each in shared}):  # the parts number them differently
        shared = [Category(number, name) for number, name in enumerate(names, start=1)]
    return [_rename(part, tuple(shared) or part.categories) for part in parts]


def _rename(dataset: Dataset, categories: tuple[Category, ...]) -> Dataset:
    """A data set with other classes, among which its own are found by their names."""
    if categories == dataset.categories or not has_own_classes(dataset):
        return replace(dataset, categories=categories)
    places = [category.name for category in categories]
    labels = np.array([0, *(places.index(category.name) + 1 for category in dataset.categories)])

    def read(record: Record, _: tuple[Category, ...]) -> Sample:
        sample = dataset.read_record(record, dataset.categories)
        return replace(sample, labels=labels[sample.labels])

    return replace(dataset, categories=categories, read_record=read)


def _write(dataset: Dataset, target: Format, output: Path, progress: Progress | None) -> Conversion:
    """Write one data set."""
    writer, losses, num_images = target.open_writer(output, dataset), _Losses(dataset, target), 0
    left_out = [problem.detail for problem in dataset.problems if problem.severity == "fault"]
    for record in track(dataset.records, len(dataset), f"writing {output}", progress):
        try:
            instances = _read_instances(dataset, record)
        except ManymaskError as error:
            left_out.append(str(error).rpartition("; ")[0] or str(error))
            continue
        rows = losses.count(record, instances)
        writer.write(record, instances[rows], rows)
        num_images += 1
    if not num_images:
        raise DatasetError(f"nothing of {dataset.root} can be used; the first: {left_out[0]}")
    writer.close()
    return Conversion(output, num_images, losses.num_written, tuple(losses.describe()), tuple(left_out))


def check_new_folder(output: Path, data: Path, option: str) -> None:
    """Refuse a folder for a copy of a data set that could harm anything.

    Args:
        output: The folder.
        data: The data set: its folder, or a file, whose folder then is that of the data.
        option: The option that gave the folder, for messages.

    Raises:
        PlanError: It is not a new or empty folder, or it lies in the data.
        DatasetError: There are no such data.
    """
    if not data.exists():
        raise DatasetError(f"{data} does not exist; give the folder of a data set, or a COCO JSON file")
    if not is_unused(output):
        raise PlanError(f"{option} {output} is not an empty folder; choose another")
    check_writable(output / "repairs.json")
    folder = data if data.is_dir() else data.parent
    if output.resolve().is_relative_to(folder.resolve()):
        raise PlanError(f"{option} {output} lies inside the data {folder}; choose a folder outside")


def _read_instances(dataset: Dataset, record: Record) -> Instances:
    """The instances of an image, in the order of its file."""
    sample = dataset.read_record(record, dataset.categories)
    for doubt in sample.doubts:
        # Other tools turn the copied image, and would not turn its labels.
        if doubt.kind == "orientation-as-stored":
            raise DatasetError(f"{record.path} {doubt.detail}; save the image without the tag")
    return Instances.from_layers(sample.layers, sample.labels, sample.iscrowd)


class _Losses:
    """Counts what of a data set a format cannot hold."""

    def __init__(self, dataset: Dataset, target: Format) -> None:
        self.dataset, self.target, self.num_written = dataset, target, 0
        self.counts, self.classes = Counter[str](), Counter[str]()

    def count(self, record: Record, instances: Instances) -> Int64[np.ndarray, " kept"]:
        """Count the losses of an image; the rows that can be written are returned, ascending."""
        holds, counts, categories = self.target.holds, self.counts, self.dataset.categories
        is_empty = instances.runs.areas == 0
        is_refused = instances.iscrowd & ~is_empty & ("crowd" not in holds)
        rows = np.flatnonzero(~is_empty & ~is_refused)
        counts["empty"] += int(is_empty.sum())
        counts["ignored" if record.ignored else "crowd"] += int(is_refused.sum())
        instances = instances[rows]
        # Label images have one value for them, which the user names to read them.
        counts["renamed"] += int(instances.iscrowd.any() and "overlaps" not in holds and IGNORED not in record.ignored)
        self.classes.update(categories[label - 1].name for label in instances.labels.tolist())
        for _, outlines in iterate_outlines(instances.runs):
            num_parts = np.diff(outlines.instance_splits)
            num_rings = np.diff(outlines.polygon_splits[outlines.instance_splits])
            counts["holes"] += int((num_rings > num_parts).sum())
            counts["parts"] += int((num_parts > 1).sum())
        num_hidden = 0
        for flat in _list_flat(instances[~instances.iscrowd], holds):
            ranked, num_visible = rank_instances(flat.runs, flat.scores, flat.iscrowd)
            num_hidden += len(ranked) - num_visible
            counts["overlapped"] += len(find_overlapped(flat.runs, ranked))
            counts["pixels"] += int(flat.runs.areas.sum()) - _measure_union(flat.runs)
        counts["hidden"] += num_hidden
        self.num_written += len(rows) - num_hidden
        counts["outlines"] += sum(
            not all(map(_is_on_edges, rings)) for rings in self.dataset.format.list_outlines(record) or []
        )
        if isinstance(record.annotation, DrawnImage):
            counts["scores"] += sum(each.score is not None for each in record.annotation.objects)
        return rows

    def describe(self) -> list[str]:
        """A line for each thing that is lost."""
        counts, holds, is_same = self.counts, self.target.holds, self.dataset.format.name == self.target.name
        found = ", ".join(f"{name} ({number})" for name, number in self.classes.most_common())
        names = ", ".join(category.name for category in self.dataset.categories)
        seams = "became one outline with seams of no width, which manymask fills to the same mask"

        def objects(key: str) -> str:
            return count_of(counts[key], "object")

        lines = [
            (
                "classes" not in holds and self.classes.keys() - {"object"},
                f"classes: all objects are of one class now; they were {found}",
            ),
            (
                "classes" in holds and "names" not in holds and not is_same,
                f"names of classes: there they have numbers, in this order: {names}",
            ),
            ("holes" not in holds and counts["holes"], f"holes: {objects('holes')} with holes {seams}"),
            ("parts" not in holds and counts["parts"], f"parts: {objects('parts')} of several parts {seams}"),
            (
                counts["overlapped"],
                f"overlaps: {count_of(counts['pixels'], 'pixel')} of {objects('overlapped')} went to others"
                + (f", and {objects('hidden')} vanished" if counts["hidden"] else ""),
            ),
            (
                counts["crowd"],
                f"crowd regions: left out {counts['crowd']}; if they are single objects, set crowd_as_objects",
            ),
            (counts["ignored"], f"pixels to ignore: left out {count_of(counts['ignored'], 'region')}"),
            (
                counts["renamed"],
                f"crowd regions: those of {count_of(counts['renamed'], 'image')} are pixels of {IGNORED} now, for all "
                f"classes; read them with --ignore-label {IGNORED}",
            ),
            (counts["empty"], f"empty masks: left out {objects('empty')} without any pixel"),
            (counts["outlines"], f"outlines: those of {objects('outlines')} run along the edges of pixels now"),
            (counts["scores"], f"scores: those of {objects('scores')}"),
            ("ids" in self.dataset.format.holds and not is_same, "ids: objects are numbered anew"),
        ]
        return [line for is_lost, line in lines if is_lost]


def _list_flat(instances: Instances, holds: frozenset[str]) -> list[Instances]:
    """The sets of instances that would share one label image."""
    if "overlaps" in holds:
        return []
    if "overlaps of classes" in holds:
        return [instances[instances.labels == label] for label in np.unique(instances.labels)]
    return [instances]


def _measure_union(runs: RunLengths) -> int:
    """Pixels of all masks together."""
    union = RunLengths.from_intervals(runs.size, 1, np.zeros_like(runs.owner), runs.start, runs.length)
    return int(union.areas.sum())


def _is_on_edges(ring: Ring) -> bool:
    """Whether a ring runs along the edges of pixels."""
    steps = np.abs(np.roll(ring, -1, axis=0) - ring)
    return bool((np.abs(ring - ring.round()) < _ON_EDGE).all() and (steps.min(axis=1) < _ON_EDGE).all())
