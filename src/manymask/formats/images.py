"""Image files: pixels as they are stored, and label images as ids."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from jaxtyping import Int32, Int64, Shaped
from PIL import Image

from manymask.core.files import explain_reading
from manymask.core.outputs import drop_outputs
from manymask.errors import DatasetError, FormatError

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
# What Cellpose writes beside an image: label images and flow fields.
LABEL_STEM = re.compile(r"(?P<stem>.+?)(_cp)?_(?P<kind>masks|flows)", re.IGNORECASE)
CLASS_FILE = re.compile(r"class(?P<category>\d+)\.tiff?", re.IGNORECASE)

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG"
_MAX_CHANNELS_FIRST = 4  # an unnamed first axis up to this long holds channels, a longer one a stack of images
_MAX_ID = 2**53  # the largest range in which float64 holds every whole number
# "White" of 8-bit, 16-bit and RGB-coded files.
_WHITE = (255, 65535, 0xFFFFFF)
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)

# Pillow takes images above 179 megapixels for an attack; slide scanners make them. Set once, as threads share it.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class _Raster:
    """What a file stores: values (height, width, channels) without alpha, and the colours they stand for, if any."""

    values: np.ndarray
    palette: np.ndarray | None = None
    is_lossy: bool = False


def read_pixels(path: str | Path) -> Shaped[np.ndarray, "height width channels"]:
    """Read an image file in the type it is stored in.

    TIFF, PNG, JPEG and BMP are told apart by content. Alpha is dropped, palettes become RGB, 1-bit images 0 and 255,
    CMYK JPEG becomes RGB, and the orientation tag is obeyed. "Min is white" TIFF keeps its stored values.

    Raises:
        FormatError: The file cannot be read as one 2-D image, whole.
    """
    raster = _read_raster(Path(path))
    if raster.palette is not None:
        return raster.palette[raster.values[..., 0]]
    return raster.values


def read_ids(path: str | Path) -> Int64[np.ndarray, "height width"]:
    """Read the ids of a label image, as stored: 0 for background, gaps and large ids kept.

    Palette images give their indices; images of three 8-bit channels give R + 256 G + 65536 B.

    Raises:
        FormatError: The file cannot be read, is a JPEG, or holds something else than whole numbers from 0 to 2^53.
    """
    path = Path(path)
    raster = _read_raster(path)
    if raster.is_lossy:
        raise FormatError(f"{path} is a JPEG, which changes ids when it is saved; save labels as PNG or TIFF")
    values = raster.values
    if values.shape[2] == 3 and values.dtype == np.uint8:
        return values.astype(np.int64) @ np.array([1, 256, 65536])
    if values.shape[2] != 1:
        raise FormatError(
            f"{path} has {values.shape[2]} channels of {values.dtype}, expected one channel of ids or 8-bit RGB; "
            "save it as a label image of one channel"
        )
    return _check_ids(values[..., 0], path)


def _check_ids(values: np.ndarray, path: Path) -> Int64[np.ndarray, "height width"]:
    """The same values as int64."""
    with np.errstate(invalid="ignore"):
        ids = values.astype(np.int64)
    is_bad = (ids != values) | (ids < 0) | (ids > _MAX_ID)
    if is_bad.any():
        row, column = np.argwhere(is_bad)[0]
        raise FormatError(
            f"{path} holds {values[row, column]} at row {row}, column {column}, expected whole numbers from 0 "
            "(background) to 2^53; save ids, not probabilities or a signed code"
        )
    return ids


def renumber_ids(
    ids: Int64[np.ndarray, "height width"],
) -> tuple[Int32[np.ndarray, "height width"], Int64[np.ndarray, " instances"]]:
    """Renumber ids densely, 1..N in ascending order; 0 stays background.

    Returns:
        The new ids, and the old id of each.
    """
    flat = ids.ravel()
    is_first = np.ones(flat.size, dtype=bool)
    is_first[1:] = flat[1:] != flat[:-1]
    begin = np.flatnonzero(is_first)
    old_ids, place = np.unique(np.append(flat[begin], 0), return_inverse=True)
    dense = np.repeat(place[:-1].astype(np.int32), np.diff(begin, append=flat.size))
    return dense.reshape(ids.shape), old_ids[1:]


def check_not_binary(path: Path, ids: Int64[np.ndarray, " instances"]) -> None:
    """Refuse a label image whose only id is white.

    Args:
        path: The file, for the message.
        ids: The ids it holds, without 0.

    Raises:
        FormatError: The file is a binary mask.
    """
    if len(ids) == 1 and ids[0] in _WHITE:
        raise FormatError(
            f"{path} holds only 0 and {ids[0]}: a binary mask, not instances; every object needs its own number"
        )


def check_size(path: Path, size: tuple[int, int], image_path: Path, image_size: tuple[int, int]) -> None:
    """Refuse a label of another size than its image.

    Raises:
        DatasetError: The two (height, width) differ.
    """
    if size != image_size:
        raise DatasetError(
            f"{path} is {size[0]} x {size[1]} (height x width), but its image {image_path} is "
            f"{image_size[0]} x {image_size[1]}; label and image must have the same size"
        )


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; hidden files are ignored."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((path for path in files if not is_hidden(path) and path.is_file()), key=lambda path: path.name)


def list_folders(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name; hidden ones and outputs of manymask's own are passed over."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path)]
    return sorted(drop_outputs(folders), key=lambda path: path.name)


def name_folder(folder: Path) -> str:
    """The name of a folder as the user sees it: that of ``.`` too, and of a link its own, not its target's."""
    return Path(os.path.abspath(folder)).name


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
        if name in seen:
            raise DatasetError(f"{seen[name]} and {path} are both named '{name}'; rename one, results are kept by name")
        seen[name] = path


