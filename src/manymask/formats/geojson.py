"""GeoJSON of QuPath: a file of features for each image."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int64

from manymask.core import Instances
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.files import replace_file
from manymask.core.geojson import OBJECT_METADATA, encode_features
from manymask.core.json_files import parse_json
from manymask.core.polygons import Polygon
from manymask.errors import FormatError
from manymask.formats.drawn import (
    Drawings,
    DrawnImage,
    DrawnObject,
    make_drawn_dataset,
    make_drawn_format,
    to_points,
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.label_files import find_label_files
from manymask.formats.label_names import fold_stem
from manymask.formats.reading import Reading
from manymask.formats.records import copy_image
from manymask.imaging.files import list_images

_FOLDERS = ("geojson", "annotations", "labels")
_SUFFIXES = (".geojson", ".geojson.gz")
# A packed file may say that it is larger than any memory.
_MAX_BYTES = 1 << 32
_KINDS = ("annotation", "detection", "cell")
# Objects of QuPath's that are parts of a slide: squares of it, cores of a tissue array, all of it.
_NO_OBJECTS = ("tile", "tmaCore", "root")
_OLD_KINDS = {"PathAnnotationObject": "annotation", "PathDetectionObject": "detection", "PathCellObject": "cell"}
# Measurements that are scores: manymask's, and that of QuPath's StarDist extension.
_SCORES = ("score", "Detection probability")
# What predict calls further files of an image with very many objects.
_PART = re.compile(r"(?P<name>.+)\.part\d+")
# An annotation around this many others is a region; around one it may be a cell with its nucleus.
_MIN_INSIDE = 2


@dataclass(frozen=True, eq=False)
class _Shape:
    """An object, its kind, and whether nothing but an object can be meant."""

    drawn: DrawnObject
    kind: str
    is_object: bool


def is_geojson(root: Path) -> bool:
    """Whether a folder, or its folder of labels, holds GeoJSON of QuPath that is not an output of ``predict``."""
    return bool(find_geojson_files(root))


def is_geojson_by_content(root: Path) -> bool:
    """Whether files that are named like any JSON are GeoJSON."""
    return any(map(_begins_as_geojson, find_label_files(root, _FOLDERS, (".json",))))


def _begins_as_geojson(path: Path) -> bool:
    with open(path, "rb") as file:
        return b'"Feature' in file.read(4096)


def find_geojson_files(root: Path, *, with_outputs: bool = False) -> list[Path]:
    """The GeoJSON files of a data set."""
    return find_label_files(root, _FOLDERS, _SUFFIXES, with_outputs=with_outputs)


def read_geojson(root: str | Path) -> Dataset:
    """Read the GeoJSON that QuPath exports: ``x.geojson`` or ``x.geojson.gz`` for each image ``x``.

    Annotations, detections and the outlines of cells (not those of their nuclei) are objects. An annotation that holds
    detections or cells, or several other annotations, is a region of interest and no object; so is one of a class whose
    name ends in ``*``, which QuPath ignores too.

    Args:
        root: The folder of the images, or the one above ``images`` and ``geojson``, ``annotations`` or ``labels``.

    Raises:
        DatasetError: No image is there that a file labels.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_geojson(root), ImageFinder(root, [root, root / "images"]))


def parse_geojson(root: Path) -> Drawings:
    """What was drawn in the files of a folder."""
    reading, images = Reading(root), list[DrawnImage]()
    files = find_geojson_files(root) or find_geojson_files(root, with_outputs=True)
    files = files or [path for path in find_label_files(root, _FOLDERS, (".json",)) if _begins_as_geojson(path)]
    firsts: dict[str, int] = {}
    folders = filter(Path.is_dir, (root, root / "images"))
    stems = {fold_stem(image.name) for folder in folders for image in list_images(folder)}
    for path in files:
        name = _name_image(path)
        part = None if fold_stem(name) in stems else _PART.fullmatch(name)
        first = firsts.get(part["name"]) if part else None
        try:
            objects = tuple(_parse_file(reading, path, name))
        except FormatError as error:
            reading.fault("bad-image-entry", str(error), name, path)
            continue
        if first is None:
            firsts[name] = len(images)
            images.append(DrawnImage(name, path, None, objects))
        else:
            images[first] = replace(images[first], objects=images[first].objects + objects)
    return Drawings(reading, images, is_by_image=True)


