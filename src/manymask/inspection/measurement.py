"""Facts of one image: what a single look at its pixels and labels finds, in a few numbers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from scipy.spatial import KDTree
from torch import Tensor
from torchvision import ops

from manymask.core import Overlaps, RunLengths, Sample, compute_iou, encode_layers, intersect_runs
from manymask.core.components import find_pieces, find_touching
from manymask.core.runs import expand_ranges
from manymask.imaging.intensities import keep_differences

DUPLICATE_IOU = 0.9
"""Mask IoU from which two masks show one object, labelled twice or in two classes; AP's strictest threshold is 0.95."""

# Of images with more pixels than this, percentiles, trends and hashes are taken of every n-th row and column.
_MAX_LOOKED_AT = 1 << 20
# Where no pixel is 0, an instance this many times larger than the median one is taken for background. The grains of a
# tessellation also fill their image, but only a rare one is that large.
_MIN_BACKGROUND_RATIO = 10
# Boxes are compared in blocks of this many, so that memory does not grow with instances x instances.
_BOX_BLOCK = 256
_HASH_SIDE = 32
# Of the range of an image in colour, that its channels differ by on average; JPEG makes grey images differ by less.
_MIN_COLOR = 0.02


@dataclass(frozen=True, eq=False)
class InstanceFacts:
    """The instances of an image; row i is id i + 1.

    Attributes:
        labels: Class index.
        iscrowd: Whether it is a COCO crowd region; such rows have no neighbours and no pieces.
        areas: Pixels.
        boxes: x1 y1 x2 y2 of the mask, x2 and y2 exclusive.
        box_iou: Highest IoU of its box with that of another one of its class.
        mask_iou: The same of masks.
        is_touching: Whether it shares an edge of a pixel, or a pixel, with another one.
        is_overlapping: Whether it shares pixels with another one.
        duplicate_of: First row before it of its class whose mask is the same or nearly so (``DUPLICATE_IOU``), or -1.
        class_twin_of: The same of another class.
        pieces: Areas, largest first, of the pieces of each row that is in several pieces far from each other.
        is_occluded: Whether it is in such pieces and lies behind others: most pixels of the straight line between its
            two largest pieces, where they are nearest, are on other instances (those that are background aside).
    """

    labels: Int64[np.ndarray, " instances"]
    iscrowd: Bool[np.ndarray, " instances"]
    areas: Int64[np.ndarray, " instances"]
    boxes: Float32[np.ndarray, "instances 4"]
    box_iou: Float64[np.ndarray, " instances"]
    mask_iou: Float64[np.ndarray, " instances"]
    is_touching: Bool[np.ndarray, " instances"]
    is_overlapping: Bool[np.ndarray, " instances"]
    duplicate_of: Int64[np.ndarray, " instances"]
    class_twin_of: Int64[np.ndarray, " instances"]
    pieces: dict[int, tuple[int, ...]]
    is_occluded: Bool[np.ndarray, " instances"]

    @property
    def piece_counts(self) -> Float64[np.ndarray, " instances"]:
        """The number of pieces of each row as ``core.components.count_pieces`` counts; 1 where others lie in front."""
        counts = np.ones(len(self.areas))
        for row, areas in self.pieces.items():
            if not self.is_occluded[row]:
                counts[row] = sum(areas) ** 2 / sum(area**2 for area in areas)
        return counts

    @property
    def is_object(self) -> Bool[np.ndarray, " instances"]:
        """Whether a row is to be found: it has pixels and is no crowd region."""
        return (self.areas > 0) & ~self.iscrowd


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """One image and its instances. Values are shares of an integer type's maximum; floats as they are.

    Attributes:
        name: The image's name.
        path: The image file.
        size: (height, width) in pixels.
        num_channels: As the file has them, without alpha.
        dtype: Type of its values, such as ``uint8``.
        value_range: Smallest and largest value; NaN where one is NaN.
        is_finite: Whether no value is NaN or infinite. The next four are 0 where not.
        dark_and_bright: 1 % and 99.8 % value over all channels.
        channel_ranges: 0.1 % and 99.9 % value of each channel.
        trends: Lower less upper and right less left half's mean grey, in units of the image's deviation.
        is_in_color: Whether its channels differ by more than 2 % of its range on average.
        has_bright_objects: Whether its objects are brighter than the rest; None where there are none, or is no rest.
        hash: 64 bits that images alike share (``hash_grey``); None where the image is constant.
        pixels_digest: Equal for equal pixels of equal type only.
        labels_digest: Equal for equal masks of equal classes only, in whatever order.
        instances: The instances.
    """

    name: str
    path: Path
    size: tuple[int, int]
    num_channels: int
    dtype: str
    value_range: tuple[float, float]
    is_finite: bool
    dark_and_bright: tuple[float, float]
    channel_ranges: tuple[tuple[float, float], ...]
    trends: tuple[float, float]
    is_in_color: bool
    has_bright_objects: bool | None
    hash: int | None
    pixels_digest: bytes
    labels_digest: bytes
    instances: InstanceFacts

    @property
    def is_constant(self) -> bool:
        """Whether all values are the same."""
        return self.value_range[0] == self.value_range[1]


