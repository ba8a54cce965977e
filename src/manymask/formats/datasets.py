"""All readers, the choice of one, and a check of every file of a data set."""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manymask.core.dataset import Category, Dataset, Format, Sample
from manymask.core.files import explain_reading
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError
from manymask.formats import (
    aperio,
    class_folders,
    coco,
    cvat,
    geojson,
    imagej,
    label_images,
    label_studio,
    labelme,
    mask_files,
    npz,
    ome_zarr,
    via,
    yolo,
)
from manymask.formats.left_out import leave_out_unlabelled, tell_left_out
from manymask.imaging.files import IMAGE_SUFFIXES, is_hidden, list_folders
from manymask.plan import GivenLabels, Plan, change_plan
from manymask.wording import count_of, find_name, list_some

logger = logging.getLogger(__name__)

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        *(class_folders, label_images, mask_files, coco, labelme, yolo, cvat, label_studio, via, aperio),
        *(geojson, imagej, npz, ome_zarr),
    )
}
"""All formats by their names."""


@dataclass(frozen=True)
class ImageCheck:
    """What a check found in one image.

    Attributes:
        name: The image's name.
        size: (height, width) in pixels.
        num_instances: Instances that have pixels, without crowd regions.
        pixels_crc: CRC-32 of the decoded pixels, their type and shape.
        labels_crc: CRC-32 of the layers, class indices and crowd flags.
        digest: Of the decoded pixels, the same in any kind of file (``Sample.digest``).
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
        fingerprint: SHA-256 of all names, pixels, labels and categories; neither the folder nor the order matters.
    """

    images: tuple[ImageCheck, ...]
    fingerprint: str

    @classmethod
    def of(cls, images: Sequence[ImageCheck], categories: tuple[Category, ...]) -> "DatasetCheck":
        """The check of a data set from those of its images, in their order."""
        rows = sorted((image.name, image.pixels_crc, image.labels_crc) for image in images)
        content = [rows, [(category.id, category.name) for category in categories]]
        return cls(tuple(images), hashlib.sha256(json.dumps(content).encode()).hexdigest())


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
        _refuse_listed(path)
    fitting = find_formats(path)
    if len(fitting) == 1:
        return fitting[0]
    found = f"fits {' and '.join(fitting)}" if fitting else "fits no layout that manymask reads"
    if not fitting and (mistaken := _explain_mistaken(path)):
        raise DatasetError(f"{path} {mistaken}")
    # The parts of Roboflow's exports, for example, are data sets of their own.
    folders = [] if fitting or path.is_file() else list_folders(path)
    if parts := [part for part in folders if any(format.detect(part) for format in FORMATS.values())]:
        example = f"{parts[0]}" + (f" --val {parts[1]}" if len(parts) > 1 else "")
        raise DatasetError(
            f"{path} {found}, but it holds data sets in {list_some([part.name for part in parts])}; give one of these "
            f"folders, as in: manymask train {example}"
        )
    raise DatasetError(
        f"{path} {found}; name the data format, one of {', '.join(FORMATS)} (docs/formats.md shows their files)"
    )


def _explain_mistaken(path: Path) -> str | None:
    """What a path that fits no format is instead, and what to give."""
    if path.is_file():
        return "is an image; give the folder of images and labels" if path.suffix.lower() in IMAGE_SUFFIXES else None
    entries = [entry for entry in path.iterdir() if not is_hidden(entry)]
    if not entries:
        return "holds nothing; give the folder of a data set, or a COCO JSON file"
    if not all(entry.suffix.lower() in IMAGE_SUFFIXES for entry in entries):
        return None
    parent = Path(os.path.abspath(path)).parent
    remedy = f"give {path.parent}" if find_formats(parent) else "give the folder that holds both images and labels"
    return f"holds {count_of(len(entries), 'image')} and no labels; {remedy}"


def _refuse_listed(file: Path) -> None:
    """Refuse a file of a tool whose data sets are folders."""
    for module, find in (
        (cvat, cvat.find_cvat_files),
        (label_studio, label_studio.find_label_studio_files),
        (via, via.find_via_files),
        (aperio, aperio.find_aperio_files),
        (geojson, geojson.find_geojson_files),
        (imagej, imagej.find_imagej_files),
    ):
        if file in find(file.parent):
            raise DatasetError(
                f"{file} is a file of data format '{module.FORMAT.name}'; give its folder, {file.parent}"
            )


