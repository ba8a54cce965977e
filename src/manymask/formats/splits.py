"""Data sets in parts: to train on, to validate on and to test with, as tools export them."""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from manymask.core.dataset import Dataset
from manymask.core.files import explain_reading
from manymask.errors import DatasetError
from manymask.formats import yolo
from manymask.formats.class_folders import is_class_folder
from manymask.formats.coco_files import find_coco_files, has_coco_lists, list_json
from manymask.formats.datasets import find_formats
from manymask.formats.drawn import has_own_classes
from manymask.formats.label_images import IMAGE_FOLDERS, find_folders
from manymask.formats.label_names import fold_stem, strip_label
from manymask.imaging.files import list_folders, list_images
from manymask.wording import list_some

logger = logging.getLogger(__name__)

# What tools call a part, by what it is for; folders may have a year or number behind, as COCO's train2017.
_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_WORDS |= {"test": "test", "testing": "test"}


@dataclass(frozen=True)
class Parts:
    """What a run takes of a data set.

    Attributes:
        train: What to train on.
        val: What to validate on; None where a part of ``train`` is to be held out.
        are_one: Whether both are parts of one data set, whose classes must be the same.
    """

    train: Path
    val: Path | None
    are_one: bool = False


@explain_reading()
def find_splits(path: str | Path) -> dict[str, Path]:
    """The parts of a data set by what they are for: ``train``, ``val`` and ``test``, in this order.

    A part is a folder that ``data.yaml`` names (YOLO); a folder ``train``, ``val`` (``valid``, ``validation``) or
    ``test`` that is a data set by itself, in the folder or in ``images`` there; or a COCO file with one of these words
    in its name, in the folder or in ``annotations`` there.

    Returns:
        The parts; none where there is not one to train on and another, as in a data set that is not split.

    Raises:
        DatasetError: Two parts are for the same.
    """
    path = Path(path)
    if not path.is_dir():
        return {}
    yaml_splits = yolo.find_splits(path)
    named = {name: places[0] for name, places in yaml_splits.items() if len(places) == 1 and places[0].is_dir()}
    if "train" in named and len(set(named.values())) == len(named) > 1:
        return named
    for folder in (path, *find_folders(path, IMAGE_FOLDERS)):
        if splits := _sort(path, list_folders(folder), _tell_folder, _is_data_set):
            return splits
    return _sort(path, find_coco_files(path), _tell_file) or _sort(path, list_json(path), _tell_file, has_coco_lists)


def _tell_folder(folder: Path) -> str | None:
    """What a folder of this name is for."""
    return _WORDS.get(folder.name.lower().rstrip("0123456789_- "))


def _is_data_set(folder: Path) -> bool:
    """Whether a folder is a data set rather than one image of class folders or mask files, called ``train_1``."""
    if is_class_folder(folder) or not find_formats(folder):
        return False
    images, masks = (list_images(place) if (place := folder / name).is_dir() else [] for name in ("images", "masks"))
    masks_of = {strip_label(path.stem) for path in masks}
    return not masks or len(images) != 1 or fold_stem(images[0].stem) in masks_of


def _tell_file(file: Path) -> str | None:
    """What a file with one such word in its name is for."""
    words = re.split("[^a-z]+", file.name.lower())
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else None


def _sort(
    root: Path,
    paths: Iterable[Path],
    tell: Callable[[Path], str | None],
    is_part: Callable[[Path], object] = lambda path: True,
) -> dict[str, Path]:
    """Parts by what they are for; none where one of them would be the only one."""
    found: dict[str, list[Path]] = {name: [] for name in ("train", "val", "test")}
    for path in paths:
        if (name := tell(path)) is not None and is_part(path):
            found[name].append(path)
    splits = {name: parts[0] for name, parts in found.items() if parts}
    if "train" not in splits or len(splits) == 1:
        return {}
    for name, parts in found.items():
        if len(parts) > 1:
            raise DatasetError(
                f"{root} holds {list_some(parts)}, each of which could be the part '{name}'; give the parts "
                "themselves, as DATA and --val"
            )
    return splits


def get_splits(path: str | Path) -> dict[str, Path]:
    """The parts of a data set as ``find_splits`` finds them, none of a data set that is not split.

    Raises:
        DatasetError: It is split, but into parts that cannot be read one by one, so that they would be mixed.
    """
    path = Path(path)
    splits = find_splits(path)
    named = {} if splits or not path.is_dir() else yolo.find_splits(path)
    if "train" in named and len(set(named.values())) > 1:
        raise DatasetError(
            f"{path / 'data.yaml'} names its parts ({', '.join(named)}) not as one folder each, and would be read as "
            "one data set; put the images of each part into a folder of its own, or take the other parts out of the "
            "file"
        )
    return splits


def choose_parts(data: Path, val: Path | None) -> Parts:
    """What to train and to validate on: the parts of a data set that is split, of which the user's own choice wins."""
    splits = get_splits(data)
    if not splits:
        return Parts(data, val)
    parts = Parts(splits["train"], val or splits.get("val"), are_one=val is None and "val" in splits)
    rest = [str(part) for part in splits.values() if part not in (parts.train, parts.val)]
    logger.info(
        f"{data} is split: training on {parts.train}, validating on {parts.val or 'a part of it'}"
        + (f"; {' and '.join(rest)} left alone" if rest else "")
    )
    return parts


def tell_mixed(dataset: Dataset) -> None:
    """Warn where images to train on lie in folders of several parts, as one file of labels may list them."""
    folders = {part.lower() for record in dataset.records for part in _list_inner_folders(dataset.root, record.path)}
    parts = {_WORDS[folder] for folder in folders & _WORDS.keys()}
    if "train" in parts and len(parts) > 1:
        logger.warning(
            f"{dataset.root} lists images in folders for {list_some(sorted(parts))} together, and all are taken; to "
            "keep them apart, export each part by itself and give the others with --val, or not at all"
        )


def _list_inner_folders(root: Path, path: Path) -> tuple[str, ...]:
    """The folders between a data set, or its file, and an image of it."""
    base = root if root.is_dir() else root.parent.parent if root.parent.name == "annotations" else root.parent
    return path.relative_to(base).parts[:-1] if path.is_relative_to(base) else ()


def choose_scored(data: Path) -> Path:
    """What to score on: of a data set that is split the test images, else those to validate on."""
    splits = get_splits(data)
    if not splits:
        return data
    chosen = splits.get("test") or splits["val"]
    logger.info(f"{data} is split: scoring on {chosen}")
    return chosen


def check_same_classes(train: Dataset, val: Dataset) -> None:
    """Refuse two parts of a data set of which each has classes that the other lacks: one of them is named wrongly.

    Raises:
        DatasetError: They have; names both parts.
    """
    if not (has_own_classes(train) and has_own_classes(val)):
        return
    names, val_names = ({category.name for category in dataset.categories} for dataset in (train, val))
    if names - val_names and val_names - names:
        own, other = (list_some(sorted(each)) for each in (names, val_names))
        raise DatasetError(
            f"{train.root} has the classes {own}, but {val.root} has {other}; call the same classes by the same names "
            "in both, or give what to validate on with --val"
        )