def measure_sample(sample: Sample) -> ImageFacts:
    """Look at one image and its labels once."""
    pixels = sample.pixels
    runs = encode_layers(sample.layers, len(sample.labels))
    low, high = float(pixels.min()), float(pixels.max())
    is_finite = bool(np.isfinite([low, high]).all())
    scale = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "iu" else 1.0
    step = max(1, int(np.ceil(np.sqrt(pixels.shape[0] * pixels.shape[1] / _MAX_LOOKED_AT))))
    looked_at = (pixels if is_finite else np.zeros_like(pixels))[::step, ::step]
    differences = keep_differences(looked_at)
    grey = differences @ np.full(pixels.shape[2], 1 / pixels.shape[2], dtype=np.float32)
    dark, bright = np.percentile(looked_at, [1, 99.8]) / scale
    channels = np.percentile(looked_at, [0.1, 99.9], axis=(0, 1)) / scale
    return ImageFacts(
        name=sample.name,
        path=sample.path,
        size=(pixels.shape[0], pixels.shape[1]),
        num_channels=pixels.shape[2],
        dtype=str(pixels.dtype),
        value_range=(low / scale, high / scale),
        is_finite=is_finite,
        dark_and_bright=(float(dark), float(bright)),
        channel_ranges=tuple((low, high) for low, high in zip(*channels.tolist(), strict=True)),
        trends=(_measure_trend(grey), _measure_trend(grey.T)),
        is_in_color=bool(np.ptp(differences, axis=2).mean() > _MIN_COLOR * np.ptp(np.percentile(grey, [1, 99.8]))),
        has_bright_objects=_compare_objects(grey, sample.layers.as_subclass(Tensor)[:, ::step, ::step].numpy()),
        hash=hash_grey(grey) if is_finite and low < high else None,
        pixels_digest=_digest(pixels),
        labels_digest=_digest_labels(runs, sample.labels, sample.iscrowd),
        instances=measure_instances(runs, sample.labels, sample.iscrowd),
    )


def _compare_objects(
    grey: Float[np.ndarray, "height width"], layers: Int[np.ndarray, "layers height width"]
) -> bool | None:
    """Whether objects are brighter than the rest; None where there are none, or is no rest."""
    is_object = layers.any(axis=0)
    if is_object.all() or not is_object.any():
        return None
    return bool(grey[is_object].mean() > grey[~is_object].mean())


def _measure_trend(grey: Float[np.ndarray, "_ _"]) -> float:
    """Mean of the second half of the rows less that of the first, in units of the deviation."""
    deviation = float(grey.std())
    half = len(grey) // 2
    if half == 0 or deviation == 0:
        return 0.0
    return float(grey[len(grey) - half :].mean() - grey[:half].mean()) / deviation


