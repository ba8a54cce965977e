"""All readers, the choice of one, and a check of every file of a data set."""

import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from manymask.core import Category, Dataset, Problem, Record, Sample
from manymask.core.files import explain_reading
from manymask.errors import DatasetError, FormatError, PlanError
from manymask.formats.class_folders import is_class_folders, name_class_ids, read_class_folders
from manymask.formats.coco import find_coco_files, find_other_coco_files, name_annotations, read_coco
from manymask.formats.label_images import is_label_images, name_ids, read_label_images
from manymask.formats.mask_files import is_mask_files, name_masks, read_mask_files
from manymask.formats.skipped import find_skipped, list_files
from manymask.imaging.files import list_folders
from manymask.wording import list_some

READERS: dict[str, Callable[[str | Path], Dataset]] = {
    "class_folders": read_class_folders,
    "label_images": read_label_images,
    "mask_files": read_mask_files,
    "coco": read_coco,
}
_NAMERS: dict[str, Callable[[Record], list[str]]] = {
    "class_folders": name_class_ids,
    "label_images": name_ids,
    "mask_files": name_masks,
    "coco": name_annotations,
}
_DETECTORS: dict[str, Callable[[Path], object]] = {
    "class_folders": is_class_folders,
    "label_images": is_label_images,
    "mask_files": is_mask_files,
    "coco": find_coco_files,
}
_LAYOUTS = {
    "class_folders": "<name>/image.tif with <name>/class1.tif ...",
    "label_images": "images/ with labels/ or masks/, or x.tif with x_masks.tif",
    "mask_files": "<name>/images/ with <name>/masks/",
    "coco": "annotations.json with images/",
}


@dataclass(frozen=True)
class ImageCheck:
    """What a check found in one image.

    Attributes:
        name: The image's name.
        size: (height, width) in pixels.
        num_instances: Instances that have pixels, without crowd regions.
        pixels_crc: CRC-32 of the decoded pixels, their type and shape.
        labels_crc: CRC-32 of the layers, class indices and crowd flags.
        digest: Of the decoded pixels, the same in any kind of file (``Sample.digest_pixels``).
    """

    name: str
    size: tuple[int, int]
    num_instances: int
    pixels_crc: int
    labels_crc: int
    digest: str


@dataclass(frozen=True)
class DatasetCheck:
    """What a check found in a data set.

    Attributes:
        images: One for each record, in their order.
        max_instances: The largest number of instances in an image.
        fingerprint: SHA-256 of all names, pixels, labels and categories; neither the folder nor the order matters.
    """

    images: tuple[ImageCheck, ...]
    max_instances: int
    fingerprint: str


@explain_reading()
def detect_format(path: str | Path) -> str:
    """Tell which reader a data set is for, by the names of its files and folders.

    Raises:
        DatasetError: Nothing is there, or no layout fits, or more than one.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give the folder of a data set, or a COCO JSON file")
    if path.is_file():
        fitting = ["coco"] if path.suffix.lower() == ".json" else []
    else:
        fitting = [name for name, fits in _DETECTORS.items() if fits(path)]
        if not fitting and find_other_coco_files(path):
            fitting = ["coco"]
    if len(fitting) == 1:
        return fitting[0]
    found = f"fits {' and '.join(fitting)}" if fitting else "fits no layout that manymask reads"
    layouts = "; ".join(f"{name} ({layout})" for name, layout in _LAYOUTS.items())
    parts = [] if fitting or path.is_file() else _list_parts(path)
    if parts:
        example = f"{parts[0]}" + (f" --val {parts[1]}" if len(parts) > 1 else "")
        raise DatasetError(
            f"{path} {found}, but it holds data sets in {list_some([part.name for part in parts])}; give one of these "
            f"folders, as in: manymask train {example}"
        )
    raise DatasetError(f"{path} {found}; name the data format, or give one of: {layouts}")


def _list_parts(folder: Path) -> list[Path]:
    """The folders in a folder that are data sets of their own, as the parts of Roboflow's exports are."""
    return [part for part in list_folders(folder) if any(fits(part) for fits in _DETECTORS.values())]


