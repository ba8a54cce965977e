"""A repaired copy of a data set: what rules can put right is put right, everything else stays as it is."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from manymask.core import InstanceLayers, Instances, concatenate_instances, paint_ids, write_json
from manymask.core.components import find_pieces
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError, ManymaskError
from manymask.formats.conversion import check_new_folder
from manymask.formats.label_samples import IGNORED
from manymask.inspection.checks import MAX_TINY_AREA, find_rows
from manymask.inspection.findings import KINDS
from manymask.inspection.inspector import Inspection, Repair
from manymask.inspection.measurement import ImageFacts, measure_instances
from manymask.wording import count_of, list_some

LEFT_OUT = (
    "unreadable-image",
    "unreadable-labels",
    "size-mismatch",
    "not-finite",
    "unsupported-channels",
    "constant-image",
    "same-image-in-val",
)
"""Kinds of findings that are put right by leaving the image out of the copy."""

_DONE = {
    "zero-area-instance": "removed {} without any pixel",
    "one-pixel-instance": f"removed {{}} of up to {MAX_TINY_AREA} pixels",
    "duplicate-instance": "removed {} with the mask of another one",
    "background-instance": "removed {} that was the background",
    "fragmented-instance": f"gave each piece of {{}} an id of its own, pieces of up to {MAX_TINY_AREA} pixels aside",
    "crumbs": f"removed pieces of up to {MAX_TINY_AREA} pixels of {{}}",
    "crumbs-only": f"removed {{}} of which no piece has more than {MAX_TINY_AREA} pixels",
    "hidden-instance": "removed {} hidden by others, as a label image holds one id a pixel",
}

# What the copy puts right because it holds masks in place of polygons.
_CONVERTED = {
    "out-of-frame": "cut off what lay outside the image",
    "self-crossing": "wrote masks in place of outlines that cross themselves",
}


@dataclass(frozen=True, eq=False)
class _Table:
    """Instances, the row of each in the files, and the rows that something was done to, by kind of finding."""

    instances: Instances
    source: Int64[np.ndarray, " instances"]
    done: dict[str, list[int]]


def write_repaired(
    dataset: Dataset, inspection: Inspection, output: Path, progress: Progress | None = None
) -> tuple[Repair, ...]:
    """Write a copy of a data set, one image at a time, and put right what rules can put right.

    Images are copied byte for byte; the writer of the data set's format writes the labels.

    Args:
        dataset: The data set.
        inspection: What was found in it.
        output: A new or empty folder.
        progress: Called with the number of images done, their number, and what is being done.

    Returns:
        What was done, for each image that is not merely copied; written as ``repairs.json`` too.

    Raises:
        PlanError: The folder is not empty, or lies in the data.
        DatasetError: Nothing would be left.
    """
    check_new_folder(output, dataset.root, "--fix")
    left_out = _choose_left_out(inspection)
    if len(left_out) == len(dataset):
        raise DatasetError(f"nothing of {dataset.root} can be kept; the first image {next(iter(left_out.values()))}")
    # Findings and unusable entries by the image that they are of; those of images without a record come first.
    kinds: dict[str | None, set[str]] = defaultdict(set)
    for finding in inspection.findings:
        kinds[finding.image].add(finding.kind)
    writer = dataset.format.open_writer(output, dataset)
    unusable: dict[str | None, list[str]] = defaultdict(list)
    for problem in dataset.problems:
        if problem.severity == "fault":
            unusable[problem.image].append(problem.detail)
    names = {record.name for record in dataset.records}
    repairs = [
        Repair(image or "(no image)", False, _describe_unusable(messages))
        for image, messages in unusable.items()
        if image not in names
    ]
    for record in track(dataset.records, len(dataset), f"writing {output}", progress):
        if record.name in left_out:
            repairs.append(Repair(record.name, False, (f"left out: {left_out[record.name]}",)))
        elif actions := (
            *_describe_unusable(unusable[record.name]),
            *_copy_image(dataset, record, writer, kinds[record.name]),
        ):
            repairs.append(Repair(record.name, True, actions))
    writer.close()
    write_json(output / "repairs.json", [asdict(repair) for repair in repairs])
    return tuple(repairs)


def _describe_unusable(messages: list[str]) -> tuple[str, ...]:
    """What was done about entries that the reader could not use."""
    return (f"left out what cannot be used: {list_some(messages)}",) if messages else ()


def _choose_left_out(inspection: Inspection) -> dict[str, str]:
    """Images that are not copied, each with the reason; of images with the same pixels one stays."""
    left_out = {str(finding.image): finding.detail for finding in inspection.findings if finding.kind in LEFT_OUT}
    copies: dict[bytes, list[ImageFacts]] = defaultdict(list)
    for image in inspection.facts:
        if image.name not in left_out:
            copies[image.pixels_digest].append(image)
    for images in copies.values():
        kept = max(images, key=lambda image: int(image.instances.is_object.sum()))  # the first of equal ones
        left_out |= {image.name: f"has the same pixels as {kept.path}" for image in images if image is not kept}
    return left_out


def _copy_image(dataset: Dataset, record: Record, writer: DatasetWriter, kinds: set[str]) -> tuple[str, ...]:
    """Repair and write one image; what was done is returned."""
    actions = [action for kind, action in _CONVERTED.items() if kind in kinds]
    try:
        sample = dataset.read_record(record, dataset.categories)
    except ManymaskError:
        if (salvage := dataset.format.salvage(record)) is None:
            raise
        record = salvage.record
        sample = dataset.read_record(record, dataset.categories)
        actions.append(salvage.action)
    instances = Instances.from_layers(sample.layers, sample.labels, sample.iscrowd)
    table = _repair(_Table(instances, np.arange(len(instances)), defaultdict(list)))
    if dataset.format.is_flat:
        table = _repair(_flatten(table))
    writer.write(record, table.instances, table.source)
    if table.instances.iscrowd.any() and record.ignored and IGNORED not in record.ignored:
        actions.append(f"wrote pixels to ignore as {IGNORED}, for --ignore-label {IGNORED}")
    if table.done:
        names = dataset.format.name_instances(record)
        actions += [_describe(kind, rows, names) for kind, rows in table.done.items()]
    return tuple(actions)


def _describe(kind: str, rows: list[int], names: list[str]) -> str:
    rows = sorted(set(rows))
    return f"{_DONE[kind].format(count_of(len(rows), 'instance'))}: {list_some(names[row] for row in rows)}"


def _repair(table: _Table) -> _Table:
    """Repair until nothing is left to repair: pieces of instances, for example, may be each other's duplicates."""
    while True:
        instances = table.instances
        facts = measure_instances(instances.runs, instances.labels, instances.iscrowd)
        found = find_rows(facts, instances.size)
        rows_of = {kind: rows for kind, rows in found.items() if KINDS[kind].is_fixable and len(rows)}
        if not rows_of:
            return table
        # Instances are cut into pieces last: what is removed before need not be cut.
        fragmented = rows_of.pop("fragmented-instance", None)
        if fragmented is not None and not rows_of:
            table = _split(table, fragmented)
        for kind, rows in rows_of.items():
            table.done[kind].extend(table.source[rows].tolist())
        if rows_of:
            table = _select(table, np.delete(np.arange(len(instances)), np.concatenate(list(rows_of.values()))))


