"""Files of microscopes and slide scanners, made small."""

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

APERIO = "Aperio Image Library v11.2.1\n{width}x{height} (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"


def make_smooth(height: int = 256, width: int = 320) -> np.ndarray:
    """RGB that JPEG hardly changes."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows % 256, columns % 256, (rows + columns) // 4 % 256], axis=2).astype(np.uint8)


def write_ome_pyramid(path: Path, planes: np.ndarray, steps: tuple[int, ...] = (1, 2, 4)) -> Path:
    """Channels first, lower levels in SubIFDs, BigTIFF."""
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as writer:
        writer.write(planes, subifds=len(steps) - 1, metadata={"axes": "CYX", **sizes}, **options)
        for step in steps[1:]:
            writer.write(planes[:, ::step, ::step], subfiletype=1, **options)
    return path


def write_svs(path: Path, pixels: np.ndarray) -> Path:
    """As Aperio: the image, a thumbnail, a lower level, and pictures of the label and the glass."""
    tiles = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    description = APERIO.format(height=pixels.shape[0], width=pixels.shape[1])
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, description=description, **tiles)
        writer.write(pixels[::8, ::8], description=description, metadata=None)
        writer.write(pixels[::4, ::4], description=description, **tiles)
        writer.write(pixels[:50, :60], description="label", subfiletype=1, metadata=None)
        writer.write(pixels[:50, :70], description="macro", subfiletype=9, metadata=None)
    return path


def write_ndpi(path: Path, pixels: np.ndarray) -> Path:
    """As Hamamatsu: one JPEG with restart markers, which a tag gives the places of; offsets have 64 bits."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=98, subsampling=0, restart_marker_blocks=8)
    data = buffer.getvalue()
    scan = data.index(b"\xff\xda")
    starts = [scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")]
    starts += [i + 2 for i in range(starts[0], len(data) - 1) if data[i] == 0xFF and 0xD0 <= data[i + 1] <= 0xD7]
    content = struct.pack("<4H", 8, 8, 8, 0) + struct.pack("<IIII", 40_000, 1, 40_000, 1)
    content += b"Hamamatsu\0".ljust(16, b"\0")
    bits, resolution, maker, places = 16, 24, 40, 56
    content += struct.pack(f"<{len(starts)}I", *starts)
    image = 16 + len(content)
    height, width = pixels.shape[:2]
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 3, bits), 259: (3, 1, 7), 262: (3, 1, 6)}
    tags |= {271: (2, 10, maker), 273: (4, 1, image), 277: (3, 1, 3), 278: (4, 1, height), 279: (4, 1, len(data))}
    tags |= {282: (5, 1, resolution), 283: (5, 1, resolution + 8), 284: (3, 1, 1), 296: (3, 1, 3)}
    tags |= {530: (3, 2, 1 | 1 << 16), 65420: (4, 1, 1), 65426: (4, len(starts), places)}
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in tags.items())
    directory = image + len(data)
    head = b"II*\0" + struct.pack("<Q", directory) + bytes(4)
    tail = struct.pack("<H", len(tags)) + entries + bytes(8) + bytes(4 * len(tags))
    path.write_bytes(head + content + data + tail)
    return path
