"""COCO: data sets of polygons and RLE masks, and results."""

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from manymask.core import Instances, paint_layers, read_json, write_json
from manymask.core.dataset import Category, Dataset, DatasetWriter, Doubt, Format, Problem, Record, Sample
from manymask.errors import DatasetError, FormatError
from manymask.formats.coco_entries import (
    clean_segmentation,
    is_integer,
    list_entries,
    read_categories,
    to_flag,
    to_integer,
    to_key,
)
from manymask.formats.coco_files import find_coco_files, find_json, find_other_coco_files, list_json
from manymask.formats.coco_masks import crosses_itself, decode_segmentations, encode_coco_results, find_bad_rles
from manymask.formats.image_finder import ImageFinder
from manymask.formats.reading import Reading
from manymask.formats.records import copy_image, make_sample
from manymask.imaging import open_image
from manymask.imaging.files import check_unique_names, name_images
from manymask.imaging.orientation import open_labelled_image
from manymask.wording import count_of, list_some

# Where an entry names its image: COCO's own key, and those of other tools.
_FILE_NAMES = ("file_name", "filename", "path")


@dataclass(frozen=True)
class _Annotations:
    """Annotations of one image.

    Attributes:
        json_path: Where they are from, for messages.
        size: (height, width) that the file gives for the image, else of the image itself.
        is_size_given: Whether it is the file that gives it.
        image: The image's entry.
        ids: Number of each annotation, for messages.
        category_ids: COCO's category of each.
        segmentations: Polygons or RLE of each.
        iscrowd: Whether each is a crowd region.
    """

    json_path: Path
    size: tuple[int, int]
    is_size_given: bool
    image: dict[str, Any]
    ids: list[int]
    category_ids: list[int]
    segmentations: list[Any]
    iscrowd: list[bool]


def read_coco(path: str | Path, crowd_as_objects: bool = False) -> Dataset:
    """Read a COCO data set; everything but the images is checked at once.

    Entries that cannot be used are left out and listed in the data set's ``problems``.

    Args:
        path: The JSON file, or a folder with exactly one. Images lie at ``file_name`` beside the file or in ``images``
            there; for a file in a folder ``annotations`` also in the folder above, or in the split's folder there.
            Where they do not, they are looked for by name in the data folder.
        crowd_as_objects: Take crowd regions, as which CVAT writes brush strokes, for objects like the others.

    Raises:
        DatasetError: There is not exactly one JSON file, or it lists no images.
        FormatError: The file is not COCO.
    """
    path = Path(path)
    json_path = find_json(path)
    content = read_json(json_path)
    if not isinstance(content, dict):
        raise FormatError(
            f"{json_path} holds a {type(content).__name__}, expected COCO's object of images and annotations"
        )
    annotations = list_entries(json_path, content, "annotations")
    categories, unusual = read_categories(json_path, content, annotations)
    reading = Reading(json_path)
    if unusual:
        reading.note(unusual)
    images = _index_images(reading, list_entries(json_path, content, "images"))
    records, has_image_ids = _make_records(reading, images)
    if list_json(json_path.parent) == [json_path]:  # else the others may be of another part
        reading.note_unlisted({record.path for record in records.values()})
    category_ids = {category.id for category in categories}
    ids = _number_annotations(reading, annotations)
    for annotation_id, annotation in zip(ids, annotations, strict=True):
        _add_annotation(reading, annotation_id, annotation, records, category_ids, images.keys())
    for record in records.values():
        _leave_out_bad_rles(reading, record)
    if crowd_as_objects:
        for record in records.values():
            record.annotation.iscrowd[:] = [False] * len(record.annotation.iscrowd)
    _tell_crowds(reading, [record.annotation for record in records.values()])
    ordered = tuple(sorted(records.values(), key=lambda record: record.image_id))
    return Dataset(path, FORMAT, categories, ordered, _read_record, reading.list_problems(), has_image_ids)


def _tell_crowds(reading: Reading, groups: Sequence[_Annotations]) -> None:
    """Warn of crowd regions, whose masks neither training nor scores use."""
    if num_crowd := sum(sum(group.iscrowd) for group in groups):
        total = sum(len(group.ids) for group in groups)
        share = f"all {total}" if num_crowd == total else f"{num_crowd} of {total}"
        message = (
            f"{reading.path}: {share} annotations are crowd "
            "regions (iscrowd 1), which are not trained on and count for nothing in scores; if they are single "
            "objects, as CVAT writes brush strokes, set crowd_as_objects=true"
        )
        reading.problems.append(Problem("crowd-regions", "warning", message, reading.path))


