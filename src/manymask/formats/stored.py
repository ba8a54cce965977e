"""Predictions that were made earlier, by manymask or any other tool: COCO results, label images or drawn objects."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from statistics import mode
from typing import Any

import numpy as np

from manymask.core import Category, Dataset, Instances, Record, RunLengths, read_json
from manymask.core.files import explain_reading
from manymask.core.outputs import list_writers
from manymask.errors import DatasetError, FormatError
from manymask.formats import yolo
from manymask.formats.coco_entries import check_polygons, is_integer
from manymask.formats.coco_masks import decode_segmentations
from manymask.formats.drawn import Drawings
from manymask.formats.stored_drawings import (
    find_drawings,
    match_drawings,
    match_drawn_classes,
    read_drawn_predictions,
)
from manymask.formats.stored_labels import find_label_images, name_categories, read_stored_labels, read_tables
from manymask.formats.submission import RESULTS_NAME
from manymask.imaging.files import list_images, make_key
from manymask.wording import list_some

PREDICTIONS_NAME = "predictions.json"
IMAGES_NAME = "images.json"

_MAX_COORDINATE = 2**31  # beyond any image


@dataclass(frozen=True)
class StoredPredictions:
    """Predictions in files, for the images of a data set; masks are decoded image by image.

    Attributes:
        path: The JSON file, or the folder of label images or of drawn objects.
        categories: The classes, those of the data set. None: the files know no classes, and every label is 1.
        has_scores: Whether the files give scores; otherwise every score is 1.
        missing: Names of the data set's images that nothing was predicted for: they have no file, or neither an entry
            nor a place in ``images.json``.
        sources: Reads the predictions for an image of given size, by its ``image_id``.
        notes: What must be said of the classes, in sentences.
    """

    path: Path
    categories: tuple[Category, ...] | None
    has_scores: bool
    missing: tuple[str, ...]
    sources: Mapping[int, Callable[[Record, tuple[int, int]], Instances]]
    notes: tuple[str, ...] = ()

    def read(self, record: Record, size: tuple[int, int]) -> Instances:
        """The predictions for an image, by falling score; no instances where there are none.

        Args:
            record: The image's record in the data set.
            size: (height, width) of the image.

        Raises:
            FormatError: A mask is damaged, an RLE is of another size than the image, or a CSV file does not belong to
                its label image.
            DatasetError: A label image is of another size than the image.
        """
        source = self.sources.get(record.image_id)
        if source is None:
            return Instances.from_runs(RunLengths.empty(size), np.zeros(0, dtype=np.int64))
        instances = source(record, size)
        return instances[np.argsort(-instances.scores, kind="stable")]


@explain_reading()
def read_predictions(path: str | Path, dataset: Dataset) -> StoredPredictions:
    """Find the predictions for the images of a data set, and check all but the masks.

    - A JSON file of COCO results, or a folder that holds one as ``predictions.json`` or ``test-results.json``. Its
      ``image_id`` is the data set's, unless ``images.json`` beside it, as ``predict`` writes it, gives names, or it is
      a text: the one that the COCO file has as id, or the image's name itself. Only COCO files give images ids; other
      data are matched by name.
    - A folder of label images, or one with them in ``labels``: ``<name>.tif`` (or .png, .bmp) for each image, or with
      what tools add, such as ``<name>_cp_masks``, ``-labels`` or ``_pred``. Where some files are called so, the others
      are taken for images. ``<file>.csv`` beside a label image gives class (name, or id) and score of each id.
    - A folder of what a tool draws, such as QuPath's GeoJSON, ImageJ's ROIs, labelme's or YOLO's files; or one file.

    Predictions for images that the data set does not have are named in ``notes``.

    Args:
        path: The file or folder.
        dataset: The data set to score against.

    Raises:
        DatasetError: There are no predictions, or all are of images that the data set does not have, or an image has
            two files. Also where any of COCO results is of another image.
        FormatError: A file is of another kind, or has a class that the data set does not have, a score outside [0, 1]
            or an entry twice.
    """
    path = Path(path)
    if path.is_dir():
        files = [file for file in (path / PREDICTIONS_NAME, path / RESULTS_NAME) if file.is_file()]
        if files and (path / "labels").is_dir():
            _check_same_writer(files[0], path / "labels")
        if len(files) > 1:
            raise DatasetError(f"{path} holds both {PREDICTIONS_NAME} and {RESULTS_NAME}; give one of the files")
        if not files:
            return _read_folder(path, dataset)
        path = files[0]
    elif path.exists() and (found := find_drawings(path, dataset)):
        return _read_drawings(path, *found, dataset)
    elif path.suffix.lower() != ".json" or not path.exists():
        found = "another file" if path.exists() else "nothing"
        raise DatasetError(
            f"expected a .json file of COCO results, a file of a tool in which objects are drawn, or a folder of these "
            f"or of label images at {path}, found {found}"
        )
    return _read_results(path, dataset)


def _check_same_writer(results: Path, labels: Path) -> None:
    """Refuse a folder with two sets of predictions, of which either may be the older one."""
    writers = list_writers(results.parent)
    if {writers.get(f"labels/{path.name}") for path in list_images(labels)} - {writers.get(results.name), None}:
        raise DatasetError(
            f"{results} and the label images in {labels} were not written by one command, so they may be of different "
            "predictions; give the one that you mean itself"
        )


def _read_results(path: Path, dataset: Dataset) -> StoredPredictions:
    entries = _read_entries(path)
    has_scores = _check_scores(path, entries)
    _check_categories(path, entries, dataset)
    class_index = {category.id: index for index, category in enumerate(dataset.categories, start=1)}
    places: dict[int | str, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(entry["image_id"], []).append(place)
    record_ids, missing = _match_image_ids(path, places.keys(), dataset)
    sources = {}
    for image_id, own in places.items():
        group = [entries[place] for place in own]
        _check_repeats(path, own, group)
        labels = [class_index[entry["category_id"]] for entry in group]
        sources[record_ids[image_id]] = partial(_decode_results, path, own, group, labels)
    notes = _describe_single_category(path, {entry["category_id"] for entry in entries}, dataset)
    return StoredPredictions(path, dataset.categories, has_scores, missing, sources, notes)


def _decode_results(
    path: Path,
    places: list[int],
    entries: list[dict[str, Any]],
    labels: list[int],
    record: Record,
    size: tuple[int, int],
) -> Instances:
    """The results for one image: its entries, the place of each in the file, for messages, and their class indices."""
    runs = decode_segmentations([entry["segmentation"] for entry in entries], size, f"{path}: entry", places)
    boxes = runs.boxes
    for row, entry in enumerate(entries):
        if entry.get("bbox") is not None:
            x, y, width, height = entry["bbox"]
            boxes[row] = x, y, x + width, y + height
    scores = np.array([entry.get("score", 1) for entry in entries], dtype=np.float32)
    return Instances.from_runs(runs, np.array(labels, dtype=np.int64), scores=scores, boxes=boxes)


def _describe_single_category(path: Path, category_ids: set[int], dataset: Dataset) -> tuple[str, ...]:
    """What must be said where all results are of one of several classes: COCO results do not say what it means."""
    own = [category for category in dataset.categories if category.id in category_ids]
    if len(own) != 1 or len(dataset.categories) == 1:
        return ()
    return (
        f"All results in {path} are of category_id {own[0].id} and are scored as {own[0].name}, one of "
        f"{len(dataset.categories)} classes of the data; if they are of a model that knows one class, score the model "
        "or its label images, where instances of all classes are scored as one.",
    )


def _read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of COCO results, each with all but the score checked."""
    entries = read_json(path)
    if isinstance(entries, dict) and ("annotations" in entries or "images" in entries):
        raise FormatError(f"{path} is a COCO data set, expected COCO results; give the predictions, not the labels")
    if not isinstance(entries, list):
        raise FormatError(f"{path} holds a {type(entries).__name__}, expected COCO's list of results; export it again")
    for place, entry in enumerate(entries):
        _check_entry(f"{path}: entry {place}", entry)
    return entries


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, dict):
        raise FormatError(f"{where} is a {type(entry).__name__}, expected COCO's entry of results; export it again")
    if not is_integer(entry.get("category_id")):
        raise FormatError(f"{where} has category_id {entry.get('category_id')!r}, expected a whole number; correct it")
    if not is_integer(entry.get("image_id")) and not isinstance(entry.get("image_id"), str):
        raise FormatError(
            f"{where} has image_id {entry.get('image_id')!r}, expected a whole number or the image's name; correct it"
        )
    if not isinstance(entry.get("segmentation"), dict):
        check_polygons(where, entry.get("segmentation"))
    bbox = entry.get("bbox")
    if bbox is not None and not _is_box(bbox):
        raise FormatError(f"{where} has bbox {bbox!r}, expected x, y, width and height; correct it or leave it out")


