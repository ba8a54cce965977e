"""Image files: finding them, their names, and their pixels."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from manymask.core import ImageSource
from manymask.core.files import explain_reading
from manymask.core.outputs import drop_outputs
from manymask.errors import DatasetError
from manymask.imaging.decoding import count_pages, read_raster
from manymask.imaging.image import FileSource
from manymask.imaging.ome_zarr import ZarrSource, count_zarr_planes, is_zarr
from manymask.imaging.orientation import is_obeyed
from manymask.imaging.planes import ONE_PLANE, PlaneChoice
from manymask.imaging.slides import SLIDE_SUFFIXES, SlideSource

IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".btf", ".svs", ".ndpi", ".jp2", ".j2k", ".webp", ".gif"),
)
LABEL_FOLDERS = ("labels", "masks", "label", "mask", "label masks", "label_masks")
"""Names of folders of label images, in lower case."""
# What Cellpose writes beside an image: label images and flow fields.
LABEL_STEM = re.compile(r"(?P<stem>.+?)(_cp)?_(?P<kind>masks|flows)", re.IGNORECASE)
CLASS_FILE = re.compile(r"class(?P<category>\d+)\.tiff?", re.IGNORECASE)


def read_pixels(path: str | Path) -> Shaped[np.ndarray, "height width channels"]:
    """Read an image file in the type it is stored in, as ``open_image`` does."""
    return open_image(path).read()


def open_image(path: str | Path, choice: PlaneChoice = ONE_PLANE) -> ImageSource:
    """An image file in the type it is stored in, of which only the header is read yet.

    TIFF, PNG, JPEG, JPEG 2000, WebP, BMP and GIF are told apart by content. Alpha is dropped, palettes become RGB,
    1-bit images 0 and 255, CMYK JPEG and YCbCr become RGB, "min is white" TIFF becomes what viewers show, and the
    orientation tag is obeyed unless ``MANYMASK_ORIENTATION`` says otherwise. OME-Zarr folders are read by ``zarr``,
    slides other than TIFF by OpenSlide; both are extras.

    Args:
        path: The file, or the folder of an OME-Zarr image.
        choice: Which image is taken of a file that holds several, and which channels.

    Raises:
        FormatError: The file cannot be read as one 2-D image, whole, or is larger than the limit.
        ManymaskError: The library that reads it is not installed.
    """
    path = Path(path)
    if is_zarr(path):
        return ZarrSource(path, choice)
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return SlideSource(path, choice)
    header = read_raster(path, is_decoded=False, choice=choice)
    return FileSource(path, header, header.orientation if is_obeyed() else 1, choice)


def list_choices(path: str | Path, choice: PlaneChoice) -> list[PlaneChoice]:
    """A choice for each image that is meant: of ``page="all"`` one for each page, else the choice itself.

    Raises:
        FormatError: The file cannot be read.
    """
    path = Path(path)
    if choice.page != "all":
        return [choice]
    number = count_zarr_planes(path, choice) if is_zarr(path) else count_pages(path, choice)
    return [replace(choice, page=page) for page in range(1, number + 1)]


def list_images(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """The image files directly in a folder, by name; hidden files are ignored."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return sorted((path for path in files if not is_hidden(path) and path.is_file()), key=lambda path: path.name)


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name; hidden ones and outputs of manymask's own are passed over."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path)]
    return sorted(drop_outputs(folders), key=lambda path: path.name)


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is hidden, or what macOS leaves in archives."""
    return path.name.startswith((".", "__MACOSX"))


def check_unique_names(images: Iterable[tuple[str, Path]]) -> None:
    """Refuse images of one data set that share a name.

    Raises:
        DatasetError: Two images have the same name; the message gives both files.
    """
    seen: dict[str, Path] = {}
    for name, path in images:
        key = make_key(name)
        if key in seen:
            raise DatasetError(f"{seen[key]} and {path} are both named '{name}'; rename one, results are kept by name")
        seen[key] = path


def make_key(name: str) -> str:
    """A name in the form for comparisons: names that look alike are equal, however their accents are encoded."""
    return unicodedata.normalize("NFC", name)


def name_folder(folder: Path) -> str:
    """The name of a folder as the user sees it: ``.`` has one too, and a link has its own, not that of its target."""
    return Path(os.path.abspath(folder)).name


@explain_reading()
def find_images(images: str | Path | Sequence[str | Path]) -> list[tuple[str, Path]]:
    """Find the images to predict on.

    Args:
        images: An image file, or the folder of an OME-Zarr image; a folder of images, with those in folders below that
            are not of labels; a folder with a folder named ``images``; a folder of class folders, each with its
            ``image.*``; one class folder; a folder of such folders; a text file (.txt) of paths; or several of these.

    Returns:
        Name and file of each image; those of one folder by name. The name is the file's stem, or the class folder's
        name, with the folders before it where several images share one.

    Raises:
        DatasetError: Nothing is there, no image is found, or two images have the same name.
    """
    found: dict[str, tuple[Path, Path]] = {}
    for path in list_given(images):
        if not path.exists():
            raise DatasetError(f"{path} does not exist; give image files, or a folder of images")
        here = [_name_by_file(path)] if path.is_file() or is_zarr(path) else _find_in_folder(path)
        if not here:
            raise DatasetError(
                f"{path} holds no images; expected files {', '.join(IMAGE_SUFFIXES)} (not named *_masks), a folder "
                "'images', or class folders with an image.tif each"
            )
        found |= {os.path.abspath(file): (place, file) for place, file in here}
    places, files = zip(*found.values(), strict=True)
    named = list(zip(_name_places(places), files, strict=True))
    check_unique_names(named)
    return named


def list_given(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files and folders that are meant, those that a text file lists in its place.

    Raises:
        DatasetError: A text file names none, or one that is not there.
    """
    paths = [Path(images)] if isinstance(images, str | Path) else [Path(path) for path in images]
    if not paths:
        raise DatasetError("no images are given; give image files, or a folder of images")
    return [each for path in paths for each in (_read_list(path) if path.suffix.lower() == ".txt" else [path])]


