"""Overlap of two sets of runs, as sparse pairs: never an instances x instances matrix."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from manymask.core.runs import RunLengths


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

    The cost grows with the number of runs and of run pairs that overlap, not with instances x instances.

    Raises:
        ValueError: The two sets are of images of different sizes.
    """
    if first.size != second.size:
        raise ValueError(f"expected runs of images of one size, got {first.size} and {second.size}")
    a, b = np.argsort(first.start, kind="stable"), np.argsort(second.start, kind="stable")
    a_start, b_start = first.start[a], second.start[b]
    a_end, b_end = a_start + first.length[a], b_start + second.length[b]
    # Two runs overlap when the later one starts inside the other: either b starts in a, or a starts (later) in b.
    in_a = _expand(np.searchsorted(b_start, a_start, "left"), np.searchsorted(b_start, a_end, "left"))
    in_b = _expand(np.searchsorted(a_start, b_start, "right"), np.searchsorted(a_start, b_end, "left"))
    a_index = np.concatenate([in_a[0], in_b[1]])
    b_index = np.concatenate([in_a[1], in_b[0]])
    shared = np.minimum(a_end[a_index], b_end[b_index]) - np.maximum(a_start[a_index], b_start[b_index])
    key = first.owner[a][a_index] * max(second.num_instances, 1) + second.owner[b][b_index]
    pair, place = np.unique(key, return_inverse=True)
    intersection = np.bincount(place, weights=shared, minlength=len(pair)).astype(np.int64)
    row, column = np.divmod(pair, max(second.num_instances, 1))
    return Overlaps(row, column, intersection)


def _expand(begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (i, j) with begin[i] <= j < end[i]."""
    counts = end - begin
    i = np.repeat(np.arange(len(counts)), counts)
    j = np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    return i, j


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
