"""Routes of images: uploading, listing, tiles, predicting."""

from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from manymask import __version__
from manymask.core.files import write_file
from manymask.errors import ManymaskError
from manymask.imaging.encoding import encode_webp
from manymask.outputs import OUTPUTS
from manymask.serve.decoding import FORMATS
from manymask.serve.http_schemas import (
    CheckedBody,
    ImageInfo,
    ImageMeta,
    PredictBody,
    Session,
    Uploaded,
    list_problems,
)
from manymask.serve.http_uploads import Upload, receive_files
from manymask.serve.refusals import Refusal
from manymask.serve.server import Server
from manymask.serve.table import BLOCK_SIZE
from manymask.serve.tiles import TILE_SIZE, count_levels
from manymask.serve.versions import list_versions
from manymask.serve.workspace import StoredImage
from manymask.synthetic import make_sample

EXAMPLE_NAME = "example.webp"
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"files": _FILES}, "required": ["files"]},
            }
        },
    }
}
# Tiles never change, as images do not.
_CACHED = {"cache-control": "private, max-age=86400, immutable"}


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["images"])

    @router.get("/api/session", response_model=Session, responses=list_problems())
    def get_session() -> Any:
        """Models, images and limits: what a page needs to begin."""
        return {
            "version": __version__,
            "models": server.describe_models(),
            "current": server.models.current,
            "images": [server.describe(image) for image in server.workspace.list_images()],
            "limits": server.limits.to_json(),
            "formats": list(FORMATS),
            "outputs": list(OUTPUTS),
        }

    @router.get("/api/images", response_model=list[ImageInfo], responses=list_problems())
    def list_images() -> Any:
        """All images, the oldest first."""
        return [server.describe(image) for image in server.workspace.list_images()]

    @router.post(
        "/api/images",
        response_model=Uploaded,
        responses=list_problems(400, 408, 413, 415, 503, 507),
        openapi_extra=_UPLOAD,
    )
    async def upload(request: Request) -> Any:
        """Take images; their prediction starts by itself.

        Files are judged one by one: those that cannot be used are listed with a status and a sentence each. Where none
        can be used, the answer has the status of the first.
        """
        if server.num_receiving >= server.limits.uploads:
            raise Refusal(503, f"{server.limits.uploads} uploads are being received already; come again", 2)
        server.num_receiving += 1
        try:
            return await _take_uploads(server, request)
        finally:
            server.num_receiving -= 1

    @router.post("/api/images/example", response_model=Uploaded, responses=list_problems(503, 507))
    def add_example() -> Any:
        """Take an example, drawn cells that no file is needed for."""
        return {"images": [server.describe(_add_example(server))], "refused": []}

    @router.delete("/api/images/{image_id}", status_code=204, responses=list_problems())
    def remove(image_id: str) -> None:
        """Remove an image with all that was found and corrected in it."""
        server.remove(image_id)

    @router.get("/api/images/{image_id}/meta", response_model=ImageMeta, responses=list_problems())
    def get_meta(image_id: str) -> Any:
        """An image with what a viewer needs."""
        image = server.workspace.get(image_id)
        facts, objects = image.meta.facts, server.find_objects(image)
        categories = objects.version.categories if objects else server.models.get().categories
        return server.describe(image) | {
            "levels": count_levels(facts.size),
            "tile_size": TILE_SIZE,
            "num_channels": facts.num_channels,
            "pixel_size": facts.pixel_size,
            "classes": [{"id": each.id, "name": each.name} for each in categories],
            "block_size": BLOCK_SIZE,
            "versions": [
                {name: getattr(version, name) for name in ("number", "model", "num_objects", "time")}
                for version in list_versions(image.folder)
            ],
            "can_undo": objects.can_undo if objects else False,
            "can_redo": objects.can_redo if objects else False,
        }

    @router.get(
        "/api/images/{image_id}/tiles/{level}/{x}_{y}.webp",
        response_class=Response,
        responses=list_problems() | {200: {"content": {"image/webp": {}}}},
    )
    def get_tile(
        image_id: str,
        level: int,
        x: int,
        y: int,
        lo: Annotated[float, Query(ge=0, le=1)] = 0.0,
        hi: Annotated[float, Query(ge=0, le=1)] = 1.0,
    ) -> Response:
        """A tile of the image, as Deep Zoom counts them; ``lo`` becomes black and ``hi`` white."""
        image = server.workspace.get(image_id)
        tile = server.tiles.get(image, level, x, y, lo, hi)
        return Response(tile, media_type="image/webp", headers=_CACHED)

    @router.post("/api/images/{image_id}/predict", response_model=ImageInfo, responses=list_problems(409))
    def predict(image_id: str, body: PredictBody) -> Any:
        """Predict an image again; what was found and corrected before stays as a version."""
        image = server.workspace.get(image_id)
        server.predict(image, body.model)
        return server.describe(image)

    @router.post("/api/images/{image_id}/cancel", response_model=ImageInfo, responses=list_problems())
    def cancel(image_id: str) -> Any:
        """Call the prediction of an image off; what was found until then stays."""
        image = server.workspace.get(image_id)
        server.cancel(image)
        return server.describe(image)

    @router.post("/api/images/{image_id}/checked", response_model=ImageInfo, responses=list_problems(409, 507))
    def mark_checked(image_id: str, body: CheckedBody) -> Any:
        """Say that a person looked at all of an image, or at a part of it, so that it can be trained on."""
        image = server.workspace.get(image_id)
        if body.checked:
            server.get_objects(image)  # refuses what was not predicted
            if image.meta.status in ("waiting", "predicting"):
                raise Refusal(409, "this image is being predicted; wait for the end, then look at what was found")
        if body.region is not None:
            _check_region(body.region, image)
        image.change(checked=body.checked, region=body.region if body.checked else None)
        server.tell_image(image)
        return server.describe(image)

    return router


