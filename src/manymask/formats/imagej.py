"""Regions of interest (ROIs) of ImageJ and Fiji: a zip of them, or a single one, for each image."""

import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np
import roifile
from jaxtyping import Float32, Int64

from manymask.core import Instances
from manymask.core.dataset import Dataset, DatasetWriter, Record
from manymask.core.files import replace_file
from manymask.core.outlines import iterate_outlines
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
from manymask.formats.label_files import find_label_files
from manymask.formats.label_names import fold_stem
from manymask.formats.reading import Reading
from manymask.formats.records import copy_image
from manymask.imaging.files import list_images

_FOLDERS = ("rois", "roi", "imagej", "annotations", "labels")
_SUFFIXES = (".zip", ".roi")
# A zip may say that it is larger than any memory, or hold more entries than anybody can look at.
_MAX_ROIS = 1_000_000
_MAX_BYTES = 1 << 30
_POLYGONS = (roifile.ROI_TYPE.POLYGON, roifile.ROI_TYPE.FREEHAND, roifile.ROI_TYPE.TRACED)
# Texts, arrows and pictures are drawn as rectangles and lines.
_NO_OBJECTS = (roifile.ROI_SUBTYPE.TEXT, roifile.ROI_SUBTYPE.ARROW, roifile.ROI_SUBTYPE.IMAGE)
# What people and programs add to an image's name; the ROI Manager proposes RoiSet.zip.
_FILE_NAME = re.compile(r"(?:(?:roiset|rois?)[-_ ])?(?P<image>.+?)(?:[-_ .](?:roiset|rois?))?", re.IGNORECASE)
# What write_rois calls a ROI: its number, class and score.
_OWN_NAME = re.compile(r"\d+ (?P<category>.+) (?P<score>[01]\.\d{3})", re.DOTALL)

_MAX_GROUP = 255
_MAX_INTEGER = np.iinfo(np.int16).max
# Values that follow each command of a path: move, line, curves of two and of three points, close.
_NUM_VALUES = {0: 2, 1: 2, 2: 4, 3: 6, 4: 0}
_CURVE_POINTS = 16


def is_imagej(root: Path) -> bool:
    """Whether a folder, or its folder of labels, holds ROIs of ImageJ that are not outputs of ``predict``."""
    return bool(find_imagej_files(root))


def find_imagej_files(root: Path, *, with_outputs: bool = False) -> list[Path]:
    """The files of ROIs of a data set."""
    files = find_label_files(root, _FOLDERS, _SUFFIXES, with_outputs=with_outputs)
    counts = {path: _count_rois(path) for path in files}
    return [path for path, count in counts.items() if count is not None] if any(counts.values()) else []


def _count_rois(path: Path) -> int | None:
    """How many ROIs a file has; None where it is of other things.

    None in an empty zip, of an image without objects, and in a damaged one, which is named where other files have some.
    """
    if path.suffix.lower() == ".roi":
        return 1
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return 0
    return sum(name.lower().endswith(".roi") for name in names) or (None if names else 0)


def read_imagej(root: str | Path) -> Dataset:
    """Read the ROIs that ImageJ's ROI Manager saves: ``x.zip``, ``x_rois.zip`` or ``x.roi`` for each image ``x``.

    ``RoiSet.zip`` is for the image beside it where there is one only. Polygons, rectangles, ovals and composites, with
    fractions of pixels, holes and parts, are objects; their group is the class, ``object`` without one. Points, lines
    and texts are left out.

    Args:
        root: The folder of the images, or the one above ``images`` and ``rois``, ``roi``, ``imagej``, ``annotations``
            or ``labels``.

    Raises:
        DatasetError: No image is there that a file labels.
    """
    root = Path(root)
    return make_drawn_dataset(root, FORMAT, parse_imagej(root), ImageFinder(root, [root, root / "images"]))


def parse_imagej(root: Path) -> Drawings:
    """What was drawn in the files of a folder."""
    reading, images = Reading(root), []
    folders = [folder for folder in (root, root / "images") if folder.is_dir()]
    stems = {fold_stem(image.name) for folder in folders for image in list_images(folder)}
    for path in find_imagej_files(root) or find_imagej_files(root, with_outputs=True):
        # What begins as a name of ROIs may be the name of an image.
        name = path.stem if fold_stem(path.stem) in stems else _name_image(root, path)
        try:
            images.append(DrawnImage(name, path, None, tuple(_parse_file(reading, path, name))))
        except FormatError as error:
            if fold_stem(name) in stems:
                reading.fault("bad-image-entry", str(error), name, path)
            else:
                reading.note("has archives of no image that cannot be read, which are left out", path.name)
    return Drawings(reading, images, is_by_image=True)


