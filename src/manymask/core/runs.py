"""Runs: the masks of all instances of an image as (owner, start, length), in COCO's column order.

Position ``p`` of an image of ``height`` rows is the pixel at row ``p % height`` and column ``p // height``. Runs are
kept sorted by owner and start, and runs of one owner never touch, so that two equal masks have equal runs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer

from manymask.errors import FormatError

# Crops are turned into runs in groups of at most this many pixels (one byte each), so that memory does not grow with
# the number of instances.
CROP_PIXELS = 1 << 22


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
        counts = np.diff(splits)[rows]
        new_owner = np.repeat(np.arange(len(rows)), counts)
        source = np.arange(counts.sum()) + np.repeat(splits[:-1][rows] - (np.cumsum(counts) - counts), counts)
        return RunLengths(self.size, len(rows), new_owner, self.start[source], self.length[source])


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


def encode_coco_rle(runs: RunLengths) -> list[dict[str, object]]:
    """Encode every mask as COCO's compressed RLE, ``{"size": [height, width], "counts": str}``, all in one pass.

    Byte for byte what pycocotools' ``encode`` gives (``rleEncode`` and ``rleToString`` of its ``maskApi.c``).
    """
    if runs.num_instances == 0:
        return []
    counts, splits = _runs_to_counts(runs)
    local = np.arange(len(counts)) - np.repeat(splits[:-1], np.diff(splits))
    values = counts.copy()
    has_delta = np.flatnonzero(local > 2)  # from the fourth count on, COCO stores the change to the last but one
    values[has_delta] -= counts[has_delta - 2]
    text, ends = _encode_varints(values)
    string_splits = np.concatenate([[0], ends[splits[1:] - 1]])
    size = [int(runs.size[0]), int(runs.size[1])]
    return [
        {"size": list(size), "counts": text[begin:end]}
        for begin, end in zip(string_splits[:-1].tolist(), string_splits[1:].tolist(), strict=True)
    ]


def _runs_to_counts(runs: RunLengths) -> tuple[np.ndarray, np.ndarray]:
    """COCO's alternating counts (background first) of all masks behind each other, and where each mask's begin."""
    num_pixels = runs.size[0] * runs.size[1]
    row_splits = runs.row_splits
    end = runs.start + runs.length
    previous_end = np.concatenate([[0], end])[: len(end)]
    has_runs = np.diff(row_splits) > 0
    previous_end[row_splits[:-1][has_runs]] = 0
    tail = np.full(runs.num_instances, num_pixels)
    tail[has_runs] -= end[row_splits[1:][has_runs] - 1]
    has_tail = (tail > 0) | ~has_runs
    splits = 2 * row_splits + np.concatenate([[0], np.cumsum(has_tail)])
    counts = np.empty(splits[-1], dtype=np.int64)
    at = splits[runs.owner] + 2 * (np.arange(len(end)) - row_splits[runs.owner])
    counts[at] = runs.start - previous_end
    counts[at + 1] = runs.length
    counts[splits[1:][has_tail] - 1] = tail[has_tail]
    return counts, splits


def _encode_varints(values: np.ndarray) -> tuple[str, np.ndarray]:
    """COCO's text of signed numbers: five bits a character, the sixth says that more follow. Also each number's end."""
    num_chars = np.ones(len(values), dtype=np.int64)
    rest = values >> 4  # a number ends where all that is left is copies of its sign bit
    while (is_long := (rest != 0) & (rest != -1)).any():
        num_chars += is_long
        rest >>= 5
    ends = np.cumsum(num_chars)
    text = np.empty(int(ends[-1]), dtype=np.uint8)
    for place in range(int(num_chars.max())):
        here = np.flatnonzero(num_chars > place)
        more = np.where(num_chars[here] > place + 1, 0x20, 0)
        text[ends[here] - num_chars[here] + place] = 48 + (((values[here] >> (5 * place)) & 0x1F) | more)
    return text.tobytes().decode("ascii"), ends


def decode_coco_rle(rles: Sequence[dict[str, object]], size: tuple[int, int]) -> RunLengths:
    """Decode COCO RLE, compressed or a plain list of counts, of one image into runs.

    Args:
        rles: ``{"size": [height, width], "counts": str, bytes or list of int}`` for each instance.
        size: (height, width) of the image.

    Raises:
        FormatError: An RLE is of another size than the image, is damaged, or its counts do not add up to the image. The
            message gives its place in ``rles``.
    """
    counts: list[np.ndarray] = []
    for index, rle in enumerate(rles):
        found = rle.get("size")
        if not isinstance(found, list | tuple) or list(found) != list(size):
            raise FormatError(
                f"RLE {index} is of size {found}, but the image is of size {list(size)} (height, width); "
                "make the RLE from a mask of the image's own size"
            )
        counts.append(_decode_counts(rle.get("counts"), index))
        if counts[-1].sum() != size[0] * size[1]:
            raise FormatError(
                f"the counts of RLE {index} add up to {int(counts[-1].sum())}, expected height x width = "
                f"{size[0] * size[1]}; the RLE is damaged or belongs to another image"
            )
    if not counts:
        return RunLengths.empty(size)
    num_counts = np.array([len(c) for c in counts])
    flat = np.concatenate(counts)
    begin = np.cumsum(num_counts) - num_counts
    local = np.arange(len(flat)) - np.repeat(begin, num_counts)
    owner = np.repeat(np.arange(len(counts)), num_counts)
    start = np.cumsum(flat) - flat - owner * (size[0] * size[1])  # every mask's counts add up to the image
    is_mask = local % 2 == 1
    return RunLengths.from_intervals(size, len(counts), owner[is_mask], start[is_mask], flat[is_mask])


def _decode_counts(counts: object, index: int) -> Int64[np.ndarray, " counts"]:
    """The counts of one RLE, from COCO's text or from a list."""
    if isinstance(counts, list):
        if not all(isinstance(count, int) and 0 <= count < 1 << 32 for count in counts):
            raise FormatError(f"RLE {index} has counts that are not whole numbers of pixels; write the file again")
        return np.asarray(counts, dtype=np.int64)
    if not isinstance(counts, str | bytes):
        raise FormatError(f"RLE {index} has counts of type {type(counts).__name__}, expected text or a list of numbers")
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")  # what is not ASCII becomes bytes above COCO's characters
    chars = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    is_last = (chars & 0x20) == 0
    if len(chars) == 0 or chars.min() < 0 or chars.max() > 63 or not is_last[-1]:
        raise FormatError(f"RLE {index} has counts that are not COCO's compressed text; write the file again")
    end = np.flatnonzero(is_last) + 1
    begin = np.concatenate([[0], end[:-1]])
    num_chars = end - begin
    if num_chars.max() > 7:  # enough for COCO's 32 bits; longer ones could overflow in the sums below
        raise FormatError(f"RLE {index} holds a number too large for any image; write the file again")
    place = np.arange(len(chars)) - np.repeat(begin, num_chars)
    values = np.add.reduceat((chars & 0x1F) << (5 * place), begin)
    values -= np.where(chars[end - 1] & 0x10, np.int64(1) << (5 * num_chars), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise FormatError(f"RLE {index} has negative counts; write the file again")
    return values
