"""Where a COCO file is."""

from pathlib import Path

from manymask.core import read_json
from manymask.errors import DatasetError

# Names that COCO, Roboflow, CVAT and LabelMe's converters give to the file.
_NAME_PATTERNS = ("*annotations*.json", "*.coco.json", "instances*.json")
# The lists by which a file under another name, as Label Studio and FiftyOne give it, is recognised.
_LISTS = {"images", "annotations", "categories"}


def find_coco_files(folder: Path) -> list[Path]:
    """Files in a folder, or in ``annotations`` in it, whose names are those of COCO annotations; by name."""
    places = [folder, folder / "annotations"]
    files = {path for place in places for pattern in _NAME_PATTERNS for path in place.glob(pattern)}
    return sorted(path for path in files if not path.name.startswith("."))


def find_other_coco_files(folder: Path) -> list[Path]:
    """Files in a folder that have COCO's lists but none of its names, as those of Label Studio and FiftyOne."""
    files = [path for path in sorted(folder.glob("*.json")) if not path.name.startswith(".") and path.is_file()]
    return [path for path in files if isinstance(content := read_json(path), dict) and content.keys() >= _LISTS]


def find_json(path: Path) -> Path:
    """The COCO file of a data set, given itself or its folder, which must hold exactly one."""
    if not path.is_dir():
        return path
    files = find_coco_files(path) or find_other_coco_files(path)
    if len(files) != 1:
        found = ", ".join(str(file) for file in files) or "none"
        raise DatasetError(
            f"{path} must hold exactly one of {', '.join(_NAME_PATTERNS)} (there or in 'annotations'), found {found}; "
            "give the JSON file itself"
        )
    return files[0]
