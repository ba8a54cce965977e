"""Uploaded files, checked and decoded in a process of their own, which may take only so much time and memory.

Of a file whose parts can be decoded one by one the server reads windows later, all of which were decoded here once;
every other file is decoded here only, and its pixels are kept beside it as ``pixels.npy``, of which the server maps
what it needs.
"""

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from jaxtyping import Shaped

from manymask.core import ArraySource, ImageSource, Window
from manymask.errors import ManymaskError
from manymask.imaging import open_image
from manymask.imaging.image import FileSource
from manymask.imaging.normalization import Normalization, Scale, measure_scale
from manymask.serve.limits import Limits
from manymask.serve.refusals import Refusal

PIXELS_NAME = "pixels.npy"
# Small copies of large images, so that a view of the whole reads no more than a view of a part: each is this many times
# smaller than the one before, until a side is at most so long.
REDUCTION = 8
SMALL_SIDE = 1024
# Side of the squares that a file is read in, a multiple of ``REDUCTION``.
BLOCK_SIDE = 2048
_POLL_SECONDS = 0.02
_NUM_OPEN = 32
# Formats by their first bytes; the product's readers know more, which nobody needs from a browser.
_MAGICS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "WebP": (b"RIFF",),
}
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WebP": ".webp"}
"""The formats that are taken, with the suffix of each."""


def find_format(path: Path) -> str:
    """The format of a file by its first bytes.

    Raises:
        Refusal: It is empty, or of none of ``FORMATS``.
    """
    with open(path, "rb") as file:
        head = file.read(12)
    if not head:
        raise Refusal(422, "the file is empty; copy or export it again")
    for name, magics in _MAGICS.items():
        if head.startswith(magics) and (name != "WebP" or head[8:12] == b"WEBP"):
            return name
    names = list(FORMATS)
    raise Refusal(415, f"this is no {', '.join(names[:-1])} or {names[-1]} image; save it as one of these")


@dataclass(frozen=True)
class Facts:
    """What is known of a decoded image.

    Attributes:
        size: (height, width) in pixels.
        num_channels: Of the file.
        dtype: Of its values.
        pixel_size: (height, width) of a pixel in micrometres, where the file gives it.
        is_mapped: Whether its pixels are in ``pixels.npy``.
        num_reduced: Of the smaller copies beside it.
        scale: Low and span that bring values to [0, 1] for the eye, by channel that is shown; origin of wide integers.
    """

    size: tuple[int, int]
    num_channels: int
    dtype: str
    pixel_size: tuple[float, float] | None
    is_mapped: bool
    num_reduced: int
    scale: dict[str, Any]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Facts":
        """Facts as ``to_json`` gave them."""
        size, pixel_size = values["size"], values["pixel_size"]
        pairs = {"size": (size[0], size[1]), "pixel_size": pixel_size and (pixel_size[0], pixel_size[1])}
        return cls(**(values | pairs))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(asdict(self)))

    def make_scale(self) -> Scale:
        """What brings its values to [0, 1] for the eye."""
        low, span, channels = (tuple(self.scale[name]) for name in ("low", "span", "channels"))
        return Scale(low, span, self.scale["origin"], channels)


class MappedSource(ArraySource):
    """The pixels of a decoded image, which lie in a file and are read as they are needed."""

    def __init__(self, path: Path, pixel_size: tuple[float, float] | None) -> None:
        super().__init__(np.load(path, mmap_mode="r"))
        self.pixel_size = pixel_size


def open_decoded(folder: Path, file: Path, facts: Facts) -> ImageSource:
    """An image that was decoded, for reading windows."""
    return MappedSource(folder / PIXELS_NAME, facts.pixel_size) if facts.is_mapped else _open_image(file)


@lru_cache(_NUM_OPEN)
def _open_image(file: Path) -> ImageSource:
    """An image whose windows are decoded one by one; its header is read once."""
    return open_image(file)


def name_reduced(number: int) -> str:
    """The file of a smaller copy, counted from 1."""
    return f"reduced{number}.npy"


