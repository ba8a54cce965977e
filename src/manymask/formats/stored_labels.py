"""Label images of predictions that were made earlier, and the tables of classes and scores beside them."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from manymask.core import Category, Dataset, Instances, Record, encode_layers, match_categories
from manymask.errors import DatasetError, FormatError
from manymask.formats.ids import MAX_ID, check_size, read_label_image
from manymask.formats.label_images import get_label_stem
from manymask.formats.label_names import fold_stem, match_labels, strip_image, strip_label
from manymask.imaging.files import list_images
from manymask.wording import list_some

Table = dict[str, np.ndarray]
"""Those of ``id``, ``class`` (class index) and ``score`` that a CSV file has, by ascending id; none without a file."""


def find_label_images(folder: Path, dataset: Dataset, *, with_plain: bool = True) -> tuple[dict[str, Path], list[Path]]:
    """The label images in a folder by the names of their images, and those of images that the data set lacks.

    Where some files are called like images of the data with an affix, the others are taken for images; without
    ``with_plain`` they always are.

    Raises:
        DatasetError: Two label images may be of one image, or an image of the data is among them.
    """
    names = {record.path: record.name for record in dataset.records}
    own_names = {fold_stem(name) for name in names.values()}
    known = own_names | {strip_image(name) for name in names.values()}
    stems = {path: path.stem for path in list_images(folder)}
    affixed = {path: s for path, s in stems.items() if fold_stem(s) not in own_names and strip_label(s) in known}
    # Cellpose's own file is what it is without a label image beside it.
    labelled = {strip_label(stem) for stem in affixed.values()}
    arrays = {path: get_label_stem(path) for path in list_images(folder, (".npy",))}
    affixed |= {path: stem for path, stem in arrays.items() if fold_stem(stem) in known - labelled}
    found = match_labels(names, affixed or (stems if with_plain else {}))
    own_images = {record.path.resolve() for record in dataset.records}
    if own := [path for path in found.labels.values() if path.resolve() in own_images]:
        raise DatasetError(f"{own[0]} is an image of the data, expected label images; give the predictions' folder")
    if found.unclear:
        raise DatasetError(next(iter(found.unclear.values())))
    return {names[image]: path for image, path in found.labels.items()}, list(found.strangers)


def read_tables(files: dict[str, Path], dataset: Dataset) -> tuple[dict[str, Table], tuple[str, ...]]:
    """The table beside each label image, and what must be said of the classes, in sentences.

    Raises:
        FormatError: A table is damaged, has a class that the data set does not have or a score outside [0, 1], or the
            columns of two differ.
    """
    csv_files = {name: path.with_suffix(".csv") for name, path in files.items()}
    texts = {name: _read_table(path) for name, path in csv_files.items()}
    others = [csv_files[name] for name, table in texts.items() if table is None]
    texts = {name: table or {} for name, table in texts.items()}
    notes = _match_classes({text for table in texts.values() for text in table.get("class", [])}, dataset)
    if notes is not None:
        texts = {name: {key: v for key, v in table.items() if key != "class"} for name, table in texts.items()}
    tables = {name: _parse_table(csv_files[name], table, dataset) for name, table in texts.items()}
    columns = {tuple(table): files[name] for name, table in tables.items()}
    if len(columns) > 1:
        (one, first), (other, second) = [(" ".join(key) or "nothing", path) for key, path in columns.items()][:2]
        raise FormatError(
            f"the CSV file beside {first} gives {one}, that beside {second} {other}; give all label images the same"
        )
    if others:
        what = "Tables without ids beside label images are taken for measurements and not read"
        notes = (*(notes or ()), f"{what}: {list_some(others)}.")
    return tables, notes or ()


def _match_classes(found: set[str | None], dataset: Dataset) -> tuple[str, ...] | None:
    """What must be said where the files' classes are none of the data's and one side has a single one.

    The classes then say nothing that can be scored. None where their names are to be looked up.
    """
    names = sorted(name for name in found if name)
    known = {text for category in dataset.categories for text in (category.name, str(category.id))}
    if not names or not known.isdisjoint(names) or 1 not in (len(names), len(dataset.categories)):
        return None
    return match_categories(dataset.categories, tuple(Category(*row) for row in enumerate(names, start=1))).notes


def _read_table(path: Path) -> dict[str, list[str | None]] | None:
    """The texts of those of the columns id, class and score that a CSV file has; none if there is no file.

    None where the file has other columns, such as measurements.
    """
    if not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read as CSV ({error}); write it again") from error
    if "id" not in columns and {"class", "score"}.isdisjoint(columns) and columns:
        return None
    if "id" not in columns:
        found = ", ".join(columns) or "none"
        raise FormatError(
            f"{path} has the columns {found}, expected id, class, score; if it is not of the predictions, move it away"
        )
    return {name: [row[name] for row in rows] for name in ("id", "class", "score") if name in columns}


def _parse_table(path: Path, texts: dict[str, list[str | None]], dataset: Dataset) -> dict[str, np.ndarray]:
    """The values of a table's columns, classes as class indices, by ascending id."""
    if not texts:
        return {}
    indexed = list(enumerate(dataset.categories, start=1))
    class_index = {str(category.id): i for i, category in indexed} | {category.name: i for i, category in indexed}
    classes = f"a class of {dataset.root}: {name_categories(dataset)}; name them alike, or drop the column"
    parsers: dict[str, tuple[Callable[[str], Any], DTypeLike, str]] = {
        "id": (partial(_parse_number, int, 1, MAX_ID), np.int64, "a whole number above 0, as in the label image"),
        "class": (class_index.__getitem__, np.int64, classes),
        "score": (partial(_parse_number, float, 0, 1), np.float32, "a number from 0 to 1"),
    }
    table = {
        name: np.array(_parse_column(path, texts[name], name, parse, expected), dtype)
        for name, (parse, dtype, expected) in parsers.items()
        if name in texts
    }
    order = np.argsort(table["id"])
    return {name: column[order] for name, column in table.items()}


