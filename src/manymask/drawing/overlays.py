"""Instances drawn over their image."""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from manymask.core import Category, ImageSource, Instances, Window
from manymask.core.files import write_file
from manymask.core.outlines import iterate_outlines
from manymask.core.palette import PALETTE
from manymask.imaging.intensities import keep_differences
from manymask.wording import count_of

_SHORT_SIDE, _LONG_SIDE = 800, 4096  # images whose short side is below the first are enlarged, up to the second
_STRIPE_HEIGHT = 256  # rows that are converted at a time
_ROWS_AT_ONCE = 64  # of a smaller picture, for which many times as many of the image are read
_MAX_SIDE = 8192  # images with a longer side are made smaller, down to the long side above


def draw_image_overlay(
    image: ImageSource, instances: Instances, categories: Sequence[Category], *, score_threshold: float = 0.0
) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
    """``draw_overlay`` on an image that is read in parts where it is very large.

    An image with a side above 8,192 is made smaller by a whole factor, so that none is above 4,096; outlines are then
    lines of one pixel.

    Raises:
        FormatError: The image cannot be read.
        ValueError: The instances are of another size than the image, or have labels beyond the categories.
    """
    check_instances(instances, image.size, len(categories))
    if max(image.size) <= _MAX_SIDE:
        return draw_overlay(image.read(), instances, categories, score_threshold=score_threshold)
    factor = -(-max(image.size) // _LONG_SIDE)
    shown = instances[instances.scores >= score_threshold]
    canvas = np.array(to_8bit(_read_smaller(image, factor)))
    for rows, outlines in iterate_outlines(shown.runs):
        # Corners of pixels on the canvas in 1/256, for OpenCV, whose whole numbers are the middles of pixels.
        points = np.round((outlines.points / factor - 0.5) * 256).astype(np.int32)
        rings = [points[begin:end] for begin, end in pairwise(outlines.ring_splits.tolist())]
        splits = outlines.polygon_splits[outlines.instance_splits].tolist()
        for label, (begin, end) in zip(shown.labels[np.asarray(rows)].tolist(), pairwise(splits), strict=True):
            cv2.polylines(canvas, rings[begin:end], True, PALETTE[(label - 1) % len(PALETTE)], shift=8)
    return np.concatenate([canvas, _draw_legend(canvas.shape[1], shown, categories)])


def _read_smaller(image: ImageSource, factor: int) -> Shaped[np.ndarray, "canvas_height canvas_width channels"]:
    """An image of which each pixel is the mean of ``factor`` x ``factor``, read in stripes.

    Of a pyramid the smallest level is read that is as large as the picture.
    """
    canvas_height, canvas_width = (-(-length // factor) for length in image.size)
    level = max(
        level for level, size in enumerate(image.level_sizes) if size[0] >= canvas_height and size[1] >= canvas_width
    )
    height, width = image.level_sizes[level]
    rows = []
    for first in range(0, canvas_height, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, canvas_height)
        top, bottom = (round(row * height / canvas_height) for row in (first, last))
        stripe = image.read(Window(top, 0, bottom - top, width), level)[..., :3]
        kind = stripe.dtype if stripe.dtype in (np.uint8, np.uint16) else np.float32
        size = (canvas_width, last - first)
        smaller = cv2.resize(np.ascontiguousarray(stripe, dtype=kind), size, interpolation=cv2.INTER_AREA)
        rows.append(smaller.reshape(last - first, canvas_width, -1))
    return np.concatenate(rows)


def draw_overlay(
    pixels: Shaped[np.ndarray, "height width channels"],
    instances: Instances,
    categories: Sequence[Category],
    *,
    score_threshold: float = 0.0,
) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
    """Draw a thin outline around every instance, in the colour of its class, and a legend below the image.

    Outlines are the outermost pixels of the masks, so touching and overlapping instances each keep theirs. An image
    whose short side is below 800 is enlarged by a whole factor. With no instances the image stays bare.

    Args:
        pixels: The image. Of more than three channels the first three are shown, of fewer the first, in grey. The
            brightest 0.1 % become white, and except in 8-bit images the darkest 0.1 % black.
        instances: The masks, of the image's size.
        categories: The classes; label i + 1 is ``categories[i]``.
        score_threshold: Instances of lower scores are left out.

    Raises:
        ValueError: The instances are of another size than the image, or have labels beyond the categories.
    """
    height, width = pixels.shape[:2]
    check_instances(instances, (height, width), len(categories))
    shown = instances[instances.scores >= score_threshold]
    factor = min(-(-_SHORT_SIDE // min(height, width)), max(1, _LONG_SIDE // max(height, width)))
    canvas = to_8bit(pixels).repeat(factor, axis=0).repeat(factor, axis=1)
    _draw_outlines(canvas, shown, factor)
    return np.concatenate([canvas, _draw_legend(canvas.shape[1], shown, categories)])


def check_instances(instances: Instances, size: tuple[int, int], num_classes: int) -> None:
    """Refuse instances that are not of an image of (height, width).

    Raises:
        ValueError: They are of another size, or have labels beyond the classes.
    """
    if instances.size != size:
        raise ValueError(f"expected instances of the image's size {size}, got {instances.size}")
    if instances.labels.max(initial=0) > num_classes:
        raise ValueError(f"expected labels of {num_classes} categories, got label {instances.labels.max()}")


def write_picture(path: Path, picture: UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a picture in RGB, such as that of ``draw_overlay``, as PNG."""
    _, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_file(path, png.tobytes())


def to_8bit(pixels: Shaped[np.ndarray, "height width channels"]) -> UInt8[np.ndarray, "height width 3"]:
    """Stretch the brightness for display, all channels alike, so that colours stay."""
    shown = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    # Integers of up to 16 bits are exact in float32, and become floats a stripe at a time; others are first shifted.
    if shown.dtype.kind not in "iu" or shown.dtype.itemsize > 2:
        shown = np.nan_to_num(keep_differences(shown))
    kind = np.result_type(shown.dtype, np.float32) if shown.dtype.kind == "f" else np.dtype(np.float32)
    low, high = np.percentile(shown, [0.1, 99.9]).astype(kind)
    if pixels.dtype == np.uint8:
        low = kind.type(0)
    grey = np.empty(shown.shape, dtype=np.uint8)
    for top in range(0, len(shown), _STRIPE_HEIGHT):
        stripe = shown[top : top + _STRIPE_HEIGHT].astype(kind)
        stretched = np.clip((stripe - low) / max(high - low, np.finfo(kind).tiny), 0, 1)
        grey[top : top + _STRIPE_HEIGHT] = (stretched * 255 + 0.5).astype(np.uint8)
    return np.broadcast_to(grey, (*pixels.shape[:2], 3))


def _draw_outlines(canvas: UInt8[np.ndarray, "height width 3"], instances: Instances, factor: int) -> None:
    """Colour the outermost pixels of every mask, later instances over earlier ones."""
    runs = instances.runs
    boxes, splits = runs.boxes.astype(np.int64), runs.row_splits
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    thickness = int(np.clip(np.median(sides) * factor / 12, 1, 3)) if len(sides) else 1
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for row in np.flatnonzero(np.diff(splits)):
        here = slice(splits[row], splits[row + 1])
        x1, y1, x2, y2 = boxes[row].tolist()
        mask = decode_crop(runs.start[here], runs.length[here], runs.size[0], (x1, y1, x2, y2))
        mask = mask.astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)
        inside = cv2.erode(mask, cross, iterations=thickness, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        window = canvas[y1 * factor : y2 * factor, x1 * factor : x2 * factor]
        window[mask > inside] = PALETTE[(instances.labels[row] - 1) % len(PALETTE)]


def decode_crop(
    start: np.ndarray, length: np.ndarray, height: int, box: tuple[int, int, int, int]
) -> Bool[np.ndarray, "crop_height crop_width"]:
    """One instance's mask inside its box. A run over several columns means that the box is as tall as the image."""
    x1, y1, x2, y2 = box
    column, row = np.divmod(start, height)
    begin = (column - x1) * (y2 - y1) + row - y1
    steps = np.zeros((x2 - x1) * (y2 - y1) + 1, dtype=np.int8)
    steps[begin] += 1
    steps[begin + length] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).reshape(x2 - x1, y2 - y1).T.astype(bool)


def _draw_legend(
    width: int, instances: Instances, categories: Sequence[Category]
) -> UInt8[np.ndarray, "legend_height width 3"]:
    """A white strip with the number of instances, then the colour, name and number of each class that occurs."""
    counts = np.bincount(instances.labels, minlength=len(categories) + 1)[1:]
    present = np.flatnonzero(counts).tolist()
    texts = [
        count_of(len(instances), "instance"),
        *(f"{' '.join(categories[i].name.split())}  {counts[i]}" for i in present),
    ]
    font_size = float(np.clip(width / 45, 12, 32))
    font = _load_font(font_size)
    cell_width = max(map(font.getlength, texts)) + 2.5 * font_size
    columns = min(len(texts), max(1, int(width / cell_width)))
    line = 1.8 * font_size
    legend = Image.new("RGB", (width, round(line * -(-len(texts) // columns))), "white")
    draw = ImageDraw.Draw(legend)
    for place, text in enumerate(texts):
        x, y = place % columns * cell_width + font_size / 2, line * (place // columns + 0.5)
        if place > 0:
            color = PALETTE[present[place - 1] % len(PALETTE)]
            draw.rectangle((x, y - font_size / 2, x + font_size, y + font_size / 2), fill=color)
            x += 1.4 * font_size
        draw.text((x, y), text, "black", font, anchor="lm")
    return np.array(legend)


@lru_cache
def _load_font(size: float) -> Any:
    """The font of matplotlib's pictures, without loading matplotlib, which takes longer than a small prediction."""
    package: Any = importlib.util.find_spec("matplotlib")
    try:
        return ImageFont.truetype(Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)
    except OSError:  # some distributions keep it elsewhere
        return ImageFont.load_default(size)
