"""YOLO: a text file of outlines for each image, as Ultralytics, Roboflow, CVAT and Label Studio write them."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import yaml
from jaxtyping import Int64

from manymask.core import Instances
from manymask.core.dataset import Category, Dataset, DatasetWriter, Record
from manymask.core.files import write_file
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
    scale_object,
)
from manymask.formats.image_finder import ImageFinder
from manymask.formats.label_files import list_files
from manymask.formats.reading import Reading, read_head
from manymask.formats.records import copy_image, report_incomplete
from manymask.imaging import open_image
from manymask.imaging.files import is_hidden
from manymask.wording import list_some

_SPLITS = ("train", "val", "test")
# Text files beside the labels that are none: names of classes, and Roboflow's and Label Studio's notes.
_NO_LABELS = ("classes.txt", "notes.txt", "readme.txt")
# Shares further out than this are no outlines that leave the image a little, but pixels.
_MAX_SHARE = 2.0
_NUMBER = re.compile(rb"[-+\d.][-+\d.eE]*")


def is_yolo(root: Path) -> bool:
    """Whether a folder has YOLO's ``data.yaml``, or text files in ``labels`` beside ``images``."""
    if (root / "data.yaml").is_file():
        return True
    images = root / "images" if (root / "images").is_dir() else root
    labels = _to_label_path(images)
    folders = [labels, *labels.glob("*/")] if labels != images else []
    files = (path for folder in folders for path in folder.glob("*.txt"))
    return any(map(_is_label_file, files))


def _is_label_file(path: Path) -> bool:
    return path.name.lower() not in _NO_LABELS and not is_hidden(path)


def read_yolo(root: str | Path) -> Dataset:
    """Read the text files of outlines that belong to images.

    The file of an image is found as YOLO finds it: the last folder ``images`` of the path becomes ``labels``, and the
    ending ``.txt``. Images without a file show no object, unless nothing in their folder is labelled. Rows of five
    numbers are boxes, which are no masks.

    Args:
        root: The folder of ``data.yaml``, all of whose splits are read together, or that of one split:
            ``train`` with ``images`` and ``labels``, or ``images/train``.

    Raises:
        DatasetError: No image is there.
        FormatError: ``data.yaml`` cannot be read.
    """
    root = Path(os.path.normpath(root))
    finder = ImageFinder(root, [root])
    return make_drawn_dataset(root, FORMAT, parse_yolo(root, finder), finder)


def find_splits(root: Path) -> dict[str, tuple[Path, ...]]:
    """What ``data.yaml`` in a folder names as ``train``, ``val`` and ``test``, as far as it is in that folder.

    Returns:
        The folders of images, and the text files that list images, of each split that has any.

    Raises:
        FormatError: ``data.yaml`` cannot be read.
    """
    content, base = _read_yaml(root), ""
    if isinstance(content.get("path"), str):
        base = content["path"]
    splits: dict[str, tuple[Path, ...]] = {}
    for name in _SPLITS:
        entries = content.get(name)
        entries = entries if isinstance(entries, list) else [entries]
        places = [_find_place(root, base, entry) for entry in entries if isinstance(entry, str) and entry]
        if found := tuple(place for place in places if place is not None):
            splits[name] = found
    return splits


def _find_place(root: Path, base: str, entry: str) -> Path | None:
    """A path of ``data.yaml`` in its folder; of another machine's path, the longest end that is there."""
    parts = PureWindowsPath(entry).parts
    if PureWindowsPath(entry).root:
        tails = [parts[first:] for first in range(1, len(parts))]
    else:
        inside = parts[next((place for place, part in enumerate(parts) if part != ".."), 0) :]
        above = PureWindowsPath(base).parts
        tails = [(*above[first:], *inside) for first in range(len(above) + 1)]
    places = [Path(os.path.normpath(root.joinpath(*tail))) for tail in tails]
    inside_root = (place for place in places if Path(os.path.abspath(place)).is_relative_to(os.path.abspath(root)))
    return next((place for place in inside_root if place.exists()), None)


def _read_yaml(folder: Path) -> dict[Any, Any]:
    """What ``data.yaml`` holds; nothing where there is none."""
    path = folder / "data.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise FormatError(f"{path} holds no keys, expected 'names', 'train' and 'val'; correct it")
    return content


def _read_names(reading: Reading, root: Path) -> dict[int, str] | None:
    """The name of each class by its number, from the folder or one of the two above; None where nothing names them."""
    above = Path(os.path.abspath(root))
    for folder in (root, above.parent, above.parent.parent):
        names = _read_yaml(folder).get("names")
        if names is None and (path := folder / "classes.txt").is_file():
            names = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
        if names is None:
            continue
        pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
        try:  # lists as names would, with YAML's references, be texts that fill the memory
            numbered = {int(number): str(name) for number, name in pairs if isinstance(name, str | int | float)}
        except (TypeError, ValueError):
            numbered = {}
        if not numbered:
            raise FormatError(f"{folder / 'data.yaml'} has no list or map 'names' of classes; correct it")
        if len(set(numbered.values())) < len(numbered):
            reading.note("gives several classes one name; they are one class here")
        return numbered
    return None


