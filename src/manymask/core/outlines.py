"""Outlines of masks as polygons along the edges of their pixels, traced from the runs of all instances at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from manymask.core.components import split_columns
from manymask.core.runs import RunLengths, iterate_parts

# Instances are traced in groups of about this many runs (some 500 bytes each).
GROUP_RUNS = 1 << 18


@dataclass(frozen=True, eq=False)
class Outlines:
    """The polygons of instances. Filled, they give the masks again, pixel by pixel.

    A polygon is a part of a mask whose pixels touch side by side: parts that meet in a corner only are two polygons. No
    ring meets itself, and two rings of an instance meet in single points at most, so that the polygons are valid by the
    rules of simple features (OGC).

    Attributes:
        points: x y of the corners of pixels: pixel (row, column) is the square from (column, row) to (column + 1,
            row + 1). Points within a straight line are left out. Outer rings run clockwise on the screen, where y
            points down, and holes the other way; the first point is not repeated at the end.
        ring_splits: The points of ring i are ``ring_splits[i]:ring_splits[i + 1]``.
        polygon_splits: The same for the rings of a polygon: its outer ring, then its holes.
        instance_splits: The same for the polygons of an instance; an empty mask has none.
    """

    points: Int64[np.ndarray, "points 2"]
    ring_splits: Int64[np.ndarray, " rings_and_one"]
    polygon_splits: Int64[np.ndarray, " polygons_and_one"]
    instance_splits: Int64[np.ndarray, " instances_and_one"]

    def __len__(self) -> int:
        return len(self.instance_splits) - 1


def trace_outlines(runs: RunLengths) -> Outlines:
    """Trace the outlines of all masks at once.

    Time and memory grow with the number of runs, times the logarithm of the longest outline; not with the pixels.
    """
    # The parts of columns that lie in one mask have two horizontal edges each: the upper one runs to the right, the
    # lower one to the left, so that the mask is always at the right hand. Edge 2i is the upper one of part i.
    owner, column, top, bottom = split_columns(runs)
    num_edges = 2 * len(owner)
    y = np.stack([top, bottom], axis=1).ravel()
    following = _link_edges(runs.size, np.repeat(owner, 2), np.repeat(column, 2), y)
    ring, place, ring_length = _list_rings(following)
    order = np.empty(num_edges, dtype=np.int64)
    order[(np.cumsum(ring_length) - ring_length)[ring] + place] = np.arange(num_edges)
    # Each edge gives the point that it begins at and the one that it ends at, unless the outline goes straight on.
    previous = np.empty(num_edges, dtype=np.int64)
    previous[following] = np.arange(num_edges)
    is_lower = np.arange(num_edges) % 2
    x = np.repeat(column, 2)
    ends = np.stack([np.stack([x + is_lower, x + 1 - is_lower], axis=1), np.stack([y, y], axis=1)], axis=2)
    is_corner = np.stack([y != y[previous], y != y[following]], axis=1)
    points = ends[order][is_corner[order]]
    num_points = np.bincount(np.repeat(ring, 2), weights=is_corner.ravel(), minlength=len(ring_length)).astype(np.int64)
    return _gather_polygons(runs.num_instances, points, num_points, owner, y, ring)


def iterate_polygons(runs: RunLengths) -> Iterator[list[list[Float64[np.ndarray, "_ 2"]]]]:
    """The polygons of each instance, each an outer ring and the rings of its holes."""
    for _, outlines in iterate_outlines(runs):
        points = outlines.points.astype(np.float64)
        rings = [points[begin:end] for begin, end in pairwise(outlines.ring_splits.tolist())]
        polygons = [rings[begin:end] for begin, end in pairwise(outlines.polygon_splits.tolist())]
        yield from (polygons[begin:end] for begin, end in pairwise(outlines.instance_splits.tolist()))


def iterate_outlines(runs: RunLengths) -> Iterator[tuple[range, Outlines]]:
    """The outlines of groups of instances with their rows, so that memory does not grow with their number."""
    for rows, part in iterate_parts(runs, GROUP_RUNS):
        yield range(rows.start, rows.stop), trace_outlines(part)


def _link_edges(
    size: tuple[int, int], owner: np.ndarray, column: np.ndarray, y: np.ndarray
) -> Int64[np.ndarray, " edges"]:
    """The edge that follows each horizontal edge along its ring."""
    edges = np.arange(len(owner))
    is_upper = edges % 2 == 0
    # Down the line between two columns, a mask is on one side of it only from the first edge that meets the line to the
    # second, from the third to the fourth, and so on: there the outline runs along it. Where two edges meet the line in
    # one point, the lower one comes first: then an outline turns to the right, and pixels that touch by a corner are
    # apart.
    line, height = (size[1] + 1), 2 * (size[0] + 1)
    left_key = (owner * line + column) * height + 2 * y + is_upper
    keys = np.concatenate([left_key, left_key + height])
    order = np.argsort(keys, kind="stable")
    edge = np.concatenate([edges, edges])[order]
    # An upper edge arrives at its right end, a lower one at its left end.
    is_arrival = np.concatenate([~is_upper, is_upper])[order]
    following = _pair(edge, is_arrival)
    # Where an outline meets itself in a corner, it is turned to the left there, which cuts it into two rings.
    keys = keys[order]
    corner = np.arange(1, len(keys) - 1, 2)
    corner = corner[keys[corner] // 2 == keys[corner + 1] // 2]
    if len(corner):
        ring = _list_rings(following)[0]
        corner = corner[ring[edge[corner]] == ring[edge[corner + 1]]]
        edge[corner], edge[corner + 1] = edge[corner + 1], edge[corner]
        following = _pair(edge, is_arrival)
    return following


def _pair(edge: np.ndarray, is_arrival: Bool[np.ndarray, " ends"]) -> Int64[np.ndarray, " edges"]:
    """Of two ends that belong together, the edge that arrives is followed by the one that departs."""
    first, second = edge[::2], edge[1::2]
    is_first = is_arrival[::2]
    following = np.empty(len(first), dtype=np.int64)
    following[np.where(is_first, first, second)] = np.where(is_first, second, first)
    return following


def _list_rings(
    following: Int64[np.ndarray, " edges"],
) -> tuple[Int64[np.ndarray, " edges"], Int64[np.ndarray, " edges"], Int64[np.ndarray, " rings"]]:
    """The ring of each edge, ascending by the first edge of each ring; its place in it; and each ring's length."""
    # The least edge of a ring is its first. Each round looks twice as far ahead as the one before.
    least, ahead = np.arange(len(following)), following
    while True:
        less = np.minimum(least, least[ahead])
        if np.array_equal(less, least):
            break
        least, ahead = less, ahead[ahead]
    is_first = least == np.arange(len(following))
    ring = (np.cumsum(is_first) - 1)[least]
    length = np.bincount(ring, minlength=int(is_first.sum()))
    # Steps to the first edge, summed up along pointers that are doubled in the same way.
    ahead = np.where(is_first, np.arange(len(following)), following)
    steps = np.where(is_first, 0, 1)
    for _ in range(int(length.max(initial=1)).bit_length()):
        steps, ahead = steps + steps[ahead], ahead[ahead]
    return ring, np.where(is_first, 0, length[ring] - steps), length


