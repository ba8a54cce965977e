"""What all writers of predictions share: the image that they are of, and the instances that have an id."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manymask.core import Category, ImageSource, Instances
from manymask.core.label_painting import rank_instances
from manymask.core.runs import iterate_groups
from manymask.core.tiles import place_instances

# Predictions are encoded in parts of about this many runs (some kilobyte each), so that memory depends little on how
# many there are.
GROUP_RUNS = 1 << 18


@dataclass(frozen=True, eq=False)
class ImageEntry:
    """An image whose predictions are written.

    Attributes:
        id: Its number, by which COCO results refer to it.
        name: Its stem, which files that are made for it are named after.
        file_name: Its file, by its place in the folder of images.
        image: The image itself.
    """

    id: int
    name: str
    file_name: str
    image: ImageSource

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """(height, width) of a pixel in micrometres, where the file gives it."""
        return self.image.pixel_size


class OutputWriter(ABC):
    """Writes the predictions of one image after the other, and holds none of them in memory.

    Attributes:
        folder: Where it writes; the folder is made where it is not there.
        names: The images that will be written.
        categories: The classes; label i + 1 is the i-th.
        class_names: Their names.
        score_threshold: Score from which on a prediction is shown, for kinds of files that do not hold all of them.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], categories: Sequence[Category], score_threshold: float
    ) -> None:
        self.folder, self.names, self.categories, self.score_threshold = folder, names, categories, score_threshold
        self.class_names = [category.name for category in categories]

    @staticmethod
    @abstractmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """All files that may be written for the images of these names, by their place in the folder."""

    @staticmethod  # noqa: B027 - most kinds need nothing that is not installed
    def check() -> None:
        """Refuse, before any work, what cannot be written on this machine.

        Raises:
            ManymaskError: A package that the writer needs is not installed; names the extra that it comes with.
        """

    @abstractmethod
    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the predictions of an image, by falling score.

        Raises:
            ManymaskError: The disk is full or cannot be written to.
        """

    def iterate_shown(self, image: ImageEntry, instances: Instances) -> Iterator[tuple[int, Instances]]:
        """The predictions that are shown, by their ids in the label image, in parts: the first id of each part, and it.

        Those of a region are in pixels of the whole file, as far as the region reaches, so that they fit when people
        open them on the file.

        A part has about ``GROUP_RUNS`` runs; there is at least one.
        """
        rows, _ = rank_instances(instances.runs, instances.scores, instances.iscrowd, self.score_threshold)
        sizes = np.diff(instances.runs.row_splits)[rows]
        for here in iterate_groups(sizes, GROUP_RUNS) if len(rows) else [slice(0, 0)]:
            part = instances[rows[here]]
            if (window := image.image.window) is not None:
                part = place_instances(part, window, (window.top + window.height, window.left + window.width))
            yield here.start + 1, part

    def close(self) -> None:  # noqa: B027 - most kinds have no file for all images
        """Finish the files for all images; after an error too, so that what was found until then is kept."""


@contextmanager
def close_writers(writers: Sequence[OutputWriter]) -> Iterator[None]:
    """Close all writers at the end of the block, however it ends."""
    with ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.close)
        yield
