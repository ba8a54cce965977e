"""Where objects are lost on the way from proposals to masks, as shares that are pooled over images."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from manymask.wording import format_score

Counts = Mapping[str, tuple[int, int]]
"""Of one image, by the name of a share: how many there are of what it counts, and of how many."""


class StageShares(BaseModel):
    """What is found of the objects of some images, and what each stage of the network gets right; None is of no object.

    Classes do not count here: an object is found by a mask of any class. Crowd regions are no objects.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_images: int
    """images"""
    num_objects: int
    """objects"""
    AP50: float | None
    """AP(0.5)"""
    AP75: float | None
    """AP(0.75)"""
    AP90: float | None
    """AP(0.9)"""
    touching_found: float | None
    """touching objects found"""
    lone_found: float | None
    """lone objects found"""
    small_found: float | None
    """objects below 60 square pixels found"""
    true_boxes_scored: float | None
    """true boxes scored as objects"""
    proposed: float | None
    """objects with a proposal of box IoU 0.7"""
    refined: float | None
    """objects with a predicted box of IoU 0.9"""
    true_boxes_masked: float | None
    """masks from true boxes of IoU 0.9"""


SHARES = tuple(name for name in StageShares.model_fields if not name.startswith("num_"))
"""The names of the shares."""


def pool_counts(images: Sequence[Counts]) -> StageShares:
    """The shares of all images together."""
    sums = {name: [sum(image[name][place] for image in images) for place in (0, 1)] for name in SHARES}
    shares = {name: found / total if total else None for name, (found, total) in sums.items()}
    # Every object has a true box.
    return StageShares(num_images=len(images), num_objects=sums["true_boxes_scored"][1], **shares)


def list_shares(diagnosis: Mapping[str, StageShares]) -> list[tuple[str, ...]]:
    """The rows of a table: what a number is of, and the number for each set of images."""
    rows = []
    for name, field in StageShares.model_fields.items():
        values = [getattr(shares, name) for shares in diagnosis.values()]
        texts = [f"{value:,}" if isinstance(value, int) else format_score(value) for value in values]
        rows.append((field.description or name, *texts))
    return rows


def format_shares(diagnosis: Mapping[str, StageShares]) -> str:
    """The table as text."""
    rows = [("", *diagnosis), *list_shares(diagnosis)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(cells) for cells in lines)
