"""The instances of images, one image after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from manymask.core import ArraySource, Instances
from manymask.errors import DatasetError, PlanError
from manymask.imaging import Pixels, find_images, get_pixels, is_pixels, open_image
from manymask.prediction.background import work_beside
from manymask.prediction.model import Model, load_model
from manymask.prediction.tiling import LoadedImage, Tiling, find_instances, load_image


def predict(
    model: Model | str | Path,
    images: str | Path | Pixels | Iterable[str | Path | Pixels],
    *,
    min_score: float | None = None,
) -> Iterator[Instances]:
    """Find the instances of images, one image after the other; the next one is read meanwhile.

    Args:
        model: The model, or its run folder or checkpoint.
        images: A file, a folder of images, or one image in memory: an array, a torch tensor or a Pillow image, (height,
            width, channels) or (height, width) of 1 or 3 channels; or several files and images, which must not change
            meanwhile. Sizes may differ.
        min_score: Score from which an instance is returned; by default the model's score threshold, so that one gets
            what label images and pictures show. 0 gives all that the network keeps, down to the setting ``min_score``.

    Returns:
        The instances of each image at its own resolution, by falling score; each image is looked at when its instances
        are asked for, with a warning where the cap on detections may have cut some off. A folder's images come in the
        order of their names.

    Raises:
        DatasetError: An image cannot be read, or is not one.
        PlanError: ``min_score`` is not from 0 to 1.
    """
    model = get_model(model)
    if min_score is not None and not 0 <= min_score <= 1:
        raise PlanError(f"min_score is {min_score}, expected a number from 0 to 1")
    if is_pixels(images):
        given = [images]
    elif isinstance(images, str | Path):
        given = [path for _, path in find_images(Path(images))]
    elif isinstance(images, Iterable):
        given = images
    else:
        raise DatasetError(f"expected images, found {type(images).__name__}; give a file, a folder or an array")
    return _predict_each(model, given, model.plan.shown_score if min_score is None else min_score)


def _predict_each(model: Model, images: Iterable[Any], min_score: float) -> Iterator[Instances]:
    tiling = Tiling.of(model.plan)

    def load(numbered: tuple[int, Any]) -> LoadedImage:
        place, image = numbered
        if isinstance(image, str | Path):
            return load_image(open_image(Path(image)), str(image), model.plan, tiling)
        loaded = load_image(ArraySource(get_pixels(image)), "an array", model.plan, tiling)
        return replace(loaded, name=f"image {place}")

    for loaded in work_beside(load, enumerate(images, start=1)):
        instances = find_instances(model, loaded, tiling)
        yield instances[instances.scores >= min_score]


def get_model(model: Model | str | Path) -> Model:
    """A model, loaded where a path or a name stands for it."""
    return model if isinstance(model, Model) else load_model(model)
