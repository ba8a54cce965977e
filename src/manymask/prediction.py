"""Use a trained model: the instances of images, and files of them."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from manymask.core import Category, Instances, merge_views
from manymask.core.files import explain_reading
from manymask.core.memory import find_full_memory
from manymask.core.outputs import check_outputs, record_outputs
from manymask.data.scale import describe_lost_scale
from manymask.data.transforms import normalize_pixels
from manymask.drawing import write_overlay
from manymask.errors import CheckpointError, DatasetError, ManymaskError, PlanError
from manymask.formats import (
    Pixels,
    encode_coco_results,
    find_images,
    find_skipped,
    get_pixels,
    is_pixels,
    match_image_ids,
    read_image_ids,
    read_pixels,
    write_json,
    write_label_image,
    write_submission,
)
from manymask.formats.predictions import IMAGES_NAME, PREDICTIONS_NAME
from manymask.formats.submission import ARCHIVE_NAME, RESULTS_NAME
from manymask.modeling.architectures import assemble_model, load_weights
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint, strip_prefix
from manymask.modeling.device import choose_device, choose_precision
from manymask.modeling.mask_rcnn import MaskRCNN
from manymask.modeling.masks import make_instances, suppress_masks
from manymask.modeling.shipped import list_shipped, resolve_weights
from manymask.planning import SETTINGS, Plan, change_plan, load_plan

OUTPUT_FORMATS = ("coco", "labels", "overlay")
"""What ``predict_files`` can write: COCO results, label images, pictures with outlines."""

INFERENCE_SETTINGS = frozenset(
    {
        "detections_per_image",
        "min_score",
        "score_threshold",
        "mask_threshold",
        "suppression",
        "nms",
        "rpn_nms",
        "min_size",
        "max_size",
        "scale",
        "precision",
        "num_workers",
        "tta",
        "crowd_as_objects",
    }
)
"""Settings that a trained model can be given other values for."""

TTA_FLIPS = ((False, False), (True, False), (False, True), (True, True))
TTA_FACTORS = (1.0, 1.25)
"""Flips (left to right, upside down) and enlargements that ``tta`` looks at an image in (benchmarks/RESULTS.md)."""


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, ready to predict.

    Attributes:
        network: The network, in evaluation mode on its device.
        plan: The settings that it was trained with, apart from those that were given other values on loading.
        categories: Its classes; label i + 1 is the i-th.
        source: The checkpoint that it was read from.
        is_threshold_chosen: Whether the validation images chose the score threshold.
    """

    network: MaskRCNN
    plan: Plan
    categories: tuple[Category, ...]
    source: Path
    is_threshold_chosen: bool = False

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device


@explain_reading()
def load_model(source: str | Path, /, device: str | torch.device = "auto", **settings: Any) -> Model:
    """Load a trained model.

    Args:
        source: A run folder, whose best checkpoint is taken, else its last; a checkpoint; or a shipped model's name.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        **settings: Other values for settings that act at prediction, such as ``min_score``.

    Raises:
        CheckpointError: There is no checkpoint, or it cannot be read.
        PlanError: A setting does not exist, does not act at prediction or is out of range, or there is no such device.
    """
    if wrong := sorted(settings.keys() & set(SETTINGS) - INFERENCE_SETTINGS):
        names = ", ".join(sorted(INFERENCE_SETTINGS))
        raise PlanError(f"{wrong[0]} is fixed by training; at prediction one can set device, {names}")
    path = find_checkpoint(Path(source))
    checkpoint = read_checkpoint(path)
    plan = load_plan(checkpoint[CHECKPOINT_KEY]["plan"], str(path))
    record = plan.data
    if record is None:
        raise CheckpointError(f"{path} does not say which classes it was trained on; train the model anew")
    plan = change_plan(plan, {**settings, "device": str(device)}).resolve_detections(record.max_instances)
    is_threshold_chosen = plan.score_threshold == "auto"
    if is_threshold_chosen:
        if "score_threshold" not in checkpoint[CHECKPOINT_KEY]:
            raise PlanError(f"{path} holds no score threshold that validation chose; set score_threshold to a number")
        plan = change_plan(plan, {"score_threshold": checkpoint[CHECKPOINT_KEY]["score_threshold"]})
    categories = tuple(Category(*entry) for entry in record.categories)
    network = assemble_model(len(categories) + 1, plan)
    load_weights(network, strip_prefix(checkpoint.get("state_dict", {})), str(path))
    return Model(network.to(choose_device(plan.device)).eval(), plan, categories, path, is_threshold_chosen)


def find_checkpoint(source: Path) -> Path:
    """The checkpoint that a run folder or a shipped model's name stands for, or the file itself.

    Raises:
        CheckpointError: There is none.
    """
    if (path := resolve_weights(source)).is_file():
        return path
    found = "a folder without best.ckpt and last.ckpt" if source.is_dir() else "nothing"
    raise CheckpointError(
        f"expected the name of a shipped model ({', '.join(list_shipped())}), a run folder or a checkpoint at "
        f"{source}, found {found}; train a model first"
    )


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
            width, channels) or (height, width) of 1 or 3 channels; or several files and images. Sizes may differ.
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
    model = _get_model(model)
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
    loaded = read_ahead(lambda image: (_name_image(image), _load_image(image, model.plan)), images)
    for place, (name, image) in enumerate(loaded, start=1):
        source = name or f"image {place}"
        instances = predict_tensor(model, image, source)
        _warn_of_cap(instances, model.plan, source)
        yield instances[instances.scores >= min_score]


