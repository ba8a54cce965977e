"""Images as bytes, good and bad ones."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from manymask.synthetic import make_sample


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def encode_tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def make_cells(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    return make_sample(seed, size=(height, width), num_instances=20)[0]


def make_png_bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size, with no pixels behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def make_tiff_bomb(side: int) -> bytes:
    """A TIFF of a few hundred bytes that declares a size below 65,536, in one compressed strip."""
    content = encode_tiff(np.zeros((256, 256), np.uint8), rowsperstrip=256, compression="zlib", metadata=None)
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        places = [tiff.pages.first.tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    changed = bytearray(content)
    for place in places:
        struct.pack_into("<H", changed, place, side)
    return bytes(changed)
