"""Which label image belongs to which image, by their names."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from manymask.imaging.files import make_key

# What tools and people add to the name of an image to name its label image, and to tell the image from it.
_LABEL = re.compile(
    r"(?:(?:masks?|labels?|lbl|seg|gt)[-_ ])?(?P<stem>.+?)"
    r"(?:[-_ ](?:cp_masks|masks?|labels?|lbls?|manual|gt|seg|segmentation|instances?|pred|predictions?"
    r"|instanseg_prediction|object[ _]identities|object[ _]predictions|simple[ _]segmentation))?",
)
_IMAGE = re.compile(r"(?:(?:images?|img|raw)[-_ ])?(?P<stem>.+?)(?:[-_ ](?:images?|img|raw))?")
_ENDING = re.compile(r"(\.ome)?(\.(tiff?|png|jpe?g|bmp))?$")


@lru_cache(maxsize=1 << 16)
def fold_stem(name: str) -> str:
    """A name without the ending of an image file that it may still have, in a form where upper case does not matter."""
    folded = make_key(name.casefold())
    return _ENDING.sub("", folded) or folded


def strip_label(name: str) -> str:
    """The folded name of the image that a label image is for, by its own: ``x`` of ``x_masks`` and ``mask_x``."""
    return _strip(_LABEL, name)


def strip_image(name: str) -> str:
    """The folded name without what tells an image from its label image: ``x`` of ``x_img``."""
    return _strip(_IMAGE, name)


@lru_cache(maxsize=1 << 16)  # each name is asked for several times
def _strip(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.fullmatch(fold_stem(name))
    return fold_stem(match["stem"]) if match else fold_stem(name)


def find_labels_beside(stems: Mapping[Path, str]) -> set[Path]:
    """Of files in one folder those that are named after another one, as label images are."""
    owners: dict[str, set[Path]] = defaultdict(set)
    for path, stem in stems.items():
        for key in (fold_stem(stem), strip_image(stem)):
            owners[key].add(path)
    return {
        path
        for path, stem in stems.items()
        if (key := strip_label(stem)) != fold_stem(stem) and owners.get(key, set()) - {path}
    }


class Matches(NamedTuple):
    """What belongs together.

    Attributes:
        labels: The label image of each image that has one.
        strangers: Label images of no image, each with the name that its image should have.
        unclear: What is wrong with each label image that may be of several images or is one of several of an image, and
            what to do.
    """

    labels: dict[Path, Path]
    strangers: dict[Path, str]
    unclear: dict[Path, str]


def match_labels(images: Mapping[Path, str], labels: Mapping[Path, str]) -> Matches:
    """Match label images to images by their names: equal ones first, then those that affixes tell apart.

    Args:
        images: The name of each image, which may have folders before it.
        labels: The same for the label images.
    """
    found = Matches({}, {}, {})
    steps = [(make_key, make_key), (_in_folder(fold_stem), _in_folder(strip_label))]
    steps.append((_in_folder(strip_image), _in_folder(strip_label)))
    named = [(_group(images, name_image), name_label) for name_image, name_label in steps]
    claims: dict[Path, list[tuple[int, Path]]] = defaultdict(list)
    for path, name in labels.items():
        meant = [(step, groups[key(name)]) for step, (groups, key) in enumerate(named) if key(name) in groups]
        if not meant:
            found.strangers[path] = strip_label(Path(name).name)
        elif len(meant[0][1]) > 1:
            first, second = meant[0][1][:2]
            found.unclear[path] = f"{path} may be the label image of {first} or of {second}; name it like one of them"
        else:
            claims[meant[0][1][0]].append((meant[0][0], path))
    for image, claimed in claims.items():
        claimed.sort()
        # A label image with the image's own name is meant rather than one with an affix.
        is_clear = len(claimed) == 1 or claimed[0][0] < claimed[1][0]
        if is_clear:
            found.labels[image] = claimed[0][1]
        for _, path in claimed[is_clear:]:
            other = next(rival for _, rival in claimed if rival != path)
            found.unclear[path] = f"{path} and {other} are both label images of {image}; keep one of them"
    return found


def _in_folder(strip: Callable[[str], str]) -> Callable[[str], str]:
    """Strips the last part of a path."""

    def strip_last(name: str) -> str:
        folder, _, last = name.rpartition("/")
        return f"{fold_stem(folder)}/{strip(last)}"

    return strip_last


def _group(names: Mapping[Path, str], key: Callable[[str], str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for path, name in names.items():
        groups[key(name)].append(path)
    return dict(groups)
