"""What is known of each object of an image, and changes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from manymask.core import Instances, RunLengths, concatenate_runs
from manymask.core.layers import assign_layers
from manymask.serve.masks import MaskStore, runs_to_strips
from manymask.serve.table import ABSENT, BORDER, ODD_SIZE, Table, find_odd_sizes, is_shown

Patch = dict[str, dict[int, Any]]
"""New values of objects: of ``flags``, ``label``, ``score``, ``layer`` and ``runs`` those by the objects' ids."""


def merge_patches(first: Patch, second: Patch) -> Patch:
    """Two patches as one; what both change is as the second one has it."""
    return {name: first.get(name, {}) | second.get(name, {}) for name in {**first, **second}}


def read_patch(values: dict[str, dict[str, Any]]) -> Patch:
    """A patch as JSON has it, whose keys are texts."""
    return {name: {int(each): value for each, value in column.items()} for name, column in values.items()}


class ObjectState:
    """The table and the masks of an image's objects; not for several threads at once.

    Attributes:
        table: A row for each id.
        masks: The mask of each id.
        category_ids: Ids of the classes; label i + 1 is the i-th.
        limits: For each class the areas below and above which an object is of unusual size.
    """

    def __init__(
        self,
        table: Table,
        masks: MaskStore,
        category_ids: Sequence[int],
        limits: Sequence[tuple[float, float]] = (),
    ) -> None:
        self.table, self.masks, self.category_ids, self.limits = table, masks, list(category_ids), limits

    @classmethod
    def empty(cls, size: tuple[int, int], category_ids: Sequence[int]) -> "ObjectState":
        """No objects yet."""
        return cls(Table(size), MaskStore(size), category_ids)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.table.size

    @property
    def next_id(self) -> int:
        """The id of a new object: above all that ever were."""
        return len(self.table) + 1

    def append(self, instances: Instances) -> Int64[np.ndarray, " ids"]:
        """Add predictions that have pixels, and return their ids."""
        if not (has_pixels := instances.runs.areas > 0).all():
            instances = instances[has_pixels]
        runs, boxes = instances.runs, _measure_boxes(instances.runs)
        layers = self.choose_layers(runs, ())
        first = len(self.table)
        ids = np.arange(len(instances)) + first + 1
        self.masks.append(runs)
        self.table.grow(first + len(ids))
        flags = self.table.touch_border(boxes) * BORDER
        values = {"score": instances.scores, "label": instances.labels, "layer": layers, "flags": flags}
        for name, column in values.items():
            self.table.columns[name][first:] = column
        self.table.set_masks(ids, boxes, runs.areas)
        return ids

    def flag_odd_sizes(self) -> None:
        """Find the limits of usual sizes among the objects that are there, and flag those beyond."""
        columns = self.table.columns
        labels = range(1, len(self.category_ids) + 1)
        self.limits = tuple(find_odd_sizes(columns["area"][columns["label"] == label]) for label in labels)
        for label, (low, high) in zip(labels, self.limits, strict=True):
            is_odd = (columns["area"] < low) | (columns["area"] > high)
            columns["flags"][is_odd & (columns["label"] == label)] |= ODD_SIZE

    def get_flags(self, ids: Sequence[int]) -> UInt8[np.ndarray, " ids"]:
        """The flags of objects; ``ABSENT`` for numbers that none has."""
        number = len(self.table)
        known = np.array([each if 0 < each <= number else 0 for each in ids], dtype=np.int64)
        flags = np.full(len(ids), ABSENT, dtype=np.uint8)
        flags[known > 0] = self.table.columns["flags"][known[known > 0] - 1]
        return flags

    def get_class(self, object_id: int) -> tuple[int, float]:
        """The label and the score of an object."""
        columns = self.table.columns
        return int(columns["label"][object_id - 1]), float(columns["score"][object_id - 1])

    def gather_masks(self, ids: Sequence[int] | Int64[np.ndarray, " ids"]) -> RunLengths:
        """The masks of objects."""
        return self.masks.gather(np.asarray(ids, dtype=np.int64))

    def choose_layers(self, runs: RunLengths, without: Sequence[int]) -> list[int]:
        """Layers for masks, so that they overlap no object that is shown there, but for those of ``without``."""
        if len(runs) == 0:
            return []
        boxes = _measure_boxes(runs)
        near = self.table.find_near(np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]))
        near = near[is_shown(self.table.columns["flags"][near - 1]) & ~np.isin(near, without)]
        both = concatenate_runs([self.masks.gather(near), runs]) if len(near) else runs
        layers = assign_layers(both, self.table.columns["layer"][near - 1])[len(near) :]
        return np.minimum(layers, 255).tolist()

    def describe_masks(self, runs: RunLengths, label: int) -> list[int]:
        """The flags that follow from where masks are and how large they are."""
        low, high = self.limits[label - 1]
        is_odd = (runs.areas < low) | (runs.areas > high)
        return (self.table.touch_border(_measure_boxes(runs)) * BORDER + is_odd * ODD_SIZE).tolist()

    def read_back(self, patch: Patch) -> Patch:
        """The present values of all that a patch changes; new objects were absent."""
        columns = self.table.columns
        before: Patch = {"flags": dict.fromkeys(patch["flags"], ABSENT)}
        for name, values in patch.items():
            there = [each for each in values if each <= len(self.table)]
            if name == "runs":
                found = [runs_to_strips(self.gather_masks([each])) for each in there]
            else:
                found = columns[name][np.array(there, dtype=np.int64) - 1].tolist()
            before[name] = before.get(name, {}) | dict(zip(there, found, strict=True))
        return before

    def apply(self, patch: Patch) -> set[tuple[int, int]]:
        """Give objects new values, and return the blocks, column first, whose bytes that changes."""
        table = self.table
        ids = {name: np.fromiter(values, dtype=np.int64, count=len(values)) for name, values in patch.items()}
        table.grow(max((int(each.max(initial=0)) for each in ids.values()), default=0))
        moved = [ids[name] for name in ("runs", "layer") if name in ids]
        if "flags" in ids:
            flags = np.fromiter(patch["flags"].values(), dtype=np.uint8, count=len(ids["flags"]))
            moved.append(ids["flags"][(table.columns["flags"][ids["flags"] - 1] ^ flags) & ABSENT != 0])
        touched = np.unique(np.concatenate(moved)) if moved else np.zeros(0, dtype=np.int64)
        blocks = table.locate_blocks(touched[table.columns["area"][touched - 1] > 0])
        for name, values in patch.items():
            if name != "runs":
                table.columns[name][ids[name] - 1] = list(values.values())
        if patch.get("runs"):
            for each, strips in patch["runs"].items():
                self.masks.set(each, strips)
            runs = self.masks.gather(ids["runs"])
            table.set_masks(ids["runs"], _measure_boxes(runs), runs.areas)
        return blocks | table.locate_blocks(touched)


def _measure_boxes(runs: RunLengths) -> Int64[np.ndarray, "instances 4"]:
    return runs.boxes.astype(np.int64)