@explain_reading()
def find_images(path: str | Path) -> list[tuple[str, Path]]:
    """Find the images to predict on.

    Args:
        path: An image file; a folder of image files; a folder with such a folder named ``images``; a folder of class
            folders, each with its ``image.*``; or one class folder.

    Returns:
        Name and file of each image, by name. The name is the file's stem, or the class folder's name.

    Raises:
        DatasetError: Nothing is there, no image is found, or two images have the same name.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give an image file or a folder of images")
    images = [(path.stem, path)] if path.is_file() else _find_in_folder(path)
    if not images:
        raise DatasetError(
            f"{path} holds no images; expected files {', '.join(IMAGE_SUFFIXES)} (not named *_masks), a folder "
            "'images', or class folders with an image.tif each"
        )
    check_unique_names(images)
    return images


def _find_in_folder(folder: Path) -> list[tuple[str, Path]]:
    files = [path for path in list_images(folder) if not LABEL_STEM.fullmatch(path.stem)]
    if any(CLASS_FILE.fullmatch(path.name) for path in files):
        return [(name_folder(folder), _find_class_image(folder))]
    if files:
        return [(path.stem, path) for path in files]
    if (folder / "images").is_dir():
        return _find_in_folder(folder / "images")
    return [(path.name, _find_class_image(path)) for path in list_folders(folder)]


def _find_class_image(folder: Path) -> Path:
    """The one ``image.*`` of a class folder."""
    files = [path for path in list_images(folder) if path.stem == "image"]
    if len(files) != 1:
        raise DatasetError(f"{folder} holds {len(files)} files named image.*, expected one, such as image.tif")
    return files[0]


def _read_raster(path: Path) -> _Raster:
    """Decode a file, turning whatever a decoder raises on a damaged one into an error that names the file."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist or is not a file; expected an image")
    try:
        with open(path, "rb") as file:
            head = file.read(26)
        if not head:
            raise FormatError(f"{path} is empty; copy or export it again")
        raster = _read_tiff(path) if head.startswith(_TIFF_MAGIC) else _read_other(path, head)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError and their own kinds
        raise FormatError(
            f"{path} cannot be read as TIFF, PNG, JPEG or BMP image ({' '.join(str(error).split())}); "
            "it is damaged, cut short or of another type: copy or export it again"
        ) from error
    values = raster.values
    if values.size == 0 or values.dtype.kind not in "buif":
        raise FormatError(f"{path} holds {values.dtype} values of shape {values.shape}, expected an image of numbers")
    values = values * np.uint8(255) if values.dtype == bool else values
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    return _Raster(values, raster.palette, raster.is_lossy)


