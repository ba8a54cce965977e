"""CVAT for images 1.1: one XML file with the objects of all images."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from jaxtyping import Bool, Int64

from manymask.core import Instances, RunLengths, encode_crops
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.files import write_file
from manymask.core.outlines import iterate_polygons
from manymask.errors import DatasetError, FormatError
from manymask.formats.drawn import (
    MAX_PIXELS,
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
    turn_points,
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.reading import Reading
from manymask.formats.records import copy_image
from manymask.formats.xml_files import iterate_xml, list_xml, to_number

_SHAPES = ("polygon", "mask", "box", "ellipse")
# What people draw with CVAT that encloses no pixels, or is said of the whole image.
_NO_OBJECTS = ("polyline", "points", "tag", "cuboid", "skeleton")


def find_cvat_files(root: Path) -> list[Path]:
    """The XML files of CVAT in a folder."""
    return list_xml(root, "annotations")


def read_cvat(root: str | Path) -> Dataset:
    """Read the file that CVAT exports as "CVAT for images 1.1".

    Polygons, masks, boxes and ellipses are objects; shapes of one label and one ``group_id`` other than 0 are one
    object in several parts. Polylines and points enclose nothing and are left out.

    Args:
        root: The folder of ``annotations.xml``, with the images in ``images`` or beside it.

    Raises:
        DatasetError: There is no file, or no image that it names.
        FormatError: A file is not CVAT's, or is of a video.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_cvat(root), ImageFinder(root, [root / "images", root]))


def parse_cvat(root: Path) -> Drawings:
    """What was drawn in the XML files of a folder."""
    files = find_cvat_files(root)
    if not files:
        raise DatasetError(f"{root} holds no XML file of CVAT; export the task as 'CVAT for images 1.1'")
    reading, images, classes = Reading(root), [], []
    for path in files:
        for element in iterate_xml(path, ("label", "image", "track")):
            if element.tag == "track":
                raise FormatError(
                    f"{path} holds tracks of a video, which is no set of images; export the task as 'CVAT for images "
                    "1.1'"
                )
            if element.tag == "label" and (name := element.findtext("name")):
                classes.append(name)
            elif element.tag == "image":
                images.append(_parse_image(reading, path, element))
    used = {drawn.category for image in images for drawn in image.objects if drawn.category}
    return Drawings(reading, images, tuple(dict.fromkeys([*classes, *sorted(used)])))


def _parse_image(reading: Reading, path: Path, element: Element) -> DrawnImage:
    image = element.get("name") or f"image {element.get('id')}"
    try:
        size = int(to_number(element, "height")), int(to_number(element, "width"))
    except FormatError:
        size = None
    objects: dict[object, DrawnObject] = {}
    for place, shape in enumerate(shape for shape in element if shape.tag in (*_SHAPES, *_NO_OBJECTS)):
        where = f"{path}: image {image}: shape {place} ({shape.tag})"
        if shape.tag in _NO_OBJECTS:
            reading.note("has shapes that enclose no pixels, which are left out", f"{image}: shape {place}")
            continue
        try:
            drawn = _parse_shape(place, shape, size)
        except FormatError as error:
            reading.fault("bad-annotation", f"{where} {error}; correct or remove it", image, path)
            continue
        group = shape.get("group_id") or "0"
        key = place if group == "0" else (drawn.category, group)
        objects[key] = drawn if key not in objects else join_objects(objects[key], drawn)
    return DrawnImage(image, path, size, tuple(objects.values()))


def _parse_shape(place: int, shape: Element, size: tuple[int, int] | None) -> DrawnObject:
    """The object of an element; errors are the rest of a sentence that begins with where it is."""
    name, category = f"shape {place}", shape.get("label")
    if not category:
        raise FormatError("has no label")
    if shape.tag == "mask":
        return DrawnObject(name, category, mask=_decode_mask(shape, size))
    if shape.tag == "polygon":
        ring = to_points([pair.split(",") for pair in (shape.get("points") or "").split(";")])
        if ring is None or len(ring) < 3:
            raise FormatError(f"has points {(shape.get('points') or '')[:60]!r}, expected three or more as 'x,y;x,y'")
        return DrawnObject(name, category, [[ring]])
    angle = to_number(shape, "rotation") if shape.get("rotation") else 0.0
    if shape.tag == "box":
        left, top, right, bottom = (to_number(shape, side) for side in ("xtl", "ytl", "xbr", "ybr"))
        centre = (left + right) / 2, (top + bottom) / 2
        ring = turn_points(make_rectangle(left, top, right, bottom), centre, angle)
    else:
        x, y, radius_x, radius_y = (to_number(shape, side) for side in ("cx", "cy", "rx", "ry"))
        ring = make_ellipse(x, y, radius_x, radius_y, angle)
    return DrawnObject(name, category, [[ring]])


