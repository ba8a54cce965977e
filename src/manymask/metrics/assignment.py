"""The assignment of largest weight among sparse pairs, in near-linear time where pairs are contested locally."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

_ROUNDS = 10  # of settling pairs that are sure; the first two settle nearly all (crowded cells, thrice predicted)
_BATCH = 1000  # rows that are solved together: the solver's time grows with their square


def find_assignment(
    rows: Int64[np.ndarray, " pairs"], columns: Int64[np.ndarray, " pairs"], weights: Float64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, " chosen"]:
    """Choose pairs so that no row and no column occurs twice and the sum of weights is largest.

    Args:
        rows: The row of each pair, such as a prediction.
        columns: The column of each pair, such as an instance.
        weights: What each pair is worth, above 0.

    Returns:
        The places of the chosen pairs, ascending.
    """
    is_chosen = np.zeros(len(weights), dtype=bool)
    left = np.arange(len(weights))
    for _ in range(_ROUNDS):
        # A pair worth more than the best other pair of its row and that of its column together is in every solution:
        # to leave it out would gain no more than these two.
        own = weights[left]
        is_sure = own > _find_rivals(rows[left], own) + _find_rivals(columns[left], own)
        if not is_sure.any():
            break
        sure = left[is_sure]
        is_chosen[sure] = True
        left = left[~(np.isin(rows[left], rows[sure]) | np.isin(columns[left], columns[sure]))]
    for batch in _split_components(rows[left], columns[left]):
        part = left[batch]
        is_chosen[part[_solve(rows[part], columns[part], weights[part])]] = True
    return np.flatnonzero(is_chosen)


def _find_rivals(keys: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest weight among the other entries of the same key, for each entry; 0 where there is no other."""
    order = np.lexsort((weights, keys))
    is_last = np.append(np.diff(keys[order]) > 0, True)[: len(order)]
    is_first = np.append(True, is_last[:-1])[: len(order)]
    # In ascending order the rival of the largest is the one before it, that of all others is the largest.
    before = np.where(is_first, 0.0, np.append(0.0, weights[order][:-1])[: len(order)])
    largest = weights[order][is_last][np.cumsum(is_first) - 1]
    rivals = np.empty_like(weights)
    rivals[order] = np.where(is_last, before, largest)
    return rivals


def _split_components(rows: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """The places of pairs in groups that share no row and no column, each of about ``_BATCH`` rows or one component."""
    if not len(rows):
        return []
    row, column = (np.unique(keys, return_inverse=True)[1] for keys in (rows, columns))
    num_rows, total = row.max() + 1, row.max() + column.max() + 2
    graph = csr_array((np.ones(len(row)), (row, num_rows + column)), shape=(total, total))
    _, component = connected_components(graph, directed=False)
    batch = (np.cumsum(np.bincount(component[:num_rows])) // _BATCH)[component[row]]
    return [np.flatnonzero(batch == number) for number in np.unique(batch)]


def _solve(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``find_assignment`` by scipy's solver of full matchings (Jonker and Volgenant 1987)."""
    row_ids, row = np.unique(rows, return_inverse=True)
    column_ids, column = np.unique(columns, return_inverse=True)
    # A full matching always exists, and has as many edges whatever it is: each row may also take a column of its own,
    # at the cost of a pair that is worth nothing.
    top = weights.max() + 1
    spare = np.arange(len(row_ids))
    cost = np.concatenate([top - weights, np.full(len(row_ids), top)])
    places = (np.concatenate([row, spare]), np.concatenate([column, len(column_ids) + spare]))
    num_columns = len(column_ids) + len(row_ids)
    graph = csr_array((cost, places), shape=(len(row_ids), num_columns))
    chosen_row, chosen_column = min_weight_full_bipartite_matching(graph)
    return np.flatnonzero(np.isin(row * num_columns + column, chosen_row * num_columns + chosen_column))