def hash_grey(grey: Float[np.ndarray, "_ _"]) -> int:
    """Perceptual hash: signs of the 64 lowest frequencies of a small copy against their median (Zauner 2010, pHash).

    Copies that are a little brighter, stored with other bits or resized have hashes that differ in few bits; turned and
    mirrored ones have others.
    """
    small = cv2.resize(np.ascontiguousarray(grey), (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    frequencies = np.asarray(cv2.dct(small - small.mean()), dtype=grey.dtype)[:8, :8].ravel()
    return int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")


def _digest(*arrays: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _digest_labels(
    runs: RunLengths, labels: Int64[np.ndarray, " instances"], iscrowd: Bool[np.ndarray, " instances"]
) -> bytes:
    """A digest that does not see the order of the instances, nor those without pixels."""
    rows = np.flatnonzero(runs.areas)
    first = runs.start[runs.row_splits[rows]]
    rows = rows[np.lexsort((iscrowd[rows], labels[rows], runs.areas[rows], first))]
    runs = runs.select(rows)
    return _digest(np.array(runs.size), runs.owner, runs.start, runs.length, labels[rows], iscrowd[rows])


def measure_instances(
    runs: RunLengths, labels: Int64[np.ndarray, " instances"], iscrowd: Bool[np.ndarray, " instances"]
) -> InstanceFacts:
    """Measure every instance and its nearest neighbour; no step needs instances x pixels or instances x instances."""
    num_instances = len(labels)
    box_iou, mask_iou = np.zeros(num_instances), np.zeros(num_instances)
    is_touching, is_overlapping = np.zeros(num_instances, dtype=bool), np.zeros(num_instances, dtype=bool)
    duplicate_of, class_twin_of = np.full(num_instances, -1), np.full(num_instances, -1)
    areas, boxes = runs.areas, runs.boxes
    rows = np.flatnonzero((areas > 0) & ~iscrowd)
    objects = runs.select(rows)
    is_touching[rows] = find_touching(objects)
    box_iou[rows] = _find_neighbor_box_iou(boxes[rows], labels[rows])
    # Each pair of instances comes twice, and each instance once with itself, which is left out.
    overlaps = intersect_runs(objects, objects)
    is_pair = overlaps.first != overlaps.second
    is_overlapping[rows[overlaps.first[is_pair]]] = True
    pairs = Overlaps(overlaps.first[is_pair], overlaps.second[is_pair], overlaps.intersection[is_pair])
    first, second, iou = rows[pairs.first], rows[pairs.second], compute_iou(pairs, areas[rows], areas[rows])
    is_alike = labels[first] == labels[second]
    np.maximum.at(mask_iou, first[is_alike], iou[is_alike])
    is_twin = (iou >= DUPLICATE_IOU) & (second < first)
    for twin_of, is_meant in ((duplicate_of, is_twin & is_alike), (class_twin_of, is_twin & ~is_alike)):
        twins, at = np.unique(first[is_meant], return_index=True)
        twin_of[twins] = second[is_meant][at]
    pieces, occluded = _measure_pieces(objects)
    return InstanceFacts(
        labels=labels,
        iscrowd=iscrowd,
        areas=areas,
        boxes=boxes,
        box_iou=box_iou,
        mask_iou=mask_iou,
        is_touching=is_touching,
        is_overlapping=is_overlapping,
        duplicate_of=duplicate_of,
        class_twin_of=class_twin_of,
        pieces={int(rows[row]): found for row, found in pieces.items()},
        is_occluded=np.isin(np.arange(num_instances), rows[occluded]),
    )


def find_background(
    areas: Int64[np.ndarray, " instances"], boxes: Float32[np.ndarray, "instances 4"], size: tuple[int, int]
) -> Bool[np.ndarray, " instances"]:
    """Instances that touch all four borders of an image and cover more than half of it."""
    height, width = size
    return (boxes == [0, 0, width, height]).all(axis=1) & (areas > height * width / 2)


def find_likely_background(
    areas: Int64[np.ndarray, " instances"], boxes: Float32[np.ndarray, "instances 4"], size: tuple[int, int]
) -> Bool[np.ndarray, " instances"]:
    """Instances that cover at most half of an image and still are likely its background, since there is no other.

    All instances together leave no pixel without an id, and this one touches all four borders and is by far the largest
    (``_MIN_BACKGROUND_RATIO``), as the background of a crowded image is. Only for instances that share no pixels.
    """
    height, width = size
    if areas.sum() != height * width:
        return np.zeros(len(areas), dtype=bool)
    is_large = (areas > _MIN_BACKGROUND_RATIO * np.median(areas)) & (areas <= height * width / 2)
    return (boxes == [0, 0, width, height]).all(axis=1) & is_large


def _measure_pieces(runs: RunLengths) -> tuple[dict[int, tuple[int, ...]], Int64[np.ndarray, " occluded"]]:
    """For each row in several pieces their areas, largest first; and which of these rows are occluded."""
    pieces, owner = find_pieces(runs)
    piece_areas = pieces.areas
    order = np.lexsort((-piece_areas, owner))
    several = group_several(owner, order)
    rows = np.array(list(several), dtype=np.int64)
    largest = np.array([places[:2] for places in several.values()], dtype=np.int64).ravel()
    areas = {row: tuple(piece_areas[places].tolist()) for row, places in several.items()}
    return areas, rows[_find_occluded(runs, rows, pieces.select(largest))]


def group_several(
    owner: Int64[np.ndarray, " pieces"], order: Int64[np.ndarray, " pieces"]
) -> dict[int, Int64[np.ndarray, " several"]]:
    """For each owner of several pieces their places, in the given order, which must ascend by owner; in one pass."""
    parts = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    return {int(owner[part[0]]): part for part in parts if len(part) > 1}


def _find_occluded(runs: RunLengths, rows: Int64[np.ndarray, " rows"], pieces: RunLengths) -> Bool[np.ndarray, " rows"]:
    """Whether most of what lies between the two given pieces of each row is on other rows."""
    place = (runs.areas, runs.boxes, runs.size)
    is_front = ~(find_background(*place) | find_likely_background(*place))[runs.owner]
    zeros = np.zeros(int(is_front.sum()), dtype=np.int64)
    front = RunLengths.from_intervals(runs.size, 1, zeros, runs.start[is_front], runs.length[is_front])
    splits, piece_splits = runs.row_splits, pieces.row_splits
    is_occluded = np.zeros(len(rows), dtype=bool)
    for place, row in enumerate(rows.tolist()):
        begin, middle, end = piece_splits[2 * place : 2 * place + 3].tolist()
        line = _join_nearest(pieces, slice(begin, middle), slice(middle, end))
        between = line[~_are_on(line, runs, slice(splits[row], splits[row + 1]))]
        is_occluded[place] = _are_on(between, front, slice(None)).mean() > 0.5
    return is_occluded


def _join_nearest(runs: RunLengths, first: slice, second: slice) -> Int64[np.ndarray, " pixels"]:
    """Positions on the straight line between the nearest pixels of two ranges of runs."""
    here, there = (_list_pixels(runs, part) for part in (first, second))
    tree: Any = KDTree(here)
    distances, nearest = cast(tuple[np.ndarray, np.ndarray], tree.query(there))
    closest = int(np.argmin(distances))
    begin, end = here[nearest[closest]], there[closest]
    num_steps = int(np.abs(end - begin).max())
    column, row = np.rint(begin + (end - begin) * np.arange(num_steps + 1)[:, None] / num_steps).astype(np.int64).T
    return column * runs.size[0] + row


def _list_pixels(runs: RunLengths, part: slice) -> Int64[np.ndarray, "pixels 2"]:
    """Column and row of every pixel of a range of runs."""
    _, position = expand_ranges(runs.start[part], runs.length[part])
    return np.stack(np.divmod(position, runs.size[0]), axis=1)


def _are_on(positions: Int64[np.ndarray, " pixels"], runs: RunLengths, part: slice) -> Bool[np.ndarray, " pixels"]:
    """Whether each position is on one of a range of runs of one owner."""
    start, length = runs.start[part], runs.length[part]
    place = np.searchsorted(start, positions, "right") - 1
    return positions < np.append(start + length, 0)[place]  # before the first one, place -1 finds the 0


def _find_neighbor_box_iou(
    boxes: Float32[np.ndarray, "instances 4"], labels: Int64[np.ndarray, " instances"]
) -> Float64[np.ndarray, " instances"]:
    """Highest IoU of each box with another one of its class: a sweep from left to right, in blocks."""
    highest = np.zeros(len(boxes))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(boxes[rows, 0], kind="stable")]
        ordered = boxes[rows].astype(np.float64)
        for begin in range(0, len(rows), _BOX_BLOCK):
            block = ordered[begin : begin + _BOX_BLOCK]
            end = int(np.searchsorted(ordered[:, 0], np.max(block[:, 2])))  # the others begin right of the block
            iou = ops.box_iou(torch.from_numpy(block), torch.from_numpy(ordered[begin:end])).numpy()
            np.fill_diagonal(iou, 0)
            here, there = rows[begin : begin + len(block)], rows[begin:end]
            highest[here] = np.maximum(highest[here], iou.max(axis=1))
            highest[there] = np.maximum(highest[there], iou.max(axis=0))
    return highest
