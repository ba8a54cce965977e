"""Images in parts, which other processes look at: each keeps what it finds on a disk that all share."""

import os
import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from manymask import __version__
from manymask.core import ImageSource, Instances, Region, Window
from manymask.errors import DatasetError, ManymaskError
from manymask.imaging import PlaneChoice, open_image
from manymask.prediction.model import Model
from manymask.prediction.object_size import Scaling
from manymask.prediction.partial import WHOLE, PartialResults, TileStore
from manymask.prediction.tiling import (
    LoadedImage,
    Tiling,
    choose_scaling,
    load_image,
    look_at_tiles,
    look_at_whole,
    measure_scaling,
    merge_passes,
    plan_passes,
)
from manymask.prediction.views import warn_of_cap

# Tiles of a part: so many that opening an image costs little beside them, and that a worker which ends loses little.
PART_TILES = 8


class ImageFile(NamedTuple):
    """An image to predict: its name, its file and which image of the file it is."""

    stem: str
    path: Path
    choice: PlaneChoice

    def open(self, region: Window | None) -> ImageSource:
        """The image, or the part of it that is predicted.

        Raises:
            DatasetError: It is damaged, or the region is not inside of it.
        """
        image = open_image(self.path, self.choice)
        if region is None:
            return image
        try:
            return Region(image, region)
        except IndexError as error:
            raise DatasetError(
                f"the region {name_region(region)} (left, top, width, height) is not inside of {self.path}, which is "
                f"{image.size[1]} wide and {image.size[0]} high; choose one that is"
            ) from error


def name_region(region: Window | None) -> str:
    """As the user gives it."""
    return "none" if region is None else f"{region.left},{region.top},{region.width},{region.height}"


class Part(NamedTuple):
    """Some tiles of an image, or all of one that is seen whole.

    Attributes:
        file: The image.
        place: Which of its parts, counted from 0.
        number: How many it has; 0 to only measure what they have to have in common.
        is_whole: Whether the image is seen whole.
    """

    file: ImageFile
    place: int
    number: int
    is_whole: bool


def list_parts(file: ImageFile, num_tiles: int) -> list[Part]:
    """The parts of an image."""
    number = -(-num_tiles // PART_TILES)
    return [Part(file, place, number, num_tiles == 1) for place in range(number)]


@dataclass
class PartFinder:
    """Finds the instances of parts of images, in any process, and keeps them in the store.

    Attributes:
        model: The model.
        tiling: How large images are cut.
        region: The part of each that is predicted.
        partial: Where it is kept.
    """

    model: Model
    tiling: Tiling | None
    region: Window | None
    partial: PartialResults
    _opened: tuple[ImageFile, LoadedImage] | None = field(default=None, init=False)

    def __call__(self, part: Part) -> DatasetError | None:
        """Look at a part; returns what is wrong with an image that cannot be read.

        Raises:
            ManymaskError: This machine does not see the image or the folder of outputs, or memory or the disk is full.
        """
        self._check_machine(part.file.path)
        try:
            store = self.partial.open(part.file.stem, part.file.path)
            if not part.is_whole or store.read(WHOLE) is None:
                self._look(part, store)
        except DatasetError as error:
            return error
        return None

    def _look(self, part: Part, store: TileStore) -> None:
        loaded = self._load(part.file)
        if self.tiling is None or loaded.scale is None:
            look_at_whole(self.model, loaded, store)
            return
        scaling = measure_scaling(self.model, loaded, store)
        if part.number == 0:
            return
        for each in plan_passes(scaling, self.tiling, self.model, loaded.image.size):
            first, last = (len(each.batches) * place // part.number for place in (part.place, part.place + 1))
            for _ in look_at_tiles(self.model, loaded, replace(each, batches=each.batches[first:last]), store):
                pass

    def _load(self, file: ImageFile) -> LoadedImage:
        """The image, which for the next part of a large one is open already."""
        if self._opened is not None and self._opened[0] == file:
            return self._opened[1]
        self._opened = None
        loaded = load_image(file.open(self.region), str(file.path), self.model.plan, self.tiling)
        if loaded.scale is not None:
            self._opened = file, loaded
        return loaded

    def _check_machine(self, path: Path) -> None:
        machine = f"a worker on {socket.gethostname()}"
        if (version := self.partial.settings["version"]) != __version__:
            raise ManymaskError(
                f"{machine} has manymask {__version__}, not {version}; install the same on all machines"
            )
        remedy = "put it on a disk that all machines share, at the same place on each"
        for place in (path, self.partial.folder):
            if not os.path.lexists(place):
                raise ManymaskError(f"{machine} does not see {place}; {remedy}")
        if not self.partial.is_own():
            raise ManymaskError(f"{machine} sees another {self.partial.folder} than this machine; {remedy}")


def recall_instances(model: Model, image: ImageSource, name: str, tiling: Tiling | None, store: TileStore) -> Instances:
    """The instances of an image, all parts of which are in the store, as ``find_instances`` gives them.

    Args:
        model: The model.
        image: The image, of which no pixels are read.
        name: The file, for messages.
        tiling: How it was cut into tiles.
        store: What was found.

    Raises:
        ManymaskError: Something is missing.
    """
    missing = ManymaskError(
        f"what workers found in {name} is missing or damaged in {store.folder}; put the output on a disk that all "
        "machines share, and run the same again"
    )

    def read(batch: range) -> list[Instances]:
        if (found := store.read(batch)) is None:
            raise missing
        return found

    def measure() -> Scaling:
        raise missing

    if tiling is None or len(tiling.list_tiles(image.size)) == 1:
        (instances,) = read(WHOLE)
        warn_of_cap(instances, model.postprocessing, name)
        return instances
    scaling = choose_scaling(model, store, measure)
    passes = plan_passes(scaling, tiling, model, image.size)
    found = [[instances for batch in each.batches for instances in read(each.number(batch))] for each in passes]
    return merge_passes(model, name, image.size, scaling, passes, found)
