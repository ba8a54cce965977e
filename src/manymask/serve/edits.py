"""What people do to objects: edits as JSON, checked and turned into changes of values."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core import RunLengths, concatenate_runs
from manymask.core.runs import subtract_runs
from manymask.serve.errors import EditError
from manymask.serve.masks import runs_to_strips
from manymask.serve.state import ObjectState, Patch, merge_patches
from manymask.serve.strokes import split_mask
from manymask.serve.table import ABSENT, ACCEPTED, BORDER, DELETED, DRAWN, EDITED, ODD_SIZE
from manymask.wording import count_of

MOST_STRIPS = 1 << 20
"""Of one edit."""


def plan_edit(edit: Any, state: ObjectState) -> tuple[Patch, str]:
    """The new values that an edit gives objects, and what it does, in words.

    Raises:
        EditError: It is no edit, or cannot be made.
    """
    if not isinstance(edit, dict) or not isinstance(edit.get("op"), str):
        raise EditError('expected an edit such as {"op": "delete", "ids": [1, 2]}')
    if (plan := _PLANS.get(edit["op"])) is None:
        raise EditError(f"there is no edit {edit['op'][:40]!r}; expected one of {', '.join(_PLANS)}")
    return plan(edit, state)


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON, which has no NaN; readers of requests let it pass."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _delete(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    ids = _read_ids(edit, state)
    return _set_flags(ids, state, DELETED | EDITED), f"deleted {count_of(len(ids), 'object')}"


def _restore(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    ids = _read_ids(edit, state, is_deleted=True)
    # Others may have been drawn over them.
    layers = state.choose_layers(state.gather_masks(ids), ids)
    patch = _set_flags(ids, state, EDITED, cleared=DELETED) | {"layer": dict(zip(ids, layers, strict=True))}
    return patch, f"restored {count_of(len(ids), 'object')}"


def _classify(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    ids, label = _read_ids(edit, state), _read_label(edit.get("value"), state)
    patch = _set_flags(ids, state, EDITED) | {"label": dict.fromkeys(ids, label)}
    return patch, f"changed the class of {count_of(len(ids), 'object')}"


def _accept(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    ids = _read_ids(edit, state)
    return _set_flags(ids, state, ACCEPTED), f"accepted {count_of(len(ids), 'object')}"


def _merge(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    ids = _read_ids(edit, state)
    if len(ids) < 2:
        raise EditError("expected two objects or more to merge")
    joined = _join(state.gather_masks(ids))
    patch = _set_flags(ids[1:], state, DELETED | EDITED)
    return merge_patches(patch, _change_mask(state, ids[0], joined, without=ids)), f"merged {len(ids)} objects"


def _split(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    (whole,) = _read_ids({"ids": [edit.get("id")]}, state)
    parts = split_mask(state.gather_masks([whole]), _read_stroke(edit.get("stroke")))
    patch = _change_mask(state, whole, parts.select(np.array([0])))
    label, score = state.get_class(whole)
    for place in range(1, len(parts)):
        part, runs = state.next_id + place - 1, parts.select(np.array([place]))
        patch = merge_patches(patch, _make_object(state, part, runs, label, score, EDITED, without=[whole]))
    return patch, f"split an object into {len(parts)}"


def _draw(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    label, runs = _read_label(edit.get("class"), state), _read_runs(edit.get("runs"), state.size)
    if len(runs.start) == 0:
        raise EditError("no pixel of what was drawn lies in the image")
    return _make_object(state, state.next_id, runs, label, 1.0, EDITED | DRAWN), "drew an object"


def _paint(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    (painted,) = _read_ids({"ids": [edit.get("id")]}, state)
    joined = _join(concatenate_runs([state.gather_masks([painted]), _read_runs(edit.get("runs"), state.size)]))
    return _change_mask(state, painted, joined), "painted an object"


def _erase(edit: dict[str, Any], state: ObjectState) -> tuple[Patch, str]:
    (erased,) = _read_ids({"ids": [edit.get("id")]}, state)
    rest = subtract_runs(state.gather_masks([erased]), _read_runs(edit.get("runs"), state.size))
    if len(rest.start) == 0:
        return _set_flags([erased], state, DELETED | EDITED), "deleted 1 object"
    return _change_mask(state, erased, rest), "erased a part of an object"


_PLANS: dict[str, Callable[[dict[str, Any], ObjectState], tuple[Patch, str]]] = {
    "delete": _delete, "restore": _restore, "class": _classify, "merge": _merge, "split": _split, "draw": _draw,
    "paint": _paint, "erase": _erase, "accept": _accept,
}  # fmt: skip


def _set_flags(ids: Sequence[int], state: ObjectState, flags: int, cleared: int = 0) -> Patch:
    values = state.get_flags(ids).astype(np.int64) & ~cleared | flags
    return {"flags": dict(zip(ids, values.tolist(), strict=True))}


def _change_mask(state: ObjectState, object_id: int, runs: RunLengths, without: Sequence[int] = ()) -> Patch:
    """Another mask for an object, with the flags that follow from it."""
    (layer,) = state.choose_layers(runs, without or [object_id])
    (described,) = state.describe_masks(runs, state.get_class(object_id)[0])
    patch = _set_flags([object_id], state, EDITED | described, cleared=BORDER | ODD_SIZE)
    return patch | {"layer": {object_id: layer}, "runs": {object_id: runs_to_strips(runs)}}


def _make_object(
    state: ObjectState, new_id: int, runs: RunLengths, label: int, score: float, flags: int, without: Sequence[int] = ()
) -> Patch:
    """A new object."""
    (layer,), (described,) = state.choose_layers(runs, without), state.describe_masks(runs, label)
    values = {"flags": flags | described, "label": label, "score": score, "layer": layer, "runs": runs_to_strips(runs)}
    return {name: {new_id: value} for name, value in values.items()}


def _join(masks: RunLengths) -> RunLengths:
    """All masks as one."""
    return RunLengths.from_intervals(masks.size, 1, np.zeros_like(masks.owner), masks.start, masks.length)


def _read_ids(edit: dict[str, Any], state: ObjectState, *, is_deleted: bool = False) -> list[int]:
    ids = edit.get("ids")
    if not isinstance(ids, list) or not ids or not all(type(each) is int for each in ids):
        raise EditError("expected ids of objects, whole numbers such as [1, 2]")
    if len(set(ids)) < len(ids):
        raise EditError("an object is named twice")
    flags = state.get_flags(ids)
    if (is_absent := flags & ABSENT != 0).any():
        raise EditError(f"there is no object {ids[int(is_absent.argmax())]}")
    if (is_wrong := (flags & DELETED != 0) != is_deleted).any():
        raise EditError(f"object {ids[int(is_wrong.argmax())]} is {'not ' if is_deleted else ''}deleted")
    return ids


def _read_label(value: Any, state: ObjectState) -> int:
    if type(value) is not int or value not in state.category_ids:
        raise EditError(f"there is no class {str(value)[:40]}; expected one of {list(state.category_ids)}")
    return state.category_ids.index(value) + 1


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
    if strips.ndim != 2 or strips.shape[-1] != 3 or strips.dtype.kind not in "iu":
        raise EditError("expected runs [[x, y, length], ..] of whole numbers")
    if np.abs(strips.astype(np.float64)).max() > 1 << 30 or strips[:, 2].min() < 1:
        raise EditError("a run is far outside of any image, or not at least 1 pixel long")
    return strips.astype(np.int64)


def _read_stroke(value: Any) -> Float64[np.ndarray, "points 2"]:
    try:
        points = np.asarray(value)
    except (ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[-1] != 2 or len(points) < 2 or points.dtype.kind not in "iuf":
        raise EditError("expected a stroke [[x, y], ..] of two points or more, in pixels")
    points = points.astype(np.float64)
    if not np.abs(points).max() < 1 << 30:
        raise EditError("a point of the stroke is far outside of any image")
    return points