def _gather_polygons(
    num_instances: int, points: np.ndarray, num_points: np.ndarray, owner: np.ndarray, y: np.ndarray, ring: np.ndarray
) -> Outlines:
    """Put each outer ring before its holes, and the polygons of each instance behind each other."""
    num_rings = len(num_points)
    point_splits = _to_splits(num_points)
    following = np.roll(points, -1, axis=0)
    last = point_splits[1:] - 1
    following[last] = points[point_splits[:-1]]
    doubled = np.cumsum(np.append(0, points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]))
    is_hole = doubled[point_splits[1:]] < doubled[point_splits[:-1]]
    # The highest edge of a hole is the lower edge of a part of the same piece, whose upper edge is in another ring of
    # that piece that reaches higher: its outer one in the end.
    lower = np.arange(1, len(ring), 2)
    highest = lower[np.lexsort((y[lower], ring[lower]))]
    rings, first = np.unique(ring[highest], return_index=True)
    parent = np.arange(num_rings)
    parent[rings] = ring[highest[first] - 1]
    parent = np.where(is_hole, parent, np.arange(num_rings))
    while not np.array_equal(parent, grand := parent[parent]):
        parent = grand
    ring_owner = np.zeros(num_rings, dtype=np.int64)
    ring_owner[ring] = np.repeat(owner, 2)
    order = np.lexsort((is_hole, parent, ring_owner))
    is_outer = ~is_hole[order]
    source = np.repeat((point_splits[:-1])[order] - _to_splits(num_points[order])[:-1], num_points[order])
    return Outlines(
        points[source + np.arange(len(points))],
        _to_splits(num_points[order]),
        np.append(np.flatnonzero(is_outer), num_rings),
        _to_splits(np.bincount(ring_owner[~is_hole], minlength=num_instances)),
    )


def _to_splits(counts: np.ndarray) -> Int64[np.ndarray, " _"]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
