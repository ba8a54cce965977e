"""Entries of COCO files in the forms that tools give them, brought into COCO's own form."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from manymask.core import Category
from manymask.errors import FormatError

# The id and the supercategory that Roboflow's exports give to their root category.
_ROOT_ID = 0
_NO_PARENT = ("none", "", None)
_MAX_COORDINATE = 2**31  # beyond any image


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value of a JSON file is a whole number (JSON's true is not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def to_integer(value: object) -> int | None:
    """A whole number that may be written as ``7.0`` or ``"7"``; None for anything else."""
    if isinstance(value, str):
        value = to_number(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if is_integer(value) else None


def to_number(value: object) -> int | float | None:
    """A finite number that may be written as text; None for anything else."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def to_flag(value: object) -> bool | None:
    """A truth value that may be written as a number or as text, or not at all; None for anything else."""
    if isinstance(value, bool) or not value:
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    number = to_integer(value)
    return number == 1 if number in (0, 1) else None


def to_key(value: object) -> int | str | None:
    """An id: a whole number in whatever form, else a text such as a UUID; None for what is no id."""
    number = to_integer(value)
    return number if number is not None else value if isinstance(value, str) and value else None


def list_entries(json_path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The entries of a part of a file: a list, an object of entries by id (LIVECell), or a single entry (MATLAB).

    Raises:
        FormatError: There is no such part, or something in it is no entry.
    """
    entries = content.get(key)
    if isinstance(entries, dict):
        entries = [entries] if "id" in entries else list(entries.values())
    if not isinstance(entries, list):
        raise FormatError(
            f"{json_path} has no list '{key}', expected COCO's images, annotations and categories; export it again "
            "with its masks, or give an empty list of annotations if no image shows an object"
        )
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise FormatError(f"{json_path}: entry {place} of '{key}' is no object; export the file again")
    return entries


def read_categories(
    json_path: Path, content: dict[str, Any], annotations: Sequence[dict[str, Any]]
) -> tuple[tuple[Category, ...], str | None]:
    """The classes of a file, by ascending id, and what was unusual about them.

    Category 0 is the root that Roboflow adds to every export, and no class, where all others name it as their
    supercategory and all annotations are of others. A parent with another id is a class that this file may just have no
    annotation of. A file without categories has those that its annotations are of.

    Raises:
        FormatError: Two categories have one id or one name, or one has no id.
    """
    entries = list_entries(json_path, content, "categories") if content.get("categories") else []
    numbers = (to_integer(annotation.get("category_id")) for annotation in annotations)
    used = {number for number in numbers if number is not None}
    if not entries:  # classes are made of the ids that annotations have
        if not used:
            raise FormatError(f"{json_path} lists no categories; expected at least one")
        made = tuple(Category(number, f"class{number}") for number in sorted(used))
        return made, f"lists no categories, so they are named by their ids: {', '.join(c.name for c in made)}"
    indexed: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        number = to_integer(entry.get("id"))
        if number is None:
            raise FormatError(f"{json_path}: entry {place} of 'categories' has no whole number as id; number them")
        if number in indexed:
            raise FormatError(f"{json_path}: id {number} occurs twice in 'categories'; number the entries anew")
        indexed[number] = entry
    unusual = None
    if used and _ROOT_ID not in used and _has_root(indexed):
        name = indexed.pop(_ROOT_ID)["name"]
        unusual = f"has a category {_ROOT_ID} ({name}), the root of the others, which is no class"
    names: dict[str, int] = {}
    for number, entry in sorted(indexed.items()):
        name = entry.get("name")
        if not isinstance(name, str) or not name:
            name, unusual = f"class{number}", "gives categories no names, so these are made of their ids"
        if name in names:
            raise FormatError(
                f"{json_path}: category {number} has the name '{name}' of category {names[name]}; give each a name of "
                "its own"
            )
        names[name] = number
    return tuple(Category(number, name) for name, number in names.items()), unusual


def _has_root(entries: dict[int, dict[str, Any]]) -> bool:
    """Whether category 0 has no supercategory, and is that of all others."""
    root, others = entries.get(_ROOT_ID, {}), [entry for number, entry in entries.items() if number != _ROOT_ID]
    is_top = isinstance(root.get("name"), str) and root.get("supercategory") in _NO_PARENT
    return is_top and bool(others) and all(entry.get("supercategory") == root["name"] for entry in others)


def clean_segmentation(where: str, segmentation: object, size: tuple[int, int]) -> tuple[Any, int]:
    """A segmentation as COCO defines it, from the forms that tools write.

    Polygons may be one flat list (VIA), lists of points, or lie in one list too many; numbers may be text; counts of an
    RLE may be floats, or their list a text. Parts of one or two points beside a proper one (coco-annotator) enclose
    nothing and are left out.

    Args:
        where: File and annotation, for the message.
        segmentation: What the file gives.
        size: (height, width) of the image.

    Returns:
        An RLE or a list of polygons, and how many parts were left out.

    Raises:
        FormatError: There is no mask in it.
    """
    if isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict):
        segmentation = segmentation[0]
    if isinstance(segmentation, dict) and segmentation:
        return _clean_rle(where, segmentation, size), 0
    try:  # nearly all are as they should be, and looking is much faster than cleaning
        check_polygons(where, segmentation)
        return segmentation, 0
    except FormatError:
        polygons = _flatten_polygons(segmentation) if isinstance(segmentation, list) else []
    parts = [part for part in polygons if not isinstance(part, list) or len(part) not in (0, 2, 4)] or polygons
    parts = [[_number_or_self(value) for value in part] if isinstance(part, list) else part for part in parts]
    check_polygons(where, parts)
    return parts, len(polygons) - len(parts)


def _number_or_self(value: Any) -> Any:
    number = to_number(value)
    return value if number is None else number


def _flatten_polygons(polygons: list[Any]) -> list[Any]:
    """A list of flat polygons, from one that is nested less or more."""
    if polygons and not any(isinstance(part, list) for part in polygons):
        return [polygons]
    if not all(isinstance(part, list) for part in polygons):
        return polygons
    flat: list[Any] = []
    for part in polygons:
        if not part or not all(isinstance(inner, list) for inner in part):
            flat.append(part)
        elif all(len(point) == 2 and not any(isinstance(value, list) for value in point) for point in part):
            flat.append([value for point in part for value in point])
        else:
            flat += _flatten_polygons(part)
    return flat


def _clean_rle(where: str, rle: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """An RLE with whole numbers as size and counts."""
    cleaned = dict(rle)
    counts = rle.get("counts")
    if isinstance(counts, str) and "," in counts:  # a list as text; COCO's compressed text has no commas
        counts = [to_integer(count.strip()) for count in counts.strip("[] ").split(",")]
    if isinstance(rle.get("size"), list):
        cleaned["size"] = [to_integer(length) for length in rle["size"]]
    if isinstance(counts, list):
        counts = [count if is_integer(count) else to_integer(count) for count in counts]
        if not all(count is not None and 0 <= count <= size[0] * size[1] for count in counts):
            raise FormatError(f"{where} is an RLE whose counts are not numbers of pixels of its image; export it again")
        cleaned["counts"] = counts
    return cleaned


def check_polygons(where: str, polygons: object) -> None:
    """Refuse what is not a list of polygons.

    Raises:
        FormatError: There is none, or one of them is not the x and y of at least 3 points.
    """
    if not isinstance(polygons, list) or polygons in ([], [[]]):
        raise FormatError(
            f"{where} has no segmentation; manymask needs masks: add a polygon or RLE, a box is not enough"
        )
    for polygon in polygons:
        numbers = polygon if isinstance(polygon, list) else []
        if len(numbers) < 6 or len(numbers) % 2:
            found = f"a polygon of {len(numbers)} numbers" if isinstance(polygon, list) else f"{polygon!r} as polygon"
            raise FormatError(f"{where} has {found}, expected x and y of at least 3 points; correct or remove it")
        for number in numbers:
            if type(number) not in (int, float) or not abs(number) < _MAX_COORDINATE:
                raise FormatError(f"{where} has a polygon with {number!r:.40}, expected pixels; correct it")
