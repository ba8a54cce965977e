"""Routes for programs, trainings and whoever watches the server."""

import asyncio
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from manymask.errors import ManymaskError
from manymask.serve.decoding import open_decoded
from manymask.serve.http_objects import pack_response
from manymask.serve.http_schemas import (
    CurrentBody,
    ImproveBody,
    JobInfo,
    ModelInfo,
    Problem,
    list_problems,
)
from manymask.serve.http_uploads import Upload, receive_files
from manymask.serve.jobs import Job
from manymask.serve.metrics import format_metrics
from manymask.serve.predicting import Cancelled
from manymask.serve.predicting import Request as Wanted
from manymask.serve.refusals import Refusal
from manymask.serve.results import Format, Found, encode
from manymask.serve.server import Server

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            }
        },
    }
}
_MAX_WAIT = 300.0
_LOOK_SECONDS = 0.5
FormatQuery = Annotated[Format, Query(description="coco, geojson, labels (TIFF), or packed for manymask's own client.")]


def make_router(server: Server) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post(
        "/api/predict",
        tags=["predict"],
        responses=list_problems(400, 408, 413, 415, 503, 507)
        | {
            200: {
                "description": "What was found.",
                "content": {"application/json": {}, "image/tiff": {}, "application/x-npz": {}},
            },
            202: {"description": "It takes longer: a job.", "model": JobInfo},
        },
        openapi_extra=_UPLOAD,
    )
    async def predict(
        request: Request,
        format: FormatQuery = "coco",
        model: Annotated[str | None, Query(max_length=200)] = None,
        wait: Annotated[
            float, Query(ge=0, le=_MAX_WAIT, description="Seconds; after them the answer is a job.")
        ] = 60.0,
    ) -> Response:
        """Predict one image, which is not kept."""
        server.predictor.check_room(server.num_coming)
        name = server.models.find(model).name
        server.num_coming += 1
        with ExitStack() as folders:
            try:
                uploads = await receive_files(
                    request, "image", 1, lambda: folders.enter_context(server.workspace.receive())
                )
                async with server.decode_turns:
                    wanted = await run_in_threadpool(_prepare, server, uploads[0], name)
                server.predictor.submit(wanted)
            finally:
                server.num_coming -= 1
            kept = folders.pop_all()
        wanted.future.add_done_callback(lambda _: kept.close())
        if not await _wait_for(wanted, wait, request):
            job = server.jobs.add(_make_job(wanted))
            return JSONResponse(job.to_json(), 202, {"location": f"/api/jobs/{job.id}"})
        return await run_in_threadpool(_answer, server, request, _get_found(wanted), format)

    @router.post(
        "/api/improve", tags=["improve"], status_code=202, response_model=JobInfo, responses=list_problems(409, 507)
    )
    def improve(body: ImproveBody) -> Any:
        """Train on the checked images; the new model predicts only when it is asked for."""
        if body.minutes > server.limits.minutes:
            raise Refusal(422, f"minutes is {body.minutes:g}; this server trains for {server.limits.minutes:g} at most")
        return server.improve(body.minutes, body.base).to_json()

    @router.get("/api/jobs/{job_id}", tags=["jobs"], response_model=JobInfo, responses=list_problems())
    def get_job(job_id: str) -> Any:
        """How a job is."""
        return server.jobs.get(job_id).to_json()

    @router.get(
        "/api/jobs/{job_id}/result",
        tags=["jobs"],
        responses=list_problems(409) | {200: {"content": {"application/json": {}}}},
    )
    def get_result(request: Request, job_id: str, format: FormatQuery = "coco") -> Response:
        """What a job of ``/api/predict`` found."""
        job = server.jobs.get(job_id)
        job.refresh()
        if job.status != "done":
            raise Refusal(409, f"the job is {job.status}, so there is no result")
        if not isinstance(job.output, Found):
            return JSONResponse(job.result)
        return _answer(server, request, job.output, format)

    @router.delete("/api/jobs/{job_id}", tags=["jobs"], response_model=JobInfo, responses=list_problems())
    def cancel_job(job_id: str) -> Any:
        """Call a job off; one that is over stays as it is."""
        job = server.jobs.get(job_id)
        if not job.is_over:
            job.stop()
        return job.to_json()

    @router.get("/api/models", tags=["models"], response_model=list[ModelInfo], responses=list_problems())
    def list_models() -> Any:
        """All models."""
        return server.describe_models()

    @router.post("/api/models/current", tags=["models"], response_model=ModelInfo, responses=list_problems())
    def choose_model(body: CurrentBody) -> Any:
        """Let a model predict new images from now on."""
        server.models.choose(body.name)
        return next(each for each in server.describe_models() if each["name"] == body.name)

    @router.get("/health", tags=["health"])
    @router.get("/v2/health/live", tags=["health"])
    @router.get("/v2/health/ready", tags=["health"])
    async def tell_health() -> dict[Literal["status"], Literal["ok"]]:
        """Whether the server answers; the model is loaded before it does."""
        return {"status": "ok"}

    @router.get("/metrics", tags=["health"], response_class=Response, responses={401: {"model": Problem}})
    def get_metrics() -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(format_metrics(server), media_type="text/plain; version=0.0.4")

    return router


def _prepare(server: Server, upload: Upload, model: str) -> Wanted:
    """Decode an image that was received."""
    try:
        facts = server.decode_upload(upload.path, upload.path.parent, upload.name, model)
    except ManymaskError as error:
        server.counts["refused files"] += 1
        status = error.status if isinstance(error, Refusal) else 422
        raise Refusal(status, str(error).replace(str(upload.path), upload.name)) from error
    source = open_decoded(upload.path.parent, upload.path, facts)
    return server.predictor.make_request(source, upload.name, model)


async def _wait_for(wanted: Wanted, seconds: float, request: Request) -> bool:
    """Whether it is found after so many seconds at most; nobody waits for a client that is gone."""
    future = asyncio.wrap_future(wanted.future)
    end = asyncio.get_running_loop().time() + seconds
    while not future.done():
        left = end - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.wait([future], timeout=min(left, _LOOK_SECONDS))
        if not future.done() and await request.is_disconnected():
            wanted.cancel()
            raise Refusal(499, "the client is gone")
    return True


def _get_found(wanted: Wanted) -> Found:
    try:
        model, instances = wanted.future.result()
    except (CancelledError, Cancelled) as error:
        raise Refusal(503, "the prediction was called off; send it again", 5) from error
    return Found(model, instances, wanted.source, wanted.name)


def _make_job(wanted: Wanted) -> Job:
    """A job for what goes on after its request."""
    job = Job("predict", what=f"predicting {wanted.name}", stop=wanted.cancel)

    def refresh() -> None:
        future = wanted.future
        job.progress = wanted.progress
        if job.is_over:
            return
        if future.cancelled() or (wanted.is_cancelled and future.done()):
            job.status = "cancelled"
        elif not future.done():
            job.status = "running" if future.running() else "waiting"
        elif (error := future.exception()) is not None:
            job.status = "failed"
            job.error = str(error) if isinstance(error, ManymaskError) else "this is a fault of the program"
        else:
            job.output = found = _get_found(wanted)
            job.result = {"num_objects": found.num_shown, "model": wanted.model}
            job.status, job.progress = "done", (wanted.progress[1], wanted.progress[1])

    job.refresh = refresh
    return job


def _answer(server: Server, request: Request, found: Found, format: Format) -> Response:
    content, media_type = encode(found, format, server.workspace)
    return pack_response(request, content, media_type, {})
