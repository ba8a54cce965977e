"""The orientation tag of labelled images: it turns the image, but labels may have been drawn on the stored pixels."""

import os
from pathlib import Path

import numpy as np

from manymask.core.dataset import Doubt
from manymask.errors import PlanError
from manymask.imaging.decoding import read_raster
from manymask.imaging.image import FileSource
from manymask.imaging.raster import check_declared_size

CHOICE_NAME = "MANYMASK_ORIENTATION"
"""Environment variable: ``obey`` or ``ignore`` orientation tags; unset, labels decide by their size where they can."""


def is_obeyed() -> bool:
    """Whether images are turned as their tags say.

    Raises:
        PlanError: The environment variable has another value than the two.
    """
    return _read_choice() != "ignore"


def _read_choice() -> str | None:
    choice = os.environ.get(CHOICE_NAME)
    if choice not in (None, "obey", "ignore"):
        raise PlanError(f"the environment variable {CHOICE_NAME} is {choice!r}, expected obey or ignore")
    return choice


def check_labels_size(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image or a label image of (height, width) whose ids, which are whole in memory, exceed the limit.

    Raises:
        FormatError: They do.
    """
    check_declared_size(path, size, np.int32, "labelled pixels")


def open_labelled_image(
    path: Path, label_size: tuple[int, int] | None, label_orientation: int = 1, *, is_size_given: bool = True
) -> tuple[FileSource, tuple[Doubt, ...]]:
    """A labelled image turned as the labels were drawn on it; only its header is read yet.

    Where the size of the labels fits only the stored or only the turned image, that one is taken; else the tag is
    obeyed unless the user chose otherwise.

    Args:
        path: The image.
        label_size: (height, width) of its labels; None where there are none.
        label_orientation: Orientation tag of the file of labels, which ``label_size`` obeys already.
        is_size_given: Whether ``label_size`` is from the labels; else it is the image's own size and decides nothing.

    Returns:
        The image, and a doubt where the tag leaves one.

    Raises:
        FormatError: The image cannot be read, or its labels, which are whole in memory, would be larger than the limit.
    """
    raster = read_raster(path, is_decoded=False)
    check_labels_size(path, raster.size)
    stored, turned = FileSource(path, raster), FileSource(path, raster, raster.orientation)
    choice = _read_choice()
    # Labels that carry the same tag were turned with the image, and are with it again.
    tag = 1 if raster.orientation == label_orientation else raster.orientation
    fits_stored, fits_turned = stored.size == label_size, turned.size == label_size
    is_turned = choice != "ignore"
    doubts: tuple[Doubt, ...] = ()
    if is_size_given and fits_stored != fits_turned and tag != 1:
        is_turned = fits_turned
        how = "as the tag says" if is_turned else "as it is stored"
        is_read_alike = is_turned or choice == "ignore"  # by predict, which sees no labels
        kind = "orientation-by-size" if is_read_alike else "orientation-as-stored"
        doubts = (Doubt(kind, f"has orientation tag {tag}, and its labels fit only the image {how}"),)
    elif tag in range(2, 9) and (fits_stored or not is_size_given) and choice is None:
        doubts = (
            Doubt(
                "orientation-in-doubt",
                f"has orientation tag {tag}, which turns or mirrors the image, and nothing says whether its labels "
                "were drawn on the turned or on the stored pixels",
            ),
        )
    return turned if is_turned else stored, doubts
