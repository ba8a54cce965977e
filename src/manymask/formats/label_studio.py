"""Label Studio: a JSON list of tasks, each an image and what people drew on it."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Int64

from manymask.core import Instances, RunLengths, encode_crops, read_json, write_json
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.outlines import iterate_polygons
from manymask.core.polygons import Ring
from manymask.errors import DatasetError, FormatError
from manymask.formats.drawn import (
    MAX_PIXELS,
    ONE_OUTLINE,
    SEAMS,
    Drawings,
    DrawnImage,
    DrawnObject,
    join_rings,
    make_drawn_dataset,
    make_drawn_format,
    make_ellipse,
    make_rectangle,
    to_points,
    turn_points,
)
from manymask.formats.image_finder import ImageFinder, strip_address
from manymask.formats.reading import Reading, list_json
from manymask.formats.records import copy_image, report_incomplete
from manymask.imaging.files import IMAGE_SUFFIXES

_LABELS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "labels")
# The kinds of regions that enclose pixels, with or without the ending "labels" of their types.
_KINDS = ("polygon", "rectangle", "ellipse", "brush")


def find_label_studio_files(root: Path) -> list[Path]:
    """The JSON files of a folder that are lists of Label Studio's tasks."""
    return list_json(root, rb"\A\s*\[\s*\{", rb'"(annotations|completions)"\s*:\s*\[')


def read_label_studio(root: str | Path) -> Dataset:
    """Read the file that Label Studio exports as JSON.

    Polygons, rectangles, ellipses and brush strokes are objects. Of several annotations of an image, the newest that
    nobody cancelled is taken. Tasks without one are not labelled and left out.

    Args:
        root: The folder of the file, with the images in ``images`` or beside it.

    Raises:
        DatasetError: There is no file, or no image that it names.
        FormatError: A file cannot be read.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_label_studio(root), ImageFinder(root, [root / "images", root]))


def parse_label_studio(root: Path) -> Drawings:
    """What was drawn in the JSON files of a folder."""
    files = find_label_studio_files(root)
    if not files:
        raise DatasetError(f"{root} holds no JSON file of Label Studio's tasks; export the project as 'JSON'")
    reading, images = Reading(root), []
    for path in files:
        for place, task in enumerate(read_json(path)):
            try:
                images.append(_parse_task(reading, path, place, task))
            except FormatError as error:
                reading.fault("bad-image-entry", str(error), None, path)
    return Drawings(reading, [image for image in images if image is not None])


def _parse_task(reading: Reading, path: Path, place: int, task: Any) -> DrawnImage | None:
    """The image of a task; None where nobody labelled it."""
    task = task if isinstance(task, dict) else {}
    where = f"{path}: task {task.get('id', place)}"
    image = _find_image(where, task.get("data"))
    name = PurePosixPath(strip_address(image)).stem
    annotations = task.get("annotations", task.get("completions"))
    annotations = [entry for entry in annotations if isinstance(entry, dict)] if isinstance(annotations, list) else []
    finished = [entry for entry in annotations if not entry.get("was_cancelled")]
    if not finished:
        message = f"{where} of image {image} has no annotation that was submitted; submit one, or delete the task"
        reading.problems.append(report_incomplete(message, path, name))
        return None
    if len(finished) > 1:
        reading.note("has images with several annotations, of which the newest is taken", name)
    newest = max(finished, key=lambda entry: str(entry.get("updated_at") or entry.get("created_at") or ""))
    size, objects, rectangles = None, [], set()
    if not isinstance(newest.get("result"), list):
        raise FormatError(f"{where} of {image} has an annotation without a list 'result'; export the project again")
    for key, region in _join_results(newest["result"]).items():
        try:
            region_size = _read_size(region)
            if (drawn := _parse_region(f"region {key}", region, region_size)) is None:
                reading.note("has results that enclose no pixels, which are left out", f"{name}: {key}")
                continue
        except FormatError as error:
            reading.fault("bad-annotation", f"{where}: region {key} {error}; correct or delete it", image, path)
            continue
        if len(_find_labels(region)) > 1:
            reading.note("has regions with several labels, of which the first is taken", f"{name}: {key}")
        objects.append(drawn)
        if {"rectangle", "rectanglelabels"} & set(region["types"]) and not region["value"].get("rotation"):
            rectangles.add(drawn)
        size = size or region_size
    boxes = _find_boxes(objects, rectangles)
    for drawn in boxes:
        what = "has rectangles that are only the boxes of other regions of their label, which are left out"
        reading.note(what, f"{name}: {drawn.name}")
    return DrawnImage(image, path, size, tuple(drawn for drawn in objects if drawn not in boxes))


def _find_boxes(objects: list[DrawnObject], rectangles: set[DrawnObject]) -> set[DrawnObject]:
    """The rectangles that are only the boxes of other outlines, as Label Studio's import of COCO adds them."""
    corners: dict[str | None, list[Ring]] = {}
    for drawn in objects:
        if drawn.polygons and drawn not in rectangles:
            corners.setdefault(drawn.category, []).append(_find_corners(drawn))
    return {
        drawn
        for drawn in rectangles
        if (others := corners.get(drawn.category))
        and np.isclose(_find_corners(drawn), np.stack(others), atol=0.01).all((1, 2)).any()
    }


