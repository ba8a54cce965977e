"""Images that people have checked, as a data set to train on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manymask.core import (
    Category,
    ImageSource,
    Instances,
    RunLengths,
    Window,
    concatenate_instances,
    concatenate_runs,
    crop_runs,
    write_json,
)
from manymask.core.files import copy_file
from manymask.core.runs import subtract_runs
from manymask.errors import DatasetError
from manymask.formats import encode_coco_results
from manymask.formats.records import write_pixels
from manymask.serve.objects import ImageObjects

MARGIN = 128
"""Pixels around a region that come along: features of ``nuclei`` differ up to 96 pixels inside of an image's border."""


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """An image whose shown objects are right and complete, at least in a part of it.

    Attributes:
        name: Its name in the data set, unique there and fit for a file.
        path: Its file.
        image: The image as it was predicted.
        objects: Its objects.
        region: x, y, width and height in pixels of what was checked; None for the whole image.
    """

    name: str
    path: Path
    image: ImageSource
    objects: ImageObjects
    region: Sequence[int] | None = None


def check_classes(images: Sequence[CheckedImage]) -> None:
    """Refuse images whose objects are of different classes.

    Raises:
        DatasetError: They are.
    """
    if any(each.objects.version.categories != images[0].objects.version.categories for each in images):
        raise DatasetError(
            "the checked images were predicted by models with different classes; predict them by one model"
        )


def write_checked(folder: Path, images: Sequence[CheckedImage]) -> int:
    """Write a COCO data set that ``train`` reads: ``annotations.json`` and ``images/``.

    Of an image of which a region was checked, that region becomes an image, with a margin around it for context. The
    margin is a crowd region (``iscrowd`` 1) of each class, which neither training nor scores look at. Objects are there
    whole, as far as that image reaches, if a part of them lies in the region; others are left out.

    Args:
        folder: A new folder.
        images: The images, at least one.

    Returns:
        How many objects there are.

    Raises:
        DatasetError: There is no image, their models have different classes, or a region lies outside of its image.
        ManymaskError: The disk is full or cannot be written to.
        FormatError: An image cannot be read.
    """
    if not images:
        raise DatasetError("no image is marked as checked; check the objects of one, and mark it")
    check_classes(images)
    categories, num_objects = images[0].objects.version.categories, 0
    labels = range(1, len(categories) + 1)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in enumerate(images, start=1):
        instances, ignored, path = _write_image(folder / "images", each)
        num_objects += len(instances)
        if len(ignored.start):
            crowds = concatenate_runs([ignored] * len(categories))
            is_crowd = np.ones(len(crowds), dtype=bool)
            regions = Instances.from_runs(crowds, np.array(labels, dtype=np.int64), iscrowd=is_crowd)
            instances = concatenate_instances([instances, regions])
        height, width = instances.size
        entries.append({"id": number, "file_name": path.name, "height": height, "width": width})
        annotations += _encode(instances, number, categories, len(annotations) + 1)
    content = {"categories": [asdict(category) for category in categories], "images": entries}
    write_json(folder / "annotations.json", content | {"annotations": annotations})
    return num_objects


def _encode(instances: Instances, image_id: int, categories: Sequence[Category], first_id: int) -> list[dict[str, Any]]:
    results = encode_coco_results(instances, image_id, categories)
    columns = zip(results, instances.runs.areas.tolist(), instances.iscrowd.tolist(), strict=True)
    return [
        {name: value for name, value in result.items() if name != "score"}
        | {"id": number, "area": area, "iscrowd": int(iscrowd)}
        for number, (result, area, iscrowd) in enumerate(columns, start=first_id)
    ]


def _write_image(folder: Path, checked: CheckedImage) -> tuple[Instances, RunLengths, Path]:
    """Write what was checked of an image; its objects there, what nobody looked at as one mask, and the file."""
    whole = Window(0, 0, *checked.image.size)
    region = whole if checked.region is None else _cut(checked.region, 0, whole)
    window = whole if checked.region is None else _cut(checked.region, MARGIN, whole)
    if min(region.height, region.width) <= 0:
        raise DatasetError(f"the checked region {checked.region} of {checked.name} has no pixels in the image")
    if window == whole and checked.path.is_file():
        path = folder / f"{checked.name}{checked.path.suffix}"
        copy_file(checked.path, path)
    else:
        path = folder / f"{checked.name}.tif"
        write_pixels(path, checked.image.read(window))
    instances = checked.objects.to_instances()
    seen = instances[crop_runs(instances.runs, region).areas > 0]
    objects = Instances.from_runs(crop_runs(seen.runs, window), seen.labels)
    size = window.height, window.width
    columns = np.arange(region.width) + region.left - window.left
    looked_at = RunLengths.from_intervals(
        size,
        1,
        np.zeros_like(columns),
        columns * window.height + region.top - window.top,
        np.full_like(columns, region.height),
    )
    zero = np.zeros(1, dtype=np.int64)
    everything = RunLengths(size, 1, zero, zero, np.array([window.height * window.width]))
    return objects, subtract_runs(everything, looked_at), path


def _cut(region: Sequence[int], margin: int, whole: Window) -> Window:
    """A region and a margin around it, as far as the image reaches."""
    x, y, width, height = region
    left, top = max(x - margin, 0), max(y - margin, 0)
    right, bottom = min(x + width + margin, whole.width), min(y + height + margin, whole.height)
    return Window(top, left, bottom - top, right - left)
