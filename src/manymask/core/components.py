"""Pieces of instances."""

from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float64, Int64

from manymask.core.overlap import intersect_runs
from manymask.core.runs import RunLengths, expand_ranges

FAR_GAP = 2
"""Pieces with more background pixels than this between them, across and down, are far from each other."""

MIN_SCATTERED = 10
"""Fewer pieces than this in all may be those of one object behind others."""


def split_columns(
    runs: RunLengths,
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Runs cut where a column of the image ends.

    Returns:
        For each part its owner, column, first row and the row after its last; ascending by owner, column and row.
    """
    height = max(runs.size[0], 1)
    first, last = runs.start // height, (runs.start + runs.length - 1) // height
    source, column = expand_ranges(first, last - first + 1)
    top = np.maximum(runs.start[source] - column * height, 0)
    bottom = np.minimum((runs.start + runs.length)[source] - column * height, height)
    return runs.owner[source], column, top, bottom


def find_touching(runs: RunLengths, *, by_corners: bool = False) -> Bool[np.ndarray, " instances"]:
    """Whether an instance shares pixels with another one, or has one right beside or below a pixel of another.

    Args:
        runs: The masks.
        by_corners: Whether pixels that share only a corner touch too (8-neighbourhood).
    """
    height, width = runs.size
    owner, column, top, bottom = split_columns(runs)
    is_inside = column + 1 < width
    reach = int(by_corners)
    beside_top, beside_bottom = np.maximum(top - reach, 0), np.minimum(bottom + reach, height)
    grown = RunLengths.from_intervals(
        runs.size,
        len(runs),
        np.concatenate([owner, owner[is_inside]]),
        np.concatenate([column * height + top, ((column + 1) * height + beside_top)[is_inside]]),
        np.concatenate([np.minimum(bottom + 1, height) - top, (beside_bottom - beside_top)[is_inside]]),
    )
    overlaps = intersect_runs(grown, runs)
    is_pair = overlaps.first != overlaps.second
    is_touching = np.zeros(len(runs), dtype=bool)
    is_touching[overlaps.first[is_pair]] = True
    is_touching[overlaps.second[is_pair]] = True
    return is_touching


def find_pieces(runs: RunLengths, gap: int = FAR_GAP) -> tuple[RunLengths, Int64[np.ndarray, " pieces"]]:
    """Cut every instance into pieces that are more than ``gap`` pixels apart; with 0 into pieces that do not touch.

    Returns:
        The pieces as runs, and the row of each one's instance, ascending. Empty masks have no piece.
    """
    # Here, because scipy.sparse takes a while to load, and prediction does without.
    from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]
    from scipy.sparse.csgraph import (  # pyright: ignore[reportMissingTypeStubs]
        connected_components,  # pyright: ignore[reportUnknownVariableType]
    )

    owner, column, top, bottom = split_columns(runs)
    first, second = _link(runs.size, owner, column, top, bottom, gap)
    graph: Any = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(owner), len(owner)))
    num_pieces, piece = cast(tuple[int, np.ndarray], connected_components(graph, directed=False))
    piece_owner = np.zeros(num_pieces, dtype=np.int64)
    piece_owner[piece] = owner
    order = np.argsort(piece_owner, kind="stable")
    place = np.argsort(order)[piece]
    pieces = RunLengths.from_intervals(
        runs.size, num_pieces, place, column * runs.size[0] + top, (bottom - top).astype(np.int64)
    )
    return pieces, piece_owner[order]


def count_pieces(runs: RunLengths, gap: int = FAR_GAP) -> Float64[np.ndarray, " instances"]:
    """The number of pieces of each instance that are more than ``gap`` pixels apart, small ones counted less.

    The number of equal pieces that would give the same sum of squared areas (the inverse of Simpson's index), so that
    crumbs beside one large piece leave it near 1. It is 0 for empty masks.
    """
    pieces, owner = find_pieces(runs, gap)
    areas = pieces.areas.astype(np.float64)
    totals = np.bincount(owner, areas, len(runs))
    return totals**2 / np.maximum(np.bincount(owner, areas**2, len(runs)), 1)


def are_scattered(counts: Float64[np.ndarray, " instances"], least: float) -> bool:
    """Whether instances seem to be several objects each that share a value, judged by their numbers of pieces.

    Args:
        counts: What ``count_pieces`` gives.
        least: The number of pieces from which on the median instance is suspicious.
    """
    return bool(counts.sum() >= MIN_SCATTERED and np.median(counts) >= least)


def _link(
    size: tuple[int, int], owner: np.ndarray, column: np.ndarray, top: np.ndarray, bottom: np.ndarray, gap: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of parts of columns (``split_columns``) that have one owner and are at most ``gap`` pixels apart."""
    stride = size[0] + 2 * gap + 1  # so that rows of two columns never meet
    column_key = (owner * (size[1] + gap + 1) + column) * stride
    tops, bottoms = column_key + top + gap, column_key + bottom + gap
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for distance in range(gap + 2):
        shift = distance * stride
        begin = np.searchsorted(bottoms, column_key + shift + top, "left")
        end = np.searchsorted(tops, column_key + shift + bottom + 2 * gap, "right")
        pairs.append(expand_ranges(begin, np.maximum(end - begin, 0)))
    return np.concatenate([first for first, _ in pairs]), np.concatenate([second for _, second in pairs])
