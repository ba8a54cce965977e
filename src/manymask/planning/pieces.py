"""Pieces of instances that lie far apart."""

from typing import Any, cast

import numpy as np
from jaxtyping import Int64
from scipy.sparse import coo_array  # pyright: ignore[reportMissingTypeStubs]
from scipy.sparse.csgraph import (  # pyright: ignore[reportMissingTypeStubs]
    connected_components,  # pyright: ignore[reportUnknownVariableType]
)

from manymask.core import RunLengths

FAR_GAP = 2
"""Pieces with more background pixels than this between them, across and down, are far from each other."""


def split_columns(
    runs: RunLengths,
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Runs cut where a column of the image ends.

    Returns:
        Owner, column, first row and row after the last one of each; ascending by owner, column and row.
    """
    height = max(runs.size[0], 1)
    first, last = runs.start // height, (runs.start + runs.length - 1) // height
    count = last - first + 1
    source = np.repeat(np.arange(len(count)), count)
    column = first[source] + np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
    top = np.maximum(runs.start[source] - column * height, 0)
    bottom = np.minimum((runs.start + runs.length)[source] - column * height, height)
    return runs.owner[source], column, top, bottom


def find_pieces(runs: RunLengths) -> tuple[RunLengths, Int64[np.ndarray, " pieces"]]:
    """Cut every instance into pieces that are more than ``FAR_GAP`` pixels apart.

    Returns:
        The pieces as runs, and the row of the instance that each is of, ascending. Empty masks have no piece.
    """
    owner, column, top, bottom = split_columns(runs)
    first, second = _link(runs.size, owner, column, top, bottom)
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


def _link(
    size: tuple[int, int], owner: np.ndarray, column: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of runs within columns that are of one owner and near each other."""
    stride = size[0] + 2 * FAR_GAP + 1  # so that rows of two columns never meet
    column_key = (owner * (size[1] + FAR_GAP + 1) + column) * stride
    tops, bottoms = column_key + top + FAR_GAP, column_key + bottom + FAR_GAP
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for distance in range(FAR_GAP + 2):
        shift = distance * stride
        begin = np.searchsorted(bottoms, column_key + shift + top, "left")
        end = np.searchsorted(tops, column_key + shift + bottom + 2 * FAR_GAP, "right")
        count = np.maximum(end - begin, 0)
        first = np.repeat(np.arange(len(count)), count)
        pairs.append((first, begin[first] + np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)))
    return np.concatenate([first for first, _ in pairs]), np.concatenate([second for _, second in pairs])
