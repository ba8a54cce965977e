"""Aperio ImageScope: an XML file of outlines beside each slide, as in MoNuSeg and MoNuSAC."""

from glob import escape
from pathlib import Path
from xml.etree.ElementTree import Element

import cv2
import numpy as np

from manymask.core.dataset import Dataset
from manymask.core.polygons import Ring
from manymask.errors import FormatError
from manymask.formats.drawn import (
    Drawings,
    DrawnImage,
    DrawnObject,
    make_drawn_dataset,
    make_drawn_format,
    make_ellipse,
    make_rectangle,
    to_points,
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.labelme import LabelmeWriter
from manymask.formats.reading import Reading
from manymask.formats.xml_files import list_xml, read_xml
from manymask.imaging.files import IMAGE_SUFFIXES

_RECTANGLE, _ELLIPSE = "1", "2"
_SLIDES = (".svs", ".ndpi", ".tif", ".tiff", ".btf")
# Arrows, rulers and counters, which enclose no pixels.
_NO_OBJECTS = ("3", "4", "5")


def find_aperio_files(root: Path) -> list[Path]:
    """The XML files in a folder, if they are ImageScope's."""
    return list_xml(root, "Annotations")


def find_all_aperio_files(root: Path) -> list[Path]:
    """The same with those in the folders below."""
    return list_xml(root, "Annotations", is_deep=True)


def read_aperio(root: str | Path) -> Dataset:
    """Read the XML files that ImageScope writes beside slides.

    Each region is an object, in pixels of the full resolution. Its class is the name of its layer's first attribute, as
    in MoNuSAC; where that is only ``Description``, its value, else the layer's name. Negative regions are holes of the
    smallest region of their layer that they lie in. Arrows and rulers enclose nothing and are left out.

    Args:
        root: A folder of images and XML files, which may lie in folders of their own: an image has its file's stem.

    Raises:
        DatasetError: No image is there that a file labels.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_aperio(root), ImageFinder(root, [root]))


def parse_aperio(root: Path) -> Drawings:
    """What was drawn in the XML files of a folder."""
    reading, images = Reading(root), []
    for path in find_all_aperio_files(root):
        try:
            images.append(_parse_file(reading, path, root))
        except FormatError as error:
            reading.fault("bad-image-entry", str(error), path.stem, path)
    return Drawings(reading, images, is_by_image=True)


def _parse_file(reading: Reading, path: Path, root: Path) -> DrawnImage:
    content = read_xml(path)
    objects: list[DrawnObject] = []
    for place, layer in enumerate(content.iter("Annotation"), start=1):
        objects += _parse_layer(reading, path, f"layer {layer.get('Id') or place}", layer)
    # Files of several folders may be called alike: the image beside a file is its own.
    files = sorted(path.parent.glob(f"{escape(path.stem)}.*"), key=_rank_image)
    files = [file for file in files if file.stem.removesuffix(".ome") == path.stem]
    beside = next((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), None)
    image = path.stem if beside is None else str(beside.relative_to(root))
    return DrawnImage(image, path, None, tuple(objects))


def _rank_image(path: Path) -> tuple[bool, str]:
    """Slides first: a JPEG or PNG beside one is a smaller picture of it."""
    return path.suffix.lower() not in _SLIDES, path.name


def _parse_layer(reading: Reading, path: Path, name: str, layer: Element) -> list[DrawnObject]:
    """The objects of a layer, which are of one class."""
    category = _find_class(layer)
    outer: list[tuple[str, Ring]] = []
    holes: list[tuple[str, Ring]] = []
    for place, region in enumerate(layer.iter("Region"), start=1):
        where = f"{name} region {region.get('Id') or place}"
        if region.get("Type") in _NO_OBJECTS:
            reading.note("has arrows, rulers or counters, which are left out", f"{path.name}: {where}")
            continue
        corners = to_points([[vertex.get("X"), vertex.get("Y")] for vertex in region.iter("Vertex")])
        if (ring := _make_ring(region.get("Type"), corners)) is None:
            found = "no numbers" if corners is None else f"{len(corners)} vertices"
            message = f"{path}: {where} has {found}, of which no outline can be made; draw it again"
            reading.fault("bad-annotation", message, path.stem, path)
            continue
        (holes if region.get("NegativeROA") == "1" else outer).append((where, ring))
    polygons: list[list[Ring]] = [[ring] for _, ring in outer]
    low, high = (np.array([end(ring, axis=0) for _, ring in outer]).reshape(-1, 2) for end in (np.min, np.max))
    for where, hole in holes:
        # Few boxes are left of a slide's thousands, of which the outlines are looked at.
        near = ((low <= hole.min(axis=0)) & (hole.max(axis=0) <= high)).all(axis=1)
        around = [place for place in np.flatnonzero(near).tolist() if _contains(outer[place][1], hole)]
        if not around:
            message = f"{path}: {where} is negative, but lies in no other region of its layer; draw it inside of one"
            reading.fault("bad-annotation", message, path.stem, path)
            continue
        polygons[min(around, key=lambda place: _area(outer[place][1]))].append(hole)
    return [DrawnObject(where, category, [rings]) for (where, _), rings in zip(outer, polygons, strict=True)]


def _find_class(layer: Element) -> str | None:
    attribute = layer.find("Attributes/Attribute")
    name = "" if attribute is None else (attribute.get("Name") or "").strip()
    if attribute is not None and name == "Description":
        name = (attribute.get("Value") or "").strip()
    return name or (layer.get("Name") or "").strip() or None


def _make_ring(kind: str | None, corners: Ring | None) -> Ring | None:
    """The outline of a region; rectangles and ellipses may be given by opposite corners of their boxes."""
    if corners is None or len(corners) < 2:
        return None
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    if kind == _ELLIPSE and len(corners) <= 4:
        return make_ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)
    if kind == _RECTANGLE and len(corners) == 2:
        return make_rectangle(left, top, right, bottom)
    return corners if len(corners) >= 3 else None


def _contains(ring: Ring, other: Ring) -> bool:
    """Whether all corners of the other ring lie in the first one, or on it."""
    outline = ring.astype(np.float32)
    return all(cv2.pointPolygonTest(outline, (x, y), measureDist=False) >= 0 for x, y in other.tolist())


def _area(ring: Ring) -> float:
    return cv2.contourArea(ring.astype(np.float32))


FORMAT = make_drawn_format(
    "aperio",
    layout="x.xml of Aperio ImageScope beside x.svs or x.tif",
    detect=find_aperio_files,
    read=read_aperio,
    open_writer=LabelmeWriter,
    copy_format="labelme",
    changes="labels are written as labelme's files, with outlines along the edges of pixels",
    detect_by_content=find_all_aperio_files,
)
