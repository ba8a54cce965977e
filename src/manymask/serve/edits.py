"""What people do to objects: edits as JSON, checked and turned into changes of values."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core import RunLengths, concatenate_runs
from manymask.core.runs import subtract_runs
from manymask.errors import ManymaskError
from manymask.serve.masks import runs_to_strips
from manymask.serve.table import ABSENT, ACCEPTED, BORDER, DELETED, DRAWN, EDITED, ODD_SIZE
from manymask.wording import count_of

MOST_STRIPS = 1 << 20
"""Of one edit."""

Patch = dict[str, dict[int, Any]]
"""New values of objects: of ``flags``, ``label``, ``score``, ``layer`` and ``runs`` those by the objects' ids."""


class EditError(ManymaskError):
    """An edit that cannot be made; says why in a sentence for people."""


class Conflict(ManymaskError):  # noqa: N818 - not a fault: somebody else was faster
    """The objects were changed since the reader saw them.

    Attributes:
        revision: The present one.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"somebody changed the objects meanwhile (revision {revision}); look at the changes and try again"
        )
        self.revision = revision


@runtime_checkable
class Objects(Protocol):
    """What an edit reads of the objects that it changes."""

    size: tuple[int, int]
    category_ids: Sequence[int]

    @property
    def next_id(self) -> int:
        """The id of a new object."""
        ...

    def get_flags(self, object_id: int) -> int:
        """The flags of an object."""
        ...

    def get_class(self, object_id: int) -> tuple[int, float]:
        """The label and the score of an object."""
        ...

    def gather_masks(self, ids: Sequence[int]) -> RunLengths:
        """The masks of objects."""
        ...

    def choose_layers(self, runs: RunLengths, without: Sequence[int]) -> list[int]:
        """Layers for masks, so that they overlap no object there but those of ``without``."""
        ...

    def describe_masks(self, runs: RunLengths, label: int) -> list[int]:
        """The flags that follow from where masks are and how large they are."""
        ...


def plan_edit(edit: Any, objects: Objects) -> tuple[Patch, str]:
    """The new values that an edit gives objects, and what it does, in words.

    Raises:
        EditError: It is no edit, or cannot be made.
    """
    if not isinstance(edit, dict) or not isinstance(edit.get("op"), str):
        raise EditError('expected an edit such as {"op": "delete", "ids": [1, 2]}')
    if (plan := _PLANS.get(edit["op"])) is None:
        raise EditError(f"there is no edit {edit['op'][:40]!r}; expected one of {', '.join(_PLANS)}")
    return plan(edit, objects)


def merge_patches(first: Patch, second: Patch) -> Patch:
    """Two patches as one; what both change is as the second one has it."""
    return {name: first.get(name, {}) | second.get(name, {}) for name in {**first, **second}}


def read_patch(values: dict[str, dict[str, Any]]) -> Patch:
    """A patch as JSON has it, whose keys are texts."""
    return {name: {int(each): value for each, value in column.items()} for name, column in values.items()}


def _delete(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    ids = _read_ids(edit, objects)
    return _set_flags(ids, objects, DELETED | EDITED), f"deleted {count_of(len(ids), 'object')}"


def _restore(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    ids = _read_ids(edit, objects, is_deleted=True)
    # Others may have been drawn over them.
    layers = objects.choose_layers(objects.gather_masks(ids), ids)
    flags = {each: objects.get_flags(each) & ~DELETED | EDITED for each in ids}
    return {"flags": flags, "layer": dict(zip(ids, layers, strict=True))}, f"restored {count_of(len(ids), 'object')}"


def _classify(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    ids, label = _read_ids(edit, objects), _read_label(edit.get("value"), objects)
    patch = _set_flags(ids, objects, EDITED) | {"label": dict.fromkeys(ids, label)}
    return patch, f"changed the class of {count_of(len(ids), 'object')}"


def _accept(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    ids = _read_ids(edit, objects)
    return _set_flags(ids, objects, ACCEPTED), f"accepted {count_of(len(ids), 'object')}"


def _merge(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    ids = _read_ids(edit, objects)
    if len(ids) < 2:
        raise EditError("expected two objects or more to merge")
    joined = _join(objects.gather_masks(ids))
    patch = _set_flags(ids[1:], objects, DELETED | EDITED)
    return merge_patches(patch, _change_mask(objects, ids[0], joined, without=ids)), f"merged {len(ids)} objects"


def _split(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    from manymask.serve.strokes import split_mask  # scipy.sparse takes a while to load

    (whole,) = _read_ids({"ids": [edit.get("id")]}, objects)
    parts = split_mask(objects.gather_masks([whole]), _read_stroke(edit.get("stroke")))
    patch = _change_mask(objects, whole, parts.select(np.array([0])))
    label, score = objects.get_class(whole)
    for place in range(1, len(parts)):
        part, runs = objects.next_id + place - 1, parts.select(np.array([place]))
        patch = merge_patches(patch, _make_object(objects, part, runs, label, score, EDITED, without=[whole]))
    return patch, f"split an object into {len(parts)}"


def _draw(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    label, runs = _read_label(edit.get("class"), objects), _read_runs(edit.get("runs"), objects.size)
    if len(runs.start) == 0:
        raise EditError("no pixel of what was drawn lies in the image")
    return _make_object(objects, objects.next_id, runs, label, 1.0, EDITED | DRAWN), "drew an object"


def _paint(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    (painted,) = _read_ids({"ids": [edit.get("id")]}, objects)
    joined = _join(concatenate_runs([objects.gather_masks([painted]), _read_runs(edit.get("runs"), objects.size)]))
    return _change_mask(objects, painted, joined), "painted an object"


def _erase(edit: dict[str, Any], objects: Objects) -> tuple[Patch, str]:
    (erased,) = _read_ids({"ids": [edit.get("id")]}, objects)
    rest = subtract_runs(objects.gather_masks([erased]), _read_runs(edit.get("runs"), objects.size))
    if len(rest.start) == 0:
        return _set_flags([erased], objects, DELETED | EDITED), "deleted 1 object"
    return _change_mask(objects, erased, rest), "erased a part of an object"


_PLANS: dict[str, Callable[[dict[str, Any], Objects], tuple[Patch, str]]] = {
    "delete": _delete, "restore": _restore, "class": _classify, "merge": _merge, "split": _split, "draw": _draw,
    "paint": _paint, "erase": _erase, "accept": _accept,
}  # fmt: skip


def _set_flags(ids: Sequence[int], objects: Objects, flags: int) -> Patch:
    return {"flags": {each: objects.get_flags(each) | flags for each in ids}}


def _change_mask(objects: Objects, object_id: int, runs: RunLengths, without: Sequence[int] = ()) -> Patch:
    """Another mask for an object, with the flags that follow from it."""
    (layer,) = objects.choose_layers(runs, without or [object_id])
    (described,) = objects.describe_masks(runs, objects.get_class(object_id)[0])
    flags = objects.get_flags(object_id) & ~(BORDER | ODD_SIZE) | EDITED | described
    return {"flags": {object_id: flags}, "layer": {object_id: layer}, "runs": {object_id: runs_to_strips(runs)}}


def _make_object(
    objects: Objects, new_id: int, runs: RunLengths, label: int, score: float, flags: int, without: Sequence[int] = ()
) -> Patch:
    """A new object."""
    (layer,), (described,) = objects.choose_layers(runs, without), objects.describe_masks(runs, label)
    values = {"flags": flags | described, "label": label, "score": score, "layer": layer, "runs": runs_to_strips(runs)}
    return {name: {new_id: value} for name, value in values.items()}


def _join(masks: RunLengths) -> RunLengths:
    """All masks as one."""
    return RunLengths.from_intervals(masks.size, 1, np.zeros_like(masks.owner), masks.start, masks.length)


def _read_ids(edit: dict[str, Any], objects: Objects, *, is_deleted: bool = False) -> list[int]:
    ids = edit.get("ids")
    if not isinstance(ids, list) or not ids or not all(type(each) is int for each in ids):
        raise EditError("expected ids of objects, whole numbers such as [1, 2]")
    if len(set(ids)) < len(ids):
        raise EditError("an object is named twice")
    for each in ids:
        if not 0 < each < objects.next_id or (flags := objects.get_flags(each)) & ABSENT:
            raise EditError(f"there is no object {each}")
        if bool(flags & DELETED) != is_deleted:
            raise EditError(f"object {each} is deleted" if flags & DELETED else f"object {each} is not deleted")
    return ids


def _read_label(value: Any, objects: Objects) -> int:
    if type(value) is not int or value not in objects.category_ids:
        raise EditError(f"there is no class {str(value)[:40]}; expected one of {list(objects.category_ids)}")
    return objects.category_ids.index(value) + 1


def _read_runs(value: Any, size: tuple[int, int]) -> RunLengths:
    """The pixels of strips that lie in the image; brushes reach over its border."""
    strips = _read_strips(value)
    x, y, length = strips.T
    top, bottom = np.clip(y, 0, size[0]), np.clip(y + length, 0, size[0])
    is_inside = (x >= 0) & (x < size[1])
    start = x[is_inside] * size[0] + top[is_inside]
    return RunLengths.from_intervals(size, 1, np.zeros_like(start), start, (bottom - top)[is_inside])


def _read_strips(value: Any) -> Int64[np.ndarray, "strips 3"]:
    if not isinstance(value, list) or not 0 < len(value) <= MOST_STRIPS:
        raise EditError(f"expected runs [[x, y, length], ..], at most {MOST_STRIPS}")
    try:
        strips = np.asarray(value)
    except (ValueError, OverflowError):
        strips = np.zeros(0)
    if strips.ndim != 2 or strips.shape[1] != 3 or strips.dtype.kind not in "iu":
        raise EditError("expected runs [[x, y, length], ..] of whole numbers")
    if np.abs(strips.astype(np.float64)).max() > 1 << 30 or strips[:, 2].min() < 1:
        raise EditError("a run is far outside of any image, or not at least 1 pixel long")
    return strips.astype(np.int64)


def _read_stroke(value: Any) -> Float64[np.ndarray, "points 2"]:
    try:
        points = np.asarray(value)
    except (ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or points.dtype.kind not in "iuf":
        raise EditError("expected a stroke [[x, y], ..] of two points or more, in pixels")
    points = points.astype(np.float64)
    if not np.abs(points).max() < 1 << 30:
        raise EditError("a point of the stroke is far outside of any image")
    return points
