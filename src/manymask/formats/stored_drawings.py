"""Predictions that other tools wrote as drawn objects: outlines, ROIs, shapes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from manymask.core import Dataset, Instances, Record
from manymask.core.dataset import Format
from manymask.errors import DatasetError, FormatError
from manymask.formats import aperio, cvat, geojson, imagej, label_studio, labelme, via, yolo
from manymask.formats.drawn import Drawings, DrawnImage, to_instances
from manymask.formats.label_names import fold_stem, strip_label
from manymask.formats.stored_labels import name_categories
from manymask.wording import list_some

# What reads the files of each format in a folder.
_PARSERS: tuple[tuple[Format, Callable[[Path], Drawings]], ...] = (
    (geojson.FORMAT, geojson.parse_geojson),
    (imagej.FORMAT, imagej.parse_imagej),
    (labelme.FORMAT, labelme.parse_labelme),
    (cvat.FORMAT, cvat.parse_cvat),
    (label_studio.FORMAT, label_studio.parse_label_studio),
    (via.FORMAT, via.parse_via),
    (aperio.FORMAT, aperio.parse_aperio),
)
# Where predict puts such files, of which a reader of labels would say that they are no labels.
_PLACES = ("", "geojson", "imagej")


def find_drawings(path: Path, dataset: Dataset) -> tuple[str, Drawings] | None:
    """The name of the format that a folder or file of predictions is in, and what was drawn; None where nothing was.

    Raises:
        DatasetError: There are files of several formats.
    """
    for place in [path] if path.is_file() else [path / name for name in _PLACES if (path / name).is_dir()]:
        found = [(format.name, parse) for format, parse in _PARSERS if format.detect(place)]
        found = found or [(format.name, parse) for format, parse in _PARSERS if format.detect_by_content(place)]
        if len(found) > 1:
            kinds = " and ".join(name for name, _ in found)
            raise DatasetError(f"{place} holds predictions as {kinds}; give a folder with one of them")
        if found:
            name, parse = found[0]
            return name, parse(place)
    if files := yolo.find_yolo_predictions(path):
        names = _name_numbers(dataset)
        drawings = yolo.parse_yolo_predictions(files, names)
        if names is not None:
            numbers = list_some(f"{number} is {name}" for number, name in names.items())
            drawings.reading.note(f"gives classes by numbers, which are taken for the data's in their order: {numbers}")
        return "yolo", drawings
    return None


def _name_numbers(dataset: Dataset) -> dict[int, str] | None:
    """The class that each number of YOLO's means; None where that does not matter or the names are numbers."""
    names = [category.name for category in dataset.categories]
    return None if len(names) == 1 or all(name.isdecimal() for name in names) else dict(enumerate(names))


def match_drawings(drawings: Drawings, dataset: Dataset) -> tuple[dict[str, DrawnImage], list[str]]:
    """What was drawn on each image of a data set, by its name, and the names of the other images in the files.

    Raises:
        DatasetError: Two files are for one image.
    """
    files = Counter(fold_stem(record.path.name) for record in dataset.records)
    known = {fold_stem(record.path.name): record.name for record in dataset.records}
    known = {key: name for key, name in known.items() if files[key] == 1}
    known |= {fold_stem(record.name): record.name for record in dataset.records}
    found: dict[str, DrawnImage] = {}
    others: list[str] = []
    for drawn in drawings.images:
        called = PureWindowsPath(drawn.image).name  # splits at both kinds of slash
        names = (fold_stem(called), strip_label(called), fold_stem(drawn.source.stem))
        name = next((known[key] for key in names if key in known), None)
        if name is None:
            others.append(called)
        elif (other := found.setdefault(name, drawn)) is not drawn:
            raise DatasetError(f"{drawn.source} and {other.source} both hold predictions for '{name}'; keep one")
    return found, others


def match_drawn_classes(
    folder: Path, names: set[str | None], dataset: Dataset
) -> tuple[dict[str, int] | None, tuple[str, ...]]:
    """The class index of each name of a class, and what must be said of them; None where they say nothing.

    Raises:
        FormatError: Some names are those of classes of the data and others are not.
    """
    own = {category.name: index for index, category in enumerate(dataset.categories, start=1)}
    given = {name or "object" for name in names}
    if len(dataset.categories) == 1:
        only = dataset.categories[0].name
        is_other = bool(given - {only, "object"})
        note = f"Classes in {folder} ({list_some(sorted(given))}) are all scored as {only}, the only one of the data."
        return dict.fromkeys(given, 1), (note,) if is_other else ()
    if given <= own.keys():
        return own, ()
    if given == {"object"}:
        return None, ()
    unknown = sorted(given - own.keys())
    raise FormatError(
        f"{folder} has objects of {list_some(unknown)}, but {dataset.root} has {name_categories(dataset)}; name them "
        "alike"
    )


def read_drawn_predictions(
    drawn: DrawnImage, class_index: dict[str, int] | None, record: Record, size: tuple[int, int]
) -> Instances:
    """What was drawn on an image, as instances; without an index of classes all are of the first.

    Raises:
        DatasetError: Its file is of an image of another size.
    """
    if drawn.size is not None and drawn.size != size:
        raise DatasetError(
            f"{drawn.source} gives image {drawn.image} as {drawn.size[0]} x {drawn.size[1]} (height x width), but "
            f"{record.path} is {size[0]} x {size[1]}; predict on this image again"
        )
    return to_instances(drawn, size, {"object": 1} if class_index is None else class_index)
