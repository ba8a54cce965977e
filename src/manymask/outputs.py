"""The kinds of files that predictions are written as, image by image: a writer each."""

import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manymask.core import Category, ImageSource, Instances
from manymask.core.files import replace_file
from manymask.core.json_files import JsonList
from manymask.drawing.overlays import draw_overlay, write_picture
from manymask.formats import encode_coco_results, write_label_image
from manymask.formats.stored import IMAGES_NAME, PREDICTIONS_NAME
from manymask.formats.submission import ARCHIVE_NAME, RESULTS_NAME


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


class OutputWriter(ABC):
    """Writes the predictions of one image after the other, and holds none of them in memory.

    Attributes:
        folder: Where it writes; the folder is made where it is not there.
        names: The images that will be written.
        categories: The classes; label i + 1 is the i-th.
        score_threshold: Score from which on a prediction is shown, for kinds of files that do not hold all of them.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], categories: Sequence[Category], score_threshold: float
    ) -> None:
        self.folder, self.names, self.categories, self.score_threshold = folder, names, categories, score_threshold

    @staticmethod
    @abstractmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """All files that are written for the images of these names, by their place in the folder."""

    @abstractmethod
    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the predictions of an image, by falling score.

        Raises:
            ManymaskError: The disk is full or cannot be written to.
        """

    def close(self) -> None:  # noqa: B027 - most kinds have no file for all images
        """Finish the files for all images; after an error too, so that what was found until then is kept."""


@contextmanager
def close_writers(writers: Sequence[OutputWriter]) -> Iterator[None]:
    """Close all writers at the end of the block, however it ends."""
    with ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.close)
        yield


class CocoResults(OutputWriter):
    """COCO results: all predictions with their scores, and in ``images.json`` the images that they refer to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._results, self._images = (JsonList(self.folder / name) for name in (PREDICTIONS_NAME, IMAGES_NAME))

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """The two files."""
        return [PREDICTIONS_NAME, IMAGES_NAME]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Add the image and its predictions."""
        self._results.extend(encode_coco_results(instances, image.id, self.categories))
        height, width = instances.size
        entry = {"id": image.id, "file_name": image.file_name, "name": image.name, "height": height, "width": width}
        self._images.extend([entry])

    def close(self) -> None:
        """Put both files in place."""
        with closing(self._images):
            self._results.close()


class LabelTiffs(OutputWriter):
    """Label images: the predictions that are shown, one id each, with class and score of each in a table beside it."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """Two files an image."""
        return [f"labels/{name}.{kind}" for name in names for kind in ("tif", "csv")]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Write the files of an image; an overlap goes to the higher score."""
        shown = instances[instances.scores >= self.score_threshold]
        write_label_image(self.folder / "labels" / f"{image.name}.tif", shown, self.categories)


class Overlays(OutputWriter):
    """Pictures: each image with the outlines of the predictions that are shown."""

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """A file an image."""
        return [f"overlays/{name}.png" for name in names]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Draw the picture of an image."""
        pixels, threshold = image.image.read(), self.score_threshold
        picture = draw_overlay(pixels, instances, self.categories, score_threshold=threshold)
        write_picture(self.folder / "overlays" / f"{image.name}.png", picture)


class Submission(OutputWriter):
    """Results handed in for a task, and an archive that holds them; equal predictions give equal files."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._results = JsonList(self.folder / RESULTS_NAME)
        self._num_left = len(self.names)

    @staticmethod
    def list_files(names: Sequence[str]) -> list[str]:
        """The two files."""
        return [RESULTS_NAME, ARCHIVE_NAME]

    def write(self, image: ImageEntry, instances: Instances) -> None:
        """Add the predictions of an image."""
        self._results.extend(encode_coco_results(instances, image.id, self.categories))
        self._num_left -= 1

    def close(self) -> None:
        """Put the results in place, and pack them where they are whole: nobody shall hand in a part of them."""
        self._results.close()
        if self._num_left:
            return
        with replace_file(self.folder / ARCHIVE_NAME) as file, zipfile.ZipFile(file, "w") as archive:
            entry = zipfile.ZipInfo(RESULTS_NAME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with open(self.folder / RESULTS_NAME, "rb") as results, archive.open(entry, "w") as packed:
                shutil.copyfileobj(results, packed)


OUTPUTS: dict[str, type[OutputWriter]] = {"coco": CocoResults, "labels": LabelTiffs, "overlay": Overlays}
"""The kinds of files that predictions can be written as, by the name that a user types."""
