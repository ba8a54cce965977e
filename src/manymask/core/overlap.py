"""Overlap of two sets of runs, as sparse pairs: never an instances x instances matrix."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from manymask.core.runs import RunLengths

# Pairs of runs are summed up in chunks of this many, so that memory does not grow with their number.
RUN_PAIRS = 1 << 20
# Runs that are looked at together to find masks that share pixels, about as many (some 50 bytes each).
BAND_RUNS = 1 << 19


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairs of instances of two sets that share at least one pixel, ascending by (first, second).

    Attributes:
        first: Row in the first set.
        second: Row in the second set.
        intersection: Pixels that the two masks share, at least 1.
    """

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    intersection: Int64[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.first)


def intersect_runs(first: RunLengths, second: RunLengths) -> Overlaps:
    """Find all pairs of instances, one of each set, that share pixels, and how many.

    Time grows with the number of runs and of run pairs that overlap, memory with the number of runs and of instance
    pairs that overlap; neither with instances x instances.

    Raises:
        ValueError: The two sets are of images of different sizes.
    """
    if first.size != second.size:
        raise ValueError(f"expected runs of images of one size, got {first.size} and {second.size}")
    a, b = np.argsort(first.start, kind="stable"), np.argsort(second.start, kind="stable")
    a_start, b_start = first.start[a], second.start[b]
    a_end, b_end = a_start + first.length[a], b_start + second.length[b]
    # Two runs overlap when the later one starts inside the other: either b starts in a, or a starts (later) in b.
    in_a = _expand_ranges(np.searchsorted(b_start, a_start, "left"), np.searchsorted(b_start, a_end, "left"))
    in_b = _expand_ranges(np.searchsorted(a_start, b_start, "right"), np.searchsorted(a_start, b_end, "left"))
    stride = max(second.num_instances, 1)
    a_key, b_key = first.owner[a] * stride, second.owner[b]
    pair = intersection = np.zeros(0, dtype=np.int64)
    for i, j in chain(in_a, ((i, j) for j, i in in_b)):
        shared = np.minimum(a_end[i], b_end[j]) - np.maximum(a_start[i], b_start[j])
        keys, sums = _sum_by_key(a_key[i] + b_key[j], shared)
        pair, intersection = _sum_by_key(np.append(pair, keys), np.append(intersection, sums))
    row, column = np.divmod(pair, stride)
    return Overlaps(row, column, intersection)


def find_sharing(runs: RunLengths) -> Bool[np.ndarray, " instances"]:
    """Whether a mask shares pixels with another one; few do, and all else about overlaps is asked of these alone."""
    is_sharing = np.zeros(len(runs), dtype=bool)
    num_bands = len(runs.owner) // BAND_RUNS + 1
    for first, last in pairwise(np.linspace(0, runs.size[0] * runs.size[1], num_bands + 1).astype(np.int64)):
        here = np.flatnonzero((runs.start < last) & (runs.start + runs.length > first))
        here = here[np.argsort(runs.start[here], kind="stable")]
        start, end = runs.start[here], runs.start[here] + runs.length[here]
        # Runs of one instance never overlap.
        is_sharing[runs.owner[here[1:]][start[1:] < np.maximum.accumulate(end)[:-1]]] = True
        is_sharing[runs.owner[here[:-1]][start[1:] < end[:-1]]] = True
    return is_sharing


def _expand_ranges(begin: np.ndarray, end: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All (i, j) with begin[i] <= j < end[i], in chunks."""
    last = np.cumsum(end - begin)
    total = int(last[-1]) if len(last) else 0
    for chunk in range(0, total, RUN_PAIRS):
        place = np.arange(chunk, min(chunk + RUN_PAIRS, total))
        i = np.searchsorted(last, place, "right")
        yield i, end[i] - last[i] + place


def _sum_by_key(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The keys that occur, ascending, and the sum of the values of each."""
    unique, place = np.unique(keys, return_inverse=True)
    # Exact: float64 weights hold numbers of pixels.
    return unique, np.bincount(place, weights=values, minlength=len(unique)).astype(np.int64)


def compute_iou(
    overlaps: Overlaps,
    first_areas: Int64[np.ndarray, " first"],
    second_areas: Int64[np.ndarray, " second"],
    second_iscrowd: Bool[np.ndarray, " second"] | None = None,
) -> Float64[np.ndarray, " pairs"]:
    """Intersection over union of each pair; for a crowd region as second, over the first's area (COCO)."""
    area = first_areas[overlaps.first]
    union = area + second_areas[overlaps.second] - overlaps.intersection
    if second_iscrowd is not None:
        union = np.where(second_iscrowd[overlaps.second], area, union)
    return overlaps.intersection / union
