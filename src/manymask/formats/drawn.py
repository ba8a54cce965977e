"""Objects as annotation tools draw them: what the readers of these tools share.

A reader only turns its tool's files into ``Drawings``; finding the images, numbering the classes and filling the
outlines is done here, in the same way for all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np
from jaxtyping import Bool

from manymask.core import Instances, RunLengths, Window, crop_runs, paint_layers
from manymask.core.dataset import Category, Dataset, Doubt, Format, Record, Sample
from manymask.core.polygons import Polygon, Ring, fill_polygons
from manymask.errors import DatasetError
from manymask.formats.coco_masks import crosses_itself
from manymask.formats.image_finder import ImageFinder
from manymask.formats.reading import Reading, list_unlabelled
from manymask.formats.records import make_sample, report_incomplete
from manymask.imaging.files import check_unique_names, name_images
from manymask.imaging.orientation import open_labelled_image
from manymask.wording import count_of, list_some

# Lines in place of an arc are this far from it at most, in pixels.
_ARC_ERROR = 0.02
_MAX_RADIUS = 1e5  # pixels, above which arcs become coarser, so that no number in a file fills the memory
_MAX_COORDINATE = 2**31  # beyond any image
_MANY_RINGS = 200  # of one object, for which the shortest seams take long to find

MAX_PIXELS = 1 << 28
"""Larger masks in lists of numbers are not decoded, so that no number in a file fills the memory."""


@dataclass(frozen=True, eq=False)
class DrawnObject:
    """An object of an image: polygons, or a mask.

    Attributes:
        name: What its file calls it, for messages: ``shape 3``.
        category: The name of its class; None where the tool asks for none.
        polygons: Its parts, each an outer ring and holes, in pixels of the image.
        mask: One mask in an image's runs, in place of polygons.
        score: How sure a tool that predicts is of it.
    """

    name: str
    category: str | None = None
    polygons: Sequence[Polygon] = ()
    mask: RunLengths | None = None
    score: float | None = None


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """The objects of one image.

    Attributes:
        image: How its file names the image: with or without folders and ending, perhaps of another machine.
        source: The file that they are from, for messages.
        size: (height, width) of the image where the file gives it.
        objects: The objects.
        in_shares: Whether their points are in shares of the image's width and height, as only predictions may be.
    """

    image: str
    source: Path
    size: tuple[int, int] | None
    objects: tuple[DrawnObject, ...]
    in_shares: bool = False


@dataclass(frozen=True, eq=False)
class Drawings:
    """All that was drawn in a file or folder.

    Attributes:
        reading: What is wrong or unusual in it.
        images: The images, those without objects too where the tool lists them.
        classes: The classes in the tool's own order; where it lists none, those of the objects by name.
        is_by_image: Whether the tool writes a file for each image, so that images without one were not labelled.
    """

    reading: Reading
    images: Sequence[DrawnImage]
    classes: tuple[str, ...] = ()
    is_by_image: bool = False


def make_drawn_dataset(root: Path, format: Format, drawings: Drawings, finder: ImageFinder) -> Dataset:
    """The data set of drawings: images are found by their names and numbered in the order of these.

    Drawings whose image is not there, or has other drawings already, and images beside the others that have none, are
    left out and listed in ``problems``.

    Raises:
        DatasetError: No image is left.
    """
    reading, found = drawings.reading, {}
    for drawn in drawings.images:
        try:
            path, is_as_listed = finder.find(drawn.image, drawn.source)
        except DatasetError as error:
            reading.fault("bad-image-entry", str(error), drawn.image, drawn.source)
            continue
        if not is_as_listed:
            reading.note("gives images other places than they are at; they were found by their names", drawn.image)
        if (other := found.setdefault(path, drawn)) is not drawn:
            message = f"{drawn.source} and {other.source} both label {path}; keep one of them"
            reading.fault("bad-image-entry", message, drawn.image, drawn.source)
    if not found:
        nothing = f"{root} holds no images with labels; give a folder that holds at least one"
        raise DatasetError(reading.problems[0].message if reading.problems else nothing)
    if not drawings.is_by_image:
        reading.note_unlisted(found)
    else:
        for path in list_unlabelled(found):
            message = f"{path} has no file of labels; add one, empty if it shows no object, or remove the image"
            reading.problems.append(report_incomplete(message, path, path.stem))
    names = name_images(list(found))
    check_unique_names(zip(names, found, strict=True))
    ordered = sorted(zip(names, found.items(), strict=True), key=lambda item: item[0])
    _name_problems(drawings, {drawn: name for name, (_, drawn) in ordered})
    records = tuple(
        Record(image_id, name, path, drawn, (drawn.source,))
        for image_id, (name, (path, drawn)) in enumerate(ordered, start=1)
    )
    return Dataset(root, format, number_classes(drawings), records, read_drawn_record, reading.list_problems())


def _name_problems(drawings: Drawings, names: dict[DrawnImage, str]) -> None:
    """Give problems with single objects the names of their images in the data set."""
    known: dict[tuple[Path, str | None], str] = {}
    for drawn, name in names.items():
        called = {drawn.image, PureWindowsPath(drawn.image).stem, *([drawn.source.stem] * drawings.is_by_image)}
        known |= {(drawn.source, alias): name for alias in called}
    problems = drawings.reading.problems
    problems[:] = [
        replace(problem, image=known.get((problem.path, problem.image), problem.image))
        if problem.kind == "bad-annotation"
        else problem
        for problem in problems
    ]


def number_classes(drawings: Drawings) -> tuple[Category, ...]:
    """The classes, from 1 on; objects without a class are of one that is called ``object``."""
    counts = Counter(drawn.category or None for image in drawings.images for drawn in image.objects)
    names = [name for name in drawings.classes or sorted(filter(None, counts)) if name]
    if None in counts and "object" not in names:
        if names:
            drawings.reading.note(f"has {count_of(counts[None], 'object')} without a class, here called 'object'")
        names.append("object")
    return tuple(Category(number, name) for number, name in enumerate(names or ["object"], start=1))


def has_own_classes(dataset: Dataset) -> bool:
    """Whether the classes of a data set are its own, and not only that of objects without one of which it has none."""
    is_drawn = dataset.read_record is read_drawn_record and [each.name for each in dataset.categories] == ["object"]
    return not is_drawn or any(record.annotation.objects for record in dataset.records)


def read_drawn_record(record: Record, categories: tuple[Category, ...]) -> Sample:
    """The sample of an image and what was drawn on it.

    Raises:
        DatasetError: The image is of another size than its file of labels says.
    """
    drawn: DrawnImage = record.annotation
    image, doubts = open_labelled_image(record.path, drawn.size, is_size_given=drawn.size is not None)
    if drawn.size is not None and image.size != drawn.size:
        raise DatasetError(
            f"{drawn.source} gives image {drawn.image} as {drawn.size[0]} x {drawn.size[1]} (height x width), but "
            f"{record.path} is {image.size[0]} x {image.size[1]}; correct the file or the image"
        )
    class_index = {category.name: index for index, category in enumerate(categories, start=1)}
    labels = np.array([class_index[each.category or "object"] for each in drawn.objects], dtype=np.int64)
    return make_sample(record, image, paint_layers(fill_objects(drawn.objects, image.size)), labels, doubts=doubts)


def fill_objects(objects: Sequence[DrawnObject], size: tuple[int, int]) -> RunLengths:
    """The masks of objects of an image of (height, width); ``mask`` of each is of that size."""
    runs = fill_polygons(size, [each.polygons for each in objects])
    masks = [(row, each.mask) for row, each in enumerate(objects) if each.mask is not None]
    return _merge_runs([runs, *(replace(m, num_instances=len(objects), owner=m.owner + row) for row, m in masks)])


def _merge_runs(parts: Sequence[RunLengths]) -> RunLengths:
    """Runs of the same instances, joined."""
    columns = [[getattr(part, name) for part in parts] for name in ("owner", "start", "length")]
    return RunLengths.from_intervals(parts[0].size, len(parts[0]), *map(np.concatenate, columns))


def to_instances(drawn: DrawnImage, size: tuple[int, int], class_index: dict[str, int]) -> Instances:
    """What was drawn as instances with scores, where the drawings are predictions; those without a score have 1."""
    labels = np.array([class_index[each.category or "object"] for each in drawn.objects], dtype=np.int64)
    scores = np.array([1 if each.score is None else each.score for each in drawn.objects], dtype=np.float32)
    objects = [scale_object(each, size) for each in drawn.objects] if drawn.in_shares else drawn.objects
    return Instances.from_runs(fill_objects(objects, size), labels, scores=scores)


def scale_object(drawn: DrawnObject, size: tuple[int, int]) -> DrawnObject:
    """An object with points in shares of an image of (height, width), with points in its pixels."""
    return replace(drawn, polygons=[[ring * size[::-1] for ring in polygon] for polygon in drawn.polygons])


def name_drawn_objects(record: Record) -> list[str]:
    """What the file calls each object of an image."""
    drawn: DrawnImage = record.annotation
    return [each.name for each in drawn.objects]


def list_drawn_outlines(record: Record) -> list[list[Ring]]:
    """The rings of each object that is not only a mask."""
    drawn: DrawnImage = record.annotation
    return [[ring for polygon in each.polygons for ring in polygon] for each in drawn.objects if each.polygons]


def find_drawn_faults(record: Record) -> list[Doubt]:
    """Objects with outlines of which the mask does not show what was drawn."""
    drawn: DrawnImage = record.annotation
    outside, crossing = [], []
    for each in drawn.objects:
        rings = [ring for polygon in each.polygons for ring in polygon]
        limit = np.inf if drawn.size is None else np.array(drawn.size[::-1]) + 1
        if any(((ring < -1) | (ring > limit)).any() for ring in rings):
            outside.append(each.name)
        if any(crosses_itself(ring) for ring in rings):
            crossing.append(each.name)
    found = [("out-of-frame", "that reach out of the image", outside)]
    found.append(("self-crossing", "whose outlines cross themselves", crossing))
    return [
        Doubt(kind, f"has {count_of(len(names), 'instance')} {what}: {list_some(names)}")
        for kind, what, names in found
        if names
    ]


ONE_OUTLINE = frozenset({"classes", "names", "overlaps"})
"""What a format can hold that knows one outline an object."""

SEAMS = "outlines run along the edges of pixels; parts and holes of an object are joined by seams of no width"
"""What copies in such a format change."""

# The record of a format whose reader makes ``Drawings``; what differs from tool to tool is given by name.
make_drawn_format = partial(
    Format,
    name_instances=name_drawn_objects,
    holds=ONE_OUTLINE | {"holes", "parts"},
    changes="outlines run along the edges of pixels",
    find_faults=find_drawn_faults,
    list_outlines=list_drawn_outlines,
)


def make_rectangle(left: float, top: float, right: float, bottom: float) -> Ring:
    """The ring of a box, in pixels."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


