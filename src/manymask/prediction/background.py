"""Work on one item while another one is used."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def work_beside(work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any]:
    """``map(work, items)`` with one item being worked on in another thread while the next one is made, or used here.

    So images are read before the network needs them, and its results are written while it looks at the next image.
    Where an item cannot be made, the results of those before it come first, as those of ``map`` do.
    """
    with ThreadPoolExecutor(1) as executor:
        waiting, iterator, failure = None, iter(items), None
        while failure is None:
            try:
                following = executor.submit(work, next(iterator))
            except Exception as error:  # at the end of the items, or where the next one cannot be made
                failure = error
                following = None
            if waiting is not None:
                yield waiting.result()
            waiting = following
    if not isinstance(failure, StopIteration):
        raise failure
