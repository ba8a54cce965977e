"""The objects of one image as people see them: predictions of one version, and what they changed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Int64, UInt8

from manymask.core import Category, Instances
from manymask.errors import FormatError, ManymaskError
from manymask.serve import blocks
from manymask.serve.changes import Change, Filter, describe_change, filter_ids
from manymask.serve.edits import is_json, plan_edit
from manymask.serve.errors import Conflict, EditError
from manymask.serve.log import LOG_NAME, EditLog
from manymask.serve.state import ObjectState, Patch, merge_patches, read_patch
from manymask.serve.table import ABSENT, ACCEPTED, EDITED, ODD_SIZE, is_shown
from manymask.serve.versions import Version, begin_version, list_versions, load_version, write_version

MOST_CLASSES = 256
"""Of an image, as a class is one byte in the table."""
UNSURE_SCORE = 0.7
"""Score below which people should look at an object."""


@dataclass(frozen=True, eq=False)
class Selection:
    """Some objects.

    Attributes:
        ids: Their ids.
        flags: Their flags, as in ``table.bin``.
        instances: Their masks, labels and scores.
    """

    ids: Int64[np.ndarray, " objects"]
    flags: UInt8[np.ndarray, " objects"]
    instances: Instances


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _locked(
    method: Callable[Concatenate["ImageObjects", _Parameters], _Result],
) -> Callable[Concatenate["ImageObjects", _Parameters], _Result]:
    """Let one thread at a time into the methods of an image's objects."""

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
        revision: Rises with every change.
        is_finished: Whether all predictions are there, so that they can be edited.
    """

    def __init__(self, folder: Path, version: Version, state: ObjectState) -> None:
        self.folder, self.version, self.revision, self.is_finished = folder, version, version.revision, False
        self._state, self._log = state, EditLog(folder / LOG_NAME)
        # Places in the log of the acts that can be undone, and of those that were undone, the last one last.
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
        objects = cls(folder, version, ObjectState.empty(size, [category.id for category in categories]))
        # Revisions of one image do not repeat, whichever version they are of.
        edited = [line["revision"] for _, line in objects._log]
        objects.revision = max([0, *edited, *(each.revision for each in list_versions(folder))])
        return objects

    @classmethod
    def open(cls, folder: Path, version: int | None = None) -> "ImageObjects":
        """Open a version of an image, by default the newest one, as its edits left it.

        Raises:
            DatasetError: There is none.
            FormatError: A file is damaged.
        """
        about, table, masks = load_version(folder, version)
        category_ids = [category.id for category in about.categories]
        objects = cls(folder, about, ObjectState(table, masks, category_ids, about.limits))
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
        ids = self._state.append(instances)
        self.revision += 1
        return sorted(self._state.table.locate_blocks(ids))

    @_locked
    def finish_predictions(self, instances: Instances | None) -> None:
        """Take the final predictions for those that were added, if there are any, and write them to the disk.

        Raises:
            ManymaskError: The disk is full or cannot be written to; the objects are as they were.
        """
        self._check_unfinished()
        state = self._state
        if instances is not None:
            state = ObjectState.empty(self.size, state.category_ids)
            state.append(instances)
        state.flag_odd_sizes()
        version = replace(
            self.version,
            time=time.time(),
            num_objects=len(state.table),
            revision=self.revision + 1,
            limits=tuple(state.limits),
        )
        write_version(self.folder, version, state.table, state.masks)
        self._state, self.version, self.revision, self.is_finished = state, version, version.revision, True

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.version.size

    @property
    def class_names(self) -> list[str]:
        """The classes; label i + 1 is the i-th."""
        return [category.name for category in self.version.categories]

    @property
    @_locked
    def num_objects(self) -> int:
        """The objects that are shown."""
        return int(np.count_nonzero(is_shown(self._state.table.columns["flags"])))

    @property
    @_locked
    def num_edited(self) -> int:
        """The objects that people changed, also by deleting them."""
        return int(np.count_nonzero(self._state.table.columns["flags"] & (EDITED | ABSENT) == EDITED))

    @property
    @_locked
    def num_unsure(self) -> int:
        """The objects that people should look at: of low score or unusual size, and neither changed nor accepted."""
        scores, flags = (self._state.table.columns[name] for name in ("score", "flags"))
        is_unsure = (scores < UNSURE_SCORE) | (flags & ODD_SIZE != 0)
        return int(np.count_nonzero(is_unsure & is_shown(flags) & (flags & (EDITED | ACCEPTED) == 0)))

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
        return self._state.table.pack(self.revision)

    @_locked
    def pack_block(self, bx: int, by: int) -> bytes:
        """``block.bin``: the pixels of the objects whose middle lies in a block, also of deleted ones.

        Raises:
            IndexError: There is no such block.
        """
        state = self._state
        down, across = state.table.num_blocks
        if not (0 <= bx < across and 0 <= by < down):
            raise IndexError(f"there is no block {bx} {by} among {across} x {down}")
        ids = state.table.list_block(by * across + bx)
        return blocks.pack_block(ids, state.table.columns["layer"][ids - 1], state.gather_masks(ids))

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
        if not steps or not is_json(edit):
            raise EditError("expected at least one edit, of values that JSON has")
        before: Patch = {}
        after: Patch = {}
        what: list[str] = []
        touched: set[tuple[int, int]] = set()
        num_rows = len(self._state.table)
        try:
            for step in steps:
                patch, words = plan_edit(step, self._state)
                before = merge_patches(self._state.read_back(patch), before)
                touched |= self._state.apply(patch)
                after = merge_patches(after, patch)
                what.append(words)
            words = ", ".join(what) if len(what) <= 3 else f"made {len(what)} edits"
            line = {"edit": edit, "what": words, "before": before, "after": after}
            place = self._write(line, user)
        except BaseException:
            self._state.apply(before)
            self._state.table.shrink(num_rows)
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
    def select(self, only: Filter | None = None) -> Selection:
        """The objects that are shown, or those of them that a filter lets through, by ascending id."""
        return self._gather(filter_ids(self._state, only or Filter()))

    @_locked
    def look_up(self, ids: Sequence[int]) -> Selection:
        """Some objects, shown or deleted.

        Raises:
            LookupError: One is not there.
        """
        if (is_absent := self._state.get_flags(ids) & ABSENT != 0).any():
            raise LookupError(f"there is no object {ids[int(is_absent.argmax())]}")
        return self._gather(np.array(ids, dtype=np.int64))

    def to_instances(self, only: Filter | None = None) -> Instances:
        """The objects that are shown, or those of them that a filter lets through, with scores, by ascending id."""
        return self.select(only).instances

    def _gather(self, ids: Int64[np.ndarray, " ids"]) -> Selection:
        columns = self._state.table.columns
        label, score, flags = (columns[name][ids - 1] for name in ("label", "score", "flags"))
        instances = Instances.from_runs(self._state.gather_masks(ids), label.astype(np.int64), scores=score)
        return Selection(ids, flags, instances)

    def _check_unfinished(self) -> None:
        if self.is_finished:
            raise ValueError("the predictions of this version are complete; create another one")

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
            self._state.apply(read_patch(line["after"]))
        elif "undo" in line:
            self._redo.append(self._undo.pop())
            self._state.apply(read_patch(self._log.read(self._redo[-1])["before"]))
        else:
            self._undo.append(self._redo.pop())
            self._state.apply(read_patch(self._log.read(self._undo[-1])["after"]))
        self.revision = line["revision"]

    def _take(self, line: dict[str, Any], new: str, old: str, what: str) -> Change:
        """Give objects the values that they had before or after an act."""
        patch = read_patch(line[new])
        return self._tell(read_patch(line[old]), patch, self._state.apply(patch), what)

    def _tell(self, before: Patch, after: Patch, touched: set[tuple[int, int]], what: str) -> Change:
        return Change(
            revision=self.revision,
            blocks=sorted(touched),
            can_undo=self.can_undo,
            can_redo=self.can_redo,
            what=what,
            **describe_change(self._state.table, before, after),
        )
