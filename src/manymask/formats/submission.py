"""The list of test images of a task, which results are handed in for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manymask.core import read_json
from manymask.errors import DatasetError, FormatError
from manymask.formats.coco_entries import is_integer
from manymask.wording import count_of, list_some

RESULTS_NAME = "test-results.json"
ARCHIVE_NAME = "test-results.zip"


@dataclass(frozen=True)
class ImageId:
    """The number that a task gives to a test image.

    Attributes:
        file_name: The image file's name.
        id: Its number.
        height: Its height in pixels.
        width: Its width in pixels.
    """

    file_name: str
    id: int
    height: int
    width: int


def read_image_ids(path: str | Path) -> list[ImageId]:
    """Read a list of ``{"file_name", "id", "height", "width"}``.

    Raises:
        FormatError: The file is not such a list, or an id or a name (without its ending) occurs twice.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{path} holds no list of images; expected entries of file_name, id, height and width")
    image_ids = [_read_entry(path, place, entry) for place, entry in enumerate(entries)]
    _check_unique(path, "id", [image_id.id for image_id in image_ids])
    _check_unique(path, "name", [Path(image_id.file_name).stem for image_id in image_ids])
    return image_ids


def _read_entry(path: Path, place: int, entry: Any) -> ImageId:
    entry = entry if isinstance(entry, dict) else {}
    name = entry.get("file_name")
    image_id, height, width = numbers = [entry.get(key) for key in ("id", "height", "width")]
    if not isinstance(name, str) or not all(map(is_integer, numbers)) or min(height, width) < 1:
        raise FormatError(f"{path}: entry {place} needs file_name, and whole numbers id, height and width; correct it")
    return ImageId(name, image_id, height, width)


def _check_unique(path: Path, what: str, values: Sequence[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise FormatError(f"{path}: the {what} {value} occurs twice; each image needs one of its own")
        seen.add(value)


def match_image_ids(
    image_ids: Sequence[ImageId], images: Sequence[tuple[str, Path]], source: str = "the list of ids"
) -> list[tuple[ImageId, Path]]:
    """Find the file of each listed image, by its name without ending, in the order of the list.

    Args:
        image_ids: What ``read_image_ids`` gives.
        images: What ``find_images`` gives.
        source: The file that the ids are from, for messages.

    Raises:
        DatasetError: A listed image is not there, or one is there that is not listed.
    """
    files = dict(images)
    listed = {Path(image_id.file_name).stem: image_id for image_id in image_ids}
    folder = os.path.commonpath([path.absolute().parent for path in files.values()]) if files else "the images"
    if missing := sorted(listed.keys() - files.keys()):
        raise DatasetError(
            f"{source} lists {_describe(missing)} not in {folder}; complete the folder or correct the list"
        )
    if unlisted := sorted(files.keys() - listed.keys()):
        raise DatasetError(
            f"{folder} holds {_describe(unlisted)} not in {source}; complete the list or correct the folder"
        )
    return [(image_id, files[name]) for name, image_id in listed.items()]


def _describe(names: list[str]) -> str:
    """How many images, and which, as the subject of "not in"."""
    return f"{count_of(len(names), 'image')} ({list_some(names)}) that {'is' if len(names) == 1 else 'are'}"
