"""Where a COCO file is."""

from collections.abc import Sequence
from pathlib import Path

from manymask.core import read_json
from manymask.errors import DatasetError
from manymask.wording import list_some

# Names that COCO, Roboflow, CVAT and LabelMe's converters give to the file.
_NAME_PATTERNS = ("*annotations*.json", "*.coco.json", "instances*.json")
# Each as it is, and compressed.
_ENDINGS = ("", ".gz")
# The lists by which a file under another name, as Label Studio and FiftyOne give it, is recognised.
_LISTS = {"images", "annotations", "categories"}


def find_coco_files(folder: Path) -> list[Path]:
    """Files in a folder, or in ``annotations`` in it, whose names are those of COCO annotations; by name."""
    return _list_files(folder, _NAME_PATTERNS)


def find_other_coco_files(folder: Path) -> list[Path]:
    """Files in a folder, or in ``annotations`` in it, that have COCO's lists but none of its names; by name."""
    return [path for path in list_json(folder) if has_coco_lists(path)]


def list_json(folder: Path) -> list[Path]:
    """All JSON files in a folder, or in ``annotations`` in it, by name."""
    return [path for path in _list_files(folder, ["*.json"]) if path.is_file()]


def has_coco_lists(path: Path) -> bool:
    """Whether a JSON file holds COCO's lists."""
    return isinstance(content := read_json(path), dict) and content.keys() >= _LISTS


def _list_files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    places = [folder, folder / "annotations"]
    names = [pattern + ending for pattern in patterns for ending in _ENDINGS]
    files = {path for place in places for name in names for path in place.glob(name)}
    return sorted(path for path in files if not path.name.startswith("."))


def find_json(path: Path) -> Path:
    """The COCO file of a data set, given itself or its folder, which must hold exactly one."""
    if not path.is_dir():
        return path
    files = find_coco_files(path)
    if len(files) > 1:  # others may be of keypoints or captions
        files = [file for file in files if has_coco_lists(file)] or files
    files = files or find_other_coco_files(path)
    if len(files) == 1:
        return files[0]
    if files:
        raise DatasetError(
            f"{path} holds {len(files)} COCO files ({list_some([str(file) for file in files])}), expected one; give "
            "the file itself"
        )
    raise DatasetError(
        f"{path} holds no {', '.join(_NAME_PATTERNS)} (there or in 'annotations'), and no other JSON file with COCO's "
        "lists; give the JSON file itself"
    )
