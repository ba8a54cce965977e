"""Label images painted from runs: which instance has which id, and the ids of some rows at a time."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from manymask.core.components import split_columns
from manymask.core.overlap import intersect_runs
from manymask.core.runs import RunLengths, expand_ranges, iterate_groups

# Pixels that are painted together (some 50 bytes each).
GROUP_PIXELS = 1 << 22


def rank_instances(
    runs: RunLengths, scores: Float32[np.ndarray, " instances"], iscrowd: Bool[np.ndarray, " instances"]
) -> tuple[Int64[np.ndarray, " ranked"], int]:
    """The row of each id in a label image: the first row is that of id 1.

    Ids go by falling score, at equal scores by row. Instances of which other ones of higher score hide every pixel come
    after all others, so that the ids in a label image have no gaps. Crowd regions have no id.

    Returns:
        The rows by id, and how many of them are not hidden.
    """
    rows = np.flatnonzero(~iscrowd)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    ranked = runs.select(rows)
    is_hidden = _find_hidden(ranked)
    return np.concatenate([rows[~is_hidden], rows[is_hidden]]), int((~is_hidden).sum())


def _find_hidden(runs: RunLengths) -> Bool[np.ndarray, " instances"]:
    """Whether masks before a mask hold all of its pixels."""
    pairs, areas = intersect_runs(runs, runs), runs.areas
    is_earlier = pairs.second < pairs.first
    rows, earlier = pairs.first[is_earlier], pairs.second[is_earlier]
    shared = np.bincount(rows, weights=pairs.intersection[is_earlier], minlength=len(runs))
    is_hidden = areas == 0
    for row in np.flatnonzero((shared >= areas) & ~is_hidden):
        begin, end = np.searchsorted(rows, [row, row + 1])
        above = runs.select(earlier[begin:end])
        above = RunLengths.from_intervals(runs.size, 1, np.zeros_like(above.owner), above.start, above.length)
        covered = intersect_runs(runs.select(np.array([row])), above).intersection
        is_hidden[row] = covered.sum() == areas[row]
    return is_hidden


def find_overlapped(runs: RunLengths) -> Bool[np.ndarray, " instances"]:
    """Whether masks hold pixels of a mask before them, which a label image then does not show as theirs."""
    pairs = intersect_runs(runs, runs)
    is_overlapped = np.zeros(len(runs), dtype=bool)
    is_overlapped[pairs.first[pairs.second < pairs.first]] = True
    return is_overlapped


def paint_stripes(
    runs: RunLengths, ids: Int64[np.ndarray, " instances"], stripe_height: int
) -> Iterator[Int32[np.ndarray, "rows width"]]:
    """Paint masks with ids, earlier ones over later ones, from the top of the image to its bottom.

    Args:
        runs: The masks.
        ids: The id of each.
        stripe_height: Rows that are painted at a time; the last stripe may have fewer.

    Returns:
        The ids of each stripe, 0 for background.
    """
    height, width = runs.size
    owner, column, top, bottom = (values[::-1] for values in split_columns(runs))  # the first is painted last, on top
    first, last = top // stripe_height, (bottom - 1) // stripe_height
    source, stripe = expand_ranges(first, last - first + 1)
    order = np.argsort(stripe, kind="stable")
    source, stripe = source[order], stripe[order]
    for place, upper in enumerate(range(0, height, stripe_height)):
        begin, end = np.searchsorted(stripe, [place, place + 1])
        here = source[begin:end]
        painted = np.zeros((min(stripe_height, height - upper), width), dtype=np.int32)
        above, below = np.maximum(top[here] - upper, 0), np.minimum(bottom[here] - upper, len(painted))
        for group in iterate_groups(below - above, GROUP_PIXELS):
            part, row = expand_ranges(above[group], (below - above)[group])
            painted[row, column[here[group]][part]] = ids[owner[here[group]]][part]
        yield painted


def paint_label_image(runs: RunLengths) -> Int32[np.ndarray, "height width"]:
    """Paint masks with the ids 1..N of their rows, earlier ones over later ones."""
    height, width = runs.size
    stripes = list(paint_stripes(runs, np.arange(len(runs)) + 1, max(height, 1)))
    return stripes[0] if stripes else np.zeros((height, width), dtype=np.int32)