def _name_image(image: Any) -> str:
    """The file of an image; nothing where it has none."""
    return str(image) if isinstance(image, str | Path) else ""


def _get_model(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load_model(model)


def _load_image(image: Any, plan: Plan) -> torch.Tensor:
    if isinstance(image, str | Path):
        return normalize_pixels(read_pixels(Path(image)), str(image), plan)
    return normalize_pixels(get_pixels(image), "an array", plan)


def predict_tensor(model: Model, image: torch.Tensor, source: str = "an image") -> Instances:
    """Find the instances of one image, (3, height, width) in [0, 1]; with ``tta`` in several views of it.

    Warns where the image is too long for the scale that the model was trained with.

    Args:
        model: The model.
        image: The image.
        source: The file, for messages.

    Raises:
        ManymaskError: Memory is full.
    """
    size = (image.shape[-2], image.shape[-1])
    if (lost := describe_lost_scale({source: size}, model.plan)) is not None:
        warnings.warn(lost, stacklevel=3)
    try:
        return _predict_views(model, image)
    except (MemoryError, RuntimeError) as error:
        if (memory := find_full_memory(error)) is None:
            raise
        raise ManymaskError(
            f"{memory} is full at {source} of {size[0]} x {size[1]}; lower max_size or detections_per_image, or "
            f"predict parts of the image{'' if model.device.type == 'cpu' else ', or set device=cpu'}"
        ) from error


def _predict_views(model: Model, image: torch.Tensor) -> Instances:
    if not model.plan.tta:
        return _predict_view(model, image)
    views = [
        _predict_view(model, image, *flips, factor) for factor in _list_factors(model, image) for flips in TTA_FLIPS
    ]
    if any(_is_capped(view, model.plan) for view in views):
        warnings.warn(
            f"a view of an image reached the cap of {model.plan.max_detections} detections, so that objects may be "
            "lost that other views see; set detections_per_image higher",
            stacklevel=4,
        )
    merged = merge_views(views)
    merged = merged[merged.scores >= model.plan.min_score]
    # Each view has suppressed by itself; what one saw as one object and another as two is left to masks.
    kept = suppress_masks(merged.runs, merged.labels, model.plan.nms)
    return merged[kept[: model.plan.max_detections]]


def _list_factors(model: Model, image: torch.Tensor) -> list[float]:
    """The factors by which views are really enlarged: not where ``min_size`` resizes, nor beyond ``max_size``."""
    plan = model.plan
    limit = 1.0 if plan.min_size else plan.max_size / (plan.scale * max(image.shape[-2:]))
    return [factor for factor in TTA_FACTORS if factor <= max(limit, 1.0)]


def _is_capped(instances: Instances, plan: Plan) -> bool:
    """Whether the cap may have cut off instances that the model is sure of."""
    return len(instances) == plan.max_detections and bool(instances.scores.min() >= plan.shown_score)


def _predict_view(
    model: Model, image: torch.Tensor, is_mirrored: bool = False, is_upside_down: bool = False, factor: float = 1.0
) -> Instances:
    """The instances of an image, at its own resolution, that a flipped and resized view of it shows."""
    precision = choose_precision(model.plan.precision, model.device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cast = torch.autocast(model.device.type, types[precision]) if precision in types else nullcontext()
    size = (image.shape[-2], image.shape[-1])
    axes = [axis for axis, is_flipped in ((2, is_mirrored), (1, is_upside_down)) if is_flipped]
    view = image.flip(axes)
    if factor != 1:
        view = F.interpolate(view[None], [round(side * factor) for side in size], mode="bilinear")[0]
    with torch.inference_mode(), cast:
        output = model.network([view.to(model.device)])[0]
    output["mask_probabilities"] = output["mask_probabilities"].flip(axes)
    output["boxes"] = _map_back(output["boxes"].float(), (view.shape[-2], view.shape[-1]), size, axes)
    return make_instances(output, size, model.plan)


def _map_back(boxes: torch.Tensor, view_size: tuple[int, int], size: tuple[int, int], axes: list[int]) -> torch.Tensor:
    """Boxes of a view, x1 y1 x2 y2, in the image that it was made of."""
    boxes = boxes * boxes.new_tensor([size[1] / view_size[1], size[0] / view_size[0]]).repeat(2)
    for axis in axes:
        column = 2 - axis  # axis 2 of an image runs along x
        boxes[:, [column, column + 2]] = size[axis - 1] - boxes[:, [column + 2, column]]
    return boxes


def _warn_of_cap(instances: Instances, plan: Plan, name: str | Path) -> None:
    """Say so where the cap on detections may have cut off instances that the model is sure of."""
    if _is_capped(instances, plan):
        warnings.warn(
            f"{name}: the cap of {plan.max_detections} detections is reached, and more instances may be there; set "
            f"detections_per_image higher",
            stacklevel=3,
        )


def read_ahead(load: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """``map(load, items)`` with one item being loaded while the one before is worked on."""
    with ThreadPoolExecutor(1) as executor:
        waiting = None
        for item in items:
            following = executor.submit(load, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


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
        _warn_of_cap(instances, model.plan, path)
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
