"""Images with their instances, small enough to go into a page: JPEG pictures and outlines as SVG paths."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from markupsafe import Markup

from manymask.core import Instances
from manymask.drawing.overlays import check_instances, decode_crop, to_8bit
from manymask.metrics.error_split import ImageErrors
from manymask.reporting.charts import Number
from manymask.reporting.error_kinds import ERRORS, KINDS

_LONG_SIDE = 1024  # of embedded pictures; outlines stay in the image's own pixels
_QUALITY, _THUMBNAIL_QUALITY = 85, 75  # of JPEG
_THUMBNAIL_SIDE = 320
_TOLERANCE = 1.0  # of outlines, in half pixels


@dataclass(frozen=True, eq=False)
class ViewedImage:
    """An image for the page's browser.

    Attributes:
        name: Its name, unique in the page.
        pixels: The image, of any number of channels and the file's own type.
        truth: The ground truth.
        predictions: The predictions to show.
        errors: What became of each instance and of each prediction.
        loss: What images are sorted by, the highest first: 1 - F1.
    """

    name: str
    pixels: Shaped[np.ndarray, "height width channels"]
    truth: Instances
    predictions: Instances
    errors: ImageErrors
    loss: Number


@dataclass(frozen=True)
class EncodedImage:
    """An image as the page holds it.

    Attributes:
        name: Its name.
        loss: What images are sorted by.
        thumbnail: A small picture with the outlines of errors, as a ``data:`` address.
        content: What the browser reads, as JSON that is safe inside a ``<script>``.
    """

    name: str
    loss: Number
    thumbnail: str
    content: Markup


def choose_images(names: Sequence[str], max_images: int) -> list[str]:
    """The images to show: all, or the worst half of ``max_images`` and the rest evenly through the others.

    Args:
        names: Of the images, worst first.
        max_images: How many to show at most.
    """
    if len(names) <= max_images:
        return list(names)
    num_worst = (max_images + 1) // 2
    places = np.linspace(num_worst, len(names) - 1, max_images - num_worst).round().astype(int)
    return [names[place] for place in (*range(num_worst), *places.tolist())]


def encode_image(image: ViewedImage, num_classes: int) -> EncodedImage:
    """Make the picture, the thumbnail and the outlines of an image.

    Raises:
        ValueError: Instances are of another size than the image, have labels beyond the classes or unknown kinds, or a
            kind or an IoU is missing.
    """
    height, width = image.pixels.shape[:2]
    for instances in (image.truth, image.predictions):
        check_instances(instances, (height, width), num_classes)
    picture, errors = to_8bit(image.pixels), image.errors
    truth, predictions = trace_outlines(image.truth), trace_outlines(image.predictions)
    content = {
        "name": image.name,
        "width": width,
        "height": height,
        "diameter": _measure_diameter(image.truth, image.predictions),
        "picture": _encode_picture(_shrink(picture, _LONG_SIDE), _QUALITY),
        "truth": _list_rows(truth, image.truth.labels, errors.instances, errors.instance_ious),
        "predictions": _list_rows(
            predictions, image.predictions.labels, errors.predictions, errors.prediction_ious, image.predictions.scores
        ),
    }
    thumbnail = _draw_thumbnail(picture, (*truth, *predictions), (*errors.instances, *errors.predictions))
    return EncodedImage(
        name=image.name,
        loss=image.loss,
        thumbnail=_encode_picture(thumbnail, _THUMBNAIL_QUALITY),
        content=write_json(content),
    )


def _list_rows(
    outlines: list[list[np.ndarray]], labels: np.ndarray, kinds: np.ndarray, *numbers: np.ndarray
) -> list[tuple[Any, ...]]:
    """Each instance without the names of its values, as a page holds many thousands; the script knows their order."""
    names = [kind.name for kind in KINDS]
    rounded = [[round(value, 3) for value in values.tolist()] for values in numbers]
    paths, places = map(_write_path, outlines), [names.index(kind) for kind in kinds.tolist()]
    return list(zip(paths, labels.tolist(), places, *rounded, strict=True))


def write_json(value: object) -> Markup:
    """JSON to stand in a ``<script>``, which no text inside can end."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c"))


def trace_outlines(instances: Instances) -> list[list[np.ndarray]]:
    """Outlines of every mask, holes too, as polygons of (points, 2) int32 column and row in half pixels.

    They run a quarter of a pixel inside the masks' edges, so that instances that touch keep their own. A mask is looked
    at inside its own box, so that neither time nor memory grows as instances x pixels.
    """
    runs = instances.runs
    boxes, splits = runs.boxes.astype(np.int64).tolist(), runs.row_splits.tolist()
    outlines: list[list[np.ndarray]] = []
    for (x1, y1, x2, y2), begin, end in zip(boxes, splits[:-1], splits[1:], strict=True):
        if begin == end:
            outlines.append([])
            continue
        mask = decode_crop(runs.start[begin:end], runs.length[begin:end], runs.size[0], (x1, y1, x2, y2))
        outlines.append([polygon + np.array([2 * x1, 2 * y1], dtype=np.int32) for polygon in _trace_mask(mask)])
    return outlines


def _trace_mask(mask: Bool[np.ndarray, "crop_height crop_width"]) -> list[np.ndarray]:
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [cv2.approxPolyDP(contour, _TOLERANCE, True)[:, 0].astype(np.int32) for contour in contours]


def _write_path(polygons: list[np.ndarray]) -> str:
    """An SVG path in half pixels: each polygon's first point, then its steps."""
    parts = []
    for polygon in polygons:
        steps = np.diff(polygon, axis=0).ravel().tolist()
        text = " ".join(map(str, steps)).replace(" -", "-")
        parts.append(f"M{polygon[0, 0]} {polygon[0, 1]}{'l' * bool(steps)}{text}z")
    return "".join(parts)


def _measure_diameter(*parts: Instances) -> float:
    """Side of the median mask's square, in pixels: what the width of outlines is chosen by."""
    areas = np.concatenate([part.runs.areas for part in parts])
    return round(float(np.sqrt(np.median(areas))), 1) if len(areas) else 0.0


def _shrink(picture: UInt8[np.ndarray, "height width 3"], long_side: int) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture with its long side at most so long."""
    height, width = picture.shape[:2]
    factor = long_side / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _draw_thumbnail(
    picture: UInt8[np.ndarray, "height width 3"], outlines: Sequence[list[np.ndarray]], kinds: Sequence[str]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A small picture with the outlines of what is wrong."""
    colors = {kind.name: tuple(bytes.fromhex(kind.color[1:])) for kind in ERRORS}
    small = _shrink(picture, _THUMBNAIL_SIDE).copy()
    factor = small.shape[1] / picture.shape[1] / 2 * 16  # to sixteenths of a pixel: OpenCV's ``shift``
    for polygons, kind in zip(outlines, kinds, strict=True):
        if kind in colors:
            points = [(polygon * factor).round().astype(np.int32) for polygon in polygons]
            cv2.polylines(small, points, True, colors[kind], 1, cv2.LINE_AA, shift=4)
    return small


def _encode_picture(picture: UInt8[np.ndarray, "height width 3"], quality: int) -> str:
    bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode("ascii")
