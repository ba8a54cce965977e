"""Which boxes of two sets may overlap by half, found without looking at all pairs."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.spatial import KDTree

_SLACK = 1e-6  # far above what rounding and the tolerance of an IoU threshold change, far below a pixel's share


def find_close_boxes(
    boxes: Float64[np.ndarray, "boxes 4"], others: Float64[np.ndarray, "others 4"], *, alike: bool
) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """All pairs in which the centre of the other box lies in the box, and some more that lie near.

    Two boxes with an IoU of at least 0.5 share at least half of each side of either: their sides differ by a factor of
    at most 2, and each holds the other's centre. So boxes are taken by their size, in powers of 2 of width and height,
    and centres are looked up in a tree with that size as the unit of length. Time and memory grow with the number of
    boxes and of boxes near each other (of like size, where ``alike``), not with boxes x others.

    Args:
        boxes: x1 y1 x2 y2 in pixels; a box without an area is in no pair.
        others: The boxes to find.
        alike: Leave out pairs whose widths or heights differ by more than a factor of 4, and some beyond one of 2.

    Returns:
        The row in ``boxes`` and in ``others`` of each pair, each pair once, in no order.
    """
    (centers, sides), (other_centers, other_sides) = (_measure(values) for values in (boxes, others))
    sizes, other_sizes = (np.log2(s, out=np.full_like(s, np.nan), where=s > 0) for s in (sides, other_sides))
    levels = np.floor(sizes)
    rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for level in np.unique(levels[~np.isnan(levels).any(axis=1)], axis=0):
        own = np.flatnonzero((levels == level).all(axis=1))
        # Of sizes in [level, level + 1) the half and the double lie in [level - 1, level + 2).
        limit = 1.5 + _SLACK if alike else np.inf
        near = np.flatnonzero((np.abs(other_sizes - level - 0.5) <= limit).all(axis=1))
        tree, other_tree = KDTree(centers[own] / 2**level), KDTree(other_centers[near] / 2**level)
        found = tree.sparse_distance_matrix(other_tree, 1 + _SLACK, p=np.inf, output_type="ndarray")
        rows.append(own[found["i"]])
        columns.append(near[found["j"]])
    return np.concatenate(rows), np.concatenate(columns)


def _measure(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and sides (x, y) of boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
