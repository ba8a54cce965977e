"""What happens on the server, told to all pages that listen."""

import asyncio
import json
import threading
from typing import Any

from manymask.serve.refusals import Refusal

# A page that takes longer than so many events is cut off; its browser comes again and asks for everything anew.
_WAITING_EVENTS = 1000


class Events:
    """Hands each event to all listeners; threads may tell at once.

    Args:
        most: Listeners at once.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}

    def tell(self, kind: str, **values: Any) -> None:
        """Tell all listeners; nobody waits for them."""
        text = json.dumps({"type": kind, **values})
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            try:
                loop.call_soon_threadsafe(_put, queue, text)
            except RuntimeError:  # the loop has ended
                self.leave(queue)

    def join(self) -> "asyncio.Queue[str | None]":
        """A queue of what happens from now on, in the loop that runs; None in it is the end.

        Raises:
            Refusal: Too many listen.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue(_WAITING_EVENTS)
        with self._lock:
            if len(self._listeners) >= self._most:
                raise Refusal(503, f"{self._most} pages are open, as many as this server tells of changes", 30)
            self._listeners[queue] = asyncio.get_running_loop()
        return queue

    def leave(self, queue: "asyncio.Queue[str | None]") -> None:
        """Stop listening."""
        with self._lock:
            self._listeners.pop(queue, None)

    @property
    def num_listeners(self) -> int:
        """How many listen."""
        return len(self._listeners)


def _put(queue: "asyncio.Queue[str | None]", text: str) -> None:
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)
    else:
        queue.put_nowait(text)