def _is_box(bbox: object) -> bool:
    """Whether a value of a JSON file is x, y, width and height of a box."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return False
    is_number = (type(number) in (int, float) and abs(number) < _MAX_COORDINATE for number in bbox)
    return all(is_number) and min(bbox[2:]) >= 0


def _check_scores(path: Path, entries: list[dict[str, Any]]) -> bool:
    """Whether the entries have scores; all must, or none."""
    without = [place for place, entry in enumerate(entries) if "score" not in entry]
    if 0 < len(without) < len(entries):
        raise FormatError(f"{path}: entry {without[0]} has no score, but others have; give all entries one, or none")
    for place, entry in enumerate([] if without else entries):
        score = entry["score"]
        if type(score) not in (int, float) or not 0 <= score <= 1:
            raise FormatError(f"{path}: entry {place} has score {score!r}, expected a number from 0 to 1; scale scores")
    return not without


def _check_categories(path: Path, entries: list[dict[str, Any]], dataset: Dataset) -> None:
    known = {category.id for category in dataset.categories}
    if unknown := sorted({entry["category_id"] for entry in entries} - known):
        raise FormatError(
            f"{path} holds category_id {list_some(unknown)}, but {dataset.root} has {name_categories(dataset)}; give "
            "the data that the predictions were made for, or correct the ids"
        )


def _check_repeats(path: Path, places: list[int], entries: list[dict[str, Any]]) -> None:
    """Refuse entries of an image that are equal."""
    seen: dict[str, int] = {}
    for place, entry in zip(places, entries, strict=True):
        content = json.dumps([entry.get(key) for key in ("category_id", "score", "bbox", "segmentation")])
        if seen.setdefault(content, place) != place:
            raise FormatError(
                f"{path}: entry {place} repeats entry {seen[content]}, as in a file that was joined with itself; keep "
                "each prediction once"
            )


def _match_image_ids(
    path: Path, image_ids: Collection[int | str], dataset: Dataset
) -> tuple[dict[int | str, int], tuple[str, ...]]:
    """The data set's image_id for each of the file, and the names of images that nothing was predicted for."""
    # The image's name that each image_id stands for: by itself if it is a text, else by the list beside the file.
    known = {make_key(record.name): record.name for record in dataset.records}
    if image_ids and all(isinstance(image_id, str) for image_id in image_ids):
        own_ids = {make_key(record.source_id): record.name for record in dataset.records if record.source_id}
        names = _match_texts(path, [str(image_id) for image_id in image_ids], known | own_ids)
    elif (listed := _read_image_names(path)) is not None:
        names = {image_id: known.get(make_key(name), name) for image_id, name in listed.items()}
    else:
        names = None
    if names is None and not dataset.has_image_ids and image_ids:
        raise FormatError(
            f"{path} gives its images by image_id, but {dataset.root} has no such numbers; give the names, in a list "
            f'{path.parent / IMAGES_NAME} of {{"id": 1, "name": "a"}} or as image_id, or score on the COCO file that '
            "the numbers are of"
        )
    if names is None:
        how, keys = "by image_id, without images.json", {image_id: image_id for image_id in image_ids}
    elif unlisted := sorted(set(image_ids) - names.keys(), key=str):
        raise FormatError(
            f"{path} holds image_id {list_some(unlisted)}, which {path.parent / IMAGES_NAME} does not list; the two "
            "are of different predictions: predict again, or remove the list to match the data by image_id"
        )
    else:
        how, keys = "by name", names
    records = {record.image_id if names is None else record.name: record for record in dataset.records}
    _check_known(path, how, [keys[image_id] for image_id in image_ids], records, dataset)
    predicted = set(keys.values())
    missing = tuple(record.name for key, record in records.items() if key not in predicted)
    return {image_id: records[keys[image_id]].image_id for image_id in image_ids}, missing


