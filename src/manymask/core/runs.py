"""Runs: the masks of all instances of an image as (owner, start, length), in COCO's column order.

Position ``p`` of an image of ``height`` rows is the pixel at row ``p % height`` and column ``p // height``. Runs are
kept sorted by owner and start, and runs of one owner never touch, so that two equal masks have equal runs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer

# Crops are turned into runs in groups of at most this many pixels (one byte each), so that memory does not grow with
# the number of instances.
CROP_PIXELS = 1 << 22
# Boxes are measured of about so many runs at a time (some 60 bytes each).
GROUP_RUNS = 1 << 19


@dataclass(frozen=True, eq=False)
class RunLengths:
    """Masks of all instances of one image.

    Attributes:
        size: (height, width) of the image in pixels.
        num_instances: Number of masks; an instance without runs has an empty mask.
        owner: Row of the instance that a run belongs to, 0-based, ascending.
        start: First position of a run in column order.
        length: Number of positions of a run, at least 1.
    """

    size: tuple[int, int]
    num_instances: int
    owner: Int64[np.ndarray, " runs"]
    start: Int64[np.ndarray, " runs"]
    length: Int64[np.ndarray, " runs"]

    @classmethod
    def from_intervals(
        cls,
        size: tuple[int, int],
        num_instances: int,
        owner: Integer[np.ndarray, " runs"],
        start: Integer[np.ndarray, " runs"],
        length: Integer[np.ndarray, " runs"],
    ) -> "RunLengths":
        """Make runs of intervals in any order: drop empty ones, join those of one owner that touch or overlap."""
        keep = length > 0
        owner, start, length = (a[keep].astype(np.int64) for a in (owner, start, length))
        stride = size[0] * size[1] + 1  # one more than the image, so that intervals of two owners never touch
        begin = owner * stride + start
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], (begin + length)[order]
        furthest_end = np.maximum.accumulate(end)
        is_first = np.ones(len(begin), dtype=bool)
        is_first[1:] = begin[1:] > furthest_end[:-1]
        first = np.flatnonzero(is_first)
        last = np.append(first[1:], len(begin))[: len(first)] - 1
        merged_owner, merged_start = np.divmod(begin[first], stride)
        return cls(size, num_instances, merged_owner, merged_start, furthest_end[last] - begin[first])

    @classmethod
    def empty(cls, size: tuple[int, int], num_instances: int = 0) -> "RunLengths":
        """Runs of ``num_instances`` empty masks."""
        none = np.zeros(0, dtype=np.int64)
        return cls(size, num_instances, none, none, none)

    def __len__(self) -> int:
        return self.num_instances

    @property
    def row_splits(self) -> Int64[np.ndarray, " splits"]:
        """Where the runs of each instance begin: those of row i are ``row_splits[i]:row_splits[i + 1]``."""
        return np.searchsorted(self.owner, np.arange(self.num_instances + 1))

    @property
    def areas(self) -> Int64[np.ndarray, " instances"]:
        """Pixels of each instance."""
        # The exact sum of integers far below 2^53, which bincount's float64 weights hold.
        return np.bincount(self.owner, weights=self.length, minlength=self.num_instances).astype(np.int64)

    @property
    def boxes(self) -> Float32[np.ndarray, "instances 4"]:
        """Smallest boxes around the masks, x1 y1 x2 y2 in pixels, x2 and y2 exclusive; zeros for an empty mask."""
        boxes = np.zeros((self.num_instances, 4), dtype=np.float32)
        for rows, part in iterate_parts(self, GROUP_RUNS):
            boxes[rows] = part._measure_boxes()
        return boxes

    def _measure_boxes(self) -> Float32[np.ndarray, "instances 4"]:
        boxes = np.zeros((self.num_instances, 4), dtype=np.float32)
        if len(self.owner) == 0:
            return boxes
        height = self.size[0]
        first_column, first_row = np.divmod(self.start, height)
        last_column, last_row = np.divmod(self.start + self.length - 1, height)
        is_across = last_column > first_column  # such a run passes the bottom of one column and the top of the next
        first_row = np.where(is_across, 0, first_row)
        last_row = np.where(is_across, height - 1, last_row)
        splits = self.row_splits
        rows = np.flatnonzero(np.diff(splits))
        begin = splits[rows]
        boxes[rows, 0] = np.minimum.reduceat(first_column, begin)
        boxes[rows, 1] = np.minimum.reduceat(first_row, begin)
        boxes[rows, 2] = np.maximum.reduceat(last_column, begin) + 1
        boxes[rows, 3] = np.maximum.reduceat(last_row, begin) + 1
        return boxes

    def select(self, rows: Integer[np.ndarray, " selected"] | Bool[np.ndarray, " instances"]) -> "RunLengths":
        """Runs of the given rows (indices or a flag for each row), in that order."""
        rows = np.arange(self.num_instances)[rows]
        splits = self.row_splits
        new_owner, source = expand_ranges(splits[:-1][rows], np.diff(splits)[rows])
        return RunLengths(self.size, len(rows), new_owner, self.start[source], self.length[source])


def subtract_runs(first: RunLengths, second: RunLengths) -> RunLengths:
    """The pixels of each instance of one set that the instance of the same row of another set does not have.

    Raises:
        ValueError: The sets are of different sizes or numbers of instances.
    """
    if first.size != second.size or len(first) != len(second):
        raise ValueError(f"expected sets of one size, got {first.size} x {len(first)}, {second.size} x {len(second)}")
    stride = first.size[0] * first.size[1] + 1  # one more than the image, so that no run ends where another row begins
    begin, removed = first.owner * stride + first.start, second.owner * stride + second.start
    places = np.concatenate([begin, begin + first.length, removed, removed + second.length])
    # The first set counts 1 and the second one -1, so that a sum of 1 is in the first one only.
    steps = np.repeat([1, -1, -1, 1], [len(begin), len(begin), len(removed), len(removed)])
    order = np.argsort(places, kind="stable")
    places, inside = places[order], np.cumsum(steps[order])[:-1] == 1
    owner, start = np.divmod(places[:-1][inside], stride)
    return RunLengths.from_intervals(first.size, len(first), owner, start, np.diff(places)[inside])


def expand_ranges(
    begin: Int64[np.ndarray, " ranges"], length: Int64[np.ndarray, " ranges"]
) -> tuple[Int64[np.ndarray, " numbers"], Int64[np.ndarray, " numbers"]]:
    """List ``length[i]`` whole numbers from ``begin[i]`` on for each i: the i of each number, and the number itself."""
    index = np.repeat(np.arange(len(length)), length)
    return index, np.arange(len(index)) + (begin - (np.cumsum(length) - length))[index]


def iterate_groups(sizes: Integer[np.ndarray, " items"], most: int) -> Iterator[slice]:
    """Cut a row of items into groups whose sizes add up to ``most``, or of one item that is larger."""
    ends, begin = np.cumsum(sizes), 0
    while begin < len(sizes):
        done = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, done + most, "right")), begin + 1)
        yield slice(begin, end)
        begin = end


def iterate_parts(runs: RunLengths, num_runs: int) -> Iterator[tuple[slice, RunLengths]]:
    """The instances in parts of about ``num_runs`` runs, at least one part: the rows of each, and its runs."""
    splits = runs.row_splits
    for rows in iterate_groups(np.diff(splits), num_runs) if len(runs) else [slice(0, 0)]:
        here = slice(splits[rows.start], splits[rows.stop])
        owner = runs.owner[here] - rows.start
        yield rows, RunLengths(runs.size, rows.stop - rows.start, owner, runs.start[here], runs.length[here])


def concatenate_runs(parts: Sequence[RunLengths]) -> RunLengths:
    """Put the instances of several sets of runs of one image behind each other.

    Raises:
        ValueError: There are no parts, or they are of images of different sizes.
    """
    sizes = {part.size for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"expected runs of images of one size, got sizes {sorted(sizes)}")
    offsets = np.cumsum([0] + [part.num_instances for part in parts])
    return RunLengths(
        parts[0].size,
        int(offsets[-1]),
        np.concatenate([part.owner + offset for part, offset in zip(parts, offsets, strict=False)]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
    )


def encode_crops(crops: Iterable[tuple[int, int, Bool[np.ndarray, "_ _"]]], size: tuple[int, int]) -> RunLengths:
    """Turn masks that are known inside boxes only into runs of the whole image, without painting the image.

    Args:
        crops: For each instance the column and row of its crop's first pixel, and the crop, which lies in the image.
        size: (height, width) of the image.
    """
    parts: list[RunLengths] = []
    group: list[tuple[int, int, np.ndarray]] = []
    num_pixels = 0
    for crop in crops:
        if group and num_pixels + crop[2].size > CROP_PIXELS:
            parts.append(_encode_crop_group(group, size))
            group, num_pixels = [], 0
        group.append(crop)
        num_pixels += crop[2].size
    if group:
        parts.append(_encode_crop_group(group, size))
    return concatenate_runs(parts) if parts else RunLengths.empty(size)


def _encode_crop_group(group: list[tuple[int, int, np.ndarray]], size: tuple[int, int]) -> RunLengths:
    """One pass over the crops' columns laid end to end, each with a background pixel below so that no two join."""
    heights = np.array([crop.shape[0] for _, _, crop in group])
    widths = np.array([crop.shape[1] for _, _, crop in group])
    offsets = np.concatenate([[0], np.cumsum((heights + 1) * widths)])
    flat = np.zeros(int(offsets[-1]) + 1, dtype=np.int8)
    for (_, _, crop), begin, end in zip(group, offsets[:-1], offsets[1:], strict=True):
        if crop.size:
            flat[begin:end].reshape(crop.shape[1], crop.shape[0] + 1)[:, :-1] = crop.T
    steps = np.diff(flat, prepend=np.int8(0))
    begin, end = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    owner = np.searchsorted(offsets, begin, side="right") - 1
    column, row = np.divmod(begin - offsets[owner], heights[owner] + 1)
    left = np.array([x for x, _, _ in group])
    top = np.array([y for _, y, _ in group])
    start = (left[owner] + column) * size[0] + top[owner] + row
    return RunLengths.from_intervals(size, len(group), owner, start, end - begin)
