"""Predict the images of a folder and write the results."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from manymask.core import write_json
from manymask.core.outputs import check_outputs, record_outputs
from manymask.drawing import write_overlay
from manymask.errors import DatasetError, PlanError
from manymask.formats import (
    encode_coco_results,
    find_skipped,
    match_image_ids,
    read_image_ids,
    write_label_image,
    write_submission,
)
from manymask.formats.stored import IMAGES_NAME, PREDICTIONS_NAME
from manymask.formats.submission import ARCHIVE_NAME, RESULTS_NAME
from manymask.imaging import find_images, read_pixels
from manymask.imaging.normalization import normalize_pixels
from manymask.plan import Plan
from manymask.prediction.model import Model
from manymask.prediction.predicting import _get_model, _load_image, read_ahead
from manymask.prediction.views import predict_tensor, warn_of_cap

OUTPUT_FORMATS = ("coco", "labels", "overlay")
"""What ``predict_files`` can write: COCO results, label images, pictures with outlines."""


def predict_files(
    model: Model | str | Path,
    images: str | Path,
    output: str | Path,
    *,
    formats: Sequence[str] = OUTPUT_FORMATS,
    ids: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Predict a folder of images and write the results.

    Every image is read once before the first prediction, so that a broken file is found before anything is written.
    What an earlier call wrote to the folder is removed; files of anybody else are never written over.

    Args:
        model: The model, or its run folder or checkpoint.
        images: An image, a folder of images, or a folder of class folders.
        output: Where to write: ``predictions.json`` and ``images.json``, or with ``ids`` ``test-results.json`` and
            ``test-results.zip``; ``labels/<stem>.tif`` and ``.csv``; ``overlays/<stem>.png``.
        formats: Which of ``coco``, ``labels`` and ``overlay`` to write.
        ids: A list of {file_name, id, height, width} that gives the images their ids.
        progress: Called with the number of images done and their number.

    Returns:
        The files and folders written.

    Raises:
        DatasetError: An image cannot be read, or the ids and the images do not meet.
        PlanError: There is no such output format, or files that ``predict_files`` did not write are in the way.
    """
    if unknown := set(formats) - set(OUTPUT_FORMATS):
        raise PlanError(f"there is no output format {min(unknown)!r}; there are: {', '.join(OUTPUT_FORMATS)}")
    model, images, output = _get_model(model), Path(images), Path(output)
    files = find_images(images)
    names = _list_outputs([stem for stem, _ in files], formats, has_ids=ids is not None)
    check_outputs(output, "predict", names)
    if images.is_dir() and (skipped := find_skipped({path.parent for _, path in files}, [path for _, path in files])):
        warnings.warn(skipped.message, stacklevel=2)
    entries = _check_images(files, images, Path(ids) if ids else None, model.plan)
    with record_outputs(output, "predict", names):
        return _write_predictions(model, files, entries, output, formats, ids is not None, progress)


def _list_outputs(stems: Sequence[str], formats: Sequence[str], *, has_ids: bool) -> list[str]:
    """All files that ``predict_files`` writes, by their place in the folder."""
    names: list[str] = []
    if "coco" in formats:
        names += (RESULTS_NAME, ARCHIVE_NAME) if has_ids else (PREDICTIONS_NAME, IMAGES_NAME)
    if "labels" in formats:
        names += [f"labels/{stem}.{kind}" for stem in stems for kind in ("tif", "csv")]
    if "overlay" in formats:
        names += [f"overlays/{stem}.png" for stem in stems]
    return names


def _write_predictions(
    model: Model,
    files: Sequence[tuple[str, Path]],
    entries: Sequence[dict[str, Any]],
    output: Path,
    formats: Sequence[str],
    has_ids: bool,
    progress: Callable[[int, int], None] | None,
) -> list[Path]:
    """Predict one image after the other and write the results; ``entries`` are COCO's of the images."""
    results: list[dict[str, Any]] = []
    num_found, num_shown = 0, 0
    for index, pixels in enumerate(read_ahead(read_pixels, [path for _, path in files])):
        stem, path = files[index]
        instances = predict_tensor(model, normalize_pixels(pixels, str(path), model.plan), str(path))
        warn_of_cap(instances, model.postprocessing, path)
        if "coco" in formats:
            results += encode_coco_results(instances, entries[index]["id"], model.categories)
        shown = instances[instances.scores >= model.plan.shown_score]
        num_found, num_shown = num_found + len(instances), num_shown + len(shown)
        if "labels" in formats:
            write_label_image(output / "labels" / f"{stem}.tif", shown, model.categories)
        if "overlay" in formats:
            write_overlay(output / "overlays" / f"{stem}.png", pixels, shown, model.categories)
        if progress is not None:
            progress(index + 1, len(files))
    if num_shown == 0:
        warnings.warn(
            f"no instance has a score of {model.plan.shown_score:g} or more: label images and overlays are empty, "
            f"and {num_found} have a lower one; set score_threshold lower, or train longer",
            stacklevel=3,
        )
    written = [output / name for name, kind in (("labels", "labels"), ("overlays", "overlay")) if kind in formats]
    if "coco" in formats and has_ids:
        write_submission(output, results)
        written += [output / RESULTS_NAME, output / ARCHIVE_NAME]
    elif "coco" in formats:
        write_json(output / PREDICTIONS_NAME, results)
        write_json(output / IMAGES_NAME, entries)
        written += [output / PREDICTIONS_NAME, output / IMAGES_NAME]
    return written


def _check_images(files: list[tuple[str, Path]], images: Path, ids: Path | None, plan: Plan) -> list[dict[str, Any]]:
    """COCO's entry of each image; decodes all of them, which finds the broken ones.

    Raises:
        DatasetError: An image is broken, or the ids and the images do not meet.
    """
    listed = {path: entry for entry, path in match_image_ids(read_image_ids(ids), files, str(ids))} if ids else {}
    paths = [path for _, path in files]
    with ThreadPoolExecutor(max(plan.num_workers, 1)) as executor:
        sizes = dict(zip(paths, executor.map(partial(_check_image, plan=plan), paths), strict=True))
    for path, entry in listed.items():
        height, width = sizes[path]
        if (height, width) != (entry.height, entry.width):
            raise DatasetError(
                f"{ids} gives {entry.file_name} as {entry.height} x {entry.width} (height x width), but {path} is "
                f"{height} x {width}; correct the list or the image"
            )
    root = images if images.is_dir() else images.parent
    return [
        {
            "id": listed[path].id if listed else place,
            "file_name": path.relative_to(root).as_posix(),
            "name": stem,
            "height": sizes[path][0],
            "width": sizes[path][1],
        }
        for place, (stem, path) in enumerate(files, start=1)
    ]


def _check_image(path: Path, plan: Plan) -> tuple[int, int]:
    """(height, width) of an image that the model can take."""
    _, height, width = _load_image(path, plan).shape
    return height, width
