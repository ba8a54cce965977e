"""Predict the images of a folder and write the results."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch

from manymask.core import ImageSource, Instances
from manymask.core.outputs import check_outputs, record_outputs
from manymask.core.progress import Progress, track
from manymask.errors import DatasetError, PlanError
from manymask.formats import find_skipped, match_image_ids, read_image_ids
from manymask.imaging import ONE_PLANE, PlaneChoice, find_images, list_choices, open_image
from manymask.imaging.files import check_unique_names
from manymask.imaging.normalization import Normalization, check_channels, normalize_pixels
from manymask.imaging.raster import check_declared_size
from manymask.outputs import DEFAULT_OUTPUTS, OUTPUTS, ImageEntry, Submission, close_writers
from manymask.plan import Plan
from manymask.prediction.model import Model
from manymask.prediction.predicting import get_model, work_beside
from manymask.prediction.views import predict_tensor, warn_of_cap
from manymask.wording import count_of

logger = logging.getLogger(__name__)


def predict_files(
    model: Model | str | Path,
    images: str | Path,
    output: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_OUTPUTS,
    ids: str | Path | None = None,
    planes: PlaneChoice = ONE_PLANE,
    progress: Progress | None = None,
) -> list[Path]:
    """Predict a folder of images and write the results.

    The header of every image is read before the first prediction, so that a file that is no image, or is cut short, is
    found before anything is written, as far as headers tell; one that is damaged inside is found when it is predicted.
    What an earlier call wrote to the folder is removed; files of anybody else are never written over.

    Args:
        model: The model, or its run folder or checkpoint.
        images: An image, a folder of images, or a folder of class folders.
        output: Where to write.
        formats: What to write: ``coco`` (``predictions.json`` and ``images.json``, or with ``ids``
            ``test-results.json`` and ``test-results.zip``), ``labels`` (``labels/<stem>.tif`` and ``.csv``, and
            ``overlaps/<stem>.tif`` where predictions overlap), ``geojson`` (``geojson/<stem>.geojson.gz``), ``imagej``
            (``imagej/<stem>.zip``), ``csv`` and ``parquet`` (``measurements/<stem>.csv``, ``.parquet``), ``overlay``
            (``overlays/<stem>.png``); all but ``coco`` hold what the score threshold shows. docs/outputs.md says which
            tools open them.
        ids: A list of {file_name, id, height, width} that gives the images their ids.
        planes: Which image is taken of files that hold several, and which channels; with ``page="all"`` each page is an
            image of its own, named ``<stem>_p001`` and so on.
        progress: Called with the number of images done, their number, and what is being done.

    Returns:
        The files and folders written.

    Raises:
        DatasetError: An image cannot be read, or the ids and the images do not meet.
        ManymaskError: A format needs a package that is not installed; the extra ``tables`` has pyarrow.
        PlanError: There is no such output format, files that ``predict_files`` did not write are in the way, or ``ids``
            are given with all pages.
    """
    if unknown := set(formats) - set(OUTPUTS):
        raise PlanError(f"there is no output format {min(unknown)!r}; there are: {', '.join(OUTPUTS)}")
    model, images, output = get_model(model), Path(images), Path(output)
    # All that can be refused is refused before the first prediction.
    if ids and planes.page == "all":
        raise PlanError("a list of ids names files and not their pages; choose one page, or leave the list out")
    found = find_images(images)
    files = [each for stem, path in found for each in _list_pages(stem, path, planes)]
    stems = [file.stem for file in files]
    check_unique_names((file.stem, file.path) for file in files)
    kinds = [Submission if ids and name == "coco" else OUTPUTS[name] for name in dict.fromkeys(formats)]
    for kind in kinds:
        kind.check()
    names = [name for kind in kinds for name in kind.list_files(stems)]
    check_outputs(output, "predict", names)
    is_folder = [path for _, path in found] != [images]  # an OME-Zarr image is a folder too
    if is_folder and (skipped := find_skipped({path.parent for _, path in found}, [path for _, path in found])):
        logger.warning(skipped.message)
    image_ids = _check_images(files, Path(ids) if ids else None, model.plan)
    root = images if is_folder else images.parent
    num_found, num_shown = 0, 0
    normalization = Normalization.of(model.plan)

    def load(file: _File) -> tuple[ImageSource, torch.Tensor]:
        image = open_image(file.path, file.choice)
        return image, normalize_pixels(image.read(), str(file.path), normalization)

    def detect() -> Iterator[tuple[ImageEntry, Instances]]:
        loaded = work_beside(load, files)
        for image_id, (stem, path, _), (image, values) in zip(image_ids, files, loaded, strict=True):
            instances = predict_tensor(model, values, str(path))
            warn_of_cap(instances, model.postprocessing, path)
            yield ImageEntry(image_id, stem, path.relative_to(root).as_posix(), image), instances

    with record_outputs(output, "predict", names):
        writers = [kind(output, stems, model.categories, model.plan.shown_score) for kind in kinds]

        def write(found: tuple[ImageEntry, Instances]) -> Instances:
            for writer in writers:
                writer.write(*found)
            return found[1]

        # The thread that writes ends before its writers are closed, also where the user interrupts.
        with close_writers(writers), closing(work_beside(write, detect())) as written:
            for instances in track(written, len(files), "predicting", progress):
                num_found += len(instances)
                num_shown += int((instances.scores >= model.plan.shown_score).sum())
    logger.info(
        f"{count_of(len(files), 'image')}, {count_of(num_shown, 'instance')} with a score of "
        f"{model.plan.shown_score:g} or more"
    )
    if num_shown == 0:
        logger.warning(
            f"no instance has a score of {model.plan.shown_score:g} or more: label images and overlays are empty, "
            f"and {num_found} have a lower one; set score_threshold lower, or train longer"
        )
    places = dict.fromkeys(name.partition("/")[0] for name in names if (output / name).exists())
    return [output / place for place in sorted(places, key=lambda place: "." in place)]  # folders first


class _File(NamedTuple):
    """An image to predict: its name, its file and which image of the file it is."""

    stem: str
    path: Path
    choice: PlaneChoice


def _list_pages(stem: str, path: Path, planes: PlaneChoice) -> list[_File]:
    """The images of a file: of all pages each, if there are several, with its number behind the name."""
    choices = list_choices(path, planes)
    if len(choices) == 1:
        return [_File(stem, path, choices[0])]
    return [_File(f"{stem}_p{number:03}", path, choice) for number, choice in enumerate(choices, start=1)]


def _check_images(files: list[_File], ids: Path | None, plan: Plan) -> list[int]:
    """The id of each image; reads the headers of all, which finds most of the broken ones.

    Raises:
        DatasetError: An image is broken, or the ids and the images do not meet.
    """
    paths = [file.path for file in files]
    named = [(file.stem, file.path) for file in files]
    listed = {path: entry for entry, path in match_image_ids(read_image_ids(ids), named, str(ids))} if ids else {}
    with ThreadPoolExecutor(max(plan.num_workers, 1)) as executor:
        sizes = dict(zip(paths, executor.map(_check_image, files), strict=True))
    for path, entry in listed.items():
        height, width = sizes[path]
        if (height, width) != (entry.height, entry.width):
            raise DatasetError(
                f"{ids} gives {entry.file_name} as {entry.height} x {entry.width} (height x width), but {path} is "
                f"{height} x {width}; correct the list or the image"
            )
    return [listed[path].id if listed else place for place, path in enumerate(paths, start=1)]


def _check_image(file: _File) -> tuple[int, int]:
    """(height, width) of an image that the model can take, as far as its header says."""
    image = open_image(file.path, file.choice)
    check_channels(image, str(file.path))
    check_declared_size(file.path, (*image.size, image.num_channels), image.dtype)  # it is predicted as a whole
    return image.size
