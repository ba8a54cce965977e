"""Polygons filled into runs: all objects of an image at once, with holes, parts and fractions of pixels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core.runs import RunLengths, expand_ranges

Ring = Float64[np.ndarray, "_ 2"]
"""x y of the corners of a closed line; (0, 0) is the upper left corner of the first pixel, whose centre is at 0.5."""

Polygon = Sequence[Ring]
"""An outer ring and the rings of its holes."""


def fill_polygons(size: tuple[int, int], objects: Sequence[Sequence[Polygon]]) -> RunLengths:
    """The pixels whose centres lie in each object's polygons.

    A polygon is filled by the even-odd rule over all of its rings, so that holes stay open and the order of points does
    not matter; the polygons of an object are joined. What lies outside of the image is cut off. Outlines along the
    edges of pixels, as ``trace_outlines`` makes them, give back the same mask. Time and memory grow with the lengths of
    the outlines, not with the image.

    Args:
        size: (height, width) of the image.
        objects: The polygons of each object.
    """
    rings = [
        (owner, polygon, ring)
        for polygon, (owner, polygon_rings) in enumerate(_list_polygons(objects))
        for ring in polygon_rings
        if len(ring)
    ]
    if not rings:
        return RunLengths.empty(size, len(objects))
    counts = [len(ring) for *_, ring in rings]
    start = np.concatenate([ring for *_, ring in rings])
    end = np.concatenate([np.roll(ring, -1, axis=0) for *_, ring in rings])
    owner = np.repeat([owner for owner, *_ in rings], counts)
    polygon = np.repeat([polygon for _, polygon, _ in rings], counts)
    edge, column, y = _cross_columns(size[1], start, end)
    # In each column, a polygon lies between its first and second crossing, its third and fourth, and so on.
    order = np.lexsort((y, column, polygon[edge]))
    edge, column, row = edge[order], column[order], _find_first_centre(y[order], size[0])
    top, bottom = row[::2], row[1::2]
    position = column[::2] * size[0]
    return RunLengths.from_intervals(size, len(objects), owner[edge[::2]], position + top, bottom - top)


def _list_polygons(objects: Sequence[Sequence[Polygon]]) -> list[tuple[int, Polygon]]:
    return [(owner, polygon) for owner, polygons in enumerate(objects) for polygon in polygons]


def _cross_columns(
    width: int, start: Float64[np.ndarray, "edges 2"], end: Float64[np.ndarray, "edges 2"]
) -> tuple[Int64[np.ndarray, " crossings"], Int64[np.ndarray, " crossings"], Float64[np.ndarray, " crossings"]]:
    """Where edges cross the middles of columns: the edge, the column and y; an edge holds its left end only.

    So each closed ring crosses each column an even number of times.
    """
    is_forward = start[:, 0] <= end[:, 0]
    left, right = np.where(is_forward[:, None], start, end), np.where(is_forward[:, None], end, start)
    first = _find_first_centre(left[:, 0], width)
    edge, column = expand_ranges(first, _find_first_centre(right[:, 0], width) - first)
    (x0, y0), (x1, y1) = left[edge].T, right[edge].T
    return edge, column, y0 + (y1 - y0) * ((column + 0.5 - x0) / (x1 - x0))


def _find_first_centre(values: Float64[np.ndarray, " values"], length: int) -> Int64[np.ndarray, " values"]:
    """The first pixel whose centre is not before each coordinate, at most ``length``."""
    return np.clip(np.ceil(values - 0.5), 0, length).astype(np.int64)
