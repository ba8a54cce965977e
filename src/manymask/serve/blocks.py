"""``block.bin``: the pixels of many objects in few bytes, which a page unpacks in milliseconds."""

import struct

import numpy as np
from jaxtyping import Int64, UInt8

from manymask.core import RunLengths
from manymask.core.components import split_columns

BLOCK_MAGIC = b"MMB1"

# For each width of a block: the types of columns of an object, of runs in a column, and of steps between runs.
_TYPES = (("<u2", "u1", "i1"), ("<u2", "u1", "<i2"), ("<u4", "<u4", "<i4"))


def pack_block(ids: Int64[np.ndarray, " ids"], layers: UInt8[np.ndarray, " ids"], runs: RunLengths) -> bytes:
    """Pack the pixels of objects.

    Args:
        ids: Their ids, ascending.
        layers: Their layers.
        runs: Their masks, none of which is empty.

    Returns:
        The magic, the number of objects, the width (0, 1 or 2: which types follow), and the columns of pixels of all
        objects; then, each filled up to a multiple of 4 bytes: ids, layers, first column and first row of each object,
        its number of columns; the number of runs in each column; the steps of the first rows of the runs from one to
        the next (that of an object's first run from its first row), and in the same way of the rows after the last.
    """
    owner, column, top, bottom = split_columns(runs)
    first = np.searchsorted(owner, np.arange(len(ids)))
    last = np.append(first[1:], len(owner))[: len(ids)] - 1
    x0, y0 = column[first], top[first]
    num_columns = column[last] - x0 + 1
    offsets = np.cumsum(num_columns) - num_columns
    total = int(num_columns.sum())
    runs_in_column = np.bincount((offsets - x0)[owner] + column, minlength=total)
    steps = [np.diff(rows, prepend=0) for rows in (top, bottom)]
    for rows, step in zip((top, bottom), steps, strict=True):
        step[first] = rows[first] - y0
    width = _choose_width(num_columns, runs_in_column, steps)
    columns_type, runs_type, step_type = _TYPES[width]
    sections = (
        ids.astype("<u4"),
        layers.astype("u1"),
        x0.astype("<i4"),
        y0.astype("<i4"),
        num_columns.astype(columns_type),
        runs_in_column.astype(runs_type),
        *(step.astype(step_type) for step in steps),
    )
    header = BLOCK_MAGIC + struct.pack("<3I", len(ids), width, total)
    return header + b"".join(part.tobytes() + bytes(-part.nbytes % 4) for part in sections)


def _choose_width(num_columns: np.ndarray, runs_in_column: np.ndarray, steps: list[np.ndarray]) -> int:
    """The narrowest types that hold all numbers."""
    groups = ([num_columns], [runs_in_column], steps)
    for width, types in enumerate(_TYPES):
        limits = [np.iinfo(kind) for kind in types]
        if all(
            part.min(initial=0) >= limit.min and part.max(initial=0) <= limit.max
            for limit, parts in zip(limits, groups, strict=True)
            for part in parts
        ):
            return width
    raise ValueError("expected numbers of 32 bits")
