"""What readers share: making data sets of lists of files, and samples."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from jaxtyping import Bool, Int32, Int64, Shaped

from manymask.core import ImageSource, InstanceLayers
from manymask.core.dataset import Category, Dataset, Doubt, Format, Problem, Record, Sample
from manymask.core.files import copy_file, replace_file
from manymask.errors import DatasetError
from manymask.formats.skipped import find_skipped
from manymask.imaging.files import check_unique_names, name_folder, open_image

Entry = tuple[str, Path, Any, tuple[Path, ...]]
"""Name, image file, annotation and label files of an image."""

_TIFF_SUFFIXES = (".tif", ".tiff")
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
    ignored: tuple[int | str, ...] = (),
) -> Dataset:
    """Put a data set together: images are numbered from 1 in the order of their names.

    Files in their folders, or in ``folders``, that belong to no image, layout or problem and are not in ``known`` are
    reported. ``ignored`` are the values of pixels to ignore in label images.

    Raises:
        DatasetError: There are no images, or two of them have the same name.
    """
    ordered = sorted(entries, key=lambda entry: (entry[0], str(entry[1])))
    if not ordered:
        nothing = f"{root} holds no images with labels; give a folder that holds at least one"
        raise DatasetError(problems[0].message if problems else nothing)
    check_unique_names((name, path) for name, path, *_ in ordered)
    records = tuple(Record(image_id, *entry, ignored=ignored) for image_id, entry in enumerate(ordered, start=1))
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


def copy_image(
    dataset: Dataset, record: Record, folder: Path, name: str | None = None, *, is_turned: bool = False
) -> Path:
    """Copy the file of an image into a folder; an image that is no file, as in an archive, is written as TIFF.

    Args:
        dataset: The image's data set.
        record: The image.
        folder: Where to put it.
        name: Its new stem, of a TIFF whatever it was before; by default it keeps its name and ending.
        is_turned: Whether an image with an orientation tag is written as it is shown, as TIFF: for tools that do not
            obey the tag.

    Returns:
        The new file.
    """
    suffix = record.path.suffix.lower()
    is_copied = record.path.is_file() and (name is None or suffix in _TIFF_SUFFIXES)
    if is_copied and is_turned:
        is_copied = getattr(open_image(record.path), "orientation", 1) == 1
    path = folder / f"{name or record.name}{record.path.suffix if is_copied and name is None else '.tif'}"
    if is_copied:
        copy_file(record.path, path)
    else:
        write_pixels(path, dataset.read_record(record, dataset.categories).pixels)
    return path


def write_pixels(path: Path, pixels: Shaped[np.ndarray, "height width channels"]) -> None:
    """Write an image as TIFF (LZW), of as many channels as it has."""
    num_channels = pixels.shape[2]
    with replace_file(path) as file:
        tifffile.imwrite(
            file,
            pixels if num_channels > 1 else pixels[..., 0],
            compression="lzw",
            photometric="rgb" if num_channels == 3 else "minisblack",
            planarconfig="contig" if num_channels > 1 else None,
        )


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
