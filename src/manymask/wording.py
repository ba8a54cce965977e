"""Phrases that messages and tables share."""

import difflib
from collections.abc import Collection, Iterable, Sequence

from manymask.errors import PlanError

NUM_NAMED = 5
"""Things that a message names before it says how many more there are."""


def list_some(items: Iterable[object], total: int | None = None, separator: str = ", ") -> str:
    """The first five of some things, and how many more there are of ``total``: ``a, b, c, d, e and 2 more``."""
    named = [str(item) for item in items]
    rest = (total or len(named)) - min(len(named), NUM_NAMED)
    return separator.join(named[:NUM_NAMED]) + (f" and {rest} more" if rest else "")


def count_of(number: int, what: str) -> str:
    """A number of things: ``1 image``, ``2 images``, ``3 classes``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"


def format_score(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A score with three digits and its interval, as ``0.613 [0.570 to 0.655]``; a dash where it is undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if interval is None else f" [{format_interval(interval)}]")


def format_interval(interval: Sequence[float] | None) -> str:
    """``low to high``, or a dash."""
    return "-" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def find_name(text: str, names: Collection[str], what: str) -> str:
    """The name that a user means, whatever its case, and with ``-`` or a space for ``_``.

    Raises:
        PlanError: There is no such name; begins with ``what``.
    """
    name = text.lower().replace("-", "_").replace(" ", "_")
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    raise PlanError(f"{what}; " + (f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"))


def shorten(value: object) -> str:
    """The beginning of what a value looks like, for a message about it."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}.."
