"""Instances: the masks of an image as runs, with a table of one row each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer
from numpy.typing import ArrayLike

from manymask.core.layers import InstanceLayers, encode_layers, paint_layers
from manymask.core.runs import RunLengths, concatenate_runs, encode_crops


@dataclass(frozen=True, eq=False)
class Instances:
    """All instances of one image: predictions, or ground truth (whose scores are 1).

    Attributes:
        runs: The masks.
        labels: Class index of each instance, from 1; 0 is background and does not occur.
        scores: Confidence of each instance in [0, 1].
        boxes: x1 y1 x2 y2 in pixels, x2 and y2 exclusive: the detector's for predictions, else the masks' own.
        iscrowd: Whether the row is a COCO crowd region: many objects in one mask, ignored in training and scores.
    """

    runs: RunLengths
    labels: Int64[np.ndarray, " instances"]
    scores: Float32[np.ndarray, " instances"]
    boxes: Float32[np.ndarray, "instances 4"]
    iscrowd: Bool[np.ndarray, " instances"]

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in ("runs", "labels", "scores", "boxes", "iscrowd")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"expected fields of equal length, got {lengths}")

    @classmethod
    def from_runs(
        cls,
        runs: RunLengths,
        labels: Integer[np.ndarray, " instances"],
        *,
        scores: Float32[np.ndarray, " instances"] | None = None,
        boxes: Float32[np.ndarray, "instances 4"] | None = None,
        iscrowd: Bool[np.ndarray, " instances"] | None = None,
    ) -> "Instances":
        """Make instances; by default scores are 1, boxes those of the masks, and no row is a crowd region."""
        return cls(
            runs=runs,
            labels=labels.astype(np.int64),
            scores=np.ones(len(runs), dtype=np.float32) if scores is None else scores,
            boxes=runs.boxes if boxes is None else boxes,
            iscrowd=np.zeros(len(runs), dtype=bool) if iscrowd is None else iscrowd,
        )

    @classmethod
    def from_layers(
        cls,
        layers: InstanceLayers,
        labels: Integer[np.ndarray, " instances"],
        iscrowd: Bool[np.ndarray, " instances"] | None = None,
    ) -> "Instances":
        """Make instances of ids 1..N in layers."""
        return cls.from_runs(encode_layers(layers, len(labels)), labels, iscrowd=iscrowd)

    @classmethod
    def from_masks(cls, masks: ArrayLike, labels: ArrayLike) -> "Instances":
        """Make instances of a dense stack, for users who have one; manymask itself never makes such a stack.

        Args:
            masks: (instances, height, width), of any type; what is not 0 belongs to the instance.
            labels: Class index of each instance, from 1.

        Raises:
            ValueError: The masks have not three axes, a label is not a whole number from 1, or their numbers differ.
        """
        masks, labels = np.asarray(masks), np.asarray(labels)
        if masks.ndim != 3:
            raise ValueError(f"expected masks of shape (instances, height, width), got {masks.shape}")
        if labels.shape != masks.shape[:1]:
            raise ValueError(f"expected labels of shape {masks.shape[:1]}, one for each mask, got {labels.shape}")
        if labels.size and (labels.dtype.kind not in "iu" or labels.min() < 1):
            raise ValueError(f"expected labels that are whole numbers from 1 (0 is background), got {labels}")
        runs = encode_crops(((0, 0, mask != 0) for mask in masks), (masks.shape[1], masks.shape[2]))
        return cls.from_runs(runs, labels.astype(np.int64))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.runs.size

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(
        self,
        rows: int
        | np.integer
        | slice
        | Sequence[int]
        | Integer[np.ndarray, " selected"]
        | Bool[np.ndarray, " instances"],
    ) -> "Instances":
        """The given rows (one index, a slice, indices, or a flag for each row), in that order.

        Raises:
            IndexError: There is no such row, or the flags are not one for each row.
        """
        rows = np.atleast_1d(np.arange(len(self))[rows])
        return Instances(
            self.runs.select(rows), self.labels[rows], self.scores[rows], self.boxes[rows], self.iscrowd[rows]
        )

    def relabel(self, labels: Int64[np.ndarray, " classes"]) -> "Instances":
        """The same instances with the label that a table, indexed by the old label, gives for each."""
        return replace(self, labels=labels[self.labels])

    def to_layers(self) -> InstanceLayers:
        """Paint the masks; row i becomes id i + 1, overlapping instances go to different layers."""
        return paint_layers(self.runs)

    def to_masks(self) -> Bool[np.ndarray, "instances height width"]:
        """A dense stack, for users who need one. It takes instances x height x width bytes."""
        height, width = self.size
        masks = np.zeros((len(self), width * height), dtype=bool)
        for owner, start, length in zip(self.runs.owner, self.runs.start, self.runs.length, strict=True):
            masks[owner, start : start + length] = True
        return masks.reshape(len(self), width, height).transpose(0, 2, 1)


def concatenate_instances(parts: Sequence[Instances]) -> Instances:
    """Put the instances of several tables of one image behind each other.

    Raises:
        ValueError: There are no parts, or they are of images of different sizes.
    """
    runs, names = concatenate_runs([part.runs for part in parts]), ("labels", "scores", "boxes", "iscrowd")
    return Instances(runs, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