def _select(table: _Table, rows: Int64[np.ndarray, " kept"]) -> _Table:
    return _Table(table.instances[rows], table.source[rows], table.done)


def _split(table: _Table, rows: Int64[np.ndarray, " rows"]) -> _Table:
    """Make an instance of each piece of the given rows, the largest first; crumbs are dropped."""
    pieces, owner = find_pieces(table.instances.runs.select(rows))
    areas = pieces.areas
    kept = np.flatnonzero(areas > MAX_TINY_AREA)
    kept = kept[np.argsort(-areas[kept], kind="stable")]
    whole = _select(table, np.delete(np.arange(len(table.source)), rows))
    parts = Instances.from_runs(pieces.select(kept), table.instances.labels[rows][owner[kept]])
    num_kept = np.bincount(owner[kept], minlength=len(rows))
    for kind, number in (("crumbs-only", 0), ("crumbs", 1), ("fragmented-instance", 2)):
        if (is_done := num_kept.clip(max=2) == number).any():
            table.done[kind].extend(table.source[rows[is_done]].tolist())
    source = np.concatenate([whole.source, table.source[rows][owner[kept]]])
    joined = _Table(concatenate_instances([whole.instances, parts]), source, table.done)
    return _select(joined, np.argsort(source, kind="stable"))


def _flatten(table: _Table) -> _Table:
    """The instances as one label image holds them: an overlap goes to the first of them, what is ignored comes last."""
    ids, rows = paint_ids(table.instances)
    crowds = np.flatnonzero(table.instances.iscrowd)
    hidden = np.setdiff1d(np.arange(len(table.source)), np.append(rows, crowds))
    if len(hidden):
        table.done["hidden-instance"].extend(table.source[hidden].tolist())
    layers = InstanceLayers(torch.from_numpy(ids[None].copy()))
    objects = Instances.from_layers(layers, table.instances.labels[rows])
    instances = concatenate_instances([objects, table.instances[crowds]])
    return _Table(instances, table.source[np.append(rows, crowds)], table.done)