def parse_yolo(root: Path, finder: ImageFinder) -> Drawings:
    """What was drawn in the text files of a folder."""
    reading, images = Reading(root), []
    names = _read_names(reading, root)
    numbers: set[int] = set()
    is_labelled: dict[Path, bool] = {}
    for path in _list_images(reading, root, finder):
        labels = _find_label_file(path)
        if labels.parent not in is_labelled:
            is_labelled[labels.parent] = any(map(_is_label_file, labels.parent.glob("*.txt")))
        if not is_labelled[labels.parent]:
            reading.note("has images in folders without labels, which are left out", path.name)
            continue
        try:
            rows = _read_rows(labels) if labels.is_file() else []
            size = open_image(path).size if rows else (1, 1)
        except DatasetError as error:
            reading.fault("bad-image-entry", str(error), path.stem, labels)
            continue
        parsed = list(_parse_rows(reading, labels, path.stem, rows, names))
        numbers.update(category for _, category in parsed)
        objects = tuple(scale_object(drawn, size) for drawn, _ in parsed)
        images.append(DrawnImage(os.path.relpath(path, root), labels, None, objects))
    _report_lonely_labels(reading, finder, images)
    classes = [str(number) for number in sorted(numbers)] if names is None else [names[key] for key in sorted(names)]
    return Drawings(reading, images, tuple(dict.fromkeys(classes)))


def _list_images(reading: Reading, root: Path, finder: ImageFinder) -> list[Path]:
    """The images of the splits; where there are none, those in folders ``images``; where there are none, all."""
    splits = {
        name: [image for place in places for image in _list_split(place, reading, finder)]
        for name, places in find_splits(root).items()
    }
    if len({tuple(images) for images in splits.values()}) > 1:
        reading.note("has splits that are read together; give the folder of one to read it alone", ", ".join(splits))
    if found := list(dict.fromkeys(image for images in splits.values() for image in images)):
        return found
    return [path for path in finder.images if "images" in path.relative_to(root).parts] or finder.images


def _list_split(place: Path, reading: Reading, finder: ImageFinder) -> list[Path]:
    """The images below a folder, or those that a text file lists."""
    if place.is_dir():
        return [path for path in finder.images if path.is_relative_to(place)]
    found = []
    for line in place.read_text("utf-8", "replace").splitlines():
        if line.strip():
            try:
                found.append(finder.find(line.strip(), place)[0])
            except DatasetError as error:
                reading.fault("bad-image-entry", str(error), line.strip(), place)
    return found


def _to_label_path(path: Path) -> Path:
    """A path with ``labels`` in place of its last folder ``images``, if it has one."""
    parts = list(Path(os.path.abspath(path)).parts)
    if "images" not in parts:
        return path
    last = len(parts) - 1 - parts[::-1].index("images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def _find_label_file(image: Path) -> Path:
    """Where the labels of an image are, or would be: beside ``images``, else beside the image."""
    beside = image.with_suffix(".txt")
    return beside if beside.is_file() else _to_label_path(beside)


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and words of each line that is not empty."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as text ({error}); export it again") from error
    return [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]


def find_yolo_predictions(root: Path) -> list[Path]:
    """The text files of a folder of predictions, or in ``labels`` there, if the first that is not empty is YOLO's."""
    files = [path for place in (root, root / "labels") for path in list_files(place, ".txt") if _is_label_file(path)]
    heads = (read_head(path).split(b"\n")[0].split() for path in files)
    first = next(filter(None, heads), [])
    return files if len(first) > 4 and all(map(_NUMBER.fullmatch, first)) else []


def parse_yolo_predictions(files: Sequence[Path], names: dict[int, str] | None) -> Drawings:
    """What was predicted, in shares of the images' width and height; rows may end with a score."""
    reading, images = Reading(files[0].parent), []
    for path in files:
        rows = _parse_rows(reading, path, path.stem, _read_rows(path), names, with_scores=True)
        images.append(DrawnImage(path.stem, path, None, tuple(drawn for drawn, _ in rows), in_shares=True))
    return Drawings(reading, images)


def _parse_rows(
    reading: Reading,
    path: Path,
    image: str,
    rows: Iterable[tuple[int, list[str]]],
    names: dict[int, str] | None,
    *,
    with_scores: bool = False,
) -> Iterator[tuple[DrawnObject, int]]:
    """The object of each line that is one, and the number of its class; the others are reported."""
    for number, row in rows:
        try:
            yield _parse_row(f"{path}: line {number}", number, row, names, with_scores=with_scores)
        except FormatError as error:
            reading.fault("bad-annotation", str(error), image, path)


