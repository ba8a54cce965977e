"""Tiles of large images, and one image's instances of what was found in each tile.

A tile is a core and a window around it. The cores partition the image and the windows overlap, so that an object whose
centre lies in a core and that is shorter than the overlap lies whole in that core's window. An object may be seen in
several windows, in each of them as far as it lies there. Two views of one object agree where both windows see it; views
of two objects do not, however these touch or overlap. So views are joined by their masks inside the band that two
windows share, at most one of each tile, those that agree best first:

    agreement = intersection / (union + a few pixels), both inside the band.

Where every window reports the objects as they are, cut off at its border, a view of an object agrees with no view of
another one better than both agree with their own; equal only where two objects are the same in the whole band, and then
the scores decide. So each false pair comes after the true ones, and is refused because the group has its view of that
tile already. All views of an object end in one group if it is connected (of two neighbouring pixels, some window sees
both) or shorter than the overlap (its core's window sees all of it). The order of tiles plays no part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from manymask.core.components import split_columns
from manymask.core.image import Window
from manymask.core.instances import Instances, concatenate_instances
from manymask.core.overlap import compute_iou, intersect_runs
from manymask.core.runs import RunLengths, concatenate_runs

# IoU inside the band above which views of two tiles are one object's.
MATCH_IOU = 0.5
# So many pixels more in the union make agreement on a few pixels count less than on many.
DOUBT_PIXELS = 8
# Share of the smaller mask inside the band above which two tiles claim the same pixels.
CLAIMED_SHARE = 0.5
# Share of what a view of one tile takes of another tile's, from which the other tile sees the two overlap as well.
SAME_OVERLAP = 0.5


class Tile(NamedTuple):
    """A part of an image.

    Attributes:
        core: The pixels whose objects are the tile's.
        window: What is looked at to find them: the core and a margin, as far as the image reaches.
    """

    core: Window
    window: Window


def list_tiles(size: tuple[int, int], tile_size: int, overlap: int, alignment: int = 1) -> list[Tile]:
    """Tiles of about one size that cover an image, row by row; one tile where the image is no larger.

    Args:
        size: (height, width) of the image.
        tile_size: Longest side of a window, in pixels.
        overlap: Pixels that two neighbouring windows share; even.
        alignment: Windows begin at multiples of so many pixels.

    Raises:
        ValueError: The overlap is odd or less than 2, or leaves nothing of a tile.
    """
    stride = (tile_size - overlap) // alignment * alignment
    if overlap < 2 or overlap % 2 or stride < 1:
        raise ValueError(f"expected an even overlap that leaves {alignment} pixels of {tile_size}, got {overlap}")
    rows, columns = (list(_cut(length, tile_size, stride, overlap, alignment)) for length in size)
    return [
        Tile(Window(top, left, bottom - top, right - left), Window(first, start, last - first, end - start))
        for top, bottom, first, last in rows
        for left, right, start, end in columns
    ]


def _cut(length: int, tile_size: int, stride: int, overlap: int, alignment: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of each core, and of its window, along one side of the image."""
    if length <= tile_size:
        yield 0, length, 0, length
        return
    num_tiles = -(-(length - overlap) // stride)
    stride = -(-(length - overlap) // (num_tiles * alignment)) * alignment  # no last tile is much smaller
    num_tiles = -(-(length - overlap) // stride)
    for index in range(num_tiles):
        start, is_last = index * stride, index == num_tiles - 1
        begin = start + overlap // 2 if index else 0
        end = length if is_last else start + stride + overlap // 2
        yield begin, end, start, length if is_last else start + stride + overlap


@dataclass(frozen=True, eq=False)
class MergedTiles:
    """What the tiles of an image give together.

    Attributes:
        instances: Of the image, by falling score.
        num_stitched: Those that no window saw whole, so that they are put together of their parts.
    """

    instances: Instances
    num_stitched: int


def merge_tiles(size: tuple[int, int], tiles: Sequence[Tile], found: Sequence[Instances]) -> MergedTiles:
    """One image's instances of those that were found in each tile; see above for how views become one object.

    An object is the tile's whose core holds the centre of its box, and has that tile's mask, box and score. A tile's
    view of another tile's object is dropped, unless both see it. Where one object is cut off by all windows, its parts
    are put together. Where two tiles claim the same pixels for two objects and none of them sees both objects there, as
    where one sees two objects in what the other takes for one, the better score stays.

    Args:
        size: (height, width) of the image.
        tiles: Those of ``list_tiles``, in any order.
        found: The instances of each, in pixels of its window.
    """
    order = sorted(range(len(tiles)), key=lambda index: tiles[index].window)
    tiles = [tiles[index] for index in order]
    parts = [place_instances(found[index], tiles[row].window, size) for row, index in enumerate(order)]
    parts = [part[part.runs.areas > 0] for part in parts]
    views = concatenate_instances(parts)
    tile_of = np.repeat(np.arange(len(tiles)), [len(part) for part in parts])
    pairs = _find_pairs(tiles, [part.runs for part in parts], views)
    group, members = _group_views(pairs, tile_of, views.scores)
    overlaps = _find_overlaps([part.runs for part in parts])
    del parts  # a third of all memory here; ``views`` has them

    boxes = views.runs.boxes
    ends = np.concatenate([_reduce(np.minimum, boxes[:, :2], group), _reduce(np.maximum, boxes[:, 2:], group)], axis=1)
    is_own = _locate(tiles, ends)[group] == tile_of
    is_cut = _find_cut(tiles, boxes, tile_of)
    areas, row = views.runs.areas, np.arange(len(views))
    # Of each group the view of its mask, and the one of its score: the owner's, if it is there.
    best = _take_first(np.lexsort((row, -areas, ~is_own, is_cut, group)), group)
    scorer = _take_first(np.lexsort((row, -areas, is_cut, ~is_own, group)), group)

    is_kept = (np.bincount(group) > 1) | is_own[scorer]
    rank = np.lexsort((scorer, -views.scores[scorer]))
    is_kept &= ~_find_rivals(pairs, overlaps, group, members, tile_of, is_kept, rank)
    kept = rank[is_kept[rank]]
    stitched = np.flatnonzero(is_cut[best] & (np.bincount(group) > 1))
    stitched = stitched[is_kept[stitched]]
    return MergedTiles(_build(views, group, best, scorer, stitched, kept), len(stitched))


def place_instances(instances: Instances, window: Window, size: tuple[int, int]) -> Instances:
    """Instances of a window as those of the image that it is a part of.

    Args:
        instances: In pixels of the window.
        window: Where it lies.
        size: (height, width) of the image.
    """
    owner, column, top, bottom = split_columns(instances.runs)
    start = (column + window.left) * size[0] + top + window.top
    runs = RunLengths.from_intervals(size, len(instances), owner, start, bottom - top)
    offset = np.array([window.left, window.top] * 2, dtype=np.float32)
    return replace(instances, runs=runs, boxes=instances.boxes + offset)


def crop_runs(runs: RunLengths, window: Window) -> RunLengths:
    """The parts of masks that lie in a window, in pixels of the window; those outside of it become empty."""
    owner, column, top, bottom = split_columns(runs)
    column = column - window.left
    is_in = (column >= 0) & (column < window.width)
    top = np.clip(top - window.top, 0, window.height)
    length = np.where(is_in, np.clip(bottom - window.top, 0, window.height) - top, 0)
    return RunLengths.from_intervals(
        (window.height, window.width), len(runs), owner, column * window.height + top, length
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Views of two tiles of one class that share pixels."""

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    iou: np.ndarray
    agreement: np.ndarray
    intersection: Int64[np.ndarray, " pairs"]
    is_claimed: Bool[np.ndarray, " pairs"]


def _find_pairs(tiles: Sequence[Tile], parts: Sequence[RunLengths], views: Instances) -> _Pairs:
    """The pairs in the bands of all pairs of windows."""
    offsets = np.cumsum([0] + [len(part) for part in parts])
    columns: list[tuple[np.ndarray, ...]] = []
    for i, j in _list_neighbours(tiles):
        band = _intersect(tiles[i].window, tiles[j].window)
        a, b = crop_runs(parts[i], band), crop_runs(parts[j], band)
        shared = intersect_runs(a, b)
        a_areas, b_areas = a.areas, b.areas
        union = a_areas[shared.first] + b_areas[shared.second] - shared.intersection
        smaller = np.minimum(a_areas[shared.first], b_areas[shared.second])
        columns.append((
            shared.first + offsets[i],
            shared.second + offsets[j],
            compute_iou(shared, a_areas, b_areas),
            shared.intersection / (union + DOUBT_PIXELS),
            shared.intersection,
            shared.intersection > CLAIMED_SHARE * smaller,
        ))  # fmt: skip
    if not columns:
        none = np.zeros(0, dtype=np.int64)
        return _Pairs(none, none, none, none, none, none > 0)
    first, second, *rest = (np.concatenate(column) for column in zip(*columns, strict=True))
    is_same = views.labels[first] == views.labels[second]
    return _Pairs(*(column[is_same] for column in (first, second, *rest)))


def _find_overlaps(parts: Sequence[RunLengths]) -> dict[tuple[int, int], int]:
    """The number of pixels that two views of one tile share, by the views, either first."""
    overlaps: dict[tuple[int, int], int] = {}
    offset = 0
    for part in parts:
        shared = intersect_runs(part, part)
        is_other = shared.first != shared.second
        first, second = shared.first[is_other] + offset, shared.second[is_other] + offset
        places = zip(first.tolist(), second.tolist(), strict=True)
        overlaps.update(zip(places, shared.intersection[is_other].tolist(), strict=True))
        offset += len(part)
    return overlaps


def _list_neighbours(tiles: Sequence[Tile]) -> Iterator[tuple[int, int]]:
    """The pairs of tiles whose windows share pixels; tiles are in the order of their windows."""
    top, left, _, width = np.array([tile.window for tile in tiles]).T
    for i, window in enumerate(tile.window for tile in tiles):
        j = np.arange(i + 1, np.searchsorted(top, window.top + window.height))
        is_beside = (left[j] < window.left + window.width) & (left[j] + width[j] > window.left)
        yield from ((i, int(other)) for other in j[is_beside])


def _intersect(a: Window, b: Window) -> Window:
    top, left = max(a.top, b.top), max(a.left, b.left)
    bottom, right = min(a.top + a.height, b.top + b.height), min(a.left + a.width, b.left + b.width)
    return Window(top, left, bottom - top, right - left)


def _group_views(
    pairs: _Pairs, tile_of: np.ndarray, scores: Float32[np.ndarray, " views"]
) -> tuple[Int64[np.ndarray, " views"], dict[int, dict[int, int]]]:
    """The group of each view, and for each group of several the view of each tile."""
    leader = np.arange(len(tile_of))
    members: dict[int, list[int]] = {}
    is_match = pairs.iou > MATCH_IOU
    first, second, agreement = pairs.first[is_match], pairs.second[is_match], pairs.agreement[is_match]
    order = np.lexsort((second, first, np.abs(scores[first] - scores[second]), -agreement))
    for a, b in zip(first[order].tolist(), second[order].tolist(), strict=True):
        a, b = int(leader[a]), int(leader[b])
        if a == b:
            continue
        joined, others = members.get(a, [a]), members.get(b, [b])
        if {tile_of[view] for view in joined} & {tile_of[view] for view in others}:
            continue  # two views of one tile are two objects
        members[a] = joined + others
        leader[others] = a
        members.pop(b, None)
    leaders, group = np.unique(leader, return_inverse=True)
    place = dict(zip(leaders.tolist(), range(len(leaders)), strict=True))
    return group, {place[a]: {int(tile_of[view]): view for view in views} for a, views in members.items()}


def _reduce(function: np.ufunc, values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """A function of the values of each group."""
    order = np.argsort(group, kind="stable")
    begin = np.searchsorted(group[order], np.arange(int(group.max(initial=-1)) + 1))
    return function.reduceat(values[order], begin) if len(begin) else values


def _take_first(order: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The first of each group in an order by groups."""
    return order[np.searchsorted(group[order], np.arange(int(group.max(initial=-1)) + 1))]


def _locate(tiles: Sequence[Tile], boxes: Float32[np.ndarray, "groups 4"]) -> Int64[np.ndarray, " groups"]:
    """The tile whose core holds the centre of each box."""
    tops, lefts = (np.unique([tile.core[axis] for tile in tiles]) for axis in (0, 1))
    row = np.searchsorted(tops, (boxes[:, 1] + boxes[:, 3]) / 2, side="right") - 1
    column = np.searchsorted(lefts, (boxes[:, 0] + boxes[:, 2]) / 2, side="right") - 1
    return row * len(lefts) + column


def _find_cut(
    tiles: Sequence[Tile], boxes: Float32[np.ndarray, "views 4"], tile_of: np.ndarray
) -> Bool[np.ndarray, " views"]:
    """Whether a view reaches a border of its window beyond which the image goes on, so that more of it may be there."""
    top, left, height, width = np.array([tile.window for tile in tiles]).T
    bottom, right = top + height, left + width
    far_top, far_left, far_bottom, far_right = top.min(), left.min(), bottom.max(), right.max()
    borders = np.stack([left, top, right, bottom], axis=1)
    is_inner = borders != np.array([far_left, far_top, far_right, far_bottom])
    return ((boxes == borders[tile_of]) & is_inner[tile_of]).any(axis=1)


def _find_rivals(
    pairs: _Pairs,
    overlaps: dict[tuple[int, int], int],
    group: np.ndarray,
    members: dict[int, dict[int, int]],
    tile_of: np.ndarray,
    is_kept: np.ndarray,
    rank: np.ndarray,
) -> Bool[np.ndarray, " groups"]:
    """The groups that lose what they claim to a better one that the other tile sees in its place."""
    is_rival = np.zeros(len(is_kept), dtype=bool)
    position = np.argsort(rank)

    def sees_both(view: int, other: int, intersection: int) -> bool:
        """Whether a view's tile has the other view's object too, which overlaps it there as the other view does."""
        own = members.get(int(group[other]), {}).get(int(tile_of[view]))
        return own is not None and overlaps.get((view, own), 0) >= SAME_OVERLAP * intersection

    claimed = (pairs.first, pairs.second, pairs.intersection)
    is_apart = group[pairs.first] != group[pairs.second]
    is_apart &= pairs.is_claimed & is_kept[group[pairs.first]] & is_kept[group[pairs.second]]
    claims: list[tuple[int, int, int, int]] = []
    for a, b, intersection in zip(*(column[is_apart].tolist() for column in claimed), strict=True):
        if sees_both(a, b, intersection) or sees_both(b, a, intersection):
            continue
        one, other = int(group[a]), int(group[b])
        better, worse = sorted((one, other), key=lambda place: position[place])
        claims.append((int(position[better]), int(position[worse]), better, worse))
    for _, _, better, worse in sorted(claims):
        if not is_rival[better]:
            is_rival[worse] = True
    return is_rival


def _build(
    views: Instances, group: np.ndarray, best: np.ndarray, scorer: np.ndarray, stitched: np.ndarray, kept: np.ndarray
) -> Instances:
    """The instances of the kept groups: each its best view, or the union of all where that is cut off."""
    place = np.full(len(best), -1)
    place[stitched] = np.arange(len(stitched))
    owner = place[group][views.runs.owner]  # few runs are of stitched ones, and only these are sorted and joined
    is_part = owner >= 0
    start, length = views.runs.start[is_part], views.runs.length[is_part]
    unions = RunLengths.from_intervals(views.size, len(stitched), owner[is_part], start, length)
    boxes, row = views.boxes[best], best.copy()
    boxes[stitched] = unions.boxes
    row[stitched] = len(views) + np.arange(len(stitched))
    runs = (concatenate_runs([views.runs, unions]) if len(stitched) else views.runs).select(row[kept])
    return Instances.from_runs(runs, views.labels[best[kept]], scores=views.scores[scorer[kept]], boxes=boxes[kept])
