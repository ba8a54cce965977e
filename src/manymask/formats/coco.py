"""COCO: data sets of polygons and RLE masks, and results."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from hotcoco import mask as coco_mask  # pyright: ignore[reportMissingModuleSource]
from jaxtyping import Float64

from manymask.core import (
    Category,
    Dataset,
    Instances,
    Record,
    RunLengths,
    Sample,
    decode_coco_rle,
    encode_coco_rle,
    paint_layers,
)
from manymask.core.files import replace_file
from manymask.errors import DatasetError, FormatError
from manymask.formats.images import check_unique_names
from manymask.formats.orientation import read_labelled_pixels
from manymask.formats.records import make_sample

# Edges of a polygon are compared in blocks of this many.
_EDGE_BLOCK = 512
# Names that COCO, Roboflow, CVAT, Label Studio and LabelMe's converters give to the file.
_NAME_PATTERNS = ("*annotations*.json", "*.coco.json", "instances*.json")


@dataclass(frozen=True)
class _Annotations:
    """Annotations of one image.

    Attributes:
        json_path: Where they are from, for messages.
        size: (height, width) that the file gives for the image.
        ids: Number of each annotation, for messages.
        category_ids: COCO's category of each.
        segmentations: Polygons or RLE of each.
        iscrowd: Whether each is a crowd region.
    """

    json_path: Path
    size: tuple[int, int]
    ids: list[Any]
    category_ids: list[int]
    segmentations: list[Any]
    iscrowd: list[bool]


def find_coco_files(folder: Path) -> list[Path]:
    """Files in a folder, or in ``annotations`` in it, whose names are those of COCO annotations; by name."""
    places = [folder, folder / "annotations"]
    files = {path for place in places for pattern in _NAME_PATTERNS for path in place.glob(pattern)}
    return sorted(path for path in files if not path.name.startswith("."))


def read_coco(path: str | Path) -> Dataset:
    """Read a COCO data set; everything but the images is checked at once.

    Args:
        path: The JSON file, or a folder with exactly one. Images lie at ``file_name`` beside the file or in ``images``
            there; for a file in a folder ``annotations`` also in the folder above, or in the split's folder there.

    Raises:
        DatasetError: There is not exactly one JSON file, an image is not there, or two images have the same name.
        FormatError: The file is not COCO, or an entry of it is wrong; the message gives the entry's id.
    """
    path = Path(path)
    json_path = _find_json(path)
    content = read_json(json_path)
    if not isinstance(content, dict):
        raise FormatError(
            f"{json_path} holds a {type(content).__name__}, expected COCO's object of images and annotations"
        )
    categories = _read_categories(json_path, _index_entries(json_path, content, "categories"))
    images = _index_entries(json_path, content, "images")
    if not images:
        raise DatasetError(f"{json_path} lists no images; expected at least one")
    grouped = {image_id: _start_annotations(json_path, image) for image_id, image in images.items()}
    category_ids = {category.id for category in categories}
    for annotation in _index_entries(json_path, content, "annotations").values():
        _add_annotation(json_path, grouped, category_ids, annotation)
    for group in grouped.values():
        _check_rles(group)
    records = tuple(
        Record(image_id, Path(image["file_name"]).stem, _find_image(json_path, image["file_name"]), grouped[image_id])
        for image_id, image in sorted(images.items())
    )
    check_unique_names((record.name, record.path) for record in records)
    return Dataset(path, "coco", categories, records, _read_record)


def _find_json(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = find_coco_files(path)
    if len(files) != 1:
        found = ", ".join(str(file) for file in files) or "none"
        raise DatasetError(
            f"{path} must hold exactly one of {', '.join(_NAME_PATTERNS)} (there or in 'annotations'), found {found}; "
            "give the JSON file itself"
        )
    return files[0]


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FormatError: The file is not there, cannot be read, or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FormatError(f"{path} does not exist; expected a JSON file") from error
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error.strerror}); expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}); it is damaged or cut short: export it again") from error


def _index_entries(json_path: Path, content: dict[str, Any], key: str) -> dict[int, dict[str, Any]]:
    """The entries of a list by their ids."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise FormatError(f"{json_path} has no list '{key}', expected COCO's images, annotations and categories")
    indexed: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_integer(entry.get("id")):
            raise FormatError(f"{json_path}: entry {place} of '{key}' has no whole number as id; number the entries")
        if entry["id"] in indexed:
            raise FormatError(f"{json_path}: id {entry['id']} occurs twice in '{key}'; number the entries anew")
        indexed[entry["id"]] = entry
    return indexed


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value of a JSON file is a whole number (JSON's true is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_size(height: object, width: object) -> bool:
    """Whether two values of a JSON file are the height and width of an image."""
    return all(is_integer(length) and length > 0 for length in (height, width))


def _read_categories(json_path: Path, entries: dict[int, dict[str, Any]]) -> tuple[Category, ...]:
    if not entries:
        raise FormatError(f"{json_path} lists no categories; expected at least one")
    names: dict[str, int] = {}
    for category_id, entry in sorted(entries.items()):
        name = entry.get("name")
        if not isinstance(name, str) or name in names:
            problem = f"the name '{name}' of category {names[name]}" if isinstance(name, str) else "no name"
            raise FormatError(f"{json_path}: category {category_id} has {problem}; give each a name of its own")
        names[name] = category_id
    return tuple(Category(category_id, name) for name, category_id in names.items())


def _start_annotations(json_path: Path, image: dict[str, Any]) -> _Annotations:
    """No annotations yet, for an image entry that is complete."""
    height, width = image.get("height"), image.get("width")
    if not (isinstance(image.get("file_name"), str) and is_size(height, width)):
        raise FormatError(f"{json_path}: image {image['id']} needs file_name, and height and width above 0; add them")
    return _Annotations(json_path, (height, width), [], [], [], [])  # pyright: ignore[reportArgumentType]


def _add_annotation(
    json_path: Path, grouped: dict[int, _Annotations], category_ids: set[int], annotation: dict[str, Any]
) -> None:
    """Check an annotation and put it to its image."""
    where = f"{json_path}: annotation {annotation['id']}"
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    if not is_integer(image_id) or image_id not in grouped:
        raise FormatError(f"{where} is of image {image_id}, which 'images' does not list; add the image or remove it")
    if not is_integer(category_id) or category_id not in category_ids:
        known = sorted(category_ids)
        raise FormatError(f"{where} is of category {category_id}, but 'categories' lists {known}; correct it")
    group = grouped[image_id]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        _check_counts(where, segmentation, group.size)
    else:
        check_polygons(where, segmentation)
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise FormatError(f"{where} has iscrowd {annotation['iscrowd']}, expected 0 or 1; correct it")
    group.ids.append(annotation["id"])
    group.category_ids.append(category_id)
    group.segmentations.append(segmentation)
    group.iscrowd.append(bool(annotation.get("iscrowd", 0)))


def _check_counts(where: str, rle: dict[str, Any], size: tuple[int, int]) -> None:
    counts = rle.get("counts")
    if isinstance(counts, list) and not all(is_integer(count) and 0 <= count <= size[0] * size[1] for count in counts):
        raise FormatError(f"{where} is an RLE whose counts are not numbers of pixels of its image; export it again")


def _check_rles(group: _Annotations) -> None:
    """Decode the RLE of an image; polygons, which any image can take, only once the image is read."""
    rles = {i: rle for i, rle in zip(group.ids, group.segmentations, strict=True) if isinstance(rle, dict)}
    decode_segmentations(list(rles.values()), group.size, f"{group.json_path}: annotation", list(rles))


def decode_segmentations(
    segmentations: Sequence[Any], size: tuple[int, int], where: str, ids: Sequence[int]
) -> RunLengths:
    """Decode polygons and RLE of one image; all at once, and one by one only to name the one that is wrong.

    Args:
        segmentations: COCO's ``segmentation`` of each instance; polygons are checked already.
        size: (height, width) of the image.
        where: What the ids count and in which file, for messages.
        ids: Number of each instance there, for messages.

    Raises:
        FormatError: An RLE is damaged or of another size than the image.
    """
    rles = [_to_rle(segmentation, size) for segmentation in segmentations]
    try:
        return decode_coco_rle(rles, size)
    except FormatError:
        for instance_id, rle in zip(ids, rles, strict=True):
            try:
                decode_coco_rle([rle], size)
            except FormatError as error:
                problem = str(error).replace("RLE 0", "its RLE")
                raise FormatError(f"{where} {instance_id}: {problem}") from error
        raise


def check_polygons(where: str, polygons: object) -> None:
    """Refuse what is not a list of polygons.

    Raises:
        FormatError: There is none, or one of them is not the x and y of at least 3 points.
    """
    if not isinstance(polygons, list) or not polygons:
        raise FormatError(
            f"{where} has no segmentation; manymask needs masks: add a polygon or RLE, a box is not enough"
        )
    for polygon in polygons:
        numbers = polygon if isinstance(polygon, list) else []
        if len(numbers) < 6 or len(numbers) % 2:
            raise FormatError(
                f"{where} has a polygon of {len(numbers)} numbers, expected x and y of at least 3 points; correct or "
                "remove it"
            )
        if not all(type(number) in (int, float) for number in numbers) or not all(
            abs(number) < 2**31 for number in numbers
        ):
            raise FormatError(f"{where} has a polygon with something else than finite numbers; correct it")


def _find_image(json_path: Path, file_name: str) -> Path:
    """The image file of an entry, in one of the places where tools put it."""
    folder = json_path.parent
    places = [folder / "images", folder]
    if folder.name == "annotations":
        split = json_path.stem.removeprefix("instances_")
        places += [base / part for base in (folder.parent / "images", folder.parent) for part in ("", split)]
    for place in places:
        if os.path.isfile(place / file_name):  # Path.is_file raises on a name that is too long
            return place / file_name
    looked = ", ".join(str(place) for place in places)
    raise DatasetError(f"{json_path} lists the image {file_name}, which is not in {looked}; put it there")


def _read_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    group: _Annotations = record.annotation
    pixels, doubts = read_labelled_pixels(record.path, group.size)
    if pixels.shape[:2] != group.size:
        raise DatasetError(
            f"{group.json_path} gives image {record.image_id} as {group.size[0]} x {group.size[1]} (height x width), "
            f"but {record.path} is {pixels.shape[0]} x {pixels.shape[1]}; correct the entry or the image"
        )
    runs = decode_segmentations(group.segmentations, group.size, f"{group.json_path}: annotation", group.ids)
    class_index = {category.id: index for index, category in enumerate(categories, start=1)}
    labels = np.array([class_index[category_id] for category_id in group.category_ids], dtype=np.int64)
    return make_sample(record, pixels, paint_layers(runs), labels, np.array(group.iscrowd, dtype=bool), doubts)


def _to_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """RLE as it is; polygons filled as COCO does and joined."""
    if isinstance(segmentation, dict):
        return segmentation
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))


