"""The slow and obvious oracle: what manymask.core does, on dense stacks of masks.

A stack is (instances, height, width) bool. Nothing here shares code with manymask: loops and full-size masks are the
point.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from manymask.core import RunLengths


def encode_coco(masks: np.ndarray) -> list[Any]:
    """COCO's compressed RLE of each mask by pycocotools, with counts as str."""
    rles: list[Any] = [coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in rles]


def decode_coco(rles: list[Any], size: tuple[int, int]) -> np.ndarray:
    """The stack that pycocotools makes of compressed RLEs."""
    masks = [coco_mask.decode(rle).astype(bool) for rle in rles]
    return np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)


def count_pixels(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts of one mask: background first, then alternating, in column order."""
    counts = [0]
    value = False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def encode_runs(masks: np.ndarray) -> RunLengths:
    """Runs of each mask, counted pixel by pixel."""
    triples = []
    for row, mask in enumerate(masks):
        ends = np.cumsum(count_pixels(mask)).tolist()
        triples += [(row, begin, end - begin) for begin, end in list(pairwise(ends))[::2]]
    owner, start, length = np.array(triples, dtype=np.int64).reshape(-1, 3).T
    return RunLengths(masks.shape[1:], len(masks), owner, start, length)


def decode_runs(runs: RunLengths) -> np.ndarray:
    """The stack of runs, painted pixel by pixel."""
    height, width = runs.size
    masks = np.zeros((runs.num_instances, height, width), dtype=bool)
    for owner, start, length in zip(runs.owner, runs.start, runs.length, strict=True):
        for position in range(start, start + length):
            masks[owner, position % height, position // height] = True
    return masks


def areas(masks: np.ndarray) -> np.ndarray:
    """Pixels of each mask."""
    return masks.sum(axis=(1, 2))


def boxes(masks: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 of each mask, x2 and y2 exclusive; zeros for an empty one."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        y, x = np.nonzero(mask)
        if len(y):
            box[:] = x.min(), y.min(), x.max() + 1, y.max() + 1
    return boxes


def intersections(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels that each mask of the first stack shares with each of the second, (first, second)."""
    shared = [[(a & b).sum() for b in second] for a in first]
    return np.array(shared, dtype=np.int64).reshape(len(first), len(second))


def iou(first: np.ndarray, second: np.ndarray, second_iscrowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union by pycocotools, over the first's area where the second is a crowd region."""
    if len(first) == 0 or len(second) == 0:
        return np.zeros((len(first), len(second)))
    iscrowd = np.zeros(len(second), dtype=bool) if second_iscrowd is None else second_iscrowd
    return np.asarray(coco_mask.iou(encode_coco(first), encode_coco(second), iscrowd.astype(np.uint8).tolist()))


def select(masks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The given masks, by indices or flags."""
    return masks[rows]


def concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Stacks behind each other."""
    return np.concatenate(parts)


def paint_layers(masks: np.ndarray) -> np.ndarray:
    """Ids 1..N in layers, each in the first layer whose pixels it needs are all free; at least one layer."""
    layers = [np.zeros(masks.shape[1:], dtype=np.int32)]
    for id_, mask in enumerate(masks, start=1):
        layer = next((layer for layer in layers if not layer[mask].any()), None)
        if layer is None:
            layers.append(layer := np.zeros(masks.shape[1:], dtype=np.int32))
        layer[mask] = id_
    return np.stack(layers)


def decode_layers(layers: np.ndarray, num_instances: int) -> np.ndarray:
    """The stack of ids 1..N in layers."""
    masks = [(layers == id_).any(axis=0) for id_ in range(1, num_instances + 1)]
    return np.array(masks, dtype=bool).reshape(num_instances, *layers.shape[1:])


def assert_same_runs(found: RunLengths, expected: RunLengths) -> None:
    """Both are equal, field by field, types too."""
    assert (tuple(found.size), found.num_instances) == (tuple(expected.size), expected.num_instances)
    for name in ("owner", "start", "length"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name, strict=True)


def assert_valid_runs(runs: RunLengths) -> None:
    """What RunLengths promises: int64, sorted by owner and start, inside the image, and no touching runs."""
    assert {a.dtype for a in (runs.owner, runs.start, runs.length)} == {np.dtype(np.int64)}
    assert ((runs.owner >= 0) & (runs.owner < runs.num_instances)).all()
    assert (runs.start >= 0).all()
    assert (runs.length >= 1).all()
    end = runs.start + runs.length
    assert (end <= runs.size[0] * runs.size[1]).all()
    is_next_owner = runs.owner[1:] > runs.owner[:-1]
    is_same_owner = runs.owner[1:] == runs.owner[:-1]
    assert (is_next_owner | (is_same_owner & (runs.start[1:] > end[:-1]))).all()
