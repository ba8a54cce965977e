"""labelme: a JSON file of shapes beside each image."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from PIL import Image

from manymask.core import Instances, RunLengths, encode_crops, read_json, write_json
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.outlines import iterate_polygons
from manymask.errors import FormatError
from manymask.formats.drawn import (
    Drawings,
    DrawnImage,
    DrawnObject,
    crop_mask,
    join_objects,
    make_drawn_dataset,
    make_drawn_format,
    make_ellipse,
    make_rectangle,
    to_points,
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.label_files import list_files
from manymask.formats.reading import Reading, read_head
from manymask.formats.records import copy_image
from manymask.wording import shorten

_FOLDERS = ("", "annotations", "labels", "json")
# The version of labelme whose files these are like; the first with masks was 5.2.
_VERSION = "5.5.0"
# What people draw with labelme that encloses no pixels.
_NO_OBJECTS = ("point", "points", "line", "linestrip")


def is_labelme(root: Path) -> bool:
    """Whether a folder, or its folder of labels, holds a JSON file that begins as one of labelme's."""
    # Where the image is written first, the shapes may be far behind it.
    return any(re.search(rb'"(shapes|imageData)"\s*:', read_head(path)) for path in _list_files(root))


def _list_files(root: Path) -> list[Path]:
    folders = [folder for name in _FOLDERS if (folder := root / name if name else root).exists()]
    files = sorted(path for folder in folders for path in list_files(folder, ".json"))
    # A repaired copy holds the record of its repairs beside them.
    return [path for path in files if path.name != "repairs.json"]


def read_labelme(root: str | Path) -> Dataset:
    """Read the JSON files that labelme writes beside images.

    Polygons, rectangles, circles and masks are objects; shapes of one label and one ``group_id`` are one object in
    several parts. Points and lines enclose nothing and are left out.

    Args:
        root: The folder of the images, or the one above ``images`` and ``annotations``, ``labels`` or ``json``.

    Raises:
        DatasetError: No image is there that a file labels.
    """
    root = Path(root)
    finder = ImageFinder(root, [root, root / "images"])
    return make_drawn_dataset(root, FORMAT, parse_labelme(root), finder)


def parse_labelme(root: Path) -> Drawings:
    """What was drawn in the JSON files of a folder."""
    reading, images = Reading(root), []
    for path in _list_files(root):
        try:
            content = read_json(path)
            if isinstance(content, dict) and "shapes" in content:
                images.append(_parse_image(reading, path, content))
            else:
                reading.note("holds JSON files that are not labelme's and are passed over", path.name)
        except FormatError as error:
            reading.fault("bad-image-entry", str(error), path.stem, path)
    return Drawings(reading, images, is_by_image=True)


def _parse_image(reading: Reading, path: Path, content: dict[str, Any]) -> DrawnImage:
    if not isinstance(content["shapes"], list):
        raise FormatError(f"{path} has no list 'shapes', expected a file of labelme; export it again or move it away")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0 else None
    image = content.get("imagePath")
    image = image if isinstance(image, str) and image else path.stem
    objects: dict[object, DrawnObject] = {}
    for place, shape in enumerate(content["shapes"]):
        try:
            drawn = _parse_shape(f"{path}: shape {place}", place, shape, size)
        except FormatError as error:
            reading.fault("bad-annotation", str(error), path.stem, path)
            continue
        if drawn is None:
            reading.note("has points and lines, which are no objects and are left out", f"{path.name}: shape {place}")
            continue
        group = shape.get("group_id")
        key = place if group is None else (drawn.category, str(group))
        objects[key] = drawn if key not in objects else join_objects(objects[key], drawn)
    return DrawnImage(image, path, size, tuple(objects.values()))


def _parse_shape(where: str, place: int, shape: Any, size: tuple[int, int] | None) -> DrawnObject | None:
    """The object of an entry of ``shapes``; None where it encloses nothing."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise FormatError(f"{where} has no label, expected the name of its class; add it or remove the shape")
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind in _NO_OBJECTS:
        return None
    name, category = f"shape {place}", shape["label"]
    if kind == "mask":
        return DrawnObject(name, category, mask=_decode_mask(where, shape, size))
    corners = to_points(points)
    if kind == "polygon" and corners is not None and len(corners) >= 3:
        return DrawnObject(name, category, [[corners]])
    if kind == "rectangle" and corners is not None and len(corners) in (2, 4):
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return DrawnObject(name, category, [[make_rectangle(left, top, right, bottom)]])
    if kind == "circle" and corners is not None and len(corners) == 2:
        (x, y), radius = corners[0].tolist(), float(np.hypot(*(corners[1] - corners[0])))
        return DrawnObject(name, category, [[make_ellipse(x, y, radius, radius)]])
    raise FormatError(
        f"{where} is a {kind} of points {shorten(points)}, of which no outline can be made; draw it again"
    )


def _decode_mask(where: str, shape: dict[str, Any], size: tuple[int, int] | None) -> RunLengths:
    """A mask, which is a PNG of the pixels between two points, both included."""
    corners = to_points(shape.get("points"))
    if size is None or corners is None or not isinstance(shape.get("mask"), str):
        raise FormatError(f"{where} is a mask without its points, its pixels or the image's size; export it again")
    try:
        # A file may say that it is larger than it is worth: nothing beyond the image is decoded.
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True)), formats=["PNG"]) as picture:
            if picture.height > size[0] or picture.width > size[1]:
                raise FormatError(f"{where} is a mask larger than its image of {size[0]} x {size[1]}; draw it again")
            pixels = np.asarray(picture.convert("L")) > 0
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FormatError(f"{where} has a mask that cannot be decoded ({error}); draw it again") from error
    left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
    pixels = pixels[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return encode_crops([(max(left, 0), max(top, 0), pixels)], size)


class LabelmeWriter(DatasetWriter):
    """Writes each image with its JSON file beside it.

    Objects are polygons along the edges of their pixels, in several shapes of one ``group_id`` where they have several
    parts. Those with holes, which labelme's polygons have not, are masks.
    """

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its shapes."""
        image = copy_image(self.dataset, record, self.folder)
        shapes: list[dict[str, Any]] = []
        for row, polygons in enumerate(iterate_polygons(instances.runs)):
            label = self.dataset.categories[int(instances.labels[row]) - 1].name
            if any(len(polygon) > 1 for polygon in polygons):
                shapes.append(_make_shape(label, None, "mask", *_encode_mask(instances.runs, row)))
                continue
            group = row + 1 if len(polygons) > 1 else None
            shapes += [_make_shape(label, group, "polygon", outer.tolist()) for (outer,) in polygons]
        height, width = instances.size
        size = {"imageHeight": height, "imageWidth": width}
        content = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
        } | size
        write_json(image.with_suffix(".json"), content)


def _make_shape(label: str, group: int | None, kind: str, points: list[Any], mask: str | None = None) -> dict[str, Any]:
    fields = {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind}
    return fields | {"flags": {}, "mask": mask}


def _encode_mask(runs: RunLengths, row: int) -> tuple[list[list[int]], str]:
    """The corners and the PNG of one mask."""
    left, top, pixels = crop_mask(runs, row)
    height, width = pixels.shape
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return [[left, top], [left + width - 1, top + height - 1]], base64.b64encode(file.getvalue()).decode()


FORMAT = make_drawn_format(
    "labelme",
    layout="x.json of labelme beside x.jpg, or in annotations/ or labels/ beside images/",
    detect=is_labelme,
    read=read_labelme,
    open_writer=LabelmeWriter,
)