def _match_texts(path: Path, image_ids: Sequence[str], known: Mapping[str, str]) -> dict[int | str, str]:
    """The name of the image that each text means, by what an image or its file may be called; else the text.

    Raises:
        FormatError: Two texts mean one image.
    """
    names: dict[int | str, str] = {}
    owners: dict[str, str] = {}
    for text in image_ids:
        stem = PureWindowsPath(text).stem  # splits at both kinds of slash
        name = names[text] = known.get(make_key(text)) or known.get(make_key(stem), text)
        if (owner := owners.setdefault(name, text)) != text:
            raise FormatError(f"{path} calls the image {name} both {owner!r} and {text!r}; give it one image_id")
    return names


def _read_image_names(path: Path) -> dict[int | str, str] | None:
    """Names of images by the ids in the results, as ``predict`` writes them beside; None where it did not."""
    list_path = path.parent / IMAGES_NAME
    if path.name == RESULTS_NAME or not list_path.is_file():  # results for a task have the task's own ids
        return None
    images = read_json(list_path)
    if not isinstance(images, list):
        raise FormatError(f"{list_path} holds a {type(images).__name__}, expected a list of images; predict again")
    for place, image in enumerate(images):
        if not isinstance(image, dict) or not is_integer(image.get("id")) or not isinstance(image.get("name"), str):
            raise FormatError(f"{list_path}: entry {place} needs id and name, as predict writes them; predict again")
    for key, values in (
        ("id", [image["id"] for image in images]),
        ("name", [make_key(image["name"]) for image in images]),
    ):
        if len(set(values)) < len(values):
            raise FormatError(f"{list_path} gives the {key} {mode(values)} twice; predict again")
    return {image["id"]: image["name"] for image in images}


