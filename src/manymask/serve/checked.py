"""Images that people have checked, as a data set to train on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manymask.core import Category, ImageSource, Instances, Window, crop_runs, write_json
from manymask.core.files import copy_file
from manymask.errors import DatasetError
from manymask.formats import encode_coco_results
from manymask.formats.records import write_pixels
from manymask.serve.changes import Filter
from manymask.serve.objects import ImageObjects


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
    region: tuple[int, int, int, int] | None = None


def write_checked(folder: Path, images: Sequence[CheckedImage], only: Filter | None = None) -> Path:
    """Write a COCO data set that ``train`` reads: ``annotations.json`` and ``images/``.

    Of an image of which a part was checked, that part alone becomes an image: training takes all that is no object for
    background, COCO's crowd regions too, and would unlearn the objects that nobody looked at.

    Args:
        folder: A new folder.
        images: The images, at least one.
        only: Which of their objects count; by default all that are shown.

    Returns:
        The folder.

    Raises:
        DatasetError: There is no image, their models have different classes, or a region lies outside of its image.
        ManymaskError: The disk is full or cannot be written to.
        FormatError: An image cannot be read.
    """
    if not images:
        raise DatasetError("no image is marked as checked; check the objects of one, and mark it")
    categories = images[0].objects.version.categories
    if any(each.objects.version.categories != categories for each in images):
        raise DatasetError(
            "the checked images were predicted by models with different classes; predict them by one model"
        )
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in enumerate(images, start=1):
        instances, path = _write_image(folder / "images", each, each.objects.to_instances(only))
        height, width = instances.size
        entries.append({"id": number, "file_name": path.name, "height": height, "width": width})
        annotations += _encode(instances, number, categories, len(annotations) + 1)
    content = {"categories": [asdict(category) for category in categories], "images": entries}
    write_json(folder / "annotations.json", content | {"annotations": annotations})
    return folder


def _encode(instances: Instances, image_id: int, categories: Sequence[Category], first_id: int) -> list[dict[str, Any]]:
    results = encode_coco_results(instances, image_id, categories)
    areas = instances.runs.areas.tolist()
    return [
        {name: value for name, value in result.items() if name != "score"} | {"id": number, "area": area, "iscrowd": 0}
        for number, (result, area) in enumerate(zip(results, areas, strict=True), start=first_id)
    ]


def _write_image(folder: Path, checked: CheckedImage, instances: Instances) -> tuple[Instances, Path]:
    """Write what was checked of an image, and return it with its objects there."""
    height, width = checked.image.size
    x, y, right, bottom = 0, 0, width, height
    if checked.region is not None:
        left, top, across, down = checked.region
        x, y, right, bottom = max(left, 0), max(top, 0), min(left + across, width), min(top + down, height)
        if x >= right or y >= bottom:
            raise DatasetError(f"the checked region {list(checked.region)} of {checked.name} lies outside of the image")
    window = Window(y, x, bottom - y, right - x)
    if window == (0, 0, height, width) and checked.path.is_file():
        path = folder / f"{checked.name}{checked.path.suffix}"
        copy_file(checked.path, path)
        return instances, path
    path = folder / f"{checked.name}.tif"
    write_pixels(path, checked.image.read(window))
    cut = Instances.from_runs(crop_runs(instances.runs, window), instances.labels)
    return cut[cut.runs.areas > 0], path
