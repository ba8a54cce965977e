"""What readers share: making data sets of lists of files, and samples."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64

from manymask.core import ImageSource, InstanceLayers
from manymask.core.dataset import Category, Dataset, Doubt, Format, Problem, Record, Sample
from manymask.errors import DatasetError
from manymask.formats.skipped import find_skipped
from manymask.imaging.files import check_unique_names, name_folder

Entry = tuple[str, Path, Any, tuple[Path, ...]]
"""Name, image file, annotation and label files of an image."""

OBJECT_CATEGORIES = (Category(1, "object"),)


def make_dataset(
    root: Path,
    format: Format,
    read_record: Callable[[Record, tuple[Category, ...]], Sample],
    entries: Iterable[Entry],
    problems: Sequence[Problem],
    categories: tuple[Category, ...] = OBJECT_CATEGORIES,
    folders: Iterable[Path] = (),
    known: Iterable[Path] = (),
) -> Dataset:
    """Put a data set together: images are numbered from 1 in the order of their names.

    Files in their folders, or in ``folders``, that belong to no image, layout or problem and are not in ``known`` are
    reported.

    Raises:
        DatasetError: There are no images, or two of them have the same name.
    """
    ordered = sorted(entries, key=lambda entry: (entry[0], str(entry[1])))
    if not ordered:
        nothing = f"{root} holds no images with labels; give a folder that holds at least one"
        raise DatasetError(problems[0].message if problems else nothing)
    check_unique_names((name, path) for name, path, *_ in ordered)
    records = tuple(Record(image_id, *entry) for image_id, entry in enumerate(ordered, start=1))
    used = [file for record in records for file in (record.path, *record.label_files)]
    listed = {*folders, *(file.parent for file in used)}
    skipped = find_skipped(listed, [*used, *known, *(problem.path for problem in problems)])
    return Dataset(root, format, categories, records, read_record, (*problems, *filter(None, [skipped])))


def find_entries(folders: Iterable[Path], find_entry: Callable[[Path], Entry]) -> tuple[list[Entry], list[Problem]]:
    """The entries of folders that hold one image each, and a problem for each folder that lacks something."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            entries.append(find_entry(folder))
        except DatasetError as error:
            problems.append(report_incomplete(str(error), folder, name_folder(folder)))
    return entries, problems


def report_incomplete(message: str, path: Path, name: str) -> Problem:
    """A problem of an image without labels, or of labels without an image."""
    return Problem("incomplete-image", "fault", message, path, name)


def make_sample(
    record: Record,
    image: ImageSource,
    layers: InstanceLayers | Int32[np.ndarray, "height width"],
    labels: Int64[np.ndarray, " instances"],
    iscrowd: Bool[np.ndarray, " instances"] | None = None,
    doubts: tuple[Doubt, ...] = (),
) -> Sample:
    """Put a sample together; one label image stands for a stack of one layer."""
    if isinstance(layers, np.ndarray):
        layers = InstanceLayers(torch.from_numpy(layers[None]))
    iscrowd = np.zeros(len(labels), dtype=bool) if iscrowd is None else iscrowd
    return Sample(record.image_id, record.name, record.path, image, layers, labels, iscrowd, doubts)