def _read_list(path: Path) -> list[Path]:
    """The paths in a text file, one a line, from its own folder on; lines that begin with # are comments."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; expected a text file with the path of an image on each line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no text file of paths: it is not UTF-8; save it as UTF-8") from error
    named = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    # A file may be called #1.png.
    listed = [(n, path.parent / name) for n, name in named if name[0] != "#" or (path.parent / name).exists()]
    if not listed:
        raise DatasetError(f"{path} is empty; expected the path of an image on each line")
    for number, file in listed:
        if not file.exists():
            raise DatasetError(
                f"{path} lists {file} on line {number}, which does not exist; paths count from the list's own folder"
            )
    return [file for _, file in listed]


def name_images(paths: Sequence[Path]) -> list[str]:
    """Names of images: their stems, and where images of several folders share one, with the folders before it."""
    return _name_places([path.parent / path.stem for path in paths])


def _name_places(places: Sequence[Path]) -> list[str]:
    """The last part of each path, where several share it all parts behind the folder that holds them all."""
    if not places:
        return []
    counts = Counter(make_key(place.name) for place in places)
    base = os.path.commonpath([os.path.abspath(place.parent) for place in places])
    return [
        place.name if counts[make_key(place.name)] == 1 else "_".join(Path(os.path.relpath(place, base)).parts)
        for place in places
    ]


def _name_by_file(path: Path) -> tuple[Path, Path]:
    return path.parent / path.stem, path


def _name_by_folder(folder: Path) -> tuple[Path, Path]:
    return Path(os.path.abspath(folder)), _find_class_image(folder)


def _find_in_folder(folder: Path) -> list[tuple[Path, Path]]:
    """The files in a folder, each with the path that it is named by."""
    suffixes = (*IMAGE_SUFFIXES, *SLIDE_SUFFIXES)
    files = [path for path in list_images(folder, suffixes) if not LABEL_STEM.fullmatch(path.stem)]
    folders = list_folders(folder)
    files = sorted(files + [path for path in folders if is_zarr(path)], key=lambda path: path.name)
    if any(CLASS_FILE.fullmatch(path.name) for path in files):
        return [_name_by_folder(folder)]
    if not files and (folder / "images").is_dir():
        return _find_in_folder(folder / "images")
    if not files and any(path.stem == "image" for each in folders for path in list_images(each)):
        return [_name_by_folder(each) for each in folders]
    # A link to a folder above would lead round and round.
    inner = [each for each in folders if not folder.resolve().is_relative_to(each.resolve()) and not is_zarr(each)]
    below = [each for each in inner if each.name.lower() not in LABEL_FOLDERS]
    return [_name_by_file(path) for path in files] + [found for each in below for found in _find_in_folder(each)]


def _find_class_image(folder: Path) -> Path:
    """The one ``image.*`` of a class folder."""
    files = [path for path in list_images(folder) if path.stem == "image"]
    if len(files) != 1:
        raise DatasetError(f"{folder} holds {len(files)} files named image.*, expected one, such as image.tif")
    return files[0]
