"""Label images painted from runs: which instance has which id, and the ids of some rows at a time."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from manymask.core.components import split_columns
from manymask.core.overlap import find_sharing, intersect_runs
from manymask.core.runs import RunLengths, expand_ranges, iterate_groups

# Pixels that are painted together (some 50 bytes each).
GROUP_PIXELS = 1 << 22
# Runs that are compared or painted together, about as many (some 100 bytes each).
GROUP_RUNS = 1 << 19


def rank_instances(
    runs: RunLengths,
    scores: Float32[np.ndarray, " instances"],
    iscrowd: Bool[np.ndarray, " instances"],
    min_score: float = 0.0,
) -> tuple[Int64[np.ndarray, " ranked"], int]:
    """The row of each id in a label image: the first row is that of id 1.

    Ids go by falling score, at equal scores by row. Instances of which other ones of higher score hide every pixel come
    after all others, so that the ids in a label image have no gaps. Crowd regions have no id.

    Args:
        runs: The masks.
        scores: The score of each.
        iscrowd: Whether each is a crowd region.
        min_score: Those of a lower score have no id and hide nothing.

    Returns:
        The rows by id, and how many of them are not hidden.
    """
    rows = np.flatnonzero(~iscrowd & (scores >= min_score))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    is_hidden = (np.diff(runs.row_splits) == 0)[rows]
    candidates = np.flatnonzero(find_sharing(runs)[rows])
    is_hidden[candidates] = _find_hidden(runs.select(rows[candidates]))
    return np.concatenate([rows[~is_hidden], rows[is_hidden]]), int((~is_hidden).sum())


def _find_hidden(runs: RunLengths) -> Bool[np.ndarray, " instances"]:
    """Whether masks before a mask hold all of its pixels."""
    pairs, areas = intersect_runs(runs, runs), runs.areas
    is_earlier = pairs.second < pairs.first
    rows, earlier = pairs.first[is_earlier], pairs.second[is_earlier]
    shared = np.bincount(rows, weights=pairs.intersection[is_earlier], minlength=len(runs))
    is_hidden = np.zeros(len(runs), dtype=bool)
    for row in np.flatnonzero(shared >= areas):
        begin, end = np.searchsorted(rows, [row, row + 1])
        above = runs.select(earlier[begin:end])
        above = RunLengths.from_intervals(runs.size, 1, np.zeros_like(above.owner), above.start, above.length)
        covered = intersect_runs(runs.select(np.array([row])), above).intersection
        is_hidden[row] = covered.sum() == areas[row]
    return is_hidden


def find_overlapped(runs: RunLengths, rows: Int64[np.ndarray, " painted"]) -> Int64[np.ndarray, " overlapped"]:
    """Which of the rows, the uppermost first, have masks that lose pixels to others before them: their places."""
    places = np.flatnonzero(find_sharing(runs)[rows])
    sharing = runs.select(rows[places])
    pairs = intersect_runs(sharing, sharing)
    return places[np.unique(pairs.first[pairs.second < pairs.first])]


def paint_stripes(
    runs: RunLengths, rows: Int64[np.ndarray, " painted"], ids: Int64[np.ndarray, " painted"], stripe_height: int
) -> Iterator[Int32[np.ndarray, "rows width"]]:
    """Paint masks with ids, earlier ones over later ones, from the top of the image to its bottom.

    Args:
        runs: The masks.
        rows: Those that are painted, the uppermost first.
        ids: The id of each of these.
        stripe_height: Rows of pixels that are painted at a time; the last stripe may have fewer.

    Returns:
        The ids of each stripe, 0 for background.
    """
    height, boxes = runs.size[0], runs.boxes[rows]
    num_bands, num_stripes = len(runs.owner) // GROUP_RUNS + 1, -(-height // stripe_height)
    band_height = -(-num_stripes // num_bands) * stripe_height
    for upper in range(0, height, band_height):
        lower = min(upper + band_height, height)
        here = np.flatnonzero((boxes[:, 1] < lower) & (boxes[:, 3] > upper))
        yield from _paint_band(runs.select(rows[here]), ids[here], upper, lower, stripe_height)


def _paint_band(
    runs: RunLengths, ids: np.ndarray, first_row: int, end_row: int, stripe_height: int
) -> Iterator[np.ndarray]:
    """The stripes between two rows."""
    owner, column, top, bottom = (values[::-1] for values in split_columns(runs))  # the first is painted last, on top
    first, last = top // stripe_height, (bottom - 1) // stripe_height
    source, stripe = expand_ranges(first, last - first + 1)
    order = np.argsort(stripe, kind="stable")
    source, stripe = source[order], stripe[order]
    for upper in range(first_row, end_row, stripe_height):
        begin, end = np.searchsorted(stripe, [upper // stripe_height, upper // stripe_height + 1])
        here = source[begin:end]
        painted = np.zeros((min(stripe_height, end_row - upper), runs.size[1]), dtype=np.int32)
        above, below = np.maximum(top[here] - upper, 0), np.minimum(bottom[here] - upper, len(painted))
        for group in iterate_groups(below - above, GROUP_PIXELS):
            part, row = expand_ranges(above[group], (below - above)[group])
            painted[row, column[here[group]][part]] = ids[owner[here[group]]][part]
        yield painted


def paint_label_image(runs: RunLengths) -> Int32[np.ndarray, "height width"]:
    """Paint masks with the ids 1..N of their rows, earlier ones over later ones."""
    height, width = runs.size
    rows = np.arange(len(runs))
    stripes = list(paint_stripes(runs, rows, rows + 1, max(height, 1)))
    return stripes[0] if stripes else np.zeros((height, width), dtype=np.int32)