async def _take_uploads(server: Server, request: Request) -> JSONResponse:
    """Receive files, then judge one after the other."""
    with ExitStack() as folders:
        uploads = await receive_files(
            request, "files", server.limits.files, lambda: folders.enter_context(server.workspace.receive())
        )
        images: list[StoredImage] = []
        refused: list[dict[str, Any]] = []
        for each in uploads:
            try:
                async with server.decode_turns:
                    image = await run_in_threadpool(server.add_upload, each.path.parent, each.path, each.name)
                images.append(image)
            except ManymaskError as error:
                refused.append(describe_refusal(each, error))
        server.counts["refused files"] += len(refused)
    answer = {"images": [server.describe(image) for image in images], "refused": refused}
    if images:
        return JSONResponse(answer)
    return JSONResponse(answer | {"detail": refused[0]["detail"]}, refused[0]["status"])


def describe_refusal(upload: Upload, error: ManymaskError) -> dict[str, Any]:
    """A file that is not taken; the sentence calls it as its sender does."""
    status = error.status if isinstance(error, Refusal) else 422
    sentence = str(error).replace(str(upload.path), upload.name)
    return {"name": upload.name, "status": status, "detail": sentence}


def _add_example(server: Server) -> StoredImage:
    pixels, _ = make_sample(0, size=(768, 768), num_instances=400, num_classes=1, diameter=22.0)
    with server.workspace.receive() as folder:
        file = folder / EXAMPLE_NAME
        write_file(file, encode_webp(pixels, is_exact=True))
        return server.add_upload(folder, file, EXAMPLE_NAME)


def _check_region(region: tuple[int, int, int, int], image: StoredImage) -> None:
    left, top, width, height = region
    whole_height, whole_width = image.meta.facts.size
    if not (left >= 0 <= top and width > 0 < height and left + width <= whole_width and top + height <= whole_height):
        raise Refusal(
            422,
            f"the region {list(region)} (left, top, width, height) is not inside of the image, {whole_width} wide "
            f"and {whole_height} high",
        )