def _parse_row(
    where: str, number: int, row: list[str], names: dict[int, str] | None, *, with_scores: bool
) -> tuple[DrawnObject, int]:
    """The object of a line, in shares of the image's width and height, and the number of its class."""
    try:
        values = np.array(row, dtype=np.float64)
    except ValueError as error:
        raise FormatError(f"{where} is not all numbers ({error}); correct it") from error
    if not np.isfinite(values).all():
        raise FormatError(f"{where} holds {row[int(np.isfinite(values).argmin())]}, which is no number; correct it")
    if values[0] != np.floor(values[0]) or not 0 <= values[0] < 2**31:
        raise FormatError(f"{where} begins with {row[0]}, expected the number of a class and shares; correct it")
    category = int(values[0])
    if names is not None and category not in names:
        raise FormatError(f"{where} is of class {category}, expected one of {list_some(sorted(names))}; correct it")
    if len(row) in (5, 6):
        raise FormatError(f"{where} is a box, which is no mask; draw an outline, or remove the line")
    has_score = len(row) % 2 == 0
    points = values[1:-1] if has_score else values[1:]
    if len(points) < 6:
        raise FormatError(f"{where} has {len(row)} numbers, expected a class and at least three points; correct it")
    # Ultralytics, too, takes no such labels: one number of a point may have been lost.
    if has_score and not with_scores:
        raise FormatError(
            f"{where} has a number more than pairs of x and y, as predictions end with a score; remove the score, or "
            "export it again"
        )
    if has_score and not 0 <= values[-1] <= 1:
        raise FormatError(f"{where} ends with {row[-1]}, expected a score from 0 to 1; export it again")
    if np.abs(points).max() > _MAX_SHARE:
        raise FormatError(
            f"{where} has the coordinate {points[np.abs(points).argmax()]:g}, expected shares of the width and height "
            "between 0 and 1; divide pixels by the image's size"
        )
    name = str(category) if names is None else names[category]
    score = float(values[-1]) if has_score else None
    return DrawnObject(f"line {number}", name, [[points.reshape(-1, 2)]], score=score), category


def _report_lonely_labels(reading: Reading, finder: ImageFinder, images: Sequence[DrawnImage]) -> None:
    """List the files of labels, beside those that were read, of which no image is there."""
    folders = sorted({drawn.source.parent for drawn in images})
    known = {os.path.abspath(_find_label_file(path)) for path in finder.images}
    for path in (path for folder in folders for path in sorted(folder.glob("*.txt"))):
        if _is_label_file(path) and os.path.abspath(path) not in known:
            message = f"{path} labels an image '{path.stem}' that is not there; add the image or remove the label"
            reading.problems.append(report_incomplete(message, path, path.stem))


class YoloWriter(DatasetWriter):
    """Writes ``images``, ``labels`` and ``data.yaml``, with one outline an object.

    Outlines run along the edges of pixels. Several parts and holes are joined by seams of no width, which our reader
    fills to the same mask; YOLO draws these seams, one pixel wide.
    """

    def write(self, record: Record, instances: Instances, rows: Int64[np.ndarray, " instances"]) -> None:
        """Copy an image and write its rows."""
        copy_image(self.dataset, record, self.folder / "images")
        height, width = instances.size
        lines = []
        for label, polygons in zip(instances.labels.tolist(), iterate_polygons(instances.runs), strict=True):
            if polygons:
                shares = join_rings(polygons) / (width, height)
                lines.append(" ".join([str(label - 1), *(f"{share:.8g}" for share in shares.ravel().tolist())]) + "\n")
        write_file(self.folder / "labels" / f"{record.name}.txt", "".join(lines))

    def close(self) -> None:
        """Write the names of the classes."""
        names = {number: category.name for number, category in enumerate(self.dataset.categories)}
        _write_yaml(self.folder, {"train": "images", "val": "images"}, names)


def join_parts(folder: Path, parts: Sequence[str], categories: Sequence[Category]) -> None:
    """Write one ``data.yaml`` for the parts of a data set, in place of those of the parts.

    Args:
        folder: The folder of the parts.
        parts: Their names.
        categories: The classes of all.
    """
    _write_yaml(folder, {part: f"{part}/images" for part in parts}, dict(enumerate(each.name for each in categories)))
    for part in parts:
        (folder / part / "data.yaml").unlink()


def _write_yaml(folder: Path, images: dict[str, str], names: dict[int, str]) -> None:
    # Without ``path`` Ultralytics takes folders from where the file lies; with ``.`` from where it is called.
    content = {**images, "nc": len(names), "names": names}
    write_file(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


FORMAT = make_drawn_format(
    "yolo",
    layout="data.yaml with images/ and labels/ of YOLO segmentation",
    detect=is_yolo,
    read=read_yolo,
    open_writer=YoloWriter,
    holds=ONE_OUTLINE,
    changes=SEAMS,
    join_parts=join_parts,
)
