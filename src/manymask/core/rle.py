"""COCO's run-length encoding as text."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from jaxtyping import Int64

from manymask.core.runs import RunLengths
from manymask.errors import FormatError


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
        if not isinstance(found, list | tuple) or list(cast(Sequence[object], found)) != list(size):
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
        if not all(isinstance(count, int) and 0 <= count < 1 << 32 for count in cast(list[object], counts)):
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
