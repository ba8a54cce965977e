"""One mask file for each object, as in the Data Science Bowl 2018: ``<name>/images/*.png``, ``<name>/masks/*.png``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from manymask.core import Category, Dataset, Record, Sample, encode_crops, paint_layers
from manymask.errors import DatasetError, FormatError
from manymask.formats.images import check_size, list_folders, list_images, read_pixels
from manymask.formats.records import OBJECT_CATEGORIES, make_records, make_sample


def is_mask_files(root: Path) -> bool:
    """Whether one of the folders in a folder holds ``images`` and ``masks``."""
    return any((folder / "images").is_dir() and (folder / "masks").is_dir() for folder in list_folders(root))


def read_mask_files(root: str | Path) -> Dataset:
    """Read folders of an image and the masks of its objects, all of one class, ``object``.

    Every pixel of a mask that is not 0 belongs to its object. An empty folder ``masks`` means that there is no object.

    Raises:
        DatasetError: A folder lacks its masks or has not exactly one image, or there are none.
    """
    root = Path(root)
    entries = [(folder.name, _find_image(folder), _find_masks(folder)) for folder in list_folders(root)]
    return Dataset(root, "mask_files", OBJECT_CATEGORIES, make_records(entries, root), _read_record)


def _find_image(folder: Path) -> Path:
    images = list_images(folder / "images") if (folder / "images").is_dir() else []
    if len(images) != 1:
        raise DatasetError(f"{folder / 'images'} holds {len(images)} images, expected one for each folder of masks")
    return images[0]


def _find_masks(folder: Path) -> tuple[Path, ...]:
    if not (folder / "masks").is_dir():
        raise DatasetError(f"{folder} holds no folder 'masks'; add one (empty if the image shows no object)")
    return tuple(list_images(folder / "masks"))


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    pixels = read_pixels(record.path)
    size = (pixels.shape[0], pixels.shape[1])
    runs = encode_crops(_read_crops(record, size), size)
    return make_sample(record, pixels, paint_layers(runs), np.ones(len(runs), dtype=np.int64))


def _read_crops(
    record: Record, size: tuple[int, int]
) -> Iterator[tuple[int, int, Bool[np.ndarray, "crop_height crop_width"]]]:
    """Each mask inside its own box; only the box stays in memory."""
    for path in record.annotation:
        mask = np.any(read_pixels(path), axis=2)
        check_size(path, mask.shape, record.path, size)
        rows, columns = np.flatnonzero(np.any(mask, axis=1)), np.flatnonzero(np.any(mask, axis=0))
        if len(rows) == 0:
            raise FormatError(f"{path} is a mask without any pixel, expected one object in each file; remove the file")
        top, left = int(rows[0]), int(columns[0])
        yield left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()


def name_masks(record: Record) -> list[str]:
    """What the files call each instance of an image, in their order."""
    return [path.name for path in record.annotation]


def find_empty_masks(record: Record) -> list[Path]:
    """The masks of an image that have no pixel.

    Raises:
        FormatError: One of the masks cannot be read.
    """
    return [path for path in record.annotation if not read_pixels(path).any()]