class Decoder:
    """Decodes one file after the other in a process of its own, which is started when it is needed.

    Args:
        limits: What it may take.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._process: Any = None
        self._connection: Any = None
        self._base_memory = 0

    def start(self) -> None:
        """Start the process, so that the first file need not wait for it."""
        with self._lock:
            self._start()

    def decode(self, file: Path, folder: Path, name: str) -> Facts:
        """Check and decode a file.

        Args:
            file: The file.
            folder: Where to write what the server needs of it.
            name: What the user calls it, for the sentences.

        Raises:
            Refusal: It is no image, damaged, too large, or takes too much time or memory.
        """
        with self._lock:
            self._start()
            self._connection.send((str(file), str(folder), asdict(self.limits)))
            status, answer = self._wait()
        if status != 200:
            raise Refusal(status, answer.replace(str(file), name))
        return Facts.from_json(answer)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._kill()

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child,), daemon=True, name="manymask-decoder")
        self._process.start()
        child.close()
        self._connection.recv()  # it is ready: the time of loading counts for no file
        self._base_memory = psutil.Process(self._process.pid).memory_info().rss

    def _wait(self) -> tuple[int, Any]:
        """The answer, or what the process took too much of."""
        started, process = time.monotonic(), psutil.Process(self._process.pid)
        try:
            while not self._connection.poll(_POLL_SECONDS):
                if time.monotonic() - started > self.limits.decode_seconds:
                    self._kill()
                    return 413, f"decoding takes longer than {self.limits.decode_seconds:g} s; cut the image into parts"
                if process.memory_info().rss - self._base_memory > self.limits.decode_bytes:
                    self._kill()
                    gigabytes = self.limits.decode_bytes / 2**30
                    return 413, f"decoding takes more than {gigabytes:.3g} GB of memory; cut the image into parts"
            return self._connection.recv()
        except (EOFError, OSError, psutil.Error):  # a decoder that crashes takes its process with it
            self._kill()
            return 422, "the file cannot be decoded; it is damaged: copy or export it again"

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process = None


def _serve(connection: Connection) -> None:
    """The process: decode what is asked for until the server is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
    connection.send("ready")
    while True:
        try:
            file, folder, limits = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_answer(Path(file), Path(folder), Limits(**limits)))


def _answer(file: Path, folder: Path, limits: Limits) -> tuple[int, Any]:
    try:
        return 200, decode_file(file, folder, limits).to_json()
    except Refusal as error:
        return error.status, str(error)
    except MemoryError:
        return 413, "decoding takes more memory than there is; cut the image into parts"
    except ManymaskError as error:
        is_large = "more than the limit" in str(error)
        return 413 if is_large else 422, str(error)
    except OSError as error:
        return 507, f"the file cannot be stored ({error.strerror}); make room on the server's disk"


def decode_file(file: Path, folder: Path, limits: Limits) -> Facts:
    """Check and decode a file in this process; see ``Decoder.decode``.

    Raises:
        ManymaskError: It is no image, damaged or too large.
    """
    image = open_image(file)
    is_cuttable = not isinstance(image, FileSource) or image.is_cuttable
    height, width = image.size
    most = limits.tiled_pixels if is_cuttable else limits.pixels
    if height * width > most:
        others = "" if is_cuttable else " of files that are no tiled TIFF"
        raise Refusal(
            413,
            f"the image has {width:,} x {height:,} = {height * width / 1e6:,.0f} million pixels, and this server takes "
            f"{most / 1e6:,.0f} million{others}; cut it into parts",
        )
    if not is_cuttable:
        np.save(folder / PIXELS_NAME, image.read())
        image = MappedSource(folder / PIXELS_NAME, image.pixel_size)
    num_reduced = _write_reduced(image, folder)
    # Which channels the eye gets: three as red, green and blue, else the first one as grey. All of the image is read.
    channels = (1, 2, 3) if image.num_channels >= 3 else (1,)
    scale = measure_scale(image, str(file), Normalization("image", channels))
    shown = {"low": scale.low, "span": scale.span, "origin": scale.origin, "channels": scale.channels}
    return Facts(image.size, image.num_channels, image.dtype.str, image.pixel_size, not is_cuttable, num_reduced, shown)


def _write_reduced(image: ImageSource, folder: Path) -> int:
    """Write smaller copies; returns how many there are."""
    number, source = 0, image
    while max(source.size) > SMALL_SIDE:
        height, width = (-(-side // REDUCTION) for side in source.size)
        path = folder / name_reduced(number + 1)
        # A map, so that memory holds a block and not the copy.
        copy = np.lib.format.open_memmap(path, "w+", image.dtype, (height, width, image.num_channels))
        for window in _list_blocks(source.size):
            rows, columns = window.top // REDUCTION, window.left // REDUCTION
            small = reduce_pixels(source.read(window), REDUCTION)
            copy[rows : rows + small.shape[0], columns : columns + small.shape[1]] = small
        del copy
        number, source = number + 1, MappedSource(path, None)
    return number


def _list_blocks(size: tuple[int, int]) -> Iterator[Window]:
    for top in range(0, size[0], BLOCK_SIDE):
        for left in range(0, size[1], BLOCK_SIDE):
            yield Window(top, left, min(BLOCK_SIDE, size[0] - top), min(BLOCK_SIDE, size[1] - left))


def reduce_pixels(
    pixels: Shaped[np.ndarray, "height width channels"], factor: int
) -> Shaped[np.ndarray, "rows columns channels"]:
    """The means of squares of ``factor`` pixels a side, of fewer at the lower and the right border."""
    height, width = pixels.shape[:2]
    rows, columns = np.arange(0, height, factor), np.arange(0, width, factor)
    # Sums are exact in float64 for what fits into 32 bits; wider values are rounded, which no eye sees.
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.float64), columns, axis=1)
    counts = np.minimum(factor, height - rows)[:, None, None] * np.minimum(factor, width - columns)[None, :, None]
    means = sums / counts
    return (np.rint(means) if pixels.dtype.kind in "iu" else means).astype(pixels.dtype)
