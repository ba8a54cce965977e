"""The instances of images, one image after the other."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from manymask.core import Instances
from manymask.errors import DatasetError, PlanError
from manymask.imaging import Pixels, find_images, get_pixels, is_pixels, read_pixels
from manymask.imaging.normalization import Normalization, normalize_pixels
from manymask.plan import Plan
from manymask.prediction.model import Model, load_model
from manymask.prediction.views import predict_tensor, warn_of_cap


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
    for place, (name, image) in enumerate(work_beside(lambda image: _load_image(image, model.plan), images), start=1):
        source = name or f"image {place}"
        instances = predict_tensor(model, image, source)
        warn_of_cap(instances, model.postprocessing, source)
        yield instances[instances.scores >= min_score]


def get_model(model: Model | str | Path) -> Model:
    """A model, loaded where a path or a name stands for it."""
    return model if isinstance(model, Model) else load_model(model)


def _load_image(image: Any, plan: Plan) -> tuple[str, torch.Tensor]:
    """The file of an image, nothing where it has none, and its values."""
    is_file = isinstance(image, str | Path)
    pixels, name = (read_pixels(Path(image)), str(image)) if is_file else (get_pixels(image), "")
    return name, normalize_pixels(pixels, name or "an array", Normalization.of(plan))


def work_beside(work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any]:
    """``map(work, items)`` with one item being worked on in another thread while the next one is made, or used here.

    So images are read before the network needs them, and its results are written while it looks at the next image.
    """
    with ThreadPoolExecutor(1) as executor:
        waiting = None
        for item in items:
            following = executor.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