def _check_known(path: Path, how: str, found: Iterable[Any], known: Iterable[Any], dataset: Dataset) -> None:
    """Refuse predictions for images that the data set does not have."""
    found, known = set(found), set(known)
    if unknown := sorted(found - known, key=lambda value: (isinstance(value, str), value)):
        share = f"{len(unknown)} of the {len(found)} images" if len(unknown) < len(found) else "all images"
        raise DatasetError(
            f"{share} that {path} has predictions for are not in {dataset.root} ({how}: {list_some(unknown)}; the data "
            f"have {list_some(sorted(known))}); give the data that they were made for"
        )


def _read_folder(folder: Path, dataset: Dataset) -> StoredPredictions:
    """Label images, or what was drawn; images may lie beside both."""
    labels = folder / "labels"
    if labels.is_dir() and (list_images(labels) or not yolo.find_yolo_predictions(labels)):
        return _read_label_folder(labels, *find_label_images(labels, dataset), dataset)
    if not find_label_images(folder, dataset, with_plain=False)[0] and (found := find_drawings(folder, dataset)):
        return _read_drawings(folder, *found, dataset)
    return _read_label_folder(folder, *find_label_images(folder, dataset), dataset)


def _read_label_folder(
    folder: Path, files: dict[str, Path], others: Sequence[Path], dataset: Dataset
) -> StoredPredictions:
    """The label images of the images in ``files``; ``others`` are of images that the data set lacks."""
    if not files and not others:
        raise DatasetError(
            f"{folder} holds no predictions; expected {PREDICTIONS_NAME}, {RESULTS_NAME}, label images <name>.tif or "
            "files of a tool in which objects are drawn; give a JSON file of another name itself"
        )
    record_ids = {record.name: record.image_id for record in dataset.records}
    extra = _note_others(folder, "by name", [path.stem for path in others], files, dataset)
    tables, notes = read_tables(files, dataset)
    columns = next(iter(tables.values()))  # those of all files are the same
    has_classes = "class" in columns or len(dataset.categories) == 1
    return StoredPredictions(
        folder,
        dataset.categories if has_classes else None,
        "score" in columns,
        tuple(name for name in record_ids if name not in files),
        {record_ids[name]: partial(read_stored_labels, path, tables[name]) for name, path in files.items()},
        (*(notes or _explain_classless(folder, has_classes)), *extra),
    )


def _explain_classless(path: Path, has_classes: bool) -> tuple[str, ...]:
    return () if has_classes else (f"{path} knows no classes: instances of all classes are scored as one.",)


def _note_others(
    path: Path, how: str, others: Sequence[str], found: Collection[str], dataset: Dataset
) -> tuple[str, ...]:
    """What must be said of predictions for images that the data set lacks; an error where there are no others."""
    if not found:
        _check_known(path, how, others, [record.name for record in dataset.records], dataset)
    if not others:
        return ()
    what = f"{len(others)} of the {len(others) + len(found)} images that {path} has predictions for are not in the data"
    return (f"{what} and are not scored: {list_some(sorted(others))}.",)


def _read_drawings(folder: Path, name: str, drawings: Drawings, dataset: Dataset) -> StoredPredictions:
    """What was drawn in a folder, or a file, of a format."""
    if faults := drawings.reading.problems:
        raise FormatError(faults[0].message)
    by_name, others = match_drawings(drawings, dataset)
    extra = _note_others(folder, f"as {name}, by name", others, by_name, dataset)
    objects = [each for drawn in by_name.values() for each in drawn.objects]
    num_scored = sum(each.score is not None for each in objects)
    if 0 < num_scored < len(objects):
        raise FormatError(f"{folder} gives scores to {num_scored} of {len(objects)} objects; give all or none a score")
    class_index, notes = match_drawn_classes(folder, {each.category for each in objects}, dataset)
    return StoredPredictions(
        folder,
        None if class_index is None else dataset.categories,
        num_scored > 0,
        tuple(record.name for record in dataset.records if record.name not in by_name),
        {
            record.image_id: partial(read_drawn_predictions, by_name[record.name], class_index)
            for record in dataset.records
            if record.name in by_name
        },
        (
            *(notes or _explain_classless(folder, class_index is not None)),
            *extra,
            *(f"{note.message}." for note in drawings.reading.list_problems()),
        ),
    )