def find_formats(path: Path) -> list[str]:
    """The formats that a file or folder may be of."""
    if path.is_file():
        return [format.name for format in FORMATS.values() if path.name.lower().endswith(format.suffixes)]
    fitting = [format.name for format in FORMATS.values() if format.detect(path)]
    return fitting or [format.name for format in FORMATS.values() if format.detect_by_content(path)]


@explain_reading()
def read_dataset(
    path: str | Path, data_format: str | None = None, *, crowd_as_objects: bool = False, ignore_label: GivenLabels = ()
) -> Dataset:
    """Read a data set; images and labels are decoded on access.

    Objects and images that cannot be used are left out, with one warning that counts them and names some; so are images
    of which no object can be used.

    Args:
        path: Its folder, or COCO's JSON file.
        data_format: One of ``FORMATS``; by default the one that fits.
        crowd_as_objects: Take COCO's crowd regions, as which CVAT writes brush strokes, for objects like the others.
        ignore_label: Value of pixels to ignore in label images, or several: whole numbers, and NaN as ``nan``. They are
            one crowd region for each class: no object, no background to train on, and predictions there cost nothing.

    Raises:
        PlanError: There is no such format, or a value to ignore is no number.
        DatasetError: The data set is not there, holds no images, or is not as its format asks.
        FormatError: Nothing in it can be used.
    """
    dataset = open_dataset(path, data_format, crowd_as_objects=crowd_as_objects, ignore_label=ignore_label)
    tell_left_out(dataset)
    for problem in dataset.problems:
        if problem.severity == "warning":
            logger.warning(problem.message)
    return dataset


def open_dataset(path: str | Path, data_format: str | None = None, **reading: Any) -> Dataset:
    """Read a data set like ``read_dataset``, but silently: what is left out, and all else to tell, is in ``problems``.

    Args:
        path: Its folder or file.
        data_format: One of ``FORMATS``; by default the one that fits.
        **reading: What else ``read_dataset`` takes.

    Raises:
        PlanError: There is no such format, or a value to ignore is no number.
        DatasetError: The data set is not there, holds no images, or is not as its format asks.
    """
    if data_format is not None:
        data_format = find_name(data_format, FORMATS, f"data format '{data_format}' does not exist")
    path = Path(path)
    format = FORMATS[data_format or detect_format(path)]
    if not (format.suffixes or path.is_dir()):
        raise DatasetError(
            f"{path} is not a folder, which data format '{format.name}' needs; give the data set's folder"
        )
    options = change_plan(Plan(), reading).reading
    dataset = format.read(path, **{name: value for name, value in options.items() if name in format.options})
    return leave_out_unlabelled(dataset)


def check_dataset(dataset: Dataset, progress: Progress | None = None, num_workers: int = 1) -> DatasetCheck:
    """Decode every image and label once.

    Args:
        dataset: The data set.
        progress: Called with the number of images done, their number, and what is being done.
        num_workers: Number of threads, at least one is used. Decoding leaves the interpreter's lock most of the time.

    Raises:
        DatasetError: A file is not as it should be; of several, the first in the order of records.
    """
    with ThreadPoolExecutor(max(num_workers, 1)) as executor:
        checks = executor.map(lambda index: check_sample(dataset[index]), range(len(dataset)))
        images = list(track(checks, len(dataset), f"looking at {dataset.root}", progress))
    return DatasetCheck.of(images, dataset.categories)


def check_sample(sample: Sample) -> ImageCheck:
    """Count the instances of an image that was read, and digest its pixels and labels."""
    layers = sample.layers.as_subclass(torch.Tensor).numpy()
    areas = np.bincount(layers.ravel(), minlength=len(sample.labels) + 1)[1:]
    return ImageCheck(
        sample.name,
        sample.image.size,
        int(((areas > 0) & ~sample.iscrowd).sum()),
        _compute_crc(sample.pixels),
        _compute_crc(layers, sample.labels, sample.iscrowd),
        sample.digest,
    )


def _compute_crc(*arrays: np.ndarray) -> int:
    """CRC-32 of the types, shapes and values of arrays."""
    crc = 0
    for array in arrays:
        crc = zlib.crc32(f"{array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc
