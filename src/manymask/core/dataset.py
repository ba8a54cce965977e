"""Labelled images, read one at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from manymask.core.image import ImageSource, Window
from manymask.core.instances import Instances
from manymask.core.layers import InstanceLayers

PART_BYTES = 1 << 28
"""Of an image that is read at once where all of its pixels are looked at in order."""


@dataclass(frozen=True)
class Category:
    """A class as people name it.

    Attributes:
        id: Its number in the files: N of ``classN.tif``, or COCO's ``category_id``. Gaps are kept.
        name: Its name, unique in a data set.
    """

    id: int
    name: str


@dataclass(frozen=True)
class Doubt:
    """What a reader had to guess about a labelled image, or a fault in its file that the read labels do not show.

    Attributes:
        kind: The kind of finding that the doctor makes of it.
        detail: What was found, as the rest of a sentence that begins with the file.
    """

    kind: str
    detail: str


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels.

    Attributes:
        image_id: Number of the image, unique in its data set.
        name: Stem of the image, unique in its data set; a class folder's name.
        path: The image file, for messages.
        image: The image as the file has it; nothing is decoded until it is read.
        layers: Ids 1..N of the instances.
        labels: Class index of each instance: 1 + the place of its category in the data set's categories.
        iscrowd: Whether the instance is a crowd region: COCO's, or the pixels to ignore in label images.
        doubts: What its reader had to guess.
    """

    image_id: int
    name: str
    path: Path
    image: ImageSource
    layers: InstanceLayers
    labels: Int64[np.ndarray, " instances"]
    iscrowd: Bool[np.ndarray, " instances"]
    doubts: tuple[Doubt, ...] = ()

    @property
    def pixels(self) -> Shaped[np.ndarray, "height width channels"]:
        """The whole image."""
        return self.image.read()

    @cached_property
    def digest(self) -> str:
        """Identifies the content of the image, wherever its file lies and whatever its name and kind of file are.

        SHA-256 of the decoded values, of which 64 bits are kept: that two of a million images share them by chance is
        less likely than 1 in 10 million. Three equal channels are the one channel that they were made of.
        """
        is_grey = self.image.num_channels == 3 and all((part == part[..., :1]).all() for part in self._read_parts())
        num_channels = 1 if is_grey else self.image.num_channels
        dtype = self.image.dtype.newbyteorder("<")
        digest = hashlib.sha256(f"{dtype.str} {(*self.image.size, num_channels)}".encode())
        value = next(self._read_parts()).flat[0]
        if all((part == value).all() for part in self._read_parts()):  # images of nothing are not copies of each other
            digest.update(self.name.encode())
        for part in self._read_parts():
            digest.update(np.ascontiguousarray(part[..., :num_channels], dtype=dtype).data)
        return digest.hexdigest()[:16]

    def load(self) -> None:
        """Decode the image now rather than when it is needed; a large one is read in parts, and stays in its file."""
        if self._rows_at_once >= self.image.size[0]:
            self.image.read()

    @property
    def _rows_at_once(self) -> int:
        return max(PART_BYTES // (self.image.size[1] * self.image.num_channels * self.image.dtype.itemsize), 1)

    def _read_parts(self) -> Iterator[Shaped[np.ndarray, "rows width channels"]]:
        """The image in parts of whole rows, so that memory does not grow with it; a small one at once."""
        height, width = self.image.size
        for top in range(0, height, self._rows_at_once):
            yield self.image.read(Window(top, 0, min(self._rows_at_once, height - top), width))

    def to_instances(self) -> Instances:
        """The labels that have pixels, as runs with their table; nobody can find the others."""
        instances = Instances.from_layers(self.layers, self.labels, self.iscrowd)
        return instances[instances.runs.areas > 0]


@dataclass(frozen=True)
class Record:
    """Where one image and its labels are; nothing is read yet.

    Attributes:
        image_id: Number of the image, unique in its data set.
        name: Stem of the image, unique in its data set.
        path: The image file.
        annotation: What else the data set's ``read_record`` needs to find the labels.
        label_files: The files of the labels.
        is_split: Take every piece of a value of its label images for an instance of its own.
        source_id: The id that the data's files give the image, where their ids are texts such as UUIDs.
        ignored: Values of pixels to ignore in its label images; NaN as ``nan``.
    """

    image_id: int
    name: str
    path: Path
    annotation: Any
    label_files: tuple[Path, ...] = ()
    is_split: bool = False
    source_id: str | None = None
    ignored: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something wrong or unusual that a reader found in the files of a data set; what cannot be used is left out of it.

    Attributes:
        kind: The kind of finding that the doctor makes of it.
        severity: ``fault``: an object or image that cannot be used; ``warning``: users are told; ``note``: worth
            knowing.
        message: What was found and, after the last semicolon, what to do.
        path: The file to look at.
        image: Name of the image; None for the data set as a whole.
    """

    kind: str
    severity: Literal["fault", "warning", "note"]
    message: str
    path: Path
    image: str | None = None

    @property
    def detail(self) -> str:
        """What was found, without what to do."""
        detail, has_remedy, _ = self.message.rpartition("; ")
        return detail if has_remedy else self.message


@dataclass(frozen=True)
class Salvage:
    """How the labels of an image can be read although something in them is wrong.

    Attributes:
        record: The image's record, changed so that the good labels are read.
        kind: The kind of finding that the doctor makes of it.
        path: The file that is wrong.
        detail: What is wrong, as a sentence that may begin with the file.
        action: What reading the changed record does about it.
    """

    record: Record
    kind: str
    path: Path
    detail: str
    action: str


class DatasetWriter(ABC):
    """Writes a copy of a data set with other labels into a new or empty folder, one image at a time."""

    def __init__(self, folder: Path, dataset: "Dataset") -> None:
        self.folder, self.dataset = folder, dataset

    @abstractmethod
    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image's file and write its labels; ascending ``rows`` say which of the old ones each was made of."""

    def close(self) -> None:  # noqa: B027 - most formats have no file for all images
        """Write the files that are shared by all images; called after the last one."""


def _find_nothing(_: object) -> None:
    """For formats without detection by content, without faults of their own, or without anything to salvage."""


HOLDS = {
    "classes": "each object has a class",
    "names": "classes have names, not only numbers",
    "holes": "an object may have holes",
    "parts": "an object may have several parts",
    "overlaps": "objects may share pixels",
    "overlaps of classes": "objects of different classes may share pixels",
    "crowd": "a region may be marked as many objects that are not told apart",
    "ids": "objects keep their numbers in copies",
}
"""What of labels a format can hold, each with its meaning."""


@dataclass(frozen=True)
class Format:
    """A layout of labelled images: how it is recognised, read and written, by functions of a module's top level.

    Attributes:
        name: What users call it.
        layout: Its files in a few words, for messages.
        detect: True (or a list that is not empty) where the names of the files in a folder are those of this format.
        read: Lists the images of a data set, given its path and, by keyword, those of ``options`` that are set. What is
            wrong with some of them goes into ``Dataset.problems``; ``DatasetError`` where nothing can be read.
        name_instances: What the files call each instance of a record, in the order of its ids: ``id 7``,
            ``annotation 12``. Pixels to ignore in label images, which come last, have no name. ``FormatError`` where a
            label image cannot be read.
        open_writer: Opens a writer of a copy of a data set.
        holds: What such a copy can hold, of ``HOLDS``.
        changes: What such a copy changes in every image, as words to print.
        copy_format: The format of such a copy, where it is another one.
        options: The options of reading that ``read`` takes; others have no meaning for this format.
        suffixes: Endings of files that are a data set by themselves; none where a data set must be a folder.
        detect_by_content: Like ``detect``, from the content of the files, which is slower; called where no names fit.
        find_faults: Faults in the files of a readable record that its instances do not show.
        list_outlines: The outlines of each instance that its file gives some, as x y points in pixels.
        salvage: A way to read a record that cannot be read as it is; None where there is none.
        join_parts: Writes what joins the parts of a data set with the same classes, which lie in folders beside each
            other, given the folder above, their names and the classes.
    """

    name: str
    layout: str
    detect: Callable[[Path], object]
    read: "Callable[..., Dataset]"
    name_instances: Callable[[Record], list[str]]
    open_writer: "Callable[[Path, Dataset], DatasetWriter]"
    holds: frozenset[str] = frozenset()
    changes: str = ""
    copy_format: str = ""
    options: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    detect_by_content: Callable[[Path], object] = _find_nothing
    find_faults: Callable[[Record], list[Doubt] | None] = _find_nothing
    list_outlines: Callable[[Record], "list[list[Float64[np.ndarray, 'points 2']]] | None"] = _find_nothing
    salvage: Callable[[Record], Salvage | None] = _find_nothing
    join_parts: Callable[[Path, Sequence[str], Sequence[Category]], None] | None = None

    @property
    def is_flat(self) -> bool:
        """Whether each pixel of a copy belongs to one instance only, so that an overlap goes to the first."""
        return not self.holds & {"overlaps", "overlaps of classes"}


@dataclass(frozen=True)
class Dataset(Sequence[Any]):
    """A data set: a sequence of ``Sample`` that are read on access, so memory holds one image at a time.

    Attributes:
        root: The folder or file that was read.
        format: The layout of its files.
        categories: The classes, by ascending id; class index i + 1 is ``categories[i]``.
        records: The images, in a fixed order.
        read_record: Reads one record; a module-level function, so that a data set can go to loader processes.
        problems: What is wrong or unusual in the files.
        has_image_ids: Whether the files give the images their ids, so that results of other tools can refer to them.
    """

    root: Path
    format: Format
    categories: tuple[Category, ...]
    records: tuple[Record, ...]
    read_record: Callable[[Record, tuple[Category, ...]], Sample]
    problems: tuple[Problem, ...] = ()
    has_image_ids: bool = False

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int | np.integer) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | np.integer | slice) -> "Sample | Dataset":
        """One image, which is read, or a slice, which is a data set."""
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.read_record(self.records[index], self.categories)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """The same data set with only the given images."""
        return replace(self, records=tuple(self.records[index] for index in indices))