def make_ellipse(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Ring:
    """The ring of an ellipse, in so many points that its pixels are right.

    Args:
        x: Its centre.
        y: Its centre.
        radius_x: Half of its axis along x, before it is turned.
        radius_y: The other one.
        angle: By which it is turned, in degrees, clockwise on the screen.
    """
    radius = min(max(abs(radius_x), abs(radius_y)), _MAX_RADIUS)
    # A line between two of n points is pi^2 r / (2 n^2) away from the arc.
    num_points = max(16, int(np.ceil(np.pi * np.sqrt(radius / (2 * _ARC_ERROR)))))
    way = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return turn_points(np.stack([x + radius_x * np.cos(way), y + radius_y * np.sin(way)], 1), (x, y), angle)


def turn_points(points: Ring, centre: tuple[float, float], angle: float) -> Ring:
    """Points turned about a centre by an angle in degrees, clockwise on the screen."""
    turn = np.radians(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return (points - centre) @ matrix + centre


def to_points(points: object) -> Ring | None:
    """The x y pairs of a list from a file; None where it is not of pairs of finite numbers."""
    try:
        pairs = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    is_good = pairs.ndim == 2 and pairs.shape[1] == 2 and bool((np.abs(pairs) < _MAX_COORDINATE).all())
    return pairs if is_good else None


def join_rings(polygons: Sequence[Polygon]) -> Ring:
    """All rings of an object as one, for tools that know one outline an object: seams of no width lead between them.

    Filled by the even-odd rule it is the same mask, as each seam is passed twice. Seams are as short as they can be; in
    an object of very many pieces they lead from each to the next one to the right.
    """
    rings = [ring for polygon in polygons for ring in polygon]
    if len(rings) > _MANY_RINGS:
        rings.sort(key=lambda ring: ring[0].tolist())
        return np.concatenate(
            [*(part for ring in rings for part in (ring, ring[:1])), *(ring[:1] for ring in rings[-2::-1])]
        )
    # Here, because scipy takes a while to load, and prediction does without.
    from scipy.spatial import KDTree

    first, *others = rings
    for ring in others:
        distances, nearest = map(np.asarray, KDTree(first).query(ring))
        end = int(distances.argmin())
        begin = int(nearest[end])
        detour = np.roll(ring, -end, axis=0)
        first = np.concatenate([first[: begin + 1], detour, detour[:1], first[begin:]])
    return first


def crop_mask(runs: RunLengths, row: int) -> tuple[int, int, Bool[np.ndarray, "height width"]]:
    """The first column and row of the box of a mask, and its pixels in there."""
    runs = runs.select(np.array([row]))
    left, top, right, bottom = runs.boxes[0].astype(int).tolist()
    pixels = paint_layers(crop_runs(runs, Window(top, left, bottom - top, right - left))).numpy()[0]
    return left, top, pixels.astype(bool)


def join_objects(first: DrawnObject, second: DrawnObject) -> DrawnObject:
    """Two shapes as one object, which has the name, class and score of the first."""
    masks = [each.mask for each in (first, second) if each.mask is not None]
    polygons = [*first.polygons, *second.polygons]
    return replace(first, polygons=polygons, mask=_merge_runs(masks) if masks else None)
