"""Work on one item while another one is used."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def work_beside(work: Callable[[Any], Any], items: Iterable[Any]) -> Generator[Any]:
    """``map(work, items)`` with one item being worked on in another thread while the next one is made, or used here.

    So images are read before the network needs them, and its results are written while it looks at the next image.
    """
    with ThreadPoolExecutor(1) as executor:
        waiting = None
        for item in items:
            following = executor.submit(work, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
