"""What is sent and received, for the checks of requests and for the description of the interface."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_IMAGE = {
    "id": "k3v9x0q2m7ab",
    "name": "plate1_a.tif",
    "width": 2048,
    "height": 2048,
    "status": "done",
    "progress": [4, 4],
    "num_objects": 812,
    "num_edited": 3,
    "num_unsure": 41,
    "checked": False,
    "region": None,
    "model": "nuclei",
    "version": 1,
    "revision": 4,
    "error": None,
}


class _Strict(BaseModel):
    """A body in which nothing unknown may be."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why a request was not done."""

    detail: str = Field(examples=["there is no such image; it may have been removed"])


class Category(BaseModel):
    """A class of objects."""

    id: int
    name: str


class ModelInfo(BaseModel):
    """A model that can be asked for."""

    name: str
    classes: list[Category]
    score_threshold: float
    note: str


class ImageInfo(BaseModel):
    """An image of the page."""

    model_config = ConfigDict(json_schema_extra={"examples": [_IMAGE]})

    id: str
    name: str
    width: int
    height: int
    status: Literal["waiting", "predicting", "done", "failed", "cancelled"]
    progress: tuple[int, int]
    num_objects: int
    num_edited: int
    num_unsure: int
    checked: bool
    region: tuple[int, int, int, int] | None
    model: str | None
    version: int | None
    revision: int
    error: str | None


class VersionInfo(BaseModel):
    """What one prediction found."""

    number: int
    model: str
    num_objects: int
    time: float


class ImageMeta(ImageInfo):
    """An image with what a viewer needs."""

    levels: int
    tile_size: int
    num_channels: int
    pixel_size: tuple[float, float] | None
    classes: list[Category]
    block_size: int
    versions: list[VersionInfo]
    can_undo: bool
    can_redo: bool


class RefusedFile(BaseModel):
    """A file that was not taken, and why."""

    name: str
    status: int
    detail: str


class Uploaded(BaseModel):
    """What became of uploaded files."""

    images: list[ImageInfo]
    refused: list[RefusedFile]


class Session(BaseModel):
    """What a page needs to begin."""

    version: str
    models: list[ModelInfo]
    current: str
    images: list[ImageInfo]
    limits: dict[str, float]
    formats: list[str]
    outputs: list[str]


class JobInfo(BaseModel):
    """Work that takes longer than a request."""

    id: str
    kind: Literal["predict", "improve"]
    status: Literal["waiting", "running", "done", "failed", "cancelled"]
    progress: tuple[int, int]
    what: str
    rows: list[dict[str, float | None]]
    result: dict[str, Any] | None
    error: str | None


class PredictBody(_Strict):
    """Which model is to look."""

    model: Annotated[str | None, Field(max_length=200, examples=["nuclei"])] = None


class EditsBody(_Strict):
    """Edits of which all are done or none; docs/serve.md lists them."""

    edits: Annotated[list[dict[str, Any]], Field(examples=[[{"op": "delete", "ids": [17, 40]}]])]


class CheckedBody(_Strict):
    """Whether a person looked at all of an image, or at a part: left, top, width and height in pixels."""

    checked: bool
    region: Annotated[tuple[int, int, int, int] | None, Field(examples=[[0, 0, 1024, 1024]])] = None


class ImproveBody(_Strict):
    """How long training may take, and the model that it starts from."""

    minutes: Annotated[float, Field(gt=0, examples=[10])]
    base: Annotated[str | None, Field(max_length=200, examples=["nuclei"])] = None


class CurrentBody(_Strict):
    """The model that predicts new images from now on."""

    name: Annotated[str, Field(max_length=200, examples=["nuclei"])]


def list_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of the refusals of a route."""
    always = (401, 403, 404, 422)
    return {status: {"model": Problem} for status in sorted({*always, *statuses})}
