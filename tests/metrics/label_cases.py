"""Label images of touching objects, and predictions of them: all that StarDist and Cellpose can score."""

import zlib

import numpy as np
from scipy.spatial import KDTree

from manymask.core import InstanceLayers, Instances

Pair = tuple[np.ndarray, np.ndarray]
"""Label images (height, width) of the ground truth and of the predictions, ids 1..N without gaps."""

_SHAPE = (120, 140)


def make_labels(rng: np.random.Generator, count: int) -> np.ndarray:
    """The nearest of ``count`` random points, as far as a radius of its own: most objects touch their neighbours."""
    points = rng.random((count, 2)) * _SHAPE
    distance, nearest = KDTree(points).query(np.moveaxis(np.indices(_SHAPE), 0, -1))
    radius = rng.uniform(0.3, 1.6, count) * np.sqrt(_SHAPE[0] * _SHAPE[1] / count / np.pi)
    return renumber(np.where(distance <= radius[nearest], nearest + 1, 0))


def renumber(labels: np.ndarray) -> np.ndarray:
    """Ids 1..N without gaps; 0 stays."""
    ids = np.unique(labels)
    return np.searchsorted(ids[ids > 0], labels, "left").astype(np.int32) * (labels > 0) + (labels > 0)


def perturb(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Shift all; then merge, split, drop, erode and add objects, each of some."""
    result = np.roll(labels, rng.integers(-2, 3, 2), axis=(0, 1))
    kinds = rng.choice(5, labels.max() + 1, p=[0.4, 0.15, 0.15, 0.1, 0.2])
    y, x = np.indices(labels.shape)
    for id_ in range(1, labels.max() + 1):
        mask = result == id_
        if kinds[id_] == 1:
            result[mask] = max(id_ - 1, 1)
        elif kinds[id_] == 2:
            side, cut = rng.choice([-1, 1]) * x, rng.uniform(0.2, 0.8)
            result[mask & (side > np.quantile(side[mask], cut) if mask.any() else mask)] += 10_000
        elif kinds[id_] == 3:
            result[mask] = 0
        elif kinds[id_] == 4:
            result[mask & ((x + y) % rng.integers(2, 6) == 0)] = 0
    added = make_labels(rng, 40)
    return renumber(np.where((result == 0) & (added % 4 == 1), added + 20_000, result))


def make_label_cases() -> dict[str, list[Pair]]:
    """Each a data set."""
    nothing, one = np.zeros(_SHAPE, np.int32), np.zeros(_SHAPE, np.int32)
    one[20:40, 30:60] = 1
    cases: dict[str, list[Pair]] = {}
    for seed, count in enumerate((60, 100, 150, 200, 250, 300)):
        rng = np.random.default_rng(seed)
        truths = [make_labels(rng, size) for size in (count, count // 2)]
        cases[f"crowded {seed}"] = [(truth, perturb(rng, truth)) for truth in truths]
    (truth, found), (other, _) = cases["crowded 1"]
    chequered = one * (np.indices(_SHAPE).sum(axis=0) % 2).astype(np.int32)
    # Ids of pixels in a row: first with first has an IoU of 7 / 13; second with first and first with second, 3 / 10.
    two, swapped = np.zeros(_SHAPE, np.int32), np.zeros(_SHAPE, np.int32)
    two[5, :13] = np.repeat([1, 2], [10, 3])
    swapped[5, :13] = np.repeat([2, 1], [3, 10])
    return cases | {
        "no truth": [(nothing, found), (truth, found)],
        "no predictions": [(truth, nothing), (truth, found)],
        "nothing found anywhere": [(truth, nothing), (other, nothing)],
        "neither": [(nothing, nothing), (truth, found)],
        "one instance": [(one, np.roll(one, 5, axis=1))],
        "one instance, IoU of 0.5": [(one, chequered)],
        "one good pair against two poor ones": [(two, swapped)],
        "all wrong": [(one, np.roll(one, 40, axis=1)), (truth, np.roll(one, 60, axis=1))],
        "perfect": [(truth, truth), (one, one)],
    }


def hash_pairs(pairs: list[Pair]) -> int:
    """Tells whether the label images are those that the golden numbers were made of."""
    return zlib.crc32(np.stack(pairs).astype("<i4").tobytes())


def to_instances(labels: np.ndarray) -> Instances:
    """All of one class, with score 1."""
    return Instances.from_layers(InstanceLayers(labels[None]), np.ones(labels.max(), dtype=np.int64))


LABEL_CASES = make_label_cases()
