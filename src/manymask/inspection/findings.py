"""Findings of the doctor: each kind with its severity, what training makes of it, and its remedy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["fault", "warning", "note"]

MIN_SIDE = 33
"""Images with a shorter side are called tiny: one cell of the network's coarsest level sees 32 pixels a side."""


@dataclass(frozen=True)
class Finding:
    """Something wrong or unusual.

    Attributes:
        kind: What it is, such as ``zero-area-instance``; one of ``KINDS``.
        severity: ``fault`` harms training or scores, ``warning`` may, ``note`` is good to know.
        image: Name of the image; None for the data set as a whole.
        path: The file to look at.
        detail: What was found, and where.
        treatment: How training treats it as it is.
        remedy: What to do about it.
        is_fixable: Whether ``manymask inspect --fix`` does it.
        part: Which part of the data it is in, ``train``, ``val`` or ``test``; None where there is only one.
    """

    kind: str
    severity: Severity
    image: str | None
    path: Path | None
    detail: str
    treatment: str
    remedy: str
    is_fixable: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Kind:
    """What is the same for all findings of a kind; see ``Finding``."""

    severity: Severity
    treatment: str
    remedy: str
    is_fixable: bool = False


_STOPS = "training stops before its first step and names the file"
_LEFT_OUT = "training and scores leave it out, with a warning that counts what is left out"
_TRAINS = "it is trained on and scored like the others"
_IS_ONE = "all its pieces are one object, with one box around them"

