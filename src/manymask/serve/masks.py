"""Masks of an image's objects by their ids: predicted ones behind each other, and those that edits made."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from manymask.core import RunLengths
from manymask.core.components import split_columns
from manymask.core.files import replace_file
from manymask.core.runs import expand_ranges

Strips = list[list[int]]
"""Pixels as people's edits have them: [x, y, length] of vertical strips."""

_ARRAYS = ("splits", "start", "length")


class MaskStore:
    """The runs of objects by their ids.

    Predicted masks are never changed; they may lie in files, of which the system reads what is used.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        position = np.uint32 if size[0] * size[1] < 1 << 32 else np.int64
        self._splits = np.zeros(1, dtype=np.int64)
        self._start, self._length = np.zeros(0, dtype=position), np.zeros(0, dtype=np.uint32)
        self._edited: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def append(self, runs: RunLengths) -> None:
        """Add predicted masks, whose ids follow those before."""
        num_runs = int(self._splits[-1])
        self._start = _append(self._start, num_runs, runs.start)
        self._length = _append(self._length, num_runs, runs.length)
        self._splits = np.concatenate([self._splits, runs.row_splits[1:] + num_runs])

    def set(self, object_id: int, strips: Strips) -> None:
        """Give an object another mask."""
        start, length = strips_to_runs(strips, self.size)
        self._edited[object_id] = (start, length)

    def gather(self, ids: Int64[np.ndarray, " ids"]) -> RunLengths:
        """The masks of objects, in the order of the ids."""
        edited = {place: self._edited[i] for place, i in enumerate(ids.tolist()) if i in self._edited}
        is_predicted = np.ones(len(ids), dtype=bool)
        is_predicted[list(edited)] = False
        rows = ids[is_predicted] - 1
        begin, count = self._splits[rows], self._splits[rows + 1] - self._splits[rows]
        num_runs = np.zeros(len(ids), dtype=np.int64)
        num_runs[is_predicted] = count
        for place, (edited_start, _) in edited.items():
            num_runs[place] = len(edited_start)
        splits = np.concatenate([[0], np.cumsum(num_runs)])
        owner = np.repeat(np.arange(len(ids)), num_runs)
        start, length = np.empty(len(owner), dtype=np.int64), np.empty(len(owner), dtype=np.int64)
        source, target = expand_ranges(begin, count)[1], expand_ranges(splits[:-1][is_predicted], count)[1]
        start[target], length[target] = self._start[source], self._length[source]
        for place, values in edited.items():
            start[splits[place] : splits[place + 1]], length[splits[place] : splits[place + 1]] = values
        return RunLengths(self.size, len(ids), owner, start, length)

    def save(self, folder: Path) -> None:
        """Write the predicted masks."""
        num_runs = int(self._splits[-1])
        for name, values in zip(_ARRAYS, (self._splits, self._start[:num_runs], self._length[:num_runs]), strict=True):
            with replace_file(folder / f"{name}.npy") as file:
                np.save(file, values)

    @classmethod
    def load(cls, folder: Path, size: tuple[int, int]) -> "MaskStore":
        """Open the predicted masks of a folder; their pixels stay in the files until they are used."""
        store = cls(size)
        store._splits = np.load(folder / "splits.npy")
        store._start, store._length = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS[1:])
        return store


def _append(array: np.ndarray, num_used: int, values: np.ndarray) -> np.ndarray:
    """The array with values behind those that are used; twice as long where it was full."""
    end = num_used + len(values)
    if end > len(array):
        larger = np.empty(max(end, 2 * len(array)), dtype=array.dtype)
        larger[:num_used] = array[:num_used]
        array = larger
    array[num_used:end] = values
    return array


def runs_to_strips(runs: RunLengths) -> Strips:
    """All pixels of runs as strips, in the order of the runs."""
    _, column, top, bottom = split_columns(runs)
    return np.stack([column, top, bottom - top], axis=1).tolist()


def strips_to_runs(
    strips: Strips | Integer[np.ndarray, "strips 3"], size: tuple[int, int]
) -> tuple[Int64[np.ndarray, " runs"], Int64[np.ndarray, " runs"]]:
    """Starts and lengths of the runs of one mask; strips that touch or overlap are joined."""
    x, y, length = np.asarray(strips, dtype=np.int64).reshape(-1, 3).T
    runs = RunLengths.from_intervals(size, 1, np.zeros_like(x), x * size[0] + y, length)
    return runs.start, runs.length
