"""Images that are too large for one look of the network, in tiles; the others whole, as they are."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from manymask.core import (
    ImageSource,
    Instances,
    MergedTiles,
    RunLengths,
    Tile,
    Window,
    concatenate_instances,
    list_tiles,
    merge_scales,
    merge_tiles,
)
from manymask.core.tiles import place_instances
from manymask.errors import FormatError, PlanError
from manymask.imaging.normalization import Normalization, Scale, measure_scale, normalize_pixels
from manymask.modeling.detections import Postprocessing
from manymask.modeling.network import LARGEST_STRIDE
from manymask.modeling.preprocessing import Size
from manymask.plan import Plan
from manymask.prediction.background import work_beside
from manymask.prediction.model import Model
from manymask.prediction.object_size import LARGEST_FACTOR, FactorChoice, Scaling
from manymask.prediction.partial import TileStore
from manymask.prediction.quick_look import choose_tiled_scaling
from manymask.prediction.views import is_capped, predict_alike, predict_tensor, warn_of_cap
from manymask.wording import count_of

logger = logging.getLogger(__name__)

# Pixels that the network works on, at most, along a side of a tile; with ``nuclei`` memory stays below 2 GB
# (benchmarks/RESULTS.md), and longer sides are little faster.
TILE_SIDE = 1728
# Pixels that the network works on from which on what lies around an object hardly changes what it finds: from a
# window's border on, features of ``nuclei`` differ from those of the whole image by their own deviation and more, by up
# to half of it from 64 pixels on, and by less than 0.01 of it from 96 pixels on.
CONTEXT = 96
# Longest side of a tile in pixels of the file, where these are made smaller; read, such a tile takes 0.8 GB.
FILE_SIDE = 8192
# Tiles that go through the network at once on a GPU; a CPU is as fast with one, which takes less memory.
GPU_BATCH = 4
# A network sees a tile as it sees the whole image where windows begin at multiples of its largest stride. Where the
# plan's factor lets none of these be whole pixels of the file, windows begin at about as many.
LONGEST_ALIGNMENT = 128

Tell = Callable[[int, str], None]
"""Called with the number of tiles just done, and how the image comes on."""
Show = Callable[[Instances], None]
"""Called after each batch of tiles with what they show, in pixels of the image; what it raises ends the prediction."""


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles; all in pixels of the file.

    Attributes:
        tile_size: The longest side that is seen at once.
        overlap: Pixels that two neighbouring windows share.
        alignment: Windows begin at multiples of so many.
    """

    tile_size: int
    overlap: int
    alignment: int

    @classmethod
    def of(cls, plan: Plan, tile_size: int | None = None) -> "Tiling | None":
        """That of a plan; None where images are seen whole.

        They are, where each is resized to one size (``min_size``). Where ``object_size`` is ``auto``, it is that of
        images that are not resized.

        The overlap is as long as nearly all objects of the training data, and twice the network's context. In plans
        that do not say how long these were, the largest anchor stands for it.

        Args:
            plan: The settings of the model.
            tile_size: In place of the default; models with ``min_size`` see each tile as an image of this size.

        Raises:
            PlanError: The tile is hardly longer than the overlap.
        """
        if plan.min_size and tile_size is None:
            return None
        factor = _find_factor(plan)
        scale = 1.0 if plan.min_size else plan.scale * factor
        known = None if plan.data is None else plan.data.longest_object
        longest = max(plan.anchor_sizes) / scale if known is None else known / factor
        half = int(np.ceil(max(longest, 2 * CONTEXT / scale) / 2))
        alignment = _choose_alignment(scale)
        default = max(min(int(TILE_SIDE / scale), FILE_SIDE), 4 * half + alignment)
        if tile_size is not None and tile_size < 2 * half + alignment:
            raise PlanError(
                f"tile_size is {tile_size}, but tiles of this model overlap by {2 * half} pixels; set it to at least "
                f"{2 * half + alignment}, and better to {default}"
            )
        return cls(tile_size or default, 2 * half, alignment)

    def resize(self, factor: float, scale: float) -> "Tiling":
        """That of images which are resized by a factor, before they are by the plan's ``scale``."""
        if factor == 1:
            return self
        half, alignment = int(np.ceil(self.overlap / 2 / factor)), _choose_alignment(scale * factor)
        return Tiling(max(min(int(self.tile_size / factor), FILE_SIDE), 4 * half + alignment), 2 * half, alignment)

    def list_tiles(self, size: Size) -> list[Tile]:
        """The tiles of an image; one where it is seen whole."""
        return list_tiles(size, self.tile_size, self.overlap, self.alignment)


def _find_factor(plan: Plan) -> float:
    """The factor by which ``object_size`` resizes all tiles, where it is a number."""
    size = plan.object_size
    if not isinstance(size, float) or plan.data is None or plan.data.object_sizes is None:
        return 1.0
    return FactorChoice(plan.data.object_sizes, LARGEST_FACTOR).choose(size)


