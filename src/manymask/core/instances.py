"""Instances: the masks of an image as runs, with a table of one row each."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Integer, Shaped
from numpy.typing import ArrayLike

from manymask.core.geojson import encode_features
from manymask.core.image import ArraySource, ImageSource
from manymask.core.label_painting import paint_label_image, rank_instances
from manymask.core.layers import InstanceLayers, encode_layers, paint_layers
from manymask.core.measurements import iterate_tables
from manymask.core.rle import encode_coco_rle
from manymask.core.runs import RunLengths, concatenate_runs, encode_crops, iterate_parts
from manymask.errors import ManymaskError


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

    def split(self, num_runs: int) -> Iterator["Instances"]:
        """The same instances in parts of about so many runs, at least one part."""
        for rows, runs in iterate_parts(self.runs, num_runs):
            yield Instances(runs, self.labels[rows], self.scores[rows], self.boxes[rows], self.iscrowd[rows])

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

    def sort_by_id(self) -> "Instances":
        """The instances in the order of their ids in ``to_labels``: id i + 1 is row i.

        Crowd regions are left out, and instances of which a label image shows no pixel come last.
        """
        return self[rank_instances(self.runs, self.scores, self.iscrowd)[0]]

    def to_labels(self) -> Int32[np.ndarray, "height width"]:
        """One label image, 0 for background: ids from 1 by falling score, an overlap goes to the higher score.

        What ``predict`` finds has its rows in that order, so that id i + 1 is row i, unless other masks hide a mask;
        ``sort_by_id`` puts rows in the order of ids. Crowd regions are left out.
        """
        rows, num_visible = rank_instances(self.runs, self.scores, self.iscrowd)
        return paint_label_image(self.runs.select(rows[:num_visible]))

    def to_geojson(self, class_names: Sequence[str] | None = None) -> dict[str, Any]:
        """A FeatureCollection that QuPath, QGIS and geopandas read, with exact outlines in pixels of the image.

        ``json.dump`` writes it to a file. Features are in the order of ``sort_by_id``, and their measurement ``label``
        is the id in ``to_labels``.

        Args:
            class_names: The classes; label i + 1 is the i-th. By default ``class 1``, ``class 2`` and so on.
        """
        ranked = self.sort_by_id()
        ids = {"label": np.arange(len(ranked)) + 1}
        features = encode_features(ranked.runs, ranked.labels, ranked.scores, self._name_classes(class_names), ids)
        return {"type": "FeatureCollection", "features": [json.loads(feature) for feature in features]}

    def to_dataframe(
        self,
        image: ImageSource | Shaped[np.ndarray, "height width *channels"] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Any:
        """A pandas table of one row an instance, with measurements under scikit-image's names.

        Args:
            image: The image, for its intensities; and, of one that was opened from a file, the size of its pixels.
            class_names: The classes; label i + 1 is the i-th. By default ``class 1``, ``class 2`` and so on.

        Returns:
            ``label`` (the id in ``to_labels``), ``class``, ``score``, ``area``, ``centroid-0``, ``centroid-1``,
            ``bbox-0`` to ``bbox-3``, ``perimeter``, ``eccentricity``, ``solidity``, ``orientation``,
            ``axis_major_length``, ``axis_minor_length``, in pixels; ``area_um2`` and others that end in ``_um`` where
            the size of a pixel is known; with an image ``intensity_mean``, ``_min``, ``_max`` and ``_std``.

        Raises:
            ManymaskError: pandas is not installed.
            ValueError: The image is of another size.
        """
        pandas = import_extra("pandas", "tables")
        if isinstance(image, np.ndarray):
            image = ArraySource(image if image.ndim == 3 else image[..., None])
        ranked, names = self.sort_by_id(), self._name_classes(class_names)
        tables = iterate_tables(ranked.runs, ranked.labels, ranked.scores, names, image)
        return pandas.concat([pandas.DataFrame(table) for table in tables], ignore_index=True)

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with all rows, in their order.

        Masks are supervision's ``CompactMask``, which holds runs inside of boxes: no mask of the image's size is made
        until one is asked for.

        Raises:
            ManymaskError: supervision is not installed.
        """
        supervision = import_extra("supervision", "supervision")
        boxes = self.runs.boxes - np.array([0, 0, 1, 1], dtype=np.float32)  # the last pixel is inside, as there
        masks = supervision.CompactMask.from_coco_rle(encode_coco_rle(self.runs), boxes, self.size)
        return supervision.Detections(xyxy=self.boxes, mask=masks, confidence=self.scores, class_id=self.labels)

    def _name_classes(self, class_names: Sequence[str] | None) -> Sequence[str]:
        num_classes = int(self.labels.max(initial=0))
        if class_names is None:
            return [f"class {label}" for label in range(1, num_classes + 1)]
        if len(class_names) < num_classes:
            raise ValueError(f"expected names of {num_classes} classes, got {len(class_names)}")
        return class_names


def import_extra(module: str, extra: str) -> Any:
    """Load a package that is not part of every installation.

    Raises:
        ManymaskError: It is not there; names the extra that it comes with.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ManymaskError(f"this needs {module}; install it with: pip install 'manymask[{extra}]'") from error


def concatenate_instances(parts: Sequence[Instances]) -> Instances:
    """Put the instances of several tables of one image behind each other.

    Raises:
        ValueError: There are no parts, or they are of images of different sizes.
    """
    runs, names = concatenate_runs([part.runs for part in parts]), ("labels", "scores", "boxes", "iscrowd")
    return Instances(runs, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
