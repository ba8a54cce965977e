"""COCO's masks, polygons and RLE, and its results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as coco_mask  # pyright: ignore[reportMissingModuleSource]
from jaxtyping import Float64

from manymask.core import Category, Instances, RunLengths, decode_coco_rle, encode_coco_rle
from manymask.errors import FormatError

# Edges of a polygon are compared in blocks of this many.
_EDGE_BLOCK = 512


def find_bad_rles(rles: Sequence[dict[str, Any]], size: tuple[int, int]) -> dict[int, str]:
    """What is wrong with each RLE that cannot be decoded, by its place; looked for only where there is one."""
    bad: dict[int, str] = {}
    try:
        decode_coco_rle(rles, size)
    except FormatError:
        for place, rle in enumerate(rles):
            try:
                decode_coco_rle([rle], size)
            except FormatError as error:
                bad[place] = str(error).replace("RLE 0", "its RLE")
    return bad


def decode_segmentations(
    segmentations: Sequence[Any], size: tuple[int, int], where: str, ids: Sequence[int]
) -> RunLengths:
    """Decode polygons and RLE of one image; all at once, and one by one only to name the one that is wrong.

    Args:
        segmentations: COCO's ``segmentation`` of each instance; polygons are checked already.
        size: (height, width) of the image.
        where: What the ids count and in which file, for messages.
        ids: Number of each instance there, for messages.

    Raises:
        FormatError: An RLE is damaged or of another size than the image.
    """
    rles = [_to_rle(segmentation, size) for segmentation in segmentations]
    try:
        return decode_coco_rle(rles, size)
    except FormatError as error:
        place, problem = next(iter(find_bad_rles(rles, size).items()))
        raise FormatError(f"{where} {ids[place]}: {problem}") from error


def _to_rle(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """RLE as it is; polygons filled as COCO does and joined."""
    if isinstance(segmentation, dict):
        return segmentation
    return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))


def crosses_itself(points: Float64[np.ndarray, "points 2"]) -> bool:
    """Whether two edges of a polygon cross at a point inside both; edges that only touch or lie in line do not."""
    edges = np.roll(points, -1, axis=0) - points
    for begin in range(0, len(points), _EDGE_BLOCK):
        block = slice(begin, begin + _EDGE_BLOCK)
        way = points - points[block, None]
        side = _cross(edges[block, None], way)  # of each point, seen along each edge of the block
        is_across = side * np.roll(side, -1, axis=1) < 0
        start_side, end_side = _cross(edges, -way), _cross(edges, edges[block, None] - way)
        if (is_across & (start_side * end_side < 0)).any():
            return True
    return False


def _cross(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]


def encode_coco_results(instances: Instances, image_id: int, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Turn the instances of an image into entries of COCO's results.

    ``category_id`` is the category's own id, ``bbox`` the instance's box as x, y, width and height, ``segmentation``
    compressed RLE; numbers are not rounded.
    """
    corners = instances.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    ids = [categories[label - 1].id for label in instances.labels]
    columns = (ids, encode_coco_rle(instances.runs), instances.scores.tolist(), boxes.tolist())
    return [
        {"image_id": image_id, "category_id": category_id, "segmentation": rle, "score": score, "bbox": box}
        for category_id, rle, score, box in zip(*columns, strict=True)
    ]
