"""Decoding of image files, told apart by content."""

import os
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from manymask.core import Window
from manymask.errors import DatasetError, FormatError, PlanError
from manymask.imaging import jpeg2000
from manymask.imaging.planes import ONE_PLANE, PlaneChoice, Stack, choose_place
from manymask.imaging.raster import Raster, check_declared_size, check_length
from manymask.imaging.tiff import read_tiff
from manymask.imaging.tiff_layout import count_planes

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Readers of Pillow by the first bytes of a file. They are called directly, since Image.open compares with a limit that
# is global to the process and so the caller's to set.
_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"GIF8": GifImageFile,
    b"RIFF": WebPImageFile,
}
# A GIF is lossless, but what writes it may sort its colours anew, which ids do not survive.
_LOSSY = {JpegImageFile: "JPEG", GifImageFile: "GIF", WebPImageFile: "WebP"}
# Channels by the colour type of a PNG of 16 bits.
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_KINDS = "TIFF, PNG, JPEG, JPEG 2000, WebP, BMP or GIF image"


def read_raster(
    path: Path,
    window: Window | None = None,
    *,
    is_decoded: bool = True,
    choice: PlaneChoice = ONE_PLANE,
    level: int = 0,
) -> Raster:
    """Decode a file, turning whatever a decoder raises on a damaged one into an error that names the file.

    Args:
        path: The file.
        window: The part that is wanted of what the file stores, where the file ``is_cuttable``; else it is passed over.
        is_decoded: Without it only the header is read, and the values are one made-up pixel.
        choice: Which image is wanted of a file that holds several.
        level: The resolution that is wanted of a pyramid.

    Raises:
        DatasetError: There is no such file.
        FormatError: It cannot be read as one 2-D image of numbers, whole, or is larger than the limit.
    """
    if not path.is_file():
        raise DatasetError(f"{path} does not exist or is not a file; expected an image")
    try:
        with open(path, "rb") as file:
            head = file.read(26)
        if not head:
            raise FormatError(f"{path} is empty; copy or export it again")
        is_tiff = head.startswith(_TIFF_MAGIC)
        if is_tiff:
            raster = read_tiff(path, window, is_decoded, choice, level)
        else:
            choose_place([Stack()], choice, path)  # such files hold one image
            read = _read_jpeg2000 if head.startswith(jpeg2000.MAGICS) else _read_other
            raster = read(path, head, is_decoded).pick_channels(choice, path)
    except (FormatError, PlanError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, RuntimeError and their own kinds
        raise FormatError(
            f"{path} cannot be read as {_KINDS} ({' '.join(str(error).split())}); "
            "it is damaged, cut short or of another type: copy or export it again"
        ) from error
    values = raster.values
    if 0 in (*raster.size, values.size) or values.dtype.kind not in "buif":
        raise FormatError(f"{path} holds {values.dtype} values of shape {values.shape}, expected an image of numbers")
    num_bits = 1 if values.dtype == bool else raster.num_bits
    dtype = np.dtype(np.uint8) if values.dtype == bool else values.dtype.newbyteorder("=")
    return replace(raster, values=np.ascontiguousarray(values, dtype=dtype), num_bits=num_bits)


def count_pages(path: Path, choice: PlaneChoice) -> int:
    """How many 2-D images a file holds for which ``z`` and ``t`` of the choice hold.

    Raises:
        FormatError: It cannot be read.
    """
    first = replace(choice, page=1)
    read_raster(path, is_decoded=False, choice=first)  # refuses what is damaged
    with open(path, "rb") as file:
        is_tiff = file.read(4).startswith(_TIFF_MAGIC)
    return count_planes(path, first) if is_tiff else 1


def _read_other(path: Path, head: bytes, is_decoded: bool) -> Raster:
    """Decode by Pillow; it cuts 16-bit colours to 8 bit, so 16-bit PNG goes through imagecodecs."""
    reader = next((reader for magic, reader in _READERS.items() if head.startswith(magic)), None)
    if reader is None:
        raise FormatError(
            f"{path} cannot be read as {_KINDS}, by its first bytes; it is damaged or of another type: copy or export "
            "it again"
        )
    num_bits = head[24] if reader is PngImageFile else 8
    with reader(path) as image:
        # Pillow has no mode for grey of 16 bits with transparency.
        num_channels = _PNG_CHANNELS[head[25]] if num_bits == 16 else len(image.getbands())
        shape = (image.height, image.width, num_channels)
        check_declared_size(path, shape, np.uint16 if num_bits == 16 else np.uint8)
        if isinstance(image, GifImageFile | WebPImageFile) and image.n_frames > 1:
            raise FormatError(f"{path} holds {image.n_frames} images, expected one; save each in a file of its own")
        # The orientation, from EXIF, which may lie behind the pixels.
        if is_decoded or not isinstance(image, PngImageFile) or _has_late_texts(path):
            exif = image.getexif()
        else:
            exif = Image.Image.getexif(image)  # that of PngImageFile decodes the pixels, to find what is behind them
        if isinstance(image, WebPImageFile):
            check_length(path, 8 + int.from_bytes(head[4:8], "little"))
        if not is_decoded and isinstance(image, JpegImageFile) and not _has_end(path):
            image.load()  # no header tells whether a JPEG is cut short
        if not is_decoded:  # one pixel of the same mode stands for the image
            for codec, _, offset, options in image.tile:
                if codec == "raw":  # BMP: the format of a row, and the bytes of each but the last, which may lack some
                    check_length(path, offset + options[1] * (image.height - 1))  # pyright: ignore
            image = Image.new(image.mode, (1, 1))
        palette = None
        if num_bits == 16:
            values = imagecodecs.png_decode(path.read_bytes()) if is_decoded else np.zeros((1, 1, shape[2]), np.uint16)
        else:
            if image.mode == "P":
                palette = np.zeros((256, 3), dtype=np.uint8)
                colors = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
                palette[: len(colors)] = colors
            values = np.asarray(image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB"))
    if num_bits in (2, 4) and palette is None and values.ndim == 2:
        values = values // (255 // ((1 << num_bits) - 1))  # Pillow spreads grey of few bits over the whole byte
    else:
        num_bits = None
    values = values[..., None] if values.ndim == 2 else values
    alpha = None
    if values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1]
    lossy = None if head[12:16] == b"VP8L" else _LOSSY.get(reader)  # WebP has a lossless form
    return Raster(values, shape[:2], palette, alpha, exif.get(0x0112, 1), num_bits, lossy=lossy)


def _read_jpeg2000(path: Path, head: bytes, is_decoded: bool) -> Raster:
    """Decode JPEG 2000, of up to 16 bits and any number of channels."""
    data = path.read_bytes()
    shape, dtype, opacity = jpeg2000.read_header(data, path)
    check_declared_size(path, shape, dtype)
    values = imagecodecs.jpeg2k_decode(data) if is_decoded else np.zeros((1, 1, shape[2]), dtype)
    values = values.reshape(*values.shape[:2], -1)
    if is_decoded and values.shape != shape:
        raise FormatError(
            f"{path} declares {' x '.join(map(str, shape))} values and holds {' x '.join(map(str, values.shape))}; "
            "save it as TIFF"
        )
    alpha = None if opacity is None else values[..., opacity]
    colors = values if opacity is None else np.delete(values, opacity, axis=2)
    return Raster(colors, shape[:2], alpha=alpha, lossy="JPEG 2000")


def _has_end(path: Path) -> bool:
    """Whether the marker that ends a JPEG is near the end of the file; other bytes may follow it."""
    with open(path, "rb") as file:
        file.seek(-min(path.stat().st_size, 1024), os.SEEK_END)
        return b"\xff\xd9" in file.read()


def _has_late_texts(path: Path) -> bool:
    """Whether a PNG holds texts or EXIF, which may say how it is turned, behind its pixels.

    Raises:
        FormatError: The file ends within its pixels.
    """
    names = []
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            names.append(head[4:])
            end = file.seek(int.from_bytes(head[:4]), os.SEEK_CUR)
            if names[-1] == b"IDAT":
                check_length(path, end)
            file.seek(4, os.SEEK_CUR)
    return not {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}.isdisjoint(names[names.index(b"IDAT") :])
