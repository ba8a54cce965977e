"""The application: all routes, and what turns errors into answers."""

import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader
from starlette.exceptions import HTTPException

from manymask import __version__
from manymask.errors import ManymaskError
from manymask.serve import http_api, http_events, http_images, http_objects
from manymask.serve.errors import Conflict
from manymask.serve.http_safety import Access, Safety
from manymask.serve.refusals import Refusal
from manymask.serve.server import Server

logger = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_DESCRIPTION = "Predict images, look at what was found, correct it, and train on what was corrected."


def create_app(server: Server, access: Access) -> Safety:
    """The application of a server, which it starts and ends, behind what keeps others out.

    Args:
        server: What it serves.
        access: What opens it.
    """

    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        server.start()
        yield
        server.close()

    app = FastAPI(
        title="manymask",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=live,
        docs_url=None,  # it loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (http_images, http_objects, http_api):
        app.include_router(module.make_router(server))
    app.include_router(http_events.make_router(server.events))
    _add_page(app)
    _add_answers(app)
    app.add_middleware(_Log, server=server)
    return Safety(app, access, server.limits)


def _add_page(app: FastAPI) -> None:
    templates = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True)

    @app.get("/", include_in_schema=False, response_class=HTMLResponse)
    def show_page() -> str:
        return templates.get_template("index.html").render(version=__version__)

    app.mount("/static", StaticFiles(directory=_HERE / "static", check_dir=False), name="static")


def _add_answers(app: FastAPI) -> None:
    """A status and a sentence for each error."""

    def answer(status: int, sentence: str, **headers: str) -> JSONResponse:
        return JSONResponse({"detail": sentence}, status, headers)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, error: Refusal) -> Response:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return answer(error.status, str(error), **headers)

    @app.exception_handler(Conflict)
    async def tell_conflict(_: Request, error: Conflict) -> Response:
        return JSONResponse({"detail": str(error), "revision": error.revision}, 409)

    @app.exception_handler(ManymaskError)
    async def explain(_: Request, error: ManymaskError) -> Response:
        cause = error.__cause__
        is_full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return answer(507 if is_full else 422, str(error))

    @app.exception_handler(OSError)
    async def explain_disk(_: Request, error: OSError) -> Response:
        if error.errno == errno.ENOENT:  # of an image that was removed meanwhile
            return answer(404, "this is not there any more; it may have been removed")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return answer(507, "the server's disk is full; make room and send it again")
        raise error

    @app.exception_handler(RequestValidationError)
    async def explain_values(_: Request, error: RequestValidationError) -> Response:
        parts = [f"{'.'.join(map(str, each['loc'][1:])) or 'the body'}: {each['msg']}" for each in error.errors()]
        return answer(422, "; ".join(parts[:5]))

    @app.exception_handler(HTTPException)
    async def explain_status(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def excuse(_: Request, error: Exception) -> Response:
        return answer(500, "this is a fault of the program; its log says more")


class _Log:
    """Counts answers, and notes those that went wrong: method, path and status, nothing of what was sent."""

    def __init__(self, app: Callable[..., Awaitable[None]], server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()

        async def send_counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                self.server.counts[f"{status}"] += 1
                if status >= 500 and status not in (503, 507):
                    seconds = time.monotonic() - started
                    logger.warning(
                        f"{scope['method']} {scope['path']!a} was answered with {status} after {seconds:.1f} s"
                    )
            await send(message)

        await self.app(scope, receive, send_counted)