def _index_images(reading: Reading, entries: list[dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The entries of images by their ids."""
    if not entries:
        raise DatasetError(f"{reading.path} lists no images; expected at least one")
    images: dict[int | str, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        key = to_key(entry.get("id"))
        if key is None:
            reading.fault("bad-image-entry", f"{reading.path}: entry {place} of 'images' has no id; number the entries")
        elif images.setdefault(key, entry) == entry:
            if images[key] is not entry:
                reading.note("lists images twice; the repeated entries are left out", key)
        else:
            reading.fault(
                "bad-image-entry", f"{reading.path}: id {key} occurs twice in 'images'; number the entries anew"
            )
    return images


def _make_records(reading: Reading, images: dict[int | str, dict[str, Any]]) -> tuple[dict[int | str, Record], bool]:
    """The record of each image that is there by its id in the file, and whether these ids are numbers."""
    # The file of each entry: one that is there, and of no other entry.
    finder, paths, owners = ImageFinder.beside(reading.path), {}, {}
    for key, entry in images.items():
        try:
            path = _find_image(reading, finder, key, entry)
        except DatasetError as error:
            reading.fault("bad-image-entry", str(error), str(entry.get("file_name")))
            continue
        if (owner := owners.setdefault(path, key)) != key:
            message = f"{reading.path}: images {owner} and {key} are the same file {path}; keep one of the entries"
            reading.fault("bad-image-entry", message, path.name)
            continue
        paths[key] = path
    names = name_images(list(paths.values()))
    check_unique_names(zip(names, paths.values(), strict=True))
    has_image_ids = all(is_integer(key) for key in images)
    if not has_image_ids:
        reading.note("gives images ids that are no numbers; images are numbered in their order")
    # A record each, with the image's own size where the entry gives none.
    records: dict[int | str, Record] = {}
    for number, (key, name) in enumerate(zip(paths, names, strict=True), start=1):
        entry = images[key] | {"id": key if has_image_ids else number}
        try:
            size = (given := _read_size(entry)) or open_image(paths[key]).size
        except DatasetError as error:
            reading.fault("bad-image-entry", str(error), name)
            continue
        group = _Annotations(reading.path, (size[0], size[1]), given is not None, entry, [], [], [], [])
        source_id = None if has_image_ids else str(key)
        records[key] = Record(entry["id"], name, paths[key], group, (reading.path,), source_id=source_id)
    return records, has_image_ids


def _find_image(reading: Reading, finder: ImageFinder, key: int | str, entry: dict[str, Any]) -> Path:
    names = (entry.get(name) for name in _FILE_NAMES)
    file_name = next((name for name in names if isinstance(name, str) and name), None)
    if file_name is None:
        raise FormatError(f"{reading.path}: image {key} has no file_name; add it")
    path, is_as_listed = finder.find(file_name, reading.path)
    if not is_as_listed:
        reading.note("lists images at other places than they are; they were found by their names", file_name)
    return path


def _read_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) where the entry gives them."""
    height, width = (to_integer(entry.get(side)) for side in ("height", "width"))
    return (height, width) if height and width and min(height, width) > 0 else None


def _number_annotations(reading: Reading, annotations: list[dict[str, Any]]) -> list[int]:
    """The id of each annotation; where these are not all different numbers, numbers in the order of the list."""
    ids = [to_integer(annotation.get("id")) for annotation in annotations]
    given = [number for number in ids if number is not None]
    if len(set(given)) == len(ids):
        return given
    reading.note("gives annotations no ids, or some of them twice; here they are numbered from 1 in the list's order")
    return list(range(1, len(ids) + 1))


def _add_annotation(
    reading: Reading,
    annotation_id: int,
    annotation: dict[str, Any],
    records: dict[int | str, Record],
    category_ids: set[int],
    listed: Container[int | str],
) -> None:
    """Check an annotation and put it to its image; what cannot be used is reported."""
    where, record = f"{reading.path}: annotation {annotation_id}", None
    image_id, category_id = to_key(annotation.get("image_id")), to_integer(annotation.get("category_id"))
    try:
        if image_id is None or image_id not in listed:
            found = annotation.get("image_id")
            raise FormatError(
                f"{where} has image_id {found!r}, which 'images' does not list; add the image or remove it"
            )
        record = records.get(image_id)
        if record is None:  # the image itself is reported
            return
        if category_id is None or category_id not in category_ids:
            found, known = annotation.get("category_id"), list_some(sorted(category_ids))
            raise FormatError(f"{where} has category_id {found!r}, but 'categories' lists {known}; correct it")
        group: _Annotations = record.annotation
        segmentation, num_dropped = clean_segmentation(where, annotation.get("segmentation"), group.size)
        iscrowd = to_flag(annotation.get("iscrowd"))
        if iscrowd is None:
            raise FormatError(f"{where} has iscrowd {annotation['iscrowd']!r}, expected 0 or 1; correct it")
    except FormatError as error:
        reading.fault("bad-annotation", str(error), record and record.name)
        return
    if num_dropped:
        reading.note("gives parts of one or two points, which enclose nothing and are left out of", annotation_id)
    group.ids.append(annotation_id)
    group.category_ids.append(category_id)
    group.segmentations.append(segmentation)
    group.iscrowd.append(iscrowd)


def _leave_out_bad_rles(reading: Reading, record: Record) -> None:
    """Decode the RLE of an image; polygons, which any image can take, only once the image is read."""
    group: _Annotations = record.annotation
    rows = [row for row, segmentation in enumerate(group.segmentations) if isinstance(segmentation, dict)]
    bad = find_bad_rles([group.segmentations[row] for row in rows], group.size)
    for place, problem in sorted(bad.items(), reverse=True):
        row = rows[place]
        reading.fault("bad-annotation", f"{reading.path}: annotation {group.ids[row]}: {problem}", record.name)
        for values in (group.ids, group.category_ids, group.segmentations, group.iscrowd):
            del values[row]


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    group: _Annotations = record.annotation
    image, doubts = open_labelled_image(record.path, group.size, is_size_given=group.is_size_given)
    if image.size != group.size:
        raise DatasetError(
            f"{group.json_path} gives image {record.image_id} as {group.size[0]} x {group.size[1]} (height x width), "
            f"but {record.path} is {image.size[0]} x {image.size[1]}; correct the entry or the image"
        )
    runs = decode_segmentations(group.segmentations, group.size, f"{group.json_path}: annotation", group.ids)
    class_index = {category.id: index for index, category in enumerate(categories, start=1)}
    labels = np.array([class_index[category_id] for category_id in group.category_ids], dtype=np.int64)
    return make_sample(record, image, paint_layers(runs), labels, np.array(group.iscrowd, dtype=bool), doubts)


def _name_instances(record: Record) -> list[str]:
    return [f"annotation {annotation_id}" for annotation_id in record.annotation.ids]


def _list_outlines(record: Record) -> list[list[Float64[np.ndarray, "points 2"]]]:
    """The polygons of each annotation that is no RLE."""
    segmentations = [parts for parts in record.annotation.segmentations if not isinstance(parts, dict)]
    return [[np.reshape(part, (-1, 2)).astype(np.float64) for part in parts] for parts in segmentations]


def _find_polygon_faults(record: Record) -> list[Doubt]:
    """Annotations with outlines of which the mask does not show what was drawn."""
    group: _Annotations = record.annotation
    height, width = group.size
    outside: list[int] = []  # with a point more than a pixel outside the image
    crossing: list[int] = []
    for annotation_id, segmentation in zip(group.ids, group.segmentations, strict=True):
        polygons = [] if isinstance(segmentation, dict) else [np.reshape(p, (-1, 2)) for p in segmentation]
        if any(((points < -1) | (points > [width + 1, height + 1])).any() for points in polygons):
            outside.append(annotation_id)
        if any(crosses_itself(points.astype(np.float64)) for points in polygons):
            crossing.append(annotation_id)
    found = [("out-of-frame", "that reach out of the image", outside)]
    found.append(("self-crossing", "whose outlines cross themselves", crossing))
    return [
        Doubt(kind, f"has {count_of(len(ids), 'instance')} {what}: annotation {list_some(ids)}")
        for kind, what, ids in found
        if ids
    ]


class _Writer(DatasetWriter):
    """Writes ``images`` and ``annotations.json``, all masks as RLE.

    Of a COCO data set ``info``, ``licenses``, categories and entries of images stay, file names aside; annotations lose
    other fields than COCO's own. The largest piece of an instance keeps its annotation's id.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        super().__init__(folder, dataset)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.is_coco = dataset.format is FORMAT
        known: list[int] = []
        if self.is_coco:
            self.content: dict[str, Any] = read_json(dataset.records[0].annotation.json_path)
            known = [annotation_id for record in dataset.records for annotation_id in record.annotation.ids]
        else:
            self.content = {"categories": [asdict(category) for category in dataset.categories]}
        self.new_ids = count(max(known, default=0) + 1)

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        path = copy_image(self.dataset, record, self.folder / "images")
        height, width = instances.size
        entry = record.annotation.image if self.is_coco else {"id": record.image_id}
        self.images.append(entry | {"file_name": path.name, "height": height, "width": width})
        entries = encode_coco_results(instances, record.image_id, self.dataset.categories)
        is_first = np.diff(rows, prepend=-1) > 0
        areas = instances.runs.areas.tolist()
        for row, entry in enumerate(entries):
            is_known = self.is_coco and is_first[row]
            own_id = record.annotation.ids[rows[row]] if is_known else next(self.new_ids)
            extra = {"id": own_id, "area": areas[row], "iscrowd": int(instances.iscrowd[row])}
            self.annotations.append({name: value for name, value in entry.items() if name != "score"} | extra)

    def close(self) -> None:
        content = {"images": self.images, "annotations": self.annotations}
        write_json(self.folder / "annotations.json", self.content | content)


FORMAT = Format(
    "coco",
    layout="annotations.json with images/",
    detect=find_coco_files,
    read=read_coco,
    name_instances=_name_instances,
    open_writer=_Writer,
    holds=frozenset({"classes", "names", "holes", "parts", "overlaps", "crowd", "ids"}),
    changes="polygons became RLE, and annotations keep no fields but COCO's own",
    options=frozenset({"crowd_as_objects"}),
    suffixes=(".json", ".json.gz"),
    detect_by_content=find_other_coco_files,
    find_faults=_find_polygon_faults,
    list_outlines=_list_outlines,
)
