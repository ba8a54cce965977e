"""Server-sent events: what happens, as it happens."""

from collections.abc import AsyncIterator

from fastapi import APIRouter
from sse_starlette import EventSourceResponse

from manymask.serve.events import Events

_PING_SECONDS = 15
_SEND_SECONDS = 30


def make_router(events: Events) -> APIRouter:
    """The route that pages listen at."""
    router = APIRouter(tags=["events"])

    @router.get("/api/events", response_class=EventSourceResponse)
    async def listen() -> EventSourceResponse:
        """What happens from now on: lines of JSON with a ``type``: ``image``, ``blocks`` or ``job``."""
        queue = events.join()

        async def iterate() -> AsyncIterator[dict[str, str]]:
            try:
                yield {"comment": "listening"}
                while (text := await queue.get()) is not None:
                    yield {"data": text}
            finally:
                events.leave(queue)

        return EventSourceResponse(iterate(), ping=_PING_SECONDS, send_timeout=_SEND_SECONDS)

    return router