def _name_image(path: Path) -> str:
    """The image that a file is for, by its name."""
    place = path.name.lower().find(".geojson")
    return path.stem if place < 0 else path.name[:place]


def _parse_file(reading: Reading, path: Path, image: str) -> list[DrawnObject]:
    shapes: list[_Shape] = []
    for place, feature in enumerate(_list_features(path, parse_json(path, _read_bytes(path)))):
        try:
            shape = _parse_feature(f"{path}: feature {place}", f"feature {place}", feature, reading)
        except FormatError as error:
            reading.fault("bad-annotation", str(error), image, path)
            continue
        if shape is not None:
            shapes.append(shape)
    regions = _find_regions(shapes)
    for row in regions:
        what = "has annotations that hold other objects, which are taken for regions of interest and left out"
        reading.note(what, f"{path.name}: {shapes[row].drawn.name}")
    return [shape.drawn for row, shape in enumerate(shapes) if row not in regions]


def _read_bytes(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path} cannot be read ({error}); it is damaged or cut short: export it again") from error
    if len(content) > _MAX_BYTES:
        raise FormatError(f"{path} holds more than {_MAX_BYTES >> 30} GB of text; export parts of the image")
    return content


def _list_features(path: Path, content: Any) -> Iterator[Any]:
    """The features of a file: of a collection, a list, or a single one; and the children that features hold."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    elif isinstance(content, dict) and "coordinates" in content:
        content = [{"type": "Feature", "geometry": content}]
    if not isinstance(content, list):
        raise FormatError(f"{path} holds no features, expected GeoJSON of QuPath; export it again or move it away")
    for feature in content:
        yield feature
        properties = feature.get("properties") if isinstance(feature, dict) else None
        children = properties.get("childObjects") if isinstance(properties, dict) else None
        if isinstance(children, list):
            yield from _list_features(path, children)


def _parse_feature(where: str, name: str, feature: Any, reading: Reading) -> _Shape | None:
    """The object of a feature; None where it is none."""
    if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
        raise FormatError(f"{where} has no geometry, expected a feature of GeoJSON; remove it or export it again")
    if isinstance(feature.get("id"), str) and feature["id"] not in _OLD_KINDS:
        name = f"object {feature['id']}"
    properties = feature["properties"] if isinstance(feature.get("properties"), dict) else {}
    kind = _find_kind(feature, properties)
    category = _find_category(properties)
    plane = feature["geometry"].get("plane")
    if isinstance(plane, dict) and (plane.get("z") or plane.get("t")):
        return reading.note("has objects of other planes than the first one of the image, which are left out", where)
    # manymask's own are objects, whatever their classes are called.
    is_own = properties.get("metadata") == OBJECT_METADATA
    if kind in _NO_OBJECTS or ((category or "").endswith("*") and not is_own):
        return reading.note("has tiles, cores or objects of classes that QuPath ignores, which are left out", where)
    polygons = _parse_geometry(where, feature["geometry"])
    if polygons is None:
        return reading.note("has points and lines, which are no objects and are left out", where)
    if isinstance(feature.get("nucleusGeometry"), dict):
        reading.note("has cells with nuclei, of which the cells are the objects")
    drawn = DrawnObject(name, category, polygons, score=_find_score(properties))
    return _Shape(drawn, kind, is_own or kind != "annotation")


def _find_kind(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    for kind in (properties.get(key) for key in ("objectType", "object_type", "type")):
        if kind in (*_KINDS, *_NO_OBJECTS):
            return kind
    old = feature.get("id")  # where versions before 0.4 had the type
    return _OLD_KINDS.get(old, "annotation") if isinstance(old, str) else "annotation"


def _find_category(properties: dict[str, Any]) -> str | None:
    """The name of a class, of which QuPath has several ways to write it; None where it has none."""
    found = properties.get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = ": ".join(map(str, names)) if isinstance(names, list) else found.get("name")
    return found if isinstance(found, str) and found else None


def _find_score(properties: dict[str, Any]) -> float | None:
    measured = properties.get("measurements")
    if isinstance(measured, list):  # before 0.4
        measured = {row.get("name"): row.get("value") for row in measured if isinstance(row, dict)}
    if not isinstance(measured, dict):
        return None
    values = [measured.get(name) for name in _SCORES]
    return next((float(value) for value in values if isinstance(value, int | float) and 0 <= value <= 1), None)


def _parse_geometry(where: str, geometry: dict[str, Any]) -> list[Polygon] | None:
    """The polygons of a geometry; None where it encloses nothing."""
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection" and isinstance(parts := geometry.get("geometries"), list):
        found = [_parse_geometry(where, part) for part in parts if isinstance(part, dict)]
        return [polygon for polygons in found if polygons for polygon in polygons] or None
    if kind not in ("Polygon", "MultiPolygon"):
        return None
    polygons: Any = [coordinates] if kind == "Polygon" else coordinates
    try:
        rings = [[to_points(ring) for ring in polygon] for polygon in polygons]
    except TypeError:
        rings = [[None]]
    good: list[Polygon] = [
        [_open_ring(ring) for ring in polygon if ring is not None and len(ring) >= 3] for polygon in rings
    ]
    if not any(good) or [len(polygon) for polygon in good] != [len(polygon) for polygon in rings]:
        raise FormatError(f"{where} is a {kind} of which no outline can be made; draw it again")
    return good


def _open_ring(ring: Float64[np.ndarray, "points 2"]) -> Float64[np.ndarray, "corners 2"]:
    """A ring without its last point where that repeats the first."""
    return ring[:-1] if len(ring) > 3 and (ring[0] == ring[-1]).all() else ring


def _find_regions(shapes: Sequence[_Shape]) -> set[int]:
    """Rows of the annotations that are regions around objects rather than objects."""
    if not shapes or all(shape.is_object for shape in shapes):
        return set()
    corners = [np.concatenate([polygon[0] for polygon in shape.drawn.polygons]) for shape in shapes]
    low, high = np.array([each.min(axis=0) for each in corners]), np.array([each.max(axis=0) for each in corners])
    orders = np.argsort(low, axis=0, kind="stable").T
    area = np.prod(high - low, axis=1)
    # The places in each order of those that begin between the sides of each shape.
    spans = [
        (np.searchsorted(low[order, axis], low[:, axis]), np.searchsorted(low[order, axis], high[:, axis], "right"))
        for axis, order in enumerate(orders)
    ]
    regions = set()
    for row, shape in enumerate(shapes):
        if shape.is_object:
            continue
        # By the axis that leaves fewer: all may lie in one column.
        near = min((order[first[row] : end[row]] for order, (first, end) in zip(orders, spans, strict=True)), key=len)
        near = near[(area[near] < area[row]) & ((low[near] >= low[row]) & (high[near] <= high[row])).all(axis=1)]
        num_inside = 0
        for other in near.tolist():
            if not _is_inside(shape.drawn.polygons, (low[other] + high[other]) / 2):
                continue
            num_inside += _MIN_INSIDE if shapes[other].kind != "annotation" else 1
            if num_inside >= _MIN_INSIDE:
                regions.add(row)
                break
    return regions


def _is_inside(polygons: Sequence[Polygon], point: Float64[np.ndarray, " 2"]) -> bool:
    """Whether a point lies in one of some polygons."""
    x, y = point.tolist()
    rings = [[cv2.pointPolygonTest(ring.astype(np.float32), (x, y), False) > 0 for ring in each] for each in polygons]
    return any(outer and not any(holes) for outer, *holes in rings)


class GeojsonWriter(DatasetWriter):
    """Writes each image with its ``.geojson`` beside it, of annotations with exact outlines, which QuPath can edit."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its features."""
        copy_image(self.dataset, record, self.folder, is_turned=True)
        names = [category.name for category in self.dataset.categories]
        features = encode_features(instances.runs, instances.labels, None, names, {}, record.name)
        with replace_file(self.folder / f"{record.name}.geojson", "w") as file:
            file.write('{"type": "FeatureCollection", "features": [\n' + ",\n".join(features) + "\n]}\n")


FORMAT = make_drawn_format(
    "geojson",
    layout="x.geojson or x.geojson.gz of QuPath beside x.tif, or in geojson/, annotations/ or labels/ beside images/",
    detect=is_geojson,
    detect_by_content=is_geojson_by_content,
    read=read_geojson,
    open_writer=GeojsonWriter,
)
