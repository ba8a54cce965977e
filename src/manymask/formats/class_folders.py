"""Class folders: ``<name>/image.tif`` beside ``class1.tif`` .. ``classN.tif``, a label image for each class present."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Int64, Shaped
from numpy.typing import DTypeLike

from manymask.core import Instances
from manymask.core.dataset import Category, Dataset, DatasetWriter, Format, Record, Sample
from manymask.core.files import replace_file
from manymask.errors import DatasetError, FormatError
from manymask.formats.ids import LabelImage, check_size, read_label_image, split_shared_ids
from manymask.formats.label_samples import make_labelled_sample, paint_labels
from manymask.formats.records import Entry, copy_image, find_entries, make_dataset, write_pixels
from manymask.imaging.files import CLASS_FILE, list_folders, list_images, name_folder
from manymask.imaging.orientation import open_labelled_image
from manymask.plan import Labels

IMAGE_NAMES = ("image.tif", "image.tiff")


def is_class_folders(root: Path) -> bool:
    """Whether a folder, or one of the folders in it, holds ``image.tif`` or ``classN.tif``."""
    return any(is_class_folder(folder) for folder in [root, *list_folders(root)])


def is_class_folder(folder: Path) -> bool:
    """Whether a folder is one of class folders: that of one image."""
    return any(path.name in IMAGE_NAMES or CLASS_FILE.fullmatch(path.name) for path in list_images(folder))


def read_class_folders(root: str | Path, ignore_label: Labels = ()) -> Dataset:
    """Read a folder of class folders, or a single one.

    The categories are all N of ``classN.tif`` in any of the folders, named ``classN``; gaps are kept. Folders that lack
    their image or all class files are left out and listed in the data set's ``problems``.

    Args:
        root: The folder.
        ignore_label: Values of pixels to ignore.

    Raises:
        DatasetError: There are no folders with an image and class files.
    """
    root = Path(root)
    folders = [root] if is_class_folder(root) else list_folders(root)
    entries, problems = find_entries(folders, _find_entry)
    numbers = sorted({number for _, _, files, _ in entries for number in files})
    categories = tuple(Category(number, f"class{number}") for number in numbers)
    return make_dataset(root, FORMAT, _read_record, entries, problems, categories, [root], ignored=ignore_label)


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
    files = {path: _read_class_file(path, record) for path in record.annotation.values()}
    first = next(iter(files.values()))
    image, doubts = open_labelled_image(record.path, first.ids.shape, first.orientation)
    for path, label in files.items():
        check_size(path, label.ids.shape, record.path, image.size)
    classes = [class_index[category_id] for category_id in record.annotation]
    return make_labelled_sample(record, image, list(files.values()), classes, len(categories), doubts)


def _read_class_file(path: Path, record: Record) -> LabelImage:
    """The ids of a class; where an image is to be split, only the files whose values are no ids are."""
    try:
        return read_label_image(path, ignored=record.ignored)
    except FormatError:
        if not record.is_split:
            raise
        return read_label_image(path, is_split=True, ignored=record.ignored)


def _name_instances(record: Record) -> list[str]:
    return [
        f"id {i} of {path.name}" for path in record.annotation.values() for i in _read_class_file(path, record).old_ids
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
    equal scores; what lies in crowd regions alone is -1. An image without instances gets a file of zeros of the first
    category. Class files of an earlier image in that folder are removed.

    Raises:
        FormatError: ``dtype`` cannot hold the values of a class.
    """
    folder = root / name
    _write_class_files(folder, instances, categories, np.dtype(dtype))
    write_pixels(folder / "image.tif", pixels)


def _write_class_files(folder: Path, instances: Instances, categories: Sequence[Category], dtype: np.dtype) -> None:
    """Write the class files of one image in place of any others."""
    label_images: dict[str, np.ndarray] = {}
    for index, category in enumerate(categories, start=1):
        ids = paint_labels(instances[instances.labels == index])
        file_name = f"class{category.id}.tif"
        if not ids.any():
            continue
        label_images[file_name] = ids.astype(dtype)
        if (label_images[file_name] != ids).any():
            raise FormatError(
                f"{folder / file_name} needs values from {ids.min()} to {ids.max()}, which {dtype} does not hold; use "
                "int32"
            )
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
        copy_image(self.dataset, record, folder, "image", is_turned=True)
        dtype = np.dtype(np.int32 if instances.iscrowd.any() else np.uint32)
        _write_class_files(folder, instances, self.dataset.categories, dtype)


FORMAT = Format(
    "class_folders",
    layout="<name>/image.tif with <name>/class1.tif ...",
    detect=is_class_folders,
    read=read_class_folders,
    name_instances=_name_instances,
    open_writer=ClassFolderWriter,
    holds=frozenset({"classes", "holes", "parts", "overlaps of classes", "crowd"}),
    options=frozenset({"ignore_label"}),
    salvage=split_shared_ids,
)
