"""Class folders: ``<name>/image.tif`` beside ``class1.tif`` .. ``classN.tif``, a label image for each class present."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
import torch
from jaxtyping import Int32, Int64, Shaped
from numpy.typing import DTypeLike

from manymask.core import InstanceLayers, Instances, concatenate_runs, encode_layers, paint_ids, paint_layers
from manymask.core.dataset import Category, Dataset, DatasetWriter, Format, Record, Sample
from manymask.core.files import replace_file
from manymask.errors import DatasetError, FormatError
from manymask.formats.ids import LabelImage, check_size, read_label_image, split_shared_ids
from manymask.formats.records import Entry, copy_image, find_entries, make_dataset, make_sample, write_pixels
from manymask.imaging.files import CLASS_FILE, list_folders, list_images, name_folder
from manymask.imaging.orientation import open_labelled_image

IMAGE_NAMES = ("image.tif", "image.tiff")


def is_class_folders(root: Path) -> bool:
    """Whether a folder, or one of the folders in it, holds ``image.tif`` or ``classN.tif``."""
    return any(is_class_folder(folder) for folder in [root, *list_folders(root)])


def is_class_folder(folder: Path) -> bool:
    """Whether a folder is one of class folders: that of one image."""
    return any(path.name in IMAGE_NAMES or CLASS_FILE.fullmatch(path.name) for path in list_images(folder))


def read_class_folders(root: str | Path) -> Dataset:
    """Read a folder of class folders, or a single one.

    The categories are all N of ``classN.tif`` in any of the folders, named ``classN``; gaps are kept. Folders that lack
    their image or all class files are left out and listed in the data set's ``problems``.

    Raises:
        DatasetError: There are no folders with an image and class files.
    """
    root = Path(root)
    folders = [root] if is_class_folder(root) else list_folders(root)
    entries, problems = find_entries(folders, _find_entry)
    numbers = sorted({number for _, _, files, _ in entries for number in files})
    categories = tuple(Category(number, f"class{number}") for number in numbers)
    return make_dataset(root, FORMAT, _read_record, entries, problems, categories, [root])


def _find_entry(folder: Path) -> Entry:
    files = _find_class_files(folder)
    image = next((folder / name for name in IMAGE_NAMES if (folder / name).is_file()), None)
    if image is None:
        raise DatasetError(f"{folder} holds no image.tif; each class folder needs its image under that name")
    return name_folder(folder), image, files, tuple(files.values())


def _find_class_files(folder: Path) -> dict[int, Path]:
    """Class files by category id, ascending."""
    files: dict[int, Path] = {}
    for path in list_images(folder):
        if match := CLASS_FILE.fullmatch(path.name):
            number = int(match["category"])
            if number in files:
                raise DatasetError(f"{files[number]} and {path} are both of class {number}; keep one of them")
            files[number] = path
    if not files:
        raise DatasetError(
            f"{folder} holds no class file such as class1.tif; an image without any object needs one of all zeros"
        )
    return dict(sorted(files.items()))


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    class_index = {category.id: index for index, category in enumerate(categories, start=1)}
    files = {path: _read_class_file(path, record.is_split) for path in record.annotation.values()}
    first = next(iter(files.values()))
    image, doubts = open_labelled_image(record.path, first.ids.shape, first.orientation)
    for path, label in files.items():
        check_size(path, label.ids.shape, record.path, image.size)
    label_images = [label.ids for label in files.values()]
    labels = [
        np.full(len(label.old_ids), class_index[category_id])
        for category_id, label in zip(record.annotation, files.values(), strict=True)
    ]
    layers = merge_label_images(label_images, labels)
    return make_sample(record, image, layers, np.concatenate(labels), doubts=doubts)


def _read_class_file(path: Path, is_split: bool) -> LabelImage:
    """The ids of a class; where an image is to be split, only the files whose values are no ids are."""
    try:
        return read_label_image(path)
    except FormatError:
        if not is_split:
            raise
        return read_label_image(path, is_split=True)


def merge_label_images(
    label_images: list[Int32[np.ndarray, "height width"]], labels: list[Int64[np.ndarray, " _"]]
) -> InstanceLayers | Int32[np.ndarray, "height width"]:
    """One label image where the classes share no pixel, else layers; ids go on from class to class.

    Args:
        label_images: The ids of each class, 1..N each.
        labels: The class index of each instance of each class.
    """
    counts = [len(part) for part in labels]
    merged = np.zeros_like(label_images[0])
    for ids, offset in zip(label_images, np.cumsum([0, *counts]), strict=False):
        is_instance = ids > 0
        if merged[is_instance].any():
            parts = (torch.from_numpy(part[None]) for part in label_images)
            return paint_layers(concatenate_runs([encode_layers(*pair) for pair in zip(parts, counts, strict=True)]))
        merged[is_instance] = ids[is_instance] + offset
    return merged


def _name_instances(record: Record) -> list[str]:
    return [
        f"id {i} of {path.name}"
        for path in record.annotation.values()
        for i in _read_class_file(path, record.is_split).old_ids
    ]


def write_class_folder(
    root: Path,
    name: str,
    pixels: Shaped[np.ndarray, "height width channels"],
    instances: Instances,
    categories: Sequence[Category],
    dtype: DTypeLike = np.float64,
) -> None:
    """Write ``root/name`` with ``image.tif`` (LZW) and an uncompressed ``classN.tif`` for each class that occurs.

    Ids of a class are 1..K by falling score. An overlap within a class goes to the higher score, to the earlier row at
    equal scores; crowd regions are left out. An image without instances gets a file of zeros of the first category.
    Class files of an earlier image in that folder are removed.

    Raises:
        FormatError: ``dtype`` cannot hold the ids of a class.
    """
    folder = root / name
    _write_class_files(folder, instances, categories, np.dtype(dtype))
    write_pixels(folder / "image.tif", pixels)


def _write_class_files(folder: Path, instances: Instances, categories: Sequence[Category], dtype: np.dtype) -> None:
    """Write the class files of one image in place of any others."""
    label_images: dict[str, np.ndarray] = {}
    for index, category in enumerate(categories, start=1):
        ids, rows = paint_ids(instances[instances.labels == index])
        file_name = f"class{category.id}.tif"
        if not len(rows):
            continue
        label_images[file_name] = ids.astype(dtype)
        if (label_images[file_name] != ids).any():
            raise FormatError(f"{folder / file_name} needs ids up to {len(rows)}, more than {dtype} holds; use uint32")
    if not label_images:
        label_images[f"class{categories[0].id}.tif"] = np.zeros(instances.size, dtype=dtype)
    for file_name, ids in label_images.items():
        with replace_file(folder / file_name) as file:
            tifffile.imwrite(file, ids, photometric="minisblack")
    for path in list_images(folder):
        if CLASS_FILE.fullmatch(path.name) and path.name not in label_images:
            path.unlink()


class ClassFolderWriter(DatasetWriter):
    """Writes a folder for each image; one that is no TIFF becomes one."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its class files."""
        folder = self.folder / record.name
        copy_image(self.dataset, record, folder, "image")
        _write_class_files(folder, instances, self.dataset.categories, np.dtype(np.uint32))


FORMAT = Format(
    "class_folders",
    layout="<name>/image.tif with <name>/class1.tif ...",
    detect=is_class_folders,
    read=read_class_folders,
    name_instances=_name_instances,
    open_writer=ClassFolderWriter,
    holds=frozenset({"classes", "holes", "parts", "overlaps of classes"}),
    salvage=split_shared_ids,
)
