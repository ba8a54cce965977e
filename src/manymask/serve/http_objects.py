"""Routes of objects: the bytes that the page draws, numbers, corrections and downloads."""

import gzip
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from manymask.outputs import OUTPUTS, ImageEntry
from manymask.serve.changes import Change, Filter
from manymask.serve.downloads import write_download
from manymask.serve.http_schemas import EditsBody, list_problems
from manymask.serve.measuring import measure_object, write_measurements
from manymask.serve.objects import ImageObjects
from manymask.serve.refusals import Refusal
from manymask.serve.server import Server
from manymask.serve.workspace import StoredImage

_BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": {}}}}
# Of a million rows, level 6 takes three times as long for the same bytes; of blocks it would spare 6 %.
_GZIP_LEVEL = 3
_REVISION = re.compile(r'(?:W/)?"?(\d{1,15})"?')


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["objects"])

    @router.get("/api/images/{image_id}/table.bin", response_class=Response, responses=list_problems() | _BYTES)
    def get_table(request: Request, image_id: str, version: int | None = None) -> Response:
        """All objects, a row each: docs/serve.md has the layout."""
        objects = server.get_objects(server.workspace.get(image_id), version)
        return _pack(request, objects, objects.pack_table)

    @router.get(
        "/api/images/{image_id}/blocks/{bx}_{by}.bin", response_class=Response, responses=list_problems() | _BYTES
    )
    def get_block(request: Request, image_id: str, bx: int, by: int, version: int | None = None) -> Response:
        """The pixels of the objects whose middle lies in a block of 2,048 pixels a side."""
        objects = server.get_objects(server.workspace.get(image_id), version)
        try:
            return _pack(request, objects, lambda: objects.pack_block(bx, by))
        except IndexError as error:
            raise Refusal(404, str(error)) from error

    @router.get("/api/images/{image_id}/objects/{object_id}", responses=list_problems())
    def get_object(image_id: str, object_id: int, version: int | None = None) -> dict[str, Any]:
        """The numbers of one object, under the names of the table of measurements."""
        image = server.workspace.get(image_id)
        try:
            return measure_object(server.get_objects(image, version), image.source, object_id)
        except LookupError as error:
            raise Refusal(404, str(error)) from error

    @router.get(
        "/api/images/{image_id}/measurements.csv",
        response_class=FileResponse,
        responses=list_problems(507) | {200: {"content": {"text/csv": {}}}},
    )
    def get_measurements(image_id: str, version: int | None = None) -> Response:
        """The numbers of all objects."""
        image = server.workspace.get(image_id)
        objects = server.get_objects(image, version)

        def write(folder: Path) -> Path:
            path = folder / f"{image.stem}.csv"
            write_measurements(path, objects, image.source)
            return path

        return _send(server, write)

    @router.post("/api/images/{image_id}/edits", responses=list_problems(409, 413, 507))
    def edit(
        request: Request,
        image_id: str,
        body: EditsBody,
        if_match: Annotated[str | None, Header(description='The revision that the user saw, as in "12".')] = None,
    ) -> Change:
        """Correct objects; all of the edits are done or none, and are on the disk before the answer."""
        if len(body.edits) > server.limits.edits:
            raise Refusal(413, f"there are {len(body.edits)} edits; send at most {server.limits.edits} at a time")
        image = server.workspace.get(image_id)
        objects = server.get_objects(image)
        return _tell(server, image, objects.edit(body.edits, _read_revision(if_match), _name_user(request)))

    @router.post("/api/images/{image_id}/undo", responses=list_problems(507))
    def undo(request: Request, image_id: str) -> Change:
        """Undo the last correction that is not undone."""
        image = server.workspace.get(image_id)
        return _tell(server, image, server.get_objects(image).undo(_name_user(request)))

    @router.post("/api/images/{image_id}/redo", responses=list_problems(507))
    def redo(request: Request, image_id: str) -> Change:
        """Do again what was undone last."""
        image = server.workspace.get(image_id)
        return _tell(server, image, server.get_objects(image).redo(_name_user(request)))

    @router.get(
        "/api/images/{image_id}/download/{format}",
        response_class=FileResponse,
        responses=list_problems(507) | _BYTES,
    )
    def download(
        image_id: str,
        format: str,
        min_score: Annotated[float, Query(ge=0, le=1)] = 0.0,
        max_score: Annotated[float, Query(ge=0, le=1)] = 1.0,
        min_area: Annotated[float, Query(ge=0)] = 0.0,
        max_area: Annotated[float | None, Query(ge=0)] = None,
        classes: Annotated[str | None, Query(description="Ids of classes with commas.", examples=["1,2"])] = None,
        edited: bool = False,
        border: bool | None = None,
        odd: bool = False,
        version: int | None = None,
    ) -> Response:
        """The objects, or those that a filter lets through, in a format of ``manymask predict``."""
        image = server.workspace.get(image_id)
        objects = server.get_objects(image, version)
        largest = Filter().max_area if max_area is None else max_area
        only = Filter(
            min_score,
            max_score,
            min_area,
            largest,
            _read_classes(classes),
            edited_only=edited,
            border=border,
            odd_only=odd,
        )
        return _download(server, image, objects, format, only)

    return router


def _pack(request: Request, objects: ImageObjects, make: Callable[[], bytes]) -> Response:
    """Bytes of one revision, which a browser that has them already need not get again."""
    tag = f'"{objects.version.number}.{objects.revision}"'
    headers = {"etag": tag, "cache-control": "private, no-cache", "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return pack_response(request, make(), "application/octet-stream", headers)


def pack_response(request: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """An answer, compressed where the browser takes that."""
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers = gzip.compress(content, _GZIP_LEVEL, mtime=0), headers | {"content-encoding": "gzip"}
    return Response(content, media_type=media_type, headers=headers)


def _tell(server: Server, image: StoredImage, change: Change) -> Change:
    """Tell all pages of a correction, also the one that made it."""
    server.counts["edits"] += 1
    server.events.tell("blocks", id=image.id, blocks=change.blocks, revision=change.revision)
    server.tell_image(image)
    return change


def _download(server: Server, image: StoredImage, objects: ImageObjects, format: str, only: Filter) -> FileResponse:
    if format not in OUTPUTS:
        raise Refusal(404, f"there is no output format {format!a}; there are: {', '.join(OUTPUTS)}")
    entry = ImageEntry(1, image.stem, image.meta.name, image.source)
    return _send(server, lambda folder: write_download(folder, objects, entry, format, only))


def _send(server: Server, write: Callable[[Path], Path]) -> FileResponse:
    """A file that is written to a folder of its own, which goes away when it is sent."""
    with ExitStack() as stack:
        path = write(stack.enter_context(server.workspace.receive()))
        kept = stack.pop_all()
    return FileResponse(path, filename=path.name, background=BackgroundTask(kept.close))


def _read_revision(text: str | None) -> int | None:
    if text is None or text == "*":
        return None
    if (match := _REVISION.fullmatch(text.strip())) is None:
        raise Refusal(422, f'the header If-Match is {text!a}, expected the revision, as in "12"')
    return int(match[1])


def _read_classes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part for part in text.split(",") if part]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise Refusal(422, f"classes is {text!a}, expected numbers with commas, as in 1,2")
    return [int(part) for part in parts]


def _name_user(request: Request) -> str:
    """Who corrects: a page by the machine that it runs on, or a program."""
    host = request.client.host if request.client else "unknown"
    return f"program at {host}" if "authorization" in request.headers else f"page at {host}"
