"""The one way in which long work says how far it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[int, int, str], None]
"""Called with the number of things that are done, how many there are, and what is being done."""

_Item = TypeVar("_Item")


def track(items: Iterable[_Item], total: int, what: str, progress: Progress | None) -> Iterator[_Item]:
    """Hand the items on, and say after each, once the caller is done with it, how many of ``total`` are done."""
    for num_done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(num_done, total, what)