def _choose_alignment(scale: float) -> int:
    """The fewest pixels of the file that are a whole number of largest strides."""
    for pixels in range(1, LONGEST_ALIGNMENT + 1):
        if abs(pixels * scale / LARGEST_STRIDE - round(pixels * scale / LARGEST_STRIDE)) < 1e-6:
            return pixels
    return max(round(LARGEST_STRIDE / scale), 1)


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that is ready to be looked at.

    Attributes:
        name: The file, for messages.
        image: Where its windows are read.
        tiles: One where it is seen whole.
        scale: What brings its windows to [0, 1], where it is seen in tiles.
        values: The whole in [0, 1], where it is not.
    """

    name: str
    image: ImageSource
    tiles: list[Tile]
    scale: Scale | None
    values: Float32[Tensor, "channels height width"] | None


def load_image(
    image: ImageSource, name: str, plan: Plan, tiling: Tiling | None, scale: Scale | None = None
) -> LoadedImage:
    """Read an image, or where it is seen in tiles what is needed to read these.

    Args:
        image: The image.
        name: The file, for messages.
        plan: The settings of the model.
        tiling: How large images are cut.
        scale: What brings the image to [0, 1], where that was measured before.

    Raises:
        DatasetError: It is damaged, or nothing that the model can take.
    """
    tiles = tiling.list_tiles(image.size) if tiling else []
    normalization = Normalization.of(plan)
    if len(tiles) > 1:
        return LoadedImage(name, image, tiles, scale or measure_scale(image, name, normalization), None)
    pixels = image.read()
    values = normalize_pixels(pixels, name, normalization) if scale is None else scale.apply(pixels)
    return LoadedImage(name, image, tiles, None, values)


def find_instances(
    model: Model,
    loaded: LoadedImage,
    tiling: Tiling | None,
    store: TileStore | None = None,
    tell: Tell | None = None,
    *,
    show: Show | None = None,
    is_quiet: bool = False,
) -> Instances:
    """Find the instances of one image, by falling score; warns where the cap on detections may have cut some off.

    Seen in tiles, the cap holds for each of them. Memory grows with a tile and with what is found, not with the image.

    Args:
        model: The model.
        loaded: The image.
        tiling: How it was cut into tiles.
        store: Keeps what is found in each tile, and knows what an earlier call has found.
        tell: See ``Tell``; not called for an image that is seen whole.
        show: See ``Show``; gets each object that is shown once, as the tile in whose core its centre lies sees it, so
            that objects can be seen before all tiles are merged. Not called for an image that is seen whole.
        is_quiet: Says nothing about the cap, nor about objects longer than the overlap.

    Raises:
        FormatError: A tile cannot be decoded.
        ManymaskError: Memory is full.
    """
    if tiling is None or loaded.scale is None:
        assert loaded.values is not None
        instances = predict_tensor(model, loaded.values, loaded.name)
        if not is_quiet:
            warn_of_cap(instances, model.postprocessing, loaded.name)
        return instances
    scaling = _choose_scaling(model, loaded, loaded.scale, store)
    passes = _plan_passes(scaling, tiling, model.plan, loaded.image.size)
    pace = _Pace(loaded, passes, model, tell, show)
    found = [list(_look_at_tiles(model, loaded, each, store, pace)) for each in passes]
    merged = [merge_tiles(loaded.image.size, each.tiles, parts) for each, parts in zip(passes, found, strict=True)]
    if not is_quiet:
        _tell_found(loaded.name, passes, found, merged, model.postprocessing)
    if len(merged) == 1:
        return merged[0].instances
    return merge_scales([each.instances for each in merged], scaling.limits)


@dataclass(frozen=True)
class _Pass:
    """One look at all of an image, in tiles.

    Attributes:
        factor: That its tiles are resized by.
        tiling: How it is cut.
        tiles: The tiles.
        first: Number of tiles of the passes before.
    """

    factor: float
    tiling: Tiling
    tiles: list[Tile]
    first: int

    def number(self, batch: range) -> range:
        """The numbers of some of its tiles among those of all passes."""
        return range(batch.start + self.first, batch.stop + self.first)


def _choose_scaling(model: Model, loaded: LoadedImage, scale: Scale, store: TileStore | None) -> Scaling:
    """The factors of an image; a stored one goes on with those that its finished tiles were seen at."""
    if model.plan.object_size != "auto":
        return Scaling((_find_factor(model.plan),))

    def measure() -> dict[str, Any]:
        return asdict(choose_tiled_scaling(model, loaded.image, scale, loaded.name))

    found = measure() if store is None else store.recall("scaling", measure)
    return Scaling(tuple(found["factors"]), tuple(found["limits"]), found["size"])


def _plan_passes(scaling: Scaling, tiling: Tiling, plan: Plan, size: Size) -> list[_Pass]:
    """One for each factor; where ``object_size`` is a number, the tiling is made for it already."""
    passes: list[_Pass] = []
    for factor in scaling.factors:
        own = tiling.resize(factor, plan.scale) if plan.object_size == "auto" else tiling
        passes.append(_Pass(factor, own, own.list_tiles(size), sum(len(each.tiles) for each in passes)))
    return passes


def _tell_found(
    name: str,
    passes: Sequence[_Pass],
    found: Sequence[Sequence[Instances]],
    merged: Sequence[MergedTiles],
    postprocessing: Postprocessing,
) -> None:
    if num_stitched := sum(each.num_stitched for each in merged):
        overlaps = " and ".join(str(each.tiling.overlap) for each in passes)
        logger.info(
            f"{name}: {count_of(num_stitched, 'object')} longer than the overlap of {overlaps} pixels, put "
            "together of what several tiles show"
        )
    capped = [is_capped(part, postprocessing) for parts in found for part in parts]
    if any(capped):
        logger.warning(
            f"{name}: the cap of {postprocessing.max_detections} detections is reached in {sum(capped)} "
            f"of {len(capped)} tiles, and more instances may be there; set detections_per_image higher, or tile_size "
            "lower"
        )


def _look_at_tiles(
    model: Model, loaded: LoadedImage, own: _Pass, store: TileStore | None, pace: "_Pace"
) -> Iterator[Instances]:
    """What each tile of a pass shows, in its own pixels; the next ones are read meanwhile."""
    batches = _make_batches(own.tiles, 1 if model.detector.device.type == "cpu" else GPU_BATCH)

    def load(batch: range) -> tuple[list[Instances] | None, list[Tensor | None]]:
        if store is not None and (stored := store.read(own.number(batch))) is not None:
            return stored, []
        return None, [_read_window(loaded, own.tiles[index].window) for index in batch]

    # Stored or computed, batches are the same, so that last digits are too.
    for batch, (stored, images) in zip(batches, work_beside(load, batches), strict=True):
        found = stored if stored is not None else _predict_seen(model, images, loaded, own, batch)
        if store is not None and stored is None:
            store.write(own.number(batch), found)
        pace.tell([own.tiles[index] for index in batch], found, is_new=stored is None)
        yield from found


def _make_batches(tiles: Sequence[Tile], batch_size: int) -> list[range]:
    """Tiles that follow each other and are of one size, a few at once."""
    batches: list[range] = []
    for index, (_, window) in enumerate(tiles):
        last = batches[-1] if batches else range(0)
        if last and len(last) < batch_size and tiles[last[0]].window[2:] == window[2:]:
            batches[-1] = range(last[0], index + 1)
        else:
            batches.append(range(index, index + 1))
    return batches


def _read_window(loaded: LoadedImage, window: Window) -> Float32[Tensor, "channels height width"] | None:
    """The pixels of a window; None where all are the same, as in the padding of slides: nothing can be there."""
    assert loaded.scale is not None
    try:
        pixels = loaded.image.read(window)
    except FormatError as error:
        top, left, height, width = window
        raise FormatError(f"{error} (in the region {left},{top},{width},{height})") from error
    return None if (pixels == pixels[0, 0]).all() else loaded.scale.apply(pixels)


def _predict_seen(
    model: Model,
    images: Sequence[Float32[Tensor, "channels _ _"] | None],
    loaded: LoadedImage,
    own: _Pass,
    batch: range,
) -> list[Instances]:
    """The instances of each tile of a batch of a pass; the network does not look at empty ones."""
    seen = [image for image in images if image is not None]
    found = iter(_predict_tiles(model, seen, loaded.name, own.factor) if seen else [])
    window = own.tiles[batch[0]].window
    nothing = Instances.from_runs(RunLengths.empty((window.height, window.width)), np.zeros(0, dtype=np.int64))
    return [nothing if image is None else next(found) for image in images]


def _predict_tiles(
    model: Model, images: Sequence[Float32[Tensor, "channels _ _"]], name: str, factor: float
) -> list[Instances]:
    """The instances of tiles of one size."""
    if len(images) == 1:
        return [predict_tensor(model, images[0], f"a tile of {name}", factor)]
    return predict_alike(model, images, [f"a tile of {name}"] * len(images), factor)


class _Pace:
    """Says how many objects of a tiled image are found, how fast, and when it will be done.

    What is told counts the image's ``tiles``, also where its passes have others.
    """

    def __init__(
        self, loaded: LoadedImage, passes: Sequence[_Pass], model: Model, tell: Tell | None, show: Show | None
    ) -> None:
        self._name, self._tell, self._show = loaded.name, tell, show
        self._size, self._shown_score = loaded.image.size, model.plan.shown_score
        self._num_told, self._num_done = len(loaded.tiles), 0
        self._num_tiles = sum(len(each.tiles) for each in passes)
        self._num_left = loaded.image.size[0] * loaded.image.size[1] * len(passes)
        self._num_found, self._num_new = 0, 0
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