def _name_image(root: Path, path: Path) -> str:
    """The image that a file is for, by its name."""
    if path.stem.lower() in ("roiset", "rois"):
        folders = dict.fromkeys(folder for folder in (path.parent, root, root / "images") if folder.is_dir())
        images = [image for folder in folders for image in list_images(folder)]
        if len(images) == 1:
            return images[0].name
    match = _FILE_NAME.fullmatch(path.stem)
    return match["image"] if match else path.stem


def _parse_file(reading: Reading, path: Path, image: str) -> list[DrawnObject]:
    objects, positions = [], set()
    for name, content in _read_rois(reading, path):
        try:
            roi = _decode_roi(f"{path}: {name}", content)
            drawn = _parse_roi(f"{path}: {name}", name, roi)
        except FormatError as error:
            reading.fault("bad-annotation", str(error), image, path)
            continue
        if drawn is None:
            reading.note("has points, lines and texts, which are no objects and are left out", f"{path.name}: {name}")
            continue
        positions.add((roi.position, roi.z_position, roi.t_position))
        objects.append(drawn)
    if len(positions) > 1:
        reading.note("has ROIs of several slices of a stack, all of which are taken for the one image", path.name)
    return objects


def _read_rois(reading: Reading, path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each ROI of a file; nothing of a zip is written to the disk."""
    try:
        if path.suffix.lower() == ".roi":
            with open(path, "rb") as file:
                yield path.stem, file.read(_MAX_BYTES)
            return
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".roi")]
            for name in archive.namelist():
                if not name.lower().endswith((".roi", "/")):
                    reading.note("has other files than ROIs, which are left out", f"{path.name}: {name}")
            size = sum(entry.file_size for entry in entries)  # no more is read, whatever is packed
            if len(entries) > _MAX_ROIS or size > _MAX_BYTES:
                raise FormatError(
                    f"{path} holds {len(entries)} ROIs of {size} bytes, more than {_MAX_ROIS} or {_MAX_BYTES} bytes; "
                    "save parts of the image"
                )
            for entry in entries:
                yield PurePosixPath(entry.filename).stem, archive.read(entry)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise FormatError(f"{path} cannot be read ({error}); it is damaged or encrypted: save it again") from error


def _decode_roi(where: str, content: bytes) -> roifile.ImagejRoi:
    try:
        return roifile.ImagejRoi.frombytes(content)
    except Exception as error:  # of a damaged ROI, whatever comes of its numbers
        raise FormatError(f"{where} is no ROI of ImageJ ({error}); draw it again") from error


def _parse_roi(where: str, name: str, roi: roifile.ImagejRoi) -> DrawnObject | None:
    """The object of a ROI; None where it encloses nothing."""
    rings = _list_rings(where, roi)
    if rings is None:
        return None
    corners = [to_points(ring) for ring in rings]
    good = [ring for ring in corners if ring is not None and len(ring) >= 3]
    if not good or len(good) < len(corners):
        raise FormatError(f"{where} has no outline of three points or more; draw it again")
    category, score = f"group {roi.group}" if roi.group else None, None
    if match := _OWN_NAME.fullmatch(roi.name or ""):
        category, score = match["category"], min(float(match["score"]), 1.0)
    return DrawnObject(f"ROI {name}", category, [good], score=score)


def _list_rings(where: str, roi: roifile.ImagejRoi) -> list[Ring] | None:
    """The rings of a ROI, of which an even-odd filling is the object; None for points, lines and texts."""
    if roi.subtype in _NO_OBJECTS:
        return None
    if roi.composite and roi.multi_coordinates is not None:
        return _follow_path(where, roi.multi_coordinates.tolist())
    if roi.roitype in _POLYGONS and roi.n_coordinates:
        return [np.asarray(roi.coordinates(), dtype=np.float64)]
    if roi.roitype not in (roifile.ROI_TYPE.RECT, roifile.ROI_TYPE.OVAL):
        return None
    box = (roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top)
    left, top, width, height = map(float, (roi.xd, roi.yd, roi.widthd, roi.heightd) if roi.subpixelrect else box)
    if to_points([(left, top), (width, height)]) is None or min(width, height) <= 0:
        raise FormatError(f"{where} is {width:g} x {height:g} pixels large; draw it again")
    if roi.roitype == roifile.ROI_TYPE.RECT:
        return [make_rectangle(left, top, left + width, top + height)]
    return [make_ellipse(left + width / 2, top + height / 2, width / 2, height / 2)]


def _follow_path(where: str, values: Sequence[float]) -> list[Ring]:
    """The rings of a composite ROI, which is a path of Java: commands, each followed by points."""
    rings: list[list[np.ndarray]] = []
    place = 0
    while place < len(values):
        command = int(values[place])
        end = place + 1 + _NUM_VALUES.get(command, 0)
        if command not in _NUM_VALUES or end > len(values) or (command != 0 and not rings):
            raise FormatError(f"{where} has a path that cannot be followed; draw it again")
        points = np.array(values[place + 1 : end], dtype=np.float64).reshape(-1, 2)
        if command == 0:
            rings.append([points])
        elif command != 4:
            rings[-1].append(points if command == 1 else _bend(rings[-1][-1][-1:], points))
        place = end
    return [np.concatenate(ring) for ring in rings if sum(map(len, ring)) >= 3]


def _bend(start: Ring, points: Ring) -> Ring:
    """Points of a Bezier curve of second or third degree, without the one that it starts at."""
    controls = np.concatenate([start, points])
    share = np.linspace(0, 1, _CURVE_POINTS + 1)[1:, None, None]
    while controls.shape[-2] > 1:  # De Casteljau
        controls = controls[..., :-1, :] * (1 - share) + controls[..., 1:, :] * share
    return controls[:, 0]


def write_rois(path: Path, parts: Iterable[tuple[int, Instances]], class_names: Sequence[str], num_digits: int) -> None:
    """Write a zip of a ROI for each instance that has pixels, along the edges of pixels, one after the other.

    The group is the class index, up to 255, as ImageJ has no more; the name is the id of the instance, its class and
    score, so that the ROI Manager shows them.

    Args:
        path: The zip, which is replaced.
        parts: Instances, each part with the id of its first one.
        class_names: The classes; label i + 1 is ``class_names[i]``.
        num_digits: Of the ids, so that names are in their order.
    """
    with replace_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        for first_id, part in parts:
            for id_, roi in enumerate(_make_rois(part, class_names), start=first_id):
                if roi is None:
                    continue
                roi.name = f"{id_:0{num_digits}} {roi.name}"
                entry = zipfile.ZipInfo(f"{id_:0{num_digits}}.roi")  # of a fixed date: equal files
                archive.writestr(entry, roi.tobytes())


def _make_rois(instances: Instances, class_names: Sequence[str]) -> Iterator[roifile.ImagejRoi | None]:
    """The ROI of each instance, named by class and score; None for an empty mask."""
    boxes = instances.runs.boxes.astype(np.int64).tolist()
    for rows, outlines in iterate_outlines(instances.runs):
        rings = [outlines.points[begin:end] for begin, end in pairwise(outlines.ring_splits.tolist())]
        splits = outlines.polygon_splits[outlines.instance_splits].tolist()
        for row, (begin, end) in zip(rows, pairwise(splits), strict=True):
            if begin == end:
                yield None
                continue
            roi, label = make_roi(rings[begin:end], boxes[row]), int(instances.labels[row])
            roi.group = label if label <= _MAX_GROUP else 0
            roi.name = f"{class_names[label - 1]} {instances.scores[row]:.3f}"
            yield roi


def make_roi(rings: Sequence[Int64[np.ndarray, "_ 2"]], box: Sequence[int]) -> roifile.ImagejRoi:
    """A ROI of one instance: a traced polygon, or a composite of rings where it has holes or several parts.

    Args:
        rings: All outer rings and holes, as points x y on pixel corners.
        box: x1 y1 x2 y2 of the instance.
    """
    roi = roifile.ImagejRoi()
    roi.left, roi.top, roi.right, roi.bottom = box
    if len(rings) > 1:
        roi.roitype = roifile.ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_to_path(ring) for ring in rings])
        roi.shape_roi_size = len(roi.multi_coordinates)
        return roi
    roi.n_coordinates = len(rings[0])
    roi.integer_coordinates = (rings[0] - box[:2]).astype(np.int32)
    if max(box) <= _MAX_INTEGER:
        roi.roitype = roifile.ROI_TYPE.TRACED  # what ImageJ's wand makes: corners of pixels
    else:  # the box is of 16 bits, from which integer coordinates are counted
        roi.roitype = roifile.ROI_TYPE.POLYGON
        roi.options |= roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = rings[0].astype(np.float32)
    return roi


def _to_path(ring: Int64[np.ndarray, "points 2"]) -> Float32[np.ndarray, " values"]:
    """A closed path as ImageJ writes it: 0 x y to begin with, 1 x y for each line, 4 at the end."""
    path = np.ones((len(ring), 3), dtype=np.float32)
    path[0, 0], path[:, 1:] = 0, ring
    return np.append(path.ravel(), np.float32(4))


class ImagejWriter(DatasetWriter):
    """Writes each image with its zip of ROIs beside it."""

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its ROIs."""
        copy_image(self.dataset, record, self.folder, is_turned=True)
        names = [category.name for category in self.dataset.categories]
        write_rois(self.folder / f"{record.name}.zip", [(1, instances)], names, len(str(len(instances))))


FORMAT = make_drawn_format(
    "imagej",
    layout="x.zip, x_rois.zip or x.roi of ImageJ beside x.tif, or in rois/, imagej/ or labels/ beside images/",
    detect=is_imagej,
    read=read_imagej,
    open_writer=ImagejWriter,
)
