"""The table of an image's objects: a row for each id, and which objects are in which block of the image."""

import struct
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

BORDER, EDITED, DELETED, ODD_SIZE, ACCEPTED, DRAWN = (1 << place for place in range(6))
"""Flags of an object, as ``table.bin`` has them."""
ABSENT = 128
"""The flag of an id whose creation was undone; no table shows it."""

BLOCK_SIZE = 2048
"""Side of the blocks that the pixels of objects are sent in."""

TABLE_MAGIC = b"MMT1"

_EMPTY: dict[str, np.ndarray] = {
    "score": np.zeros(0, dtype=np.float32),
    "label": np.zeros(0, dtype=np.uint8),
    "flags": np.zeros(0, dtype=np.uint8),
    "layer": np.zeros(0, dtype=np.uint8),
    "area": np.zeros(0, dtype=np.uint32),
    "box": np.zeros((0, 4), dtype=np.int32),
    "block": np.zeros(0, dtype=np.int32),
}


class Table:
    """Columns of values of objects by their ids: those of id i are at place i - 1.

    Attributes:
        size: (height, width) of the image in pixels.
        num_blocks: (rows, columns) of blocks.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.num_blocks = (max(-(-size[0] // BLOCK_SIZE), 1), max(-(-size[1] // BLOCK_SIZE), 1))
        self._columns, self._num_rows = _EMPTY, 0
        # The ids that may be in each block, which its members are chosen of, and a box around all that ever were.
        self._listed: dict[int, list[np.ndarray]] = {}
        self._reach = np.tile(
            np.array([1 << 30, 1 << 30, -1, -1], dtype=np.int32), (self.num_blocks[0] * self.num_blocks[1], 1)
        )

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All values; they may be written to, but for ``area``, ``box`` and ``block`` (``set_masks``)."""
        return {name: values[: self._num_rows] for name, values in self._columns.items()}

    def __len__(self) -> int:
        return self._num_rows

    def grow(self, num_rows: int) -> None:
        """Make room for ids up to ``num_rows``; those that are new are absent."""
        if num_rows > len(self._columns["flags"]):
            # For half as many more, so that adding one costs little, however many there are.
            self._columns = _enlarge(self.columns, num_rows + num_rows // 2 + 64)
        self._columns["flags"][self._num_rows : num_rows] = ABSENT
        self._num_rows = max(self._num_rows, num_rows)

    def shrink(self, num_rows: int) -> None:
        """Forget ids above ``num_rows``, as if they had never been."""
        self._num_rows = num_rows

    def load(self, columns: Mapping[str, np.ndarray]) -> None:
        """Take the columns of a table that was written."""
        columns = {name: columns[name].astype(empty.dtype) for name, empty in _EMPTY.items()}
        self._num_rows = len(columns["flags"])
        self._columns = _enlarge(columns, self._num_rows + self._num_rows // 2 + 64)
        self.set_masks(np.arange(self._num_rows) + 1, columns["box"], columns["area"])

    def set_masks(
        self, ids: Int64[np.ndarray, " ids"], boxes: Integer[np.ndarray, "ids 4"], areas: Integer[np.ndarray, " ids"]
    ) -> None:
        """Note the boxes (x1 y1 x2 y2, exclusive) and areas of objects, and with them their blocks."""
        if len(ids) == 0:
            return
        across = self.num_blocks[1]
        block = (boxes[:, 1] + boxes[:, 3]) // 2 // BLOCK_SIZE * across + (boxes[:, 0] + boxes[:, 2]) // 2 // BLOCK_SIZE
        columns = self._columns
        columns["box"][ids - 1], columns["area"][ids - 1], columns["block"][ids - 1] = boxes, areas, block
        order = np.argsort(block, kind="stable")
        blocks, begin = np.unique(block[order], return_index=True)
        for each, part in zip(blocks.tolist(), np.split(order, begin[1:]), strict=True):
            self._listed.setdefault(each, []).append(ids[part])
            reach = self._reach[each]
            reach[:2] = np.minimum(reach[:2], boxes[part, :2].min(axis=0))
            reach[2:] = np.maximum(reach[2:], boxes[part, 2:].max(axis=0))

    def list_block(self, block: int) -> Int64[np.ndarray, " ids"]:
        """The ids of a block, ascending; deleted ones too."""
        if block not in self._listed:
            return np.zeros(0, dtype=np.int64)
        ids = np.unique(np.concatenate(self._listed[block]))
        ids = ids[ids <= self._num_rows]
        ids = ids[self._columns["block"][ids - 1] == block]
        self._listed[block] = [ids]
        return ids[self._columns["flags"][ids - 1] & ABSENT == 0]

    def find_near(self, box: Integer[np.ndarray, " 4"]) -> Int64[np.ndarray, " ids"]:
        """The ids of objects whose boxes share pixels with a box, ascending; deleted ones too."""
        blocks = np.flatnonzero(_share_pixels(self._reach, box))
        if len(blocks) == 0:
            return np.zeros(0, dtype=np.int64)
        ids = np.sort(np.concatenate([self.list_block(block) for block in blocks.tolist()]))
        return ids[_share_pixels(self._columns["box"][ids - 1], box)]

    def locate_blocks(self, ids: Int64[np.ndarray, " ids"]) -> set[tuple[int, int]]:
        """The blocks, column first, of some objects."""
        places = np.unique(self._columns["block"][ids - 1]).tolist()
        return {(place % self.num_blocks[1], place // self.num_blocks[1]) for place in places}

    def touch_border(self, boxes: Integer[np.ndarray, "objects 4"]) -> Bool[np.ndarray, " objects"]:
        """Whether boxes reach the image's border."""
        height, width = self.size
        x1, y1, x2, y2 = boxes.T
        return (x1 <= 0) | (y1 <= 0) | (x2 >= width) | (y2 >= height)

    def pack_rows(self, ids: Int64[np.ndarray, " ids"]) -> dict[str, np.ndarray]:
        """Columns of ``table.bin`` for some objects."""
        box = self._columns["box"][ids - 1]
        shift = self.shift
        return {
            "id": ids.astype("<u4"),
            "score": np.round(np.clip(self._columns["score"][ids - 1], 0, 1) * 65535).astype("<u2"),
            "class": self._columns["label"][ids - 1] - np.uint8(1),
            "flags": self._columns["flags"][ids - 1],
            "area": self._columns["area"][ids - 1],
            "x": ((box[:, 0] + box[:, 2]) // 2 >> shift).astype("<u2"),
            "y": ((box[:, 1] + box[:, 3]) // 2 >> shift).astype("<u2"),
        }

    @property
    def shift(self) -> int:
        """By how many bits centres are shifted to fit into 16."""
        return max((max(self.size) - 1).bit_length() - 16, 0)

    def pack(self, revision: int) -> bytes:
        """``table.bin``: a header, then a column after the other."""
        ids = np.flatnonzero(self.columns["flags"] & ABSENT == 0) + 1
        header = TABLE_MAGIC + struct.pack("<3I", len(ids), revision, self.shift)
        return header + b"".join(column.tobytes() for column in self.pack_rows(ids).values())


def _enlarge(columns: dict[str, np.ndarray], num_rows: int) -> dict[str, np.ndarray]:
    """Columns with room for so many rows."""
    larger = {name: np.zeros((num_rows, *values.shape[1:]), values.dtype) for name, values in columns.items()}
    for name, values in columns.items():
        larger[name][: len(values)] = values
    return larger


def find_odd_sizes(areas: Integer[np.ndarray, " objects"]) -> tuple[float, float]:
    """The areas below and above which an object is of unusual size among others of its class."""
    if len(areas) < 20:
        return 0.0, float(1 << 62)  # above any area; JSON has no infinity
    logs = np.log(areas)
    middle = np.median(logs)
    # Three standard deviations, by the median of distances (x 1.48), which a few odd ones do not widen.
    reach = 3 * max(1.4826 * float(np.median(np.abs(logs - middle))), 0.2)
    return float(np.exp(middle - reach)), float(np.exp(middle + reach))


def is_shown(flags: UInt8[np.ndarray, " objects"]) -> Bool[np.ndarray, " objects"]:
    """Whether objects belong to the results: neither deleted nor undone."""
    return flags & (DELETED | ABSENT) == 0


def _share_pixels(boxes: Integer[np.ndarray, "boxes 4"], box: Integer[np.ndarray, " 4"]) -> np.ndarray:
    x1, y1, x2, y2 = boxes.T
    return (x1 < box[2]) & (y1 < box[3]) & (x2 > box[0]) & (y2 > box[1])