def _read_other(path: Path, head: bytes) -> _Raster:
    """Decode PNG, JPEG or BMP. Pillow cuts 16-bit colours to 8 bit, so 16-bit PNG goes through imagecodecs."""
    with Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
        orientation = image.getexif().get(0x0112, 1)
        palette = None
        if head.startswith(_PNG_MAGIC) and head[24] == 16:
            values = imagecodecs.png_decode(path.read_bytes())
        else:
            if image.mode == "P":
                palette = np.zeros((256, 3), dtype=np.uint8)
                colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
                palette[: len(colors)] = colors
            values = np.asarray(image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB"))
        is_lossy = image.format in ("JPEG", "MPO")
    values = values[..., None] if values.ndim == 2 else values
    if values.shape[2] in (2, 4):
        values = values[..., :-1]
    return _Raster(_orient(values, orientation), palette, is_lossy)


def _read_tiff(path: Path) -> _Raster:
    """Decode a TIFF that holds one 2-D image; small copies of it beside it are ignored."""
    with tifffile.TiffFile(path) as tiff:
        series = [one for one in tiff.series if not one.keyframe.is_reduced]
        if len(series) != 1:
            raise FormatError(f"{path} holds {len(series)} images, expected one; save each in a file of its own")
        page = series[0].keyframe
        if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            raise FormatError(f"{path} holds CMYK colours; save it as RGB")
        _check_whole(series[0], path)
        values = _move_channels_last(series[0].asarray(), series[0].axes, path)
        values = _drop_tiff_alpha(values, page)
        orientation = int(page.tags.valueof(274, default=1))
        colormap = page.colormap if page.photometric == tifffile.PHOTOMETRIC.PALETTE else None
    palette = None if colormap is None else (colormap >> 8).astype(np.uint8).T
    return _Raster(_orient(values, orientation), palette)


def _check_whole(series: tifffile.TiffPageSeries, path: Path) -> None:
    """Refuse a file that ends before its data do; some decoders would fill the rest with zeros."""
    file_size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise FormatError(f"{path} lacks some of its pages; copy or export it again")
        for offset, num_bytes in zip(page.dataoffsets, page.databytecounts, strict=True):
            if num_bytes == 0 or offset + num_bytes > file_size:
                raise FormatError(f"{path} is cut short: parts of the image are not in the file; copy it again")


def _move_channels_last(array: np.ndarray, axes: str, path: Path) -> np.ndarray:
    """(height, width, channels), by the names that tifffile gives to axes (Y, X, S samples, C channels, Q unknown)."""
    kept = [i for i, length in enumerate(array.shape) if length > 1 or axes[i] in "YX"]
    array, axes = array.reshape([array.shape[i] for i in kept]), "".join(axes[i] for i in kept)
    if array.ndim == 2:
        return array[..., None]
    if array.ndim == 3:
        if "S" in axes or "C" in axes:
            return np.moveaxis(array, max(axes.find("S"), axes.find("C")), -1)
        if axes == "QYX" and array.shape[0] <= _MAX_CHANNELS_FIRST:
            return np.moveaxis(array, 0, -1)
        if axes == "QYX" and array.shape[2] <= _MAX_CHANNELS_FIRST:
            return array
    raise FormatError(
        f"{path} is a stack of shape {array.shape} (axes {axes}), expected one 2-D image; save each plane as one file"
    )


def _drop_tiff_alpha(values: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """Drop channels that are declared as alpha, and the fourth channel of an RGB image even if it is not."""
    num_channels = values.shape[2]
    if page.photometric == tifffile.PHOTOMETRIC.RGB and num_channels == 4:
        return values[..., :3]
    num_colors = num_channels - len(page.extrasamples)
    is_alpha = [num_colors >= 1 and sample in _ALPHA for sample in page.extrasamples]
    return values[..., [*range(num_colors), *(num_colors + i for i, flag in enumerate(is_alpha) if not flag)]]


def _orient(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror as the EXIF and TIFF orientation tag (1 to 8, 1 as it is) says."""
    if orientation in (2, 7):
        values = values[:, ::-1]
    if orientation in (4, 5):
        values = values[::-1]
    if orientation == 3:
        return np.rot90(values, 2)
    quarter_turns = {5: -1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.rot90(values, quarter_turns)