def _decode_mask(shape: Element, size: tuple[int, int] | None) -> RunLengths:
    """A mask, given as counts of background and object by turns along the rows of its box."""
    left, top, width, height = (int(to_number(shape, side)) for side in ("left", "top", "width", "height"))
    try:
        counts = [int(count) for count in (shape.get("rle") or "").split(",")]
    except ValueError:
        counts = []
    if size is None:
        raise FormatError("is a mask of an image without width and height")
    # A box may say that it is larger than it is worth: nothing beyond the image is decoded.
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise FormatError(f"is a mask of {height} x {width}, larger than its image of {size[0]} x {size[1]}")
    if width * height > MAX_PIXELS:
        raise FormatError(f"is a mask of {height} x {width} pixels, more than are decoded; make a polygon of it, then")
    if min(counts, default=-1) < 0 or sum(counts) != width * height:
        raise FormatError(f"has counts that do not add up to its box of {height} x {width}")
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    pixels = pixels[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return encode_crops([(max(left, 0), max(top, 0), pixels)], size)


# Characters that XML 1.0 has no way to write.
_NOT_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class CvatWriter(DatasetWriter):
    """Writes ``images`` and ``annotations.xml``.

    Objects are polygons along the edges of their pixels. Those with holes or several parts are masks.
    """

    def __init__(self, folder: Path, dataset: Dataset) -> None:
        super().__init__(folder, dataset)
        self.images: list[str] = []
        for category in dataset.categories:
            if _NOT_XML.search(category.name):
                raise DatasetError(f"the class {category.name!r} has a character that XML cannot hold; rename it")

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and keep its element."""
        name = copy_image(self.dataset, record, self.folder / "images").name
        height, width = instances.size
        start = f'  <image id="{len(self.images)}" name={quoteattr(name)} width="{width}" height="{height}">\n'
        names = [category.name for category in self.dataset.categories]
        self.images.append(start + "".join(_list_shapes(instances, names)) + "  </image>\n")

    def close(self) -> None:
        """Write the file of all images."""
        labels = "".join(f"<label><name>{escape(category.name)}</name></label>" for category in self.dataset.categories)
        meta = f"<meta><task><size>{len(self.images)}</size><labels>{labels}</labels></task></meta>"
        head = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  {meta}\n'
        write_file(self.folder / "annotations.xml", head + "".join(self.images) + "</annotations>\n")


def _list_shapes(instances: Instances, names: list[str]) -> Iterator[str]:
    """The element of each object."""
    for row, polygons in enumerate(iterate_polygons(instances.runs)):
        if not polygons:
            continue
        label = quoteattr(names[int(instances.labels[row]) - 1])
        fields = f'label={label} source="manual" occluded="0" z_order="0"'
        if len(polygons) == 1 and len(polygons[0]) == 1:
            points = ";".join(f"{x:g},{y:g}" for x, y in polygons[0][0].tolist())
            yield f'    <polygon {fields} points="{points}"></polygon>\n'
            continue
        left, top, pixels = crop_mask(instances.runs, row)
        height, width = pixels.shape
        box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
        counts = ", ".join(map(str, _count_runs(pixels)))
        yield f'    <mask {fields} rle="{counts}" {box}></mask>\n'


def _count_runs(pixels: Bool[np.ndarray, "height width"]) -> list[int]:
    """How many pixels are background, then object, and so on by turns along the rows."""
    flat = np.concatenate([[False], pixels.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(changes, prepend=0, append=pixels.size).tolist()


FORMAT = make_drawn_format(
    "cvat",
    layout="annotations.xml of CVAT for images 1.1 with images/",
    detect=find_cvat_files,
    read=read_cvat,
    open_writer=CvatWriter,
    changes="outlines run along the edges of pixels, and objects with holes or several parts became masks",
)
