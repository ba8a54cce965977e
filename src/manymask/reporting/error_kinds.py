"""The kinds of error: their names, colours and meanings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of prediction or of instance.

    Attributes:
        name: As in ``evaluation.json``.
        label: As people read it.
        color: Of its outlines and bars, as CSS; those of Okabe and Ito (2008), the green brighter, and white.
        meaning: One line in words.
    """

    name: str
    label: str
    color: str
    meaning: str


KINDS = (
    Kind("found", "found", "#14b887", "The instance has a prediction of its class at mask IoU 0.5 or more."),
    Kind("correct", "correct", "#14b887", "The prediction is an instance of its class at mask IoU 0.5 or more."),
    Kind("missed", "missed", "#e69f00", "No prediction fits the instance."),
    Kind("spurious", "spurious", "#d55e00", "The prediction fits no instance."),
    Kind("duplicate", "duplicate", "#cc79a7", "The instance already has a prediction that fits it."),
    Kind("merged", "merged", "#0072b2", "One prediction covers several instances."),
    Kind(
        "split", "split", "#56b4e9", "Several predictions share one instance, which counts here if none of them fits."
    ),
    Kind("wrong_class", "wrong class", "#f0e442", "The outline fits, the class does not."),
    Kind(
        "loose_border", "loose border", "#ffffff", "The right object, but its outline fits badly: mask IoU below 0.5."
    ),
    Kind("ignored", "ignored", "#999999", "Lies in a crowd region, which neither helps nor hurts."),
)
"""In the order in which they are shown."""

ERRORS = tuple(kind for kind in KINDS if kind.name not in {"found", "correct", "ignored"})
"""The kinds that cost."""