KINDS: dict[str, Kind] = {
    "unreadable-image": Kind("fault", _STOPS, "copy or export the file again", True),
    "unreadable-labels": Kind("fault", _STOPS, "export the labels again", True),
    "shared-ids": Kind(
        "fault",
        _STOPS,
        "number the objects anew; --fix gives each separate piece a number, so that objects that touch become one",
        True,
    ),
    "scattered-instances": Kind(
        "fault",
        "all pieces of a value are one object, with one box around them",
        "give every object its own number; --fix does it for pieces far from each other",
    ),
    "orientation-in-doubt": Kind(
        "warning",
        "the tag is obeyed, which is wrong for labels that were drawn on the stored pixels",
        "look at the labels on the image; then save it turned and without the tag, or set the environment variable "
        "MANYMASK_ORIENTATION to obey or ignore",
    ),
    "orientation-by-size": Kind(
        "note", "the image is read so that its labels fit", "nothing, or save the image turned and without the tag"
    ),
    "orientation-as-stored": Kind(
        "warning",
        "the image is read so that its labels fit, but predict obeys the tag",
        "set the environment variable MANYMASK_ORIENTATION=ignore for training and predict alike, or save the image "
        "without the tag",
    ),
    "size-mismatch": Kind("fault", _STOPS, "find the labels that belong to the image", True),
    "bad-annotation": Kind("fault", _LEFT_OUT, "correct or remove it", True),
    "incomplete-image": Kind("fault", _LEFT_OUT, "add what is missing, or remove the rest", True),
    "bad-image-entry": Kind("fault", _LEFT_OUT, "correct the entry, or remove it", True),
    "unusual-entries": Kind("note", "they are read as they are meant", "nothing, if that is what was meant"),
    "crowd-regions": Kind(
        "warning",
        "they are not trained on, and what is found there counts for nothing in scores",
        "set crowd_as_objects=true if they are single objects",
    ),
    "skipped-files": Kind(
        "warning", "they are neither trained on nor scored", "move them away, or save them as images of the layout"
    ),
    "empty-mask-file": Kind("fault", _STOPS, "remove these files", True),
    "not-finite": Kind("fault", _STOPS, "replace what is not a number, or leave the image out", True),
    "unsupported-channels": Kind(
        "fault", _STOPS, "save all images with the same channels, or set channels to some that all of them have", True
    ),
    "value-range": Kind(
        "note",
        "normalization=image (recipe auto) brings it to [0, 1]; normalization=type (recipe baseline) refuses it",
        "nothing, or scale the images to [0, 1]",
    ),
    "constant-image": Kind("fault", f"{_TRAINS}, though it shows nothing", "leave the image out", True),
    "empty-image": Kind(
        "warning", "it serves as an example of background", "label its objects, unless it really shows none"
    ),
    "tiny-image": Kind(
        "warning",
        f"{_TRAINS}; it is padded, and enlarged only where min_size or a scale above 1 asks for it",
        f"give images of at least {MIN_SIDE} pixels a side",
    ),
    "many-instances": Kind(
        "warning",
        "no more than detections_per_image are ever found in it; by default that comes from the data",
        "leave detections_per_image at auto, or set it above this number",
    ),
    "zero-area-instance": Kind("fault", "it is left out of training and scores", "label it anew, or remove it", True),
    "one-pixel-instance": Kind("warning", _TRAINS, "label it anew, or remove it", True),
    "duplicate-instance": Kind("fault", f"{_TRAINS}: one object counts twice", "keep one of them", True),
    "two-classes": Kind(
        "warning",
        "training gives a box one class, so that of such a pair one is seldom found",
        "see whether the labels of one class were written for another; else keep one of each pair",
    ),
    "fragmented-instance": Kind(
        "warning", _IS_ONE, "give each piece an id of its own, unless something lies in front of the object", True
    ),
    "occluded-instance": Kind(
        "note", _IS_ONE, "nothing, if the others lie in front of the object; else give each piece an id of its own"
    ),
    "background-instance": Kind("fault", _TRAINS, "write 0 for background", True),
    "likely-background": Kind("warning", _TRAINS, "write 0 for background, unless it is an object"),
    "out-of-frame": Kind(
        "warning", "what lies outside the image is cut off", "correct the polygons, or cut it off for good", True
    ),
    "self-crossing": Kind(
        "warning",
        "COCO's filling decides which parts are inside",
        "draw the outlines anew; --fix keeps the filled masks",
    ),
    "same-image": Kind(
        "fault", "both are trained on, or one is held out and its score is too good", "keep one of them", True
    ),
    "similar-image": Kind(
        "warning",
        "both are used; where one is held out its score is too good",
        "look at both; keep one, or keep them together with --group-by",
    ),
    "same-image-in-val": Kind("fault", "its score says too much", "remove it from one of the two sets", True),
    "similar-image-in-val": Kind(
        "warning", "its score may say too much", "look at both; if they show the same, remove one"
    ),
    "mixed-sizes": Kind(
        "note",
        "recipe auto cuts crops of one size from them; with min_size each is resized",
        "nothing, if the objects are alike",
    ),
    "mixed-types": Kind(
        "warning",
        "normalization=type divides whole numbers by their type's largest value: equal light may get unequal values",
        "save all images with the same type of values, on the same scale",
    ),
    "mixed-channels": Kind(
        "note", "grey is repeated to three channels", "nothing, if both kinds are to be found in use"
    ),
    "mixed-brightness": Kind(
        "note",
        "normalization=image evens it out, normalization=type keeps it",
        "nothing, if all of them are typical of what comes later",
    ),
    "rare-class": Kind(
        "warning",
        "it is trained on; its score rests on few objects",
        "label more of it, or merge it with another class",
    ),
    "border-cut": Kind(
        "note", "what is visible of an object is the object", "nothing; larger images cut fewer objects"
    ),
    "overlapping-instances": Kind("note", "each keeps its whole mask", "nothing, if objects really overlap"),
}


def make_finding(
    kind: str, detail: str, image: str | None = None, path: Path | None = None, remedy: str | None = None
) -> Finding:
    """A finding of a kind, with its own remedy where one is given."""
    of = KINDS[kind]
    return Finding(kind, of.severity, image, path, detail, of.treatment, remedy or of.remedy, of.is_fixable)
