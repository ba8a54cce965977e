"""Which objects are meant, and what an act did to them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from manymask.serve.state import ObjectState, Patch
from manymask.serve.table import ABSENT, BORDER, EDITED, ODD_SIZE, Table, is_shown

MOST_ROWS = 10_000
"""Rows that a change tells; after larger ones the table is read anew."""


@dataclass(frozen=True)
class Filter:
    """Which of the objects that are shown are meant; by default all.

    Attributes:
        min_score: Least score.
        max_score: Largest score.
        min_area: Least area in pixels.
        max_area: Largest area in pixels.
        classes: Ids of classes.
        edited_only: Only what people changed, drew or split.
        border: Only objects that touch the image's border, or only those that do not.
        odd_only: Only objects of an unusual size.
    """

    min_score: float = 0.0
    max_score: float = 1.0
    min_area: float = 0.0
    max_area: float = math.inf
    classes: Sequence[int] | None = None
    edited_only: bool = False
    border: bool | None = None
    odd_only: bool = False


def filter_ids(state: ObjectState, only: Filter) -> Int64[np.ndarray, " ids"]:
    """The ids of the objects that a filter lets through, ascending."""
    columns = state.table.columns
    is_meant = is_shown(columns["flags"])
    # Scores as the page has them, so that a slider chooses the same objects here.
    scores = np.round(columns["score"] * 65535)
    is_meant &= (scores >= round(only.min_score * 65535)) & (scores <= round(only.max_score * 65535))
    is_meant &= (columns["area"] >= only.min_area) & (columns["area"] <= only.max_area)
    if only.classes is not None:
        labels = [state.category_ids.index(each) + 1 for each in only.classes if each in state.category_ids]
        is_meant &= np.isin(columns["label"], labels)
    if only.edited_only:
        is_meant &= columns["flags"] & EDITED != 0
    if only.border is not None:
        is_meant &= (columns["flags"] & BORDER != 0) == only.border
    if only.odd_only:
        is_meant &= columns["flags"] & ODD_SIZE != 0
    return np.flatnonzero(is_meant) + 1


@dataclass(frozen=True)
class Change:
    """What an act did.

    Attributes:
        revision: Of the objects after it.
        added: Ids of objects that are shown since.
        removed: Ids of objects that are not shown any more.
        changed: Ids of other objects that changed.
        blocks: (column, row) of the blocks whose bytes changed.
        can_undo: Whether there is something to undo.
        can_redo: Whether there is something to redo.
        what: What was done, in words.
        rows: The rows of ``table.bin`` of all these objects, by columns; None where they are very many.
    """

    revision: int
    added: list[int]
    removed: list[int]
    changed: list[int]
    blocks: list[tuple[int, int]]
    can_undo: bool
    can_redo: bool
    what: str
    rows: dict[str, list[int]] | None


def describe_change(table: Table, before: Patch, after: Patch) -> dict[str, Any]:
    """The ids and rows of a ``Change``, when objects have got the values of a patch for those of another one."""
    ids = np.array(sorted(after["flags"]), dtype=np.int64)
    was, now = (
        is_shown(np.array([patch["flags"][each] for each in ids.tolist()], dtype=np.uint8)) for patch in (before, after)
    )
    there = ids[table.columns["flags"][ids - 1] & ABSENT == 0]
    is_few = len(there) <= MOST_ROWS
    return {
        "added": ids[now & ~was].tolist(),
        "removed": ids[was & ~now].tolist(),
        "changed": ids[was == now].tolist(),
        "rows": {name: column.tolist() for name, column in table.pack_rows(there).items()} if is_few else None,
    }
