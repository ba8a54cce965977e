"""The objects of one image as people see them: predictions of one version, and what they changed."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Int64

from manymask.core import Category, Instances, RunLengths, concatenate_runs
from manymask.core.layers import assign_layers
from manymask.errors import FormatError, ManymaskError
from manymask.serve import blocks
from manymask.serve.edits import Conflict, EditError, Patch, merge_patches, plan_edit, read_patch
from manymask.serve.log import LOG_NAME, EditLog
from manymask.serve.masks import MaskStore, runs_to_strips
from manymask.serve.table import ABSENT, ACCEPTED, BORDER, EDITED, ODD_SIZE, Table, find_odd_sizes, is_shown
from manymask.serve.versions import Version, begin_version, load_version, write_version

MOST_CLASSES = 256
"""Of an image, as a class is one byte in the table."""
UNSURE_SCORE = 0.7
"""Score below which people should look at an object."""
MOST_ROWS = 10_000
"""Rows that a change tells; after larger ones the table is read anew."""


@dataclass(frozen=True)
class Filter:
    """Which objects are meant; by default all that are shown.

    Attributes:
        min_score: Least score.
        max_score: Largest score.
        min_area: Least area in pixels.
        max_area: Largest area in pixels.
        classes: Ids of classes.
        edited_only: Only what people changed, drew or split.
        border: Only objects that touch the image's border, or only those that do not.
    """

    min_score: float = 0.0
    max_score: float = 1.0
    min_area: float = 0.0
    max_area: float = math.inf
    classes: Sequence[int] | None = None
    edited_only: bool = False
    border: bool | None = None


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


_Parameters, _Result = ParamSpec("_Parameters"), TypeVar("_Result")
_Method = Callable[Concatenate["ImageObjects", _Parameters], _Result]


def _locked(method: _Method[_Parameters, _Result]) -> _Method[_Parameters, _Result]:
    """Let one thread at a time into an object's methods."""

    @wraps(method)
    def call(self: "ImageObjects", *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class ImageObjects:
    """The objects of one image and version, for many threads.

    Attributes:
        folder: The image's folder, with its versions and its log of edits.
        version: What is known of the predictions.
        size: (height, width) of the image in pixels.
        category_ids: Ids of the classes; label i + 1 is the i-th.
        revision: Rises with every change.
        is_finished: Whether all predictions are there, so that they can be edited.
    """

    def __init__(self, folder: Path, version: Version, table: Table, masks: MaskStore) -> None:
        self.folder, self.version, self.size = folder, version, version.size
        self.category_ids = [category.id for category in version.categories]
        self.revision, self.is_finished = version.revision, False
        self._table, self._masks = table, masks
        self._log = EditLog(folder / LOG_NAME)
        # Revisions of acts and the places of their lines in the log.
        self._undo: list[int] = []
        self._redo: list[int] = []
        self._lock = threading.RLock()

    @classmethod
    def create(cls, folder: Path, size: tuple[int, int], categories: Sequence[Category], model: str) -> "ImageObjects":
        """Begin a new version of an image, without objects.

        Raises:
            ManymaskError: There are more classes than a table can hold.
        """
        if len(categories) > MOST_CLASSES:
            raise ManymaskError(f"{model} has {len(categories)} classes; the page shows models of {MOST_CLASSES}")
        version = begin_version(folder, size, tuple(categories), model)
        objects = cls(folder, version, Table(size), MaskStore(size))
        # Revisions of one image do not repeat, whichever version they are of.
        objects.revision = max((line["revision"] for _, line in objects._log), default=0)
        return objects

    @classmethod
    def open(cls, folder: Path, version: int | None = None) -> "ImageObjects":
        """Open a version of an image, by default the newest one, as its edits left it.

        Raises:
            DatasetError: There is none.
            FormatError: A file is damaged.
        """
        objects = cls(folder, *load_version(folder, version))
        objects.is_finished = True
        for place, line in objects._log:
            try:
                if line["version"] == objects.version.number:
                    objects._replay(line, place)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise FormatError(f"{objects._log.path} is damaged near byte {place} ({error!r})") from error
        return objects

    @_locked
    def add_predictions(self, instances: Instances) -> list[tuple[int, int]]:
        """Add what was found in a part of the image, and return the blocks, column first, that changed."""
        self._check_unfinished()
        ids = self._append(instances)
        self.revision += 1
        return sorted(self._table.locate_blocks(ids))

    @_locked
    def finish_predictions(self, instances: Instances | None) -> None:
        """Take the final predictions for those that were added, if there are any, and write them to the disk.

        Raises:
            ManymaskError: The disk is full or cannot be written to; the objects are as they were.
        """
        self._check_unfinished()
        before = self._table, self._masks
        try:
            if instances is not None:
                self._table, self._masks = Table(self.size), MaskStore(self.size)
                self._append(instances)
            rows = self._table.rows
            limits = [
                find_odd_sizes(rows["area"][rows["label"] == label + 1]) for label in range(len(self.category_ids))
            ]
            for label, (low, high) in enumerate(limits, start=1):
                is_odd = (rows["label"] == label) & ((rows["area"] < low) | (rows["area"] > high))
                rows["flags"][is_odd] |= ODD_SIZE
            version = replace(
                self.version, time=time.time(), num_objects=len(rows), revision=self.revision + 1, limits=tuple(limits)
            )
            write_version(self.folder, version, self._table, self._masks)
        except BaseException:
            self._table, self._masks = before
            raise
        self.version, self.revision, self.is_finished = version, version.revision, True

    @property
    @_locked
    def num_objects(self) -> int:
        """The objects that are shown."""
        return int(np.count_nonzero(is_shown(self._table.rows["flags"])))

    @property
    @_locked
    def num_edited(self) -> int:
        """The objects that people changed, also by deleting them."""
        return int(np.count_nonzero(self._table.rows["flags"] & (EDITED | ABSENT) == EDITED))

    @property
    @_locked
    def num_unsure(self) -> int:
        """The objects that people should look at: of low score or unusual size, and neither changed nor accepted."""
        rows = self._table.rows
        is_unsure = (rows["score"] < UNSURE_SCORE) | (rows["flags"] & ODD_SIZE != 0)
        return int(np.count_nonzero(is_unsure & is_shown(rows["flags"]) & (rows["flags"] & (EDITED | ACCEPTED) == 0)))

    @property
    def can_undo(self) -> bool:
        """Whether there is something to undo."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is something to redo."""
        return bool(self._redo)

    @_locked
    def pack_table(self) -> bytes:
        """``table.bin``: all objects, also deleted ones."""
        return self._table.pack(self.revision)

    @_locked
    def pack_block(self, bx: int, by: int) -> bytes:
        """``block.bin``: the pixels of the objects whose middle lies in a block, also of deleted ones.

        Raises:
            IndexError: There is no such block.
        """
        down, across = self._table.num_blocks
        if not (0 <= bx < across and 0 <= by < down):
            raise IndexError(f"there is no block {bx} {by} among {across} x {down}")
        ids = self._table.list_block(by * across + bx)
        return blocks.pack_block(ids, self._table.rows["layer"][ids - 1], self._masks.gather(ids))

    @_locked
    def edit(self, edit: Any, revision: int | None, user: str) -> Change:
        """Do one act: an edit, or a list of edits of which all are done or none.

        Args:
            edit: As the page sends it.
            revision: That of the objects that the user saw; None for whatever they are now.
            user: Who does it.

        Raises:
            Conflict: The objects were changed since that revision.
            EditError: It is no edit, or cannot be made; nothing was changed.
            ManymaskError: The disk is full or cannot be written to; nothing was changed.
        """
        if revision is not None and revision != self.revision:
            raise Conflict(self.revision)
        if not self.is_finished:
            raise EditError("the objects of this image are still being found; wait for the end, or cancel it")
        steps = edit if isinstance(edit, list) else [edit]
        if not steps:
            raise EditError("expected at least one edit")
        before: Patch = {}
        after: Patch = {}
        what: list[str] = []
        touched: set[tuple[int, int]] = set()
        try:
            for step in steps:
                patch, words = plan_edit(step, self)
                before = merge_patches(self._read_back(patch), before)
                touched |= self._apply(patch)
                after = merge_patches(after, patch)
                what.append(words)
            words = ", ".join(what) if len(what) <= 3 else f"made {len(what)} edits"
            line = {"edit": edit, "what": words, "before": before, "after": after}
            place = self._write(line, user)
        except BaseException:
            self._apply(before)
            raise
        self._undo.append(place)
        self._redo.clear()
        return self._tell(before, after, touched, words)

    @_locked
    def undo(self, user: str) -> Change:
        """Undo the last act that is not undone.

        Raises:
            EditError: There is none.
            ManymaskError: The disk is full or cannot be written to; nothing was changed.
        """
        if not self._undo:
            raise EditError("there is nothing to undo")
        place = self._undo[-1]
        line = self._log.read(place)
        self._write({"undo": line["revision"]}, user)
        self._redo.append(self._undo.pop())
        return self._take(line, "before", "after", f"undid: {line['what']}")

    @_locked
    def redo(self, user: str) -> Change:
        """Do again what was undone last.

        Raises:
            EditError: Nothing was undone since the last edit.
            ManymaskError: The disk is full or cannot be written to; nothing was changed.
        """
        if not self._redo:
            raise EditError("there is nothing to redo")
        place = self._redo[-1]
        line = self._log.read(place)
        self._write({"redo": line["revision"]}, user)
        self._undo.append(self._redo.pop())
        return self._take(line, "after", "before", f"did again: {line['what']}")

    @_locked
    def to_instances(self, only: Filter | None = None) -> Instances:
        """The objects that are shown, or those of them that a filter lets through, by ascending id."""
        ids = self.list_ids(only)
        rows = self._table.rows[ids - 1]
        labels, scores = rows["label"].astype(np.int64), np.ascontiguousarray(rows["score"])
        return Instances.from_runs(self._masks.gather(ids), labels, scores=scores)

    @_locked
    def list_ids(self, only: Filter | None = None) -> Int64[np.ndarray, " ids"]:
        """The ids of the objects that are shown, or of those of them that a filter lets through, ascending."""
        rows = self._table.rows
        is_meant = is_shown(rows["flags"])
        if only is not None:
            is_meant &= (rows["score"] >= only.min_score) & (rows["score"] <= only.max_score)
            is_meant &= (rows["area"] >= only.min_area) & (rows["area"] <= only.max_area)
            if only.classes is not None:
                labels = [self.category_ids.index(each) + 1 for each in only.classes if each in self.category_ids]
                is_meant &= np.isin(rows["label"], labels)
            if only.edited_only:
                is_meant &= rows["flags"] & EDITED != 0
            if only.border is not None:
                is_meant &= (rows["flags"] & BORDER != 0) == only.border
        return np.flatnonzero(is_meant) + 1

    @property
    def next_id(self) -> int:
        """The id of a new object: above all that ever were."""
        return len(self._table) + 1

    def get_flags(self, object_id: int) -> int:
        """The flags of an object."""
        return int(self._table.rows["flags"][object_id - 1])

    def get_class(self, object_id: int) -> tuple[int, float]:
        """The label and the score of an object."""
        row = self._table.rows[object_id - 1]
        return int(row["label"]), float(row["score"])

    def gather_masks(self, ids: Sequence[int] | Int64[np.ndarray, " ids"]) -> RunLengths:
        """The masks of objects."""
        return self._masks.gather(np.asarray(ids, dtype=np.int64))

    def choose_layers(self, runs: RunLengths, without: Sequence[int]) -> list[int]:
        """Layers for masks, so that they overlap no object that is shown there, but for those of ``without``."""
        if len(runs) == 0:
            return []
        boxes = _measure_boxes(runs)
        near = self._table.find_near(np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]))
        near = near[is_shown(self._table.rows["flags"][near - 1]) & ~np.isin(near, without)]
        both = concatenate_runs([self._masks.gather(near), runs])
        layers = assign_layers(both, self._table.rows["layer"][near - 1])[len(near) :]
        return np.minimum(layers, 255).tolist()

    def describe_masks(self, runs: RunLengths, label: int) -> list[int]:
        """The flags that follow from where masks are and how large they are."""
        low, high = self.version.limits[label - 1]
        is_odd = (runs.areas < low) | (runs.areas > high)
        return (self._table.touch_border(_measure_boxes(runs)) * BORDER + is_odd * ODD_SIZE).tolist()

    def _check_unfinished(self) -> None:
        if self.is_finished:
            raise ValueError("the predictions of this version are complete; create another one")

    def _append(self, instances: Instances) -> Int64[np.ndarray, " ids"]:
        """Add predictions that have pixels, and return their ids."""
        instances = instances[instances.runs.areas > 0]
        runs, boxes = instances.runs, _measure_boxes(instances.runs)
        layers = self.choose_layers(runs, ())
        ids = np.arange(len(instances)) + self.next_id
        self._masks.append(runs)
        self._table.grow(len(self._table) + len(ids))
        added = self._table.rows[ids[0] - 1 :] if len(ids) else self._table.rows[:0]
        added["score"], added["label"], added["layer"] = instances.scores, instances.labels, layers
        added["flags"] = self._table.touch_border(boxes) * BORDER
        self._table.set_masks(ids, boxes, runs.areas)
        return ids

    def _read_back(self, patch: Patch) -> Patch:
        """The present values of all that a patch changes; new objects were absent."""
        rows, before = self._table.rows, {"flags": dict.fromkeys(patch["flags"], ABSENT)}
        for name, values in patch.items():
            there = [each for each in values if each <= len(rows)]
            if name == "runs":
                found = [runs_to_strips(self.gather_masks([each])) for each in there]
            else:
                found = rows[name][np.array(there, dtype=np.int64) - 1].tolist()
            before.setdefault(name, {}).update(zip(there, found, strict=True))
        return before

    def _apply(self, patch: Patch) -> set[tuple[int, int]]:
        """Give objects new values, and return the blocks whose bytes that changes."""
        table = self._table
        ids = {name: np.fromiter(values, dtype=np.int64, count=len(values)) for name, values in patch.items()}
        table.grow(max((int(each.max(initial=0)) for each in ids.values()), default=0))
        moved = [ids[name] for name in ("runs", "layer") if name in ids]
        if "flags" in ids:
            flags = np.fromiter(patch["flags"].values(), dtype=np.uint8, count=len(ids["flags"]))
            moved.append(ids["flags"][(table.rows["flags"][ids["flags"] - 1] ^ flags) & ABSENT != 0])
        touched = np.unique(np.concatenate(moved)) if moved else np.zeros(0, dtype=np.int64)
        is_there = table.rows["area"][touched - 1] > 0
        blocks_before = table.locate_blocks(touched[is_there])
        for name, values in patch.items():
            if name != "runs":
                table.rows[name][ids[name] - 1] = list(values.values())
        if patch.get("runs"):
            for each, strips in patch["runs"].items():
                self._masks.set(each, strips)
            runs = self._masks.gather(ids["runs"])
            table.set_masks(ids["runs"], _measure_boxes(runs), runs.areas)
        return blocks_before | table.locate_blocks(touched)

    def _write(self, line: dict[str, Any], user: str) -> int:
        """Add a line to the log, from which on it is the present revision; return its place."""
        head = {"version": self.version.number, "revision": self.revision + 1, "time": time.time(), "user": user[:100]}
        place = self._log.append(head | line)
        self.revision += 1
        return place

    def _replay(self, line: dict[str, Any], place: int) -> None:
        """Do again what a line of the log says."""
        if "edit" in line:
            self._undo.append(place)
            self._redo.clear()
            self._apply(read_patch(line["after"]))
        elif "undo" in line:
            self._redo.append(self._undo.pop())
            self._apply(read_patch(self._log.read(self._redo[-1])["before"]))
        else:
            self._undo.append(self._redo.pop())
            self._apply(read_patch(self._log.read(self._undo[-1])["after"]))
        self.revision = line["revision"]

    def _take(self, line: dict[str, Any], new: str, old: str, what: str) -> Change:
        """Give objects the values that they had before or after an act."""
        patch = read_patch(line[new])
        return self._tell(read_patch(line[old]), patch, self._apply(patch), what)

    def _tell(self, before: Patch, after: Patch, touched: set[tuple[int, int]], what: str) -> Change:
        """What an act changed."""
        ids = np.array(sorted(after["flags"]), dtype=np.int64)
        was, now = (
            is_shown(np.array([patch["flags"][each] for each in ids.tolist()], dtype=np.uint8))
            for patch in (before, after)
        )
        there = ids[self._table.rows["flags"][ids - 1] & ABSENT == 0]
        rows = {name: column.tolist() for name, column in self._table.pack_rows(there[: MOST_ROWS + 1]).items()}
        return Change(
            revision=self.revision,
            added=ids[now & ~was].tolist(),
            removed=ids[was & ~now].tolist(),
            changed=ids[was == now].tolist(),
            blocks=sorted(touched),
            can_undo=self.can_undo,
            can_redo=self.can_redo,
            what=what,
            rows=rows if len(there) <= MOST_ROWS else None,
        )


def _measure_boxes(runs: RunLengths) -> Int64[np.ndarray, "instances 4"]:
    return runs.boxes.astype(np.int64)