def _find_corners(drawn: DrawnObject) -> Ring:
    ring = drawn.polygons[0][0]
    return np.stack([ring.min(0), ring.max(0)])


def _find_image(where: str, data: Any) -> str:
    """The address of a task's image, whatever its labelling interface calls it."""
    values = list(data.values()) if isinstance(data, dict) else []
    texts = [value for value in values if isinstance(value, str) and value]
    images = [text for text in texts if PurePosixPath(strip_address(text)).suffix.lower() in IMAGE_SUFFIXES]
    named = [data["image"]] if isinstance(data, dict) and data.get("image") in texts else []
    if found := [*named, *images]:
        return found[0]
    raise FormatError(f"{where} has no image among its data; export the project as 'JSON' again")


def _join_results(results: list[Any]) -> dict[str, dict[str, Any]]:
    """The regions by their ids; a region's outline, its labels and what else is said of it may be several results."""
    regions: dict[str, dict[str, Any]] = {}
    for place, result in enumerate(results):
        result = result if isinstance(result, dict) else {}
        key = place if result.get("id") is None else result["id"]
        region = regions.setdefault(str(key), {"value": {}, "types": []})
        value = result.get("value")
        region["value"] |= value if isinstance(value, dict) else {}
        region["types"].append(str(result.get("type")))
        region |= {name: found for name, found in result.items() if name not in ("value", "type")}
    return regions


