"""Tiles of an image for the page, as Deep Zoom counts them."""

import threading
from collections import OrderedDict

import numpy as np
from jaxtyping import Shaped, UInt8

from manymask.core import ImageSource, Window
from manymask.imaging.encoding import encode_webp
from manymask.serve.decoding import REDUCTION, MappedSource, name_reduced, reduce_pixels
from manymask.serve.refusals import Refusal
from manymask.serve.workspace import StoredImage

TILE_SIZE = 256
_CACHE_BYTES = 64 << 20


def count_levels(size: tuple[int, int]) -> int:
    """The levels of an image: each is half of the next one, and the last is the image itself."""
    return (max(size) - 1).bit_length() + 1


class Tiles:
    """Tiles of all images; those asked for last are kept."""

    def __init__(self) -> None:
        self._cache: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._num_bytes, self._lock = 0, threading.Lock()

    def get(self, image: StoredImage, level: int, x: int, y: int, low: float, high: float) -> bytes:
        """A tile as WebP.

        Args:
            image: The image.
            level: 0 is the smallest, one pixel.
            x: The tile's column.
            y: Its row.
            low: What becomes black, as a share of the image's own range.
            high: What becomes white.

        Raises:
            Refusal: There is no such tile.
        """
        key = (image.id, level, x, y, low, high)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        tile = encode_webp(_show(read_tile(image, level, x, y), image, low, high))
        with self._lock:
            self._num_bytes += len(tile) - len(self._cache.get(key, b""))
            self._cache[key] = tile
            while self._num_bytes > _CACHE_BYTES:
                self._num_bytes -= len(self._cache.popitem(last=False)[1])
        return tile


def read_tile(image: StoredImage, level: int, x: int, y: int) -> Shaped[np.ndarray, "height width channels"]:
    """The pixels of a tile, in the file's own values.

    Raises:
        Refusal: There is no such tile.
    """
    size = image.meta.facts.size
    factor = 2 ** (count_levels(size) - 1 - level) if 0 <= level < count_levels(size) else 0
    sides = [-(-side // factor) for side in size] if factor else [0, 0]
    if not (0 <= x * TILE_SIZE < sides[1] and 0 <= y * TILE_SIZE < sides[0]):
        raise Refusal(404, f"there is no tile {x}_{y} at level {level} of this image")
    number = min(int(np.log2(factor)) // int(np.log2(REDUCTION)), image.meta.facts.num_reduced)
    source: ImageSource = MappedSource(image.folder / name_reduced(number), None) if number else image.source
    factor //= REDUCTION**number
    top, left = y * TILE_SIZE * factor, x * TILE_SIZE * factor
    height, width = (
        min(TILE_SIZE * factor, side - start) for side, start in zip(source.size, (top, left), strict=True)
    )
    pixels = source.read(Window(top, left, height, width))
    return pixels if factor == 1 else reduce_pixels(pixels, factor)


def _show(
    pixels: Shaped[np.ndarray, "height width channels"], image: StoredImage, low: float, high: float
) -> UInt8[np.ndarray, "height width 3"]:
    """What the eye gets of values."""
    shown = image.meta.facts.make_scale().apply(pixels).numpy().transpose(1, 2, 0)
    return np.clip((shown - low) / max(high - low, 1e-6) * 255 + 0.5, 0, 255).astype(np.uint8)