def _parse_column(
    path: Path, texts: list[str | None], name: str, parse: Callable[[str], Any], expected: str
) -> list[Any]:
    values = []
    for line, text in enumerate(texts, start=2):
        try:
            values.append(parse(text or ""))
        except (KeyError, ValueError) as error:
            raise FormatError(f"{path}: line {line} has {name} {text!r}, expected {expected}") from error
    return values


def _parse_number(kind: type[int | float], least: int, most: int, text: str) -> int | float:
    if not least <= (number := kind(text)) <= most:
        raise ValueError
    return number


def name_categories(dataset: Dataset) -> str:
    """The first classes of a data set by id and name, for messages."""
    return list_some([f"{category.id} ({category.name})" for category in dataset.categories])


def read_stored_labels(path: Path, table: Table, record: Record, size: tuple[int, int]) -> Instances:
    """The instances of a label image and its table, in the order of their ids.

    Args:
        path: The label image.
        table: What is beside it.
        record: The image's record in the data set.
        size: (height, width) of the image.

    Raises:
        FormatError: The file holds no ids, or others than its table.
        DatasetError: It is of another size than the image.
    """
    # A table beside it says that the ids are ids, even those of a poor model in many pieces.
    label = read_label_image(path, is_checked=not table)
    check_size(path, label.ids.shape, record.path, size)
    if table and not np.array_equal(table["id"], label.old_ids):
        raise FormatError(
            f"{path} holds {len(label.old_ids)} ids, but not just the {len(table['id'])} of the CSV file "
            "beside it; the two are of different predictions: write both again"
        )
    runs = encode_layers(torch.from_numpy(label.ids[None]), len(label.old_ids))
    labels = table.get("class", np.ones(len(runs), dtype=np.int64))
    return Instances.from_runs(runs, labels, scores=table.get("score"))