def name_annotations(record: Record) -> list[str]:
    """What the file calls each instance of an image, in their order."""
    return [f"annotation {annotation_id}" for annotation_id in record.annotation.ids]


def find_polygon_faults(record: Record) -> dict[str, list[int]]:
    """Ids of the annotations of an image with outlines that its mask does not show any more.

    Returns:
        Ids by ``out-of-frame`` (a point more than a pixel outside the image) and ``self-crossing``.
    """
    group: _Annotations = record.annotation
    faults: dict[str, list[int]] = {"out-of-frame": [], "self-crossing": []}
    height, width = group.size
    for annotation_id, segmentation in zip(group.ids, group.segmentations, strict=True):
        polygons = [] if isinstance(segmentation, dict) else [np.reshape(p, (-1, 2)) for p in segmentation]
        if any(((points < -1) | (points > [width + 1, height + 1])).any() for points in polygons):
            faults["out-of-frame"].append(annotation_id)
        if any(_crosses_itself(points.astype(np.float64)) for points in polygons):
            faults["self-crossing"].append(annotation_id)
    return faults


def _crosses_itself(points: Float64[np.ndarray, "points 2"]) -> bool:
    """Whether two edges of a polygon cross at a point inside both; edges that only touch or lie in line do not."""
    edges = np.roll(points, -1, axis=0) - points
    for begin in range(0, len(points), _EDGE_BLOCK):
        block = slice(begin, begin + _EDGE_BLOCK)
        way = points - points[block, None]
        side = _cross(edges[block, None], way)  # of each point, seen along each edge of the block
        is_across = side * np.roll(side, -1, axis=1) < 0
        start_side, end_side = _cross(edges, -way), _cross(edges, edges[block, None] - way)
        if (is_across & (start_side * end_side < 0)).any():
            return True
    return False


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def encode_coco_results(instances: Instances, image_id: int, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Turn the instances of an image into entries of COCO's results.

    ``category_id`` is the category's own id, ``bbox`` the instance's box as x, y, width and height, ``segmentation``
    compressed RLE; numbers are not rounded.
    """
    boxes = instances.boxes.astype(np.float64)
    boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {
            "image_id": image_id,
            "category_id": categories[label - 1].id,
            "segmentation": rle,
            "score": score,
            "bbox": box,
        }
        for rle, label, score, box in zip(
            encode_coco_rle(instances.runs),
            instances.labels.tolist(),
            instances.scores.tolist(),
            boxes_xywh.tolist(),
            strict=True,
        )
    ]


def write_json(path: Path, data: object) -> None:
    """Write a JSON file, whole or not at all."""
    with replace_file(path, "w") as file:
        json.dump(data, file, allow_nan=False)
