"""How the tiles of a large image come on."""

import time
from collections.abc import Callable, Sequence

from manymask.core import Instances, Tile, concatenate_instances
from manymask.core.tiles import place_instances
from manymask.wording import count_of

Tell = Callable[[int, str], None]
"""Called with the number of tiles just done, and how the image comes on."""
Show = Callable[[Instances], None]
"""Called after each batch of tiles with what they show, in pixels of the image; what it raises ends the prediction."""


class Pace:
    """Says how many objects of a tiled image are found, how fast, and when it will be done.

    Args:
        name: The image's file.
        shown_score: Score from which on an object counts.
        tell: What to call; see ``Tell``.
        show: What to call; see ``Show``.
        size: (height, width) of the image.
        num_told: Tiles that are told of in all: those of the image, also where its passes have others.
        num_tiles: Those of all passes.
        num_pixels: The pixels of all passes.
    """

    def __init__(
        self,
        name: str,
        shown_score: float,
        tell: Tell | None,
        *,
        num_told: int,
        num_tiles: int,
        num_pixels: int,
        show: Show | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        self._show, self._size = show, size
        self._name, self._shown_score, self._tell = name, shown_score, tell
        self._num_told, self._num_tiles, self._num_left = num_told, num_tiles, num_pixels
        self._num_done, self._num_found, self._num_new = 0, 0, 0
        self._started = time.monotonic()

    def tell(self, tiles: Sequence[Tile], found: Sequence[Instances], *, is_new: bool) -> None:
        """Count tiles that are done; those of an earlier call say nothing about the time."""
        num_pixels = sum(tile.core.height * tile.core.width for tile in tiles)
        self._num_left -= num_pixels
        self._num_new += num_pixels if is_new else 0
        own = [_select_own(part, tile, self._shown_score) for part, tile in zip(found, tiles, strict=True)]
        self._num_found += sum(len(part) for part in own)
        before, self._num_done = self._num_done, self._num_done + len(tiles)
        if self._tell is not None:
            first, last = (self._num_told * number // self._num_tiles for number in (before, self._num_done))
            self._tell(last - first, self._describe())
        if self._show is not None:
            placed = [place_instances(part, tile.window, self._size) for part, tile in zip(own, tiles, strict=True)]
            self._show(concatenate_instances(placed))

    def _describe(self) -> str:
        text = f"{self._name}: {count_of(self._num_found, 'object')}"
        if self._num_new:
            rate = self._num_new / max(time.monotonic() - self._started, 1e-6)
            text += f", {rate / 1e6:.2g} megapixels/s, {_describe_time(self._num_left / rate)} left"
        return text


def _select_own(instances: Instances, tile: Tile, shown_score: float) -> Instances:
    """The objects that are shown and whose boxes have their centres in the tile's core."""
    instances = instances[instances.scores >= shown_score]
    boxes = instances.boxes
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2 + tile.window.left, (boxes[:, 1] + boxes[:, 3]) / 2 + tile.window.top
    top, left, height, width = tile.core
    return instances[(x >= left) & (x < left + width) & (y >= top) & (y < top + height)]


def _describe_time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