@explain_reading()
def read_dataset(path: str | Path, data_format: str | None = None, *, crowd_as_objects: bool = False) -> Dataset:
    """Read a data set; images and labels are decoded on access.

    Args:
        path: Its folder, or COCO's JSON file.
        data_format: One of ``READERS``; by default the one that fits.
        crowd_as_objects: Take COCO's crowd regions, as which CVAT writes brush strokes, for objects like the others.

    Raises:
        PlanError: There is no such format.
        DatasetError: The data set is not there, holds no images, or is not as its format asks.
        FormatError: Entries of a COCO file cannot be used.
    """
    dataset = open_dataset(path, data_format, crowd_as_objects=crowd_as_objects)
    if faults := [problem for problem in dataset.problems if problem.severity == "fault"]:
        raise FormatError(_sum_up_faults(faults, dataset.root))
    for problem in dataset.problems:
        if problem.severity == "warning":
            warnings.warn(problem.message, stacklevel=2)
    return dataset


def _sum_up_faults(faults: Sequence[Problem], root: Path) -> str:
    """One message of several, with the way out."""
    copy = f"or write a copy without: manymask inspect {root} --fix FOLDER"
    if len(faults) == 1:
        return f"{faults[0].message}, {copy}"
    path = faults[0].path
    details = [fault.message.rpartition("; ")[0].removeprefix(f"{path}").lstrip(": ") for fault in faults]
    some = list_some(details, separator="; ")
    return f"{path}: {len(faults)} entries cannot be used: {some}; correct them, {copy}"


def open_dataset(path: str | Path, data_format: str | None = None, *, crowd_as_objects: bool = False) -> Dataset:
    """Read a data set like ``read_dataset``, but leave what is wrong in a few entries to the caller, in ``problems``.

    Raises:
        PlanError: There is no such format.
        DatasetError: The data set is not there, holds no images, or is not as its format asks.
    """
    if data_format is not None and data_format not in READERS:
        raise PlanError(f"data format '{data_format}' does not exist; choose one of {', '.join(READERS)}")
    path = Path(path)
    name = data_format or detect_format(path)
    if name == "coco":  # reads what its file lists, and nothing else
        return read_coco(path, crowd_as_objects)
    if not path.is_dir():
        raise DatasetError(f"{path} is not a folder, which data format '{name}' needs; give the data set's folder")
    dataset = READERS[name](path)
    used = [file for record in dataset.records for file in list_files(record)]
    folders = {file.parent for file in used}
    if name in ("class_folders", "mask_files"):  # a folder of folders, in which loose images are passed over
        folders.add(path)
    skipped = find_skipped(folders, used)
    return dataset if skipped is None else replace(dataset, problems=(*dataset.problems, skipped))


def name_instances(record: Record, data_format: str) -> list[str]:
    """What the files call each instance of an image, in the order of its ids: ``id 7``, ``annotation 12``.

    Raises:
        FormatError: A label image cannot be read.
    """
    return _NAMERS[data_format](record)


def check_dataset(
    dataset: Dataset, progress: Callable[[int], None] | None = None, num_workers: int = 1
) -> DatasetCheck:
    """Decode every image and label once.

    Args:
        dataset: The data set.
        progress: Called with the number of images done so far.
        num_workers: Number of threads, at least one is used. Decoding leaves the interpreter's lock most of the time.

    Raises:
        DatasetError: A file is not as it should be; of several, the first in the order of records.
    """
    images: list[ImageCheck] = []
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        for image in executor.map(lambda index: check_sample(dataset[index]), range(len(dataset))):
            images.append(image)
            if progress is not None:
                progress(len(images))
    return sum_up_checks(images, dataset.categories)


def sum_up_checks(images: Sequence[ImageCheck], categories: tuple[Category, ...]) -> DatasetCheck:
    """The check of a data set from those of its images, in their order."""
    max_instances = max((image.num_instances for image in images), default=0)
    return DatasetCheck(tuple(images), max_instances, _compute_fingerprint(images, categories))


def check_sample(sample: Sample) -> ImageCheck:
    """Count the instances of an image that was read, and digest its pixels and labels."""
    layers = sample.layers.as_subclass(torch.Tensor).numpy()
    areas = np.bincount(layers.ravel(), minlength=len(sample.labels) + 1)[1:]
    return ImageCheck(
        sample.name,
        (sample.pixels.shape[0], sample.pixels.shape[1]),
        int(((areas > 0) & ~sample.iscrowd).sum()),
        _compute_crc(sample.pixels),
        _compute_crc(layers, sample.labels, sample.iscrowd),
        sample.digest_pixels(),
    )


def _compute_crc(*arrays: np.ndarray) -> int:
    """CRC-32 of the types, shapes and values of arrays."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(f"{array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc


def _compute_fingerprint(images: Sequence[ImageCheck], categories: tuple[Category, ...]) -> str:
    rows = sorted((image.name, image.pixels_crc, image.labels_crc) for image in images)
    content = [rows, [(category.id, category.name) for category in categories]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