def _read_size(region: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the image, where the region gives it."""
    sides = [region.get(name) for name in ("original_height", "original_width")]
    height, width = (side if isinstance(side, int) and 0 < side < 2**31 else 0 for side in sides)
    return (height, width) if height and width else None


def _find_labels(region: Mapping[str, Any]) -> list[str]:
    lists = [region["value"].get(name) for name in _LABELS]
    return list(dict.fromkeys(str(label) for labels in lists if isinstance(labels, list) for label in labels))


def _parse_region(name: str, region: Mapping[str, Any], size: tuple[int, int] | None) -> DrawnObject | None:
    """The object of a region; None where it encloses nothing. Errors are the rest of a sentence."""
    kinds = [kind for kind in _KINDS if kind in region["types"] or f"{kind}labels" in region["types"]]
    if not kinds:
        return None
    value, kind = region["value"], kinds[0]
    if size is None:
        raise FormatError("has no original_width and original_height, to which its percentages refer")
    if region.get("image_rotation"):
        raise FormatError(f"was drawn on the image turned by {region['image_rotation']} degrees, expected 0")
    labels = _find_labels(region)
    category = labels[0] if labels else None
    if kind == "brush":
        return DrawnObject(name, category, mask=decode_brush(value.get("rle"), size))
    scale = np.array(size[::-1]) / 100
    if kind == "polygon":
        points = to_points(value.get("points"))
        if points is None or len(points) < 3:
            raise FormatError("is a polygon without three points")
        return DrawnObject(name, category, [[points * scale]])
    x, y, angle = (_to_number(value, key) for key in ("x", "y", "rotation"))
    names = ("width", "height") if kind == "rectangle" else ("radiusX", "radiusY")
    corner = np.array([x, y]) * scale
    length, height = (np.array([_to_number(value, key) for key in names]) * scale).tolist()
    left, top = corner.tolist()
    if kind == "ellipse":
        return DrawnObject(name, category, [[make_ellipse(left, top, length, height, angle)]])
    ring = make_rectangle(left, top, left + length, top + height)
    return DrawnObject(name, category, [[turn_points(ring, (left, top), angle)]])


def _to_number(value: Mapping[str, Any], key: str) -> float:
    number = value.get(key, 0 if key == "rotation" else None)
    if not isinstance(number, int | float) or not abs(number) < 2**31:
        raise FormatError(f"has {key} {number!r}, expected a number")
    return float(number)


def decode_brush(code: Any, size: tuple[int, int]) -> RunLengths:
    """The mask of a brush stroke: the pixels of an RGBA picture that are not clear.

    The bytes are a stream of bits. A head gives the number of values (32 bits), the bits of a value less 1 (5) and
    those of four lengths less 1 (4 each). Then come runs: a bit that says whether one value is repeated, two that
    choose how many bits the length less 1 has, that length, and the value, or as many values.

    Args:
        code: The bytes, as a list of numbers.
        size: (height, width) of the image.

    Raises:
        FormatError: They are no such stream, or of another size. The message is the rest of a sentence.
    """
    height, width = size
    if height * width > MAX_PIXELS:
        raise FormatError(f"is a brush stroke on {height} x {width} pixels, of which polygons are to be made first")
    try:
        if not isinstance(code, list):
            raise TypeError("it is no list")
        bits = "".join(f"{byte:08b}" for byte in bytes(code))
        values, ends = np.array(list(_iterate_brush(bits, 4 * height * width))).T
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"is a brush stroke that cannot be decoded ({error})") from error
    # Of the four channels only the last one counts: the places 3, 7, 11 and so on.
    lengths = np.diff(ends // 4, prepend=0)
    pixels = np.repeat(values > 0, lengths).reshape(size)
    return encode_crops([(0, 0, pixels)], size)


def _iterate_brush(bits: str, expected: int) -> Iterator[tuple[int, int]]:
    """Each value of a stream and where its run ends."""
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        if position > len(bits):
            raise ValueError("it is cut short")
        return int(bits[position - count : position], 2)

    total, value_bits = read(32), read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    if total != expected:
        raise ValueError(f"it holds {total} values, expected {expected}")
    end = 0
    while end < total:
        is_repeated = read(1)
        length = min(read(length_bits[read(2)]) + 1, total - end)
        for step in [length] if is_repeated else [1] * length:
            end += step
            yield read(value_bits), end


class LabelStudioWriter(DatasetWriter):
    """Writes ``images`` and ``tasks.json``, which Label Studio imports, with one polygon an object.

    Label Studio finds the images as local files below the folder that it serves. The regions are of a ``PolygonLabels``
    named ``label`` on an ``Image`` named ``image``.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        super().__init__(folder, dataset)
        self.tasks: list[dict[str, Any]] = []

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and keep its task."""
        name = copy_image(self.dataset, record, self.folder / "images").name
        height, width = instances.size
        shared = {"original_width": width, "original_height": height, "image_rotation": 0}
        shared |= {"from_name": "label", "to_name": "image", "type": "polygonlabels", "origin": "manual"}
        results = []
        for row, polygons in enumerate(iterate_polygons(instances.runs)):
            if polygons:
                points = (join_rings(polygons) * 100 / (width, height)).tolist()
                label = self.dataset.categories[int(instances.labels[row]) - 1].name
                value = {"points": points, "closed": True, "polygonlabels": [label]}
                results.append({"id": f"r{row + 1}", "value": value} | shared)
        data = {"image": f"/data/local-files/?d={quote(f'images/{name}')}"}
        annotations = [{"id": record.image_id, "result": results, "was_cancelled": False}]
        self.tasks.append({"id": record.image_id, "data": data, "annotations": annotations})

    def close(self) -> None:
        """Write the file of all tasks."""
        write_json(self.folder / "tasks.json", self.tasks)


FORMAT = make_drawn_format(
    "label_studio",
    layout="a JSON file of Label Studio's tasks with images/",
    detect=find_label_studio_files,
    read=read_label_studio,
    open_writer=LabelStudioWriter,
    holds=ONE_OUTLINE,
    changes=SEAMS,
)
