"""The instances of images, one image after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from manymask.core import ArraySource, Instances
from manymask.errors import DatasetError, PlanError
from manymask.imaging import (
    ONE_PLANE,
    Pixels,
    PlaneChoice,
    find_images,
    get_pixels,
    is_pixels,
    list_choices,
    open_image,
)
from manymask.plan import count_inputs
from manymask.prediction.background import work_beside
from manymask.prediction.model import Model, load_model
from manymask.prediction.tiling import LoadedImage, Tiling, find_instances, load_image
from manymask.prediction.views import predict_alike, warn_of_cap
from manymask.wording import count_of


def predict(
    model: Model | str | Path,
    images: str | Path | Pixels | Iterable[str | Path | Pixels],
    *,
    min_score: float | None = None,
    batch_size: int = 1,
    planes: PlaneChoice = ONE_PLANE,
    tile_size: int | None = None,
) -> Iterator[Instances]:
    """Find the instances of images, one image after the other; the next one is read meanwhile.

    Memory holds one batch of images and the next one's first, however many there are; those above a size, which depends
    on the model, are seen in tiles.

    Args:
        model: The model, or its run folder or checkpoint.
        images: A file, a folder of images, or one image in memory: an array, a torch tensor or a Pillow image, (height,
            width, channels) or (height, width), of as many channels as the training images; or several files and
            images, which must not change meanwhile, such as those that a generator gives. Sizes may differ.
        min_score: Score from which an instance is returned; by default the model's score threshold, so that one gets
            what label images and pictures show. 0 gives all that the network keeps, down to the setting ``min_score``.
        batch_size: Images that go through the network at once, where they follow each other and are of one size and
            seen whole. A GPU is faster with more, a CPU is not; last digits may differ.
        planes: Which image is taken of files that hold several, and which channels; with ``page="all"`` each page is an
            image of its own.
        tile_size: Longest side in pixels of what is seen at once, in place of the model's own.

    Returns:
        The instances of each image at its own resolution, by falling score; each image is looked at when its instances
        are asked for, with a warning where the cap on detections may have cut some off. A folder's images come in the
        order of their names.

    Raises:
        DatasetError: An image cannot be read, or is not one.
        PlanError: ``min_score`` is not from 0 to 1, ``batch_size`` is less than 1, or a tile is too small.
    """
    model = take_channels(get_model(model), planes)
    if min_score is not None and not 0 <= min_score <= 1:
        raise PlanError(f"min_score is {min_score}, expected a number from 0 to 1")
    if batch_size < 1:
        raise PlanError(f"batch_size is {batch_size}, expected 1 or more")
    if is_pixels(images):
        given = [images]
    elif isinstance(images, str | Path):
        given = [path for _, path in find_images(Path(images))]
    elif isinstance(images, Iterable):
        given = images
    else:
        raise DatasetError(f"expected images, found {type(images).__name__}; give a file, a folder or an array")
    tiling = Tiling.of(model.plan, tile_size)
    loaded = _load_each(model, given, planes, tiling)
    return _predict_each(model, loaded, tiling, model.plan.shown_score if min_score is None else min_score, batch_size)


def _load_each(
    model: Model, images: Iterable[Any], planes: PlaneChoice, tiling: Tiling | None
) -> Iterator[LoadedImage]:
    def list_parts() -> Iterator[tuple[int, Any, PlaneChoice]]:
        for place, image in enumerate(images, start=1):
            choices = list_choices(image, planes) if isinstance(image, str | Path) else [planes]
            yield from ((place, image, choice) for choice in choices)

    def load(part: tuple[int, Any, PlaneChoice]) -> LoadedImage:
        place, image, choice = part
        if isinstance(image, str | Path):
            return load_image(open_image(Path(image), choice), str(image), model.plan, tiling)
        pixels = planes.pick_channels(get_pixels(image), Path("an array"))
        loaded = load_image(ArraySource(pixels), "an array", model.plan, tiling)
        return replace(loaded, name=f"image {place}")

    return work_beside(load, list_parts())


def _predict_each(
    model: Model, images: Iterator[LoadedImage], tiling: Tiling | None, min_score: float, batch_size: int
) -> Iterator[Instances]:
    def predict_batch(batch: list[LoadedImage]) -> list[Instances]:
        if len(batch) == 1:
            return [find_instances(model, batch[0], tiling)]
        values = [loaded.values for loaded in batch if loaded.values is not None]
        found = predict_alike(model, values, [loaded.name for loaded in batch])
        for loaded, instances in zip(batch, found, strict=True):
            warn_of_cap(instances, model.postprocessing, loaded.name)
        return found

    # By ``map``, which lets go of a batch before the next one is made.
    for found in map(predict_batch, _make_batches(images, batch_size)):
        for instances in found:
            yield instances[instances.scores >= min_score]


def _make_batches(images: Iterator[LoadedImage], batch_size: int) -> Iterator[list[LoadedImage]]:
    """Images that follow each other, are of one size and seen whole, so many at once; the others each by itself."""
    batch: list[LoadedImage] = []
    for loaded in images:
        is_alike = loaded.values is not None and bool(batch) and batch[0].values is not None
        is_alike = is_alike and batch[0].image.size == loaded.image.size
        if batch and not is_alike:
            yield batch
            batch = []
        batch.append(loaded)
        if len(batch) == batch_size:  # before the next image is waited for, which may not be readable
            yield batch
            batch = []
    if batch:
        yield batch


def take_channels(model: Model, planes: PlaneChoice) -> Model:
    """The model for images of which the channels were chosen: it takes all of these, whatever it was trained on.

    Raises:
        PlanError: They are more or fewer than its network takes.
    """
    plan, number = model.plan, len(planes.channels)
    if number == 0 or plan.channels == "auto":
        return model
    if count_inputs(number) != plan.in_channels:
        raise PlanError(
            f"{model.source} takes {count_of(plan.in_channels, 'channel')}, but --channels chooses {number}; choose as "
            "many"
        )
    return replace(model, plan=plan.model_copy(update={"channels": tuple(range(1, number + 1))}))


def get_model(model: Model | str | Path) -> Model:
    """A model, loaded where a path or a name stands for it."""
    return model if isinstance(model, Model) else load_model(model)
