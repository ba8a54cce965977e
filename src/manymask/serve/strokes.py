"""Splitting the mask of an object along a stroke."""

import numpy as np
import scipy.sparse.csgraph  # noqa: F401 - which find_pieces would load, half a second long, in the first split
from jaxtyping import Float64

from manymask.core import RunLengths
from manymask.core.components import find_pieces
from manymask.core.runs import expand_ranges, subtract_runs
from manymask.serve.errors import EditError

MOST_STEPS = 1 << 20
"""Pixels that a stroke may be long."""
SMALLEST_PART = 4
"""Pixels of a part; smaller ones are crumbs beside the stroke, and go where the stroke's own pixels go."""


def split_mask(runs: RunLengths, stroke: Float64[np.ndarray, "points 2"]) -> RunLengths:
    """Cut one mask along a polyline; no pixel is lost.

    Args:
        runs: The mask, one instance.
        stroke: x y of the points in pixels; pixel (x, y) reaches from its number to the next one.

    Returns:
        The parts, the largest first.

    Raises:
        EditError: The stroke does not cut the object, or is far too long.
    """
    line = _draw_line(stroke, runs.size)
    rest = subtract_runs(runs, line)
    pieces, _ = find_pieces(rest, 0)
    area, rest_area = int(runs.length.sum()), int(rest.length.sum())
    pieces = pieces.select(pieces.areas >= min(SMALLEST_PART, max(area // 8, 1)))
    if len(pieces) < 2 or rest_area == area:
        raise EditError("the stroke does not cut the object into parts; draw it across the whole object")
    return _hand_out(runs, pieces)


def _draw_line(stroke: Float64[np.ndarray, "points 2"], size: tuple[int, int]) -> RunLengths:
    """The pixels along a polyline, each beside, above or below the one before, so that nothing leaks by a corner."""
    points = np.floor(stroke).astype(np.int64)
    steps = np.abs(np.diff(points, axis=0))
    if steps.sum() > MOST_STEPS:
        raise EditError(f"the stroke is more than {MOST_STEPS} pixels long; draw a shorter one")
    line = [points[:1]]
    for (x, y), (dx, dy) in zip(points[:-1], np.diff(points, axis=0), strict=True):
        # In the order in which a line from the one pixel's centre to the other's crosses the pixels' borders.
        across, down = (np.arange(1, 2 * abs(d), 2) / max(2 * abs(d), 1) for d in (int(dx), int(dy)))
        is_across = np.repeat([True, False], [len(across), len(down)])
        is_across = is_across[np.argsort(np.concatenate([across, down]), kind="stable")]
        moves = np.stack([is_across * np.sign(dx), ~is_across * np.sign(dy)], axis=1)
        line.append(np.array([x, y]) + np.cumsum(moves, axis=0))
    x, y = np.unique(np.concatenate(line), axis=0).T
    is_inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    start = (x * size[0] + y)[is_inside]
    return RunLengths.from_intervals(size, 1, np.zeros_like(start), start, np.ones_like(start))


def _hand_out(runs: RunLengths, pieces: RunLengths) -> RunLengths:
    """Give the pixels of a mask that no piece holds to the pieces beside them, round by round."""
    joined = RunLengths.from_intervals(runs.size, 1, np.zeros_like(pieces.owner), pieces.start, pieces.length)
    rest = subtract_runs(runs, joined)
    left = expand_ranges(rest.start, rest.length)[1]
    height, width = runs.size
    order = np.argsort(pieces.start, kind="stable")
    starts, ends, owners = pieces.start[order], (pieces.start + pieces.length)[order], pieces.owner[order]
    given: dict[int, int] = {}
    while len(left):
        found = np.full(len(left), len(pieces))
        x, y = np.divmod(left, height)
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            is_inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
            near = left + dx * height + dy
            run = np.maximum(np.searchsorted(starts, near, "right") - 1, 0)
            is_held = is_inside & (starts[run] <= near) & (near < ends[run])
            held = np.where(is_held, owners[run], [given.get(each, len(pieces)) for each in near.tolist()])
            found = np.minimum(found, np.where(is_inside, held, len(pieces)))
        is_found = found < len(pieces)
        if not is_found.any():  # a part that the stroke covers whole
            found[:] = 0
            is_found[:] = True
        given |= dict(zip(left[is_found].tolist(), found[is_found].tolist(), strict=True))
        left = left[~is_found]
    places = np.array(list(given), dtype=np.int64)
    owner = np.concatenate([pieces.owner, np.array(list(given.values()), dtype=np.int64)])
    start = np.concatenate([pieces.start, places])
    length = np.concatenate([pieces.length, np.ones_like(places)])
    parts = RunLengths.from_intervals(runs.size, len(pieces), owner, start, length)
    return parts.select(np.argsort(-parts.areas, kind="stable"))
