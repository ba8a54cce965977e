"""Data sets of every format with one thing broken in a file, and what reading them came to."""

import json
import random
import re
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manymask import convert
from manymask.errors import ManymaskError
from manymask.formats.conversion import TARGETS
from manymask.formats.datasets import open_dataset
from tests.formats.test_conversion import write_truth
from tests.formats.test_datasets import MAKERS

MAX_SECONDS = 10
# Values that no reader expects.
VALUES: list[Any] = [
    *("seven", "", "../../x", "\u0000", "7", None, True, [], {}, [[[]]], {"a": [None]}, [None, "x", -1]),
    *(float("nan"), float("inf"), 1e308, -1e9, 10**30, -(10**30), 2**31, 2**63, -1, 0, 0.5),
]
# By these, shapes are put together to objects or are said to be none, so that their number may change with them.
GROUPING = {"group_id", "label", "was_cancelled", "id", "objectType", "classification", "iscrowd"}
# Formats of ids in pixels: who changes a pixel changes which objects there are.
IDS_IN_PIXELS = {"class_folders", "label_images", "cellpose", "mask_files", "npz", "ome_zarr"}


@dataclass(frozen=True)
class Case:
    """A mutation and what came of it.

    Attributes:
        name: Format and number, which give the mutation again.
        what: What was done to which file.
        outcome: ``same`` number of objects; another one or a damage, and it was ``told``; ``refused`` with an error for
            the user; or, all wrong, ``silent`` change, ``crashed``, ``hung``.
        detail: The error, or the change.
    """

    name: str
    what: str
    outcome: str
    detail: str = ""


def make_data_sets(root: Path) -> dict[str, Path]:
    """A small data set of each format, by its name; of those that can be written with holes, parts and overlaps."""
    truth, data = write_truth(root / "truth"), {}
    for name in TARGETS:
        convert(truth, to=name, output=root / name)
        data[name] = root / name
    for name in MAKERS.keys() - TARGETS.keys():
        MAKERS[name](root / name)
        data[name] = root / name
    return dict(sorted(data.items()))


def run_cases(root: Path, data: dict[str, Path], numbers: range) -> Iterator[Case]:
    """Mutate a copy of each data set once for each number, and read it."""
    copy = root / "mutant"
    for name, folder in data.items():
        for number in (None, *numbers):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            if number is None:
                whole = read_all(copy, get_format(name))
                continue
            rng = random.Random(f"{name} {number}")
            what, is_counted = mutate(copy, rng)
            outcome, detail = read_mutant(copy, get_format(name) if rng.random() < 0.7 else None, whole)
            if outcome == "silent" and (not is_counted or name in IDS_IN_PIXELS):
                outcome = "same"
            yield Case(f"{name} {number}", what, outcome, detail)


def get_format(name: str) -> str:
    """The reader of a fixture."""
    return "label_images" if name == "cellpose" else name


def read_all(folder: Path, data_format: str | None) -> tuple[list[int], set[str]]:
    """The number of objects of each image, and all that is told, read as the doctor reads."""
    dataset = open_dataset(folder, data_format)
    counts, told = [], {problem.message for problem in dataset.problems}
    for record in dataset.records:
        sample = dataset.read_record(record, dataset.categories)
        assert sample.pixels.ndim == 3
        assert len(dataset.format.name_instances(record)) == len(sample.labels)
        dataset.format.list_outlines(record)
        counts.append(len(sample.labels))
        told |= {doubt.detail for doubt in (*sample.doubts, *(dataset.format.find_faults(record) or []))}
    return counts, told


def read_mutant(folder: Path, data_format: str | None, whole: tuple[list[int], set[str]]) -> tuple[str, str]:
    """The outcome of reading, and its detail."""
    started = time.process_time()
    try:
        counts, told = read_all(folder, data_format)
    except ManymaskError as error:
        counts, told = None, str(error)
    except Exception:  # which is what is looked for
        return "crashed", traceback.format_exc()
    if (seconds := time.process_time() - started) > MAX_SECONDS:
        return "hung", f"{seconds:.0f} s"
    if counts is None:
        return "refused", told
    change = f"{whole[0]} objects became {counts}"
    return ("told", change) if told - whole[1] else ("same", "") if counts == whole[0] else ("silent", change)


def mutate(folder: Path, rng: random.Random) -> tuple[str, bool]:
    """Break one thing in one file; what was done, and whether the number of objects may not change silently by it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    # Two of three times a file of labels that is text.
    texts = [path for path in files if path.suffix in (".json", ".geojson", ".xml", ".txt", ".yaml", ".csv")]
    path = rng.choice(texts if texts and rng.random() < 0.67 else files)
    name = path.relative_to(folder)
    if path in texts and rng.random() < 0.75:
        if path.suffix in (".json", ".geojson"):
            what, is_counted = mutate_json(path, rng)
        else:
            what, is_counted = mutate_words(path, rng)
        return f"{name}: {what}", is_counted
    # A line less is an object less, and no fault of YOLO's files; by another group shapes are other objects.
    is_counted = path.suffix != ".txt" and b"group_id" not in path.read_bytes()
    return f"{name}: {mutate_bytes(path, rng)}", is_counted


def mutate_json(path: Path, rng: random.Random) -> tuple[str, bool]:
    """Drop a key, or put another value in its place or in that of an item of a list."""
    content = json.loads(path.read_text())
    places = list(list_places(content))
    keys = rng.choice(places)
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    last, where = keys[-1], "/".join(map(str, keys))
    # An image that a project does not list is not of the project.
    is_counted = not GROUPING & set(map(str, keys)) and not (path.name.startswith("via") and len(keys) == 1)
    if isinstance(last, str) and rng.random() < 0.4:
        del parent[last]
        what = f"{where} dropped"
    else:
        parent[last] = rng.choice(VALUES)
        what = f"{where} is {parent[last]!r}"
    path.write_text(json.dumps(content))
    return what, is_counted


def list_places(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value inside of a value."""
    if keys:
        yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from list_places(inner, (*keys, key))


def mutate_words(path: Path, rng: random.Random) -> tuple[str, bool]:
    """Put something else in the place of a word or number."""
    text = path.read_text()
    words = list(re.finditer(r"[^\s,;:\"'<>=/{}\[\]()]+", text))
    word, value = rng.choice(words), str(rng.choice(VALUES))
    path.write_text(text[: word.start()] + value + text[word.end() :])
    return f"{word[0]!r} at {word.start()} is {value!r}", word[0] not in GROUPING


def mutate_bytes(path: Path, rng: random.Random) -> str:
    """Change some bytes, cut the file short, or put bytes in."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    match rng.choice(["flip", "flip", "zero", "cut", "insert"]):
        case "flip":
            content[place] ^= 1 << rng.randrange(8)
            what = f"a bit of byte {place} flipped"
        case "zero":
            content[place : place + 8] = bytes(len(content[place : place + 8]))
            what = f"zeros from {place} on"
        case "cut":
            del content[place:]
            what = f"cut after {place} bytes"
        case _:
            content[place:place] = rng.randbytes(5)
            what = f"five bytes more at {place}"
    path.write_bytes(content)
    return what
