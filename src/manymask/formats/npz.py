"""NumPy archives of many images and label images, such as TissueNet's: arrays ``X`` and ``y`` in a ``.npz`` file."""

import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from manymask.core import ArraySource
from manymask.core.dataset import Category, Dataset, Format, Record, Sample
from manymask.errors import DatasetError, FormatError
from manymask.formats.class_folders import ClassFolderWriter
from manymask.formats.ids import LabelImage, number_ids
from manymask.formats.label_samples import make_labelled_sample
from manymask.formats.records import OBJECT_CATEGORIES
from manymask.imaging.files import list_images
from manymask.plan import Labels

_IMAGES = ("X", "x", "images")
_LABELS = ("y", "Y", "labels", "masks")
# What TissueNet's two channels of labels show.
_TISSUE_CLASSES = (Category(1, "cell"), Category(2, "nucleus"))
# A compressed array is unpacked whole into the memory of each process that reads it.
_MAX_UNPACKED = 1 << 33


def _has_npz_name(root: Path) -> bool:
    """Never: archives of other content have such names too."""
    return False


def is_npz(root: Path) -> bool:
    """Whether a folder holds archives with images and labels."""
    return any(_find_names(path) for path in list_images(root, (".npz",)))


def _find_names(path: Path) -> tuple[str, str] | None:
    """The names of the arrays of images and of labels in an archive; None where it lacks one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} cannot be read ({error}); it is damaged or cut short: save it again") from error
    found = [next((name for name in choice if name in names), None) for choice in (_IMAGES, _LABELS)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def read_npz(path: str | Path, ignore_label: Labels = ()) -> Dataset:
    """Read an archive of images ``X``, (n, height, width, channels), and ids ``y``, of the same or of one channel.

    Each channel of the labels is a class; two are TissueNet's, ``cell`` and ``nucleus``. Images are called by their
    places, from 0. Arrays that are not compressed (``numpy.savez``) are read image by image, others are unpacked whole.
    Objects of Python in it are not touched.

    Args:
        path: The file, or a folder with exactly one.
        ignore_label: Values of pixels to ignore.

    Raises:
        DatasetError: There is not exactly one file, or it holds no images.
        FormatError: Its arrays are not there, not of numbers, or do not fit each other.
    """
    path = Path(path)
    files = list_images(path, (".npz",)) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        found = ", ".join(map(str, files)) or "none"
        raise DatasetError(f"{path} must hold exactly one .npz file, found {found}; give the file itself")
    file = files[0]
    names = _find_names(file)
    if names is None:
        raise FormatError(f"{file} lacks an array {' or '.join(_IMAGES)} or {' or '.join(_LABELS)}; save both in it")
    images, labels = (_open_array(file, name) for name in names)
    if images.ndim not in (3, 4) or labels.ndim not in (3, 4) or images.shape[:3] != labels.shape[:3]:
        raise FormatError(
            f"{file} holds images of shape {images.shape} and labels of shape {labels.shape}, expected "
            "(n, height, width, channels) of both; save them so"
        )
    if len(images) == 0:
        raise DatasetError(f"{file} holds no images; give a file that holds at least one")
    num_classes = labels.shape[3] if labels.ndim == 4 else 1
    categories = {1: OBJECT_CATEGORIES, 2: _TISSUE_CLASSES}.get(num_classes) or tuple(
        Category(number, f"class{number}") for number in range(1, num_classes + 1)
    )
    num_digits = len(str(len(images) - 1))
    # No files have the paths of an image and its labels, which tell them from the others in messages.
    records = tuple(
        Record(
            place + 1,
            name := f"{place:0{num_digits}}",
            file / name,
            (file, names, place),
            (file / names[1] / name,),
            ignored=ignore_label,
        )
        for place in range(len(images))
    )
    return Dataset(path, FORMAT, categories, records, _read_record)


def _open_array(path: Path, name: str) -> Shaped[np.ndarray, "..."]:
    """An array of an archive, as it is now: mapped where it is not compressed, else unpacked."""
    return _load_array(path, name, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load_array(path: Path, name: str, _: int) -> Shaped[np.ndarray, "..."]:
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                shape, is_fortran, dtype = _read_header(file)
                start = file.tell()
        if dtype.kind not in "buif":
            raise FormatError(f"{path} holds {name} of {dtype}, expected numbers; save it as numbers")
        if entry.compress_type == zipfile.ZIP_STORED:
            offset = _find_content(path, entry) + start
            return np.memmap(path, dtype, "r", offset, shape, "F" if is_fortran else "C")
        if entry.file_size > _MAX_UNPACKED:
            raise FormatError(
                f"{path} holds {entry.file_size >> 30} GB of compressed {name}; save it with numpy.savez, which does "
                "not compress, so that it can be read image by image"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[name]
    except (OSError, ValueError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path} cannot be read ({error}); it is damaged or cut short: save it again") from error


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    is_first = version == (1, 0)
    return (np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0)(file)


def _find_content(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the content of an entry begins in its archive: behind a header of 30 bytes, a name and extra fields."""
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        lengths = struct.unpack("<26xHH", file.read(30))
    return entry.header_offset + 30 + sum(lengths)


def _read_labels(record: Record) -> list[LabelImage]:
    """The label image of each class."""
    file, (_, name), place = record.annotation
    labels = np.asarray(_open_array(file, name)[place])
    labels = labels if labels.ndim == 3 else labels[..., None]
    channels = map(np.ascontiguousarray, np.moveaxis(labels, 2, 0))
    return [number_ids(record.label_files[0], channel, ignored=record.ignored) for channel in channels]


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    file, (name, _), place = record.annotation
    pixels = np.array(_open_array(file, name)[place])
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    image = ArraySource(pixels * np.uint8(255) if pixels.dtype == bool else pixels)
    num_classes = len(categories)
    return make_labelled_sample(record, image, _read_labels(record), range(1, num_classes + 1), num_classes)


def _name_instances(record: Record) -> list[str]:
    return [
        f"id {old_id} of channel {channel}"
        for channel, part in enumerate(_read_labels(record))
        for old_id in part.old_ids.tolist()
    ]


FORMAT = Format(
    "npz",
    layout="a .npz file of arrays X and y",
    detect=_has_npz_name,
    detect_by_content=is_npz,
    read=read_npz,
    name_instances=_name_instances,
    open_writer=ClassFolderWriter,
    holds=frozenset({"classes", "holes", "parts", "overlaps of classes", "crowd"}),
    copy_format="class_folders",
    changes="images and labels are class folders",
    options=frozenset({"ignore_label"}),
    suffixes=(".npz",),
)
