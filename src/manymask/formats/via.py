"""VGG Image Annotator (VIA) 1 and 2: JSON files or tables of regions, of all images."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from manymask.core import Instances, read_json, write_json
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.outlines import iterate_polygons
from manymask.errors import DatasetError, FormatError
from manymask.formats.drawn import (
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
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.label_files import list_files
from manymask.formats.reading import Reading, list_json, read_head
from manymask.formats.records import copy_image
from manymask.wording import shorten

# What people draw with VIA that encloses no pixels.
_NO_OBJECTS = ("point", "polyline", "line")
_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}
# Cells of outlines are longer than Python's csv allows unless it is told.
_MAX_CELL = 1 << 30


def find_via_files(root: Path) -> list[Path]:
    """The JSON files of a folder that are VIA's; where there is none, its tables."""
    if files := list_json(root, rb"\A\s*\{", rb'"_via_|"(shape_attributes|file_attributes)"\s*:'):
        return files
    files = list_files(root, ".csv")
    return [path for path in files if b"region_shape_attributes" in read_head(path).partition(b"\n")[0]]


def read_via(root: str | Path) -> Dataset:
    """Read a project or an export of VIA 1 or 2.

    Polygons, rectangles, circles and ellipses are objects. Their class is the region attribute that was filled in;
    there may be one only. Points and lines enclose nothing and are left out.

    Args:
        root: The folder of the file, with the images in ``images`` or beside it.

    Raises:
        DatasetError: There is no file, or no image that it names.
        FormatError: A file cannot be read, or the regions have several attributes.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_via(root), ImageFinder(root, [root / "images", root]))


def parse_via(root: Path) -> Drawings:
    """What was drawn in the files of a folder."""
    files = find_via_files(root)
    if not files:
        raise DatasetError(f"{root} holds no JSON file or table of VIA; export the annotations as JSON")
    reading, images = Reading(root), []
    for path in files:
        entries = _read_table(path) if path.suffix.lower() == ".csv" else _read_entries(reading, path)
        attribute = _find_class_attribute(path, entries)
        images += [_parse_image(reading, path, image, regions, attribute) for image, regions in entries.items()]
    return Drawings(reading, images)


def _read_entries(reading: Reading, path: Path) -> dict[str, list[Any]]:
    """The regions of each image by its file name; entries of images keep no other name."""
    content = read_json(path)
    content = content.get("_via_img_metadata", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds no object of images, expected a file of VIA; export it again")
    entries: dict[str, list[Any]] = {}
    for key, entry in content.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            message = f"{path}: the entry {key[:60]} has no filename; add it or remove the entry"
            reading.fault("bad-image-entry", message, None, path)
            continue
        regions = entry.get("regions")
        # VIA 1 numbers regions as the keys of an object.
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(regions, list):
            message = f"{path}: the entry of {entry['filename'][:60]} has no list of regions; export it again"
            reading.fault("bad-image-entry", message, Path(entry["filename"]).stem, path)
            continue
        entries.setdefault(entry["filename"], []).extend(regions)
    return entries


def _read_table(path: Path) -> dict[str, list[Any]]:
    """The same of a table with a row for each region, and one for each image without any."""
    csv.field_size_limit(_MAX_CELL)
    entries: dict[str, list[Any]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            # VIA 1 begins the first column with a number sign.
            rows.fieldnames = [name.strip().lstrip("#") for name in rows.fieldnames or ()]
            if missing := _COLUMNS - set(rows.fieldnames):
                raise FormatError(f"{path} has no columns {', '.join(sorted(missing))}; export it as CSV again")
            for row in rows:
                regions = entries.setdefault(row["filename"] or "", [])
                shape = _read_cell(row["region_shape_attributes"])
                if shape != {}:
                    attributes = _read_cell(row["region_attributes"])
                    regions.append({"shape_attributes": shape, "region_attributes": attributes})
    except (OSError, ValueError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read as a table ({error}); export it again") from error
    return entries


def _read_cell(cell: str | None) -> Any:
    """What a cell of JSON holds; the text itself where it is none."""
    try:
        return json.loads(cell or "{}")
    except (ValueError, RecursionError):
        return cell


def _get_attributes(region: Any) -> Mapping[str, Any]:
    attributes = region.get("region_attributes") if isinstance(region, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _find_class_attribute(path: Path, entries: Mapping[str, Iterable[Any]]) -> str | None:
    """The one attribute that regions have; None where they have none.

    Raises:
        FormatError: They have several.
    """
    found = {
        str(name)
        for regions in entries.values()
        for region in regions
        for name, value in _get_attributes(region).items()
        if _read_class(value)
    }
    if len(found) > 1:
        raise FormatError(
            f"{path} has the region attributes {', '.join(sorted(found))}, expected one, the class; delete the others "
            "in VIA and export it again"
        )
    return found.pop() if found else None


def _read_class(value: Any) -> str | None:
    """The class that an attribute says: its text, or of check boxes the one that is ticked."""
    if isinstance(value, dict):
        ticked = [name for name, is_ticked in value.items() if is_ticked]
        return ", ".join(map(str, ticked)) or None
    return None if value is None or not str(value).strip() else str(value)


def _parse_image(reading: Reading, path: Path, image: str, regions: Iterable[Any], attribute: str | None) -> DrawnImage:
    objects: list[DrawnObject] = []
    for place, region in enumerate(regions):
        category = None if attribute is None else _read_class(_get_attributes(region).get(attribute, ""))
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        shape = shape if isinstance(shape, dict) else {}
        if shape.get("name") in _NO_OBJECTS:
            reading.note("has points and lines, which are no objects and are left out", f"{image}: region {place}")
        elif (ring := _make_ring(shape)) is not None:
            objects.append(DrawnObject(f"region {place}", category, [[ring]]))
        else:
            message = (
                f"{path}: image {image}: region {place} is {shorten(shape)}, of which no outline can be made; draw it "
                "again"
            )
            reading.fault("bad-annotation", message, image, path)
    return DrawnImage(image, path, None, tuple(objects))


def _make_ring(shape: Mapping[str, Any]) -> np.ndarray | None:
    """The outline of a shape; None where there is none."""

    def read(*keys: str) -> list[float] | None:
        found = to_points([[shape.get(key), 0] for key in keys])
        return None if found is None else found[:, 0].tolist()

    kind = shape.get("name")
    if kind in ("polygon", "polyshape"):
        x, y = shape.get("all_points_x"), shape.get("all_points_y")
        if not (isinstance(x, list) and isinstance(y, list) and len(x) == len(y) >= 3):
            return None
        return to_points(list(zip(x, y, strict=True)))
    if kind == "rect" and (box := read("x", "y", "width", "height")):
        left, top, width, height = box
        return make_rectangle(left, top, left + width, top + height)
    if kind == "circle" and (circle := read("cx", "cy", "r")):
        x, y, radius = circle
        return make_ellipse(x, y, radius, radius)
    if kind == "ellipse" and (ellipse := read("cx", "cy", "rx", "ry")):
        x, y, radius_x, radius_y = ellipse
        turn = read("theta") if "theta" in shape else [0.0]  # in radians, since VIA 2
        return None if turn is None else make_ellipse(x, y, radius_x, radius_y, float(np.degrees(turn[0])))
    return None


class ViaWriter(DatasetWriter):
    """Writes ``images`` and ``via_regions.json``, one polygon an object, with its class as attribute ``class``."""

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        super().__init__(folder, dataset)
        self.entries: dict[str, Any] = {}

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and keep its entry."""
        image = copy_image(self.dataset, record, self.folder / "images")
        size, regions = image.stat().st_size, []
        for label, polygons in zip(instances.labels.tolist(), iterate_polygons(instances.runs), strict=True):
            if polygons:
                x, y = join_rings(polygons).T.astype(int).tolist()
                shape = {"name": "polygon", "all_points_x": x, "all_points_y": y}
                attributes = {"class": self.dataset.categories[label - 1].name}
                regions.append({"shape_attributes": shape, "region_attributes": attributes})
        entry = {"filename": image.name, "size": size, "regions": regions, "file_attributes": {}}
        self.entries[f"{image.name}{size}"] = entry

    def close(self) -> None:
        """Write the file of all images."""
        write_json(self.folder / "via_regions.json", self.entries)


FORMAT = make_drawn_format(
    "via",
    layout="a JSON file or CSV table of VGG Image Annotator with images/",
    detect=find_via_files,
    read=read_via,
    open_writer=ViaWriter,
    holds=ONE_OUTLINE,
    changes=SEAMS,
)
