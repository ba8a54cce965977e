"""Anchor matching that never builds instances x anchors.

Anchors lie on regular grids. For one grid and one anchor shape the IoU with a ground-truth box can only fall as the
anchor's centre moves away from the box's, so all anchors that reach a given IoU lie in a small window of the grid,
which is known in closed form. Only the pairs in those windows are looked at, in chunks of bounded size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torchvision.ops import box_area

# Pairs looked at at once: about 100 MB of temporaries.
PAIRS_AT_ONCE = 1 << 20
# Windows are widened by this share against rounding; exactness comes from the IoU itself, not from the window.
SLACK = 1e-3


@dataclass(frozen=True)
class AnchorGrid:
    """The anchors of one feature level, in torchvision's order: row, column, shape.

    Attributes:
        shapes: The anchors around the origin, x1 y1 x2 y2 in pixels.
        rows: Rows of the feature map.
        columns: Columns of the feature map.
        stride: (vertical, horizontal) distance between neighbouring anchors in pixels.
        first: Index of the level's first anchor among all anchors of the image.
    """

    shapes: Float32[Tensor, "shapes 4"]
    rows: int
    columns: int
    stride: tuple[int, int]
    first: int


def match_anchors(
    boxes: Float32[Tensor, "instances 4"], grids: list[AnchorGrid], high: float, low: float
) -> Int64[Tensor, " anchors"]:
    """Assign a ground-truth box to each anchor, as torchvision's ``Matcher`` with low-quality matches does.

    An anchor gets the row of the box with the highest IoU (the first one on ties) where that IoU is at least ``high``,
    or where the anchor is the best, or as good as the best, for some box (Faster R-CNN, section 3.1.2). A box that no
    anchor touches gets none, where torchvision's gives it every anchor.

    Args:
        boxes: x1 y1 x2 y2 in pixels of the network's input, of positive size; at least one.
        grids: The anchors of all levels.
        high: IoU from which an anchor is an object.
        low: IoU below which an anchor is background.

    Returns:
        The row of the box, -1 for background, -2 for anchors between the thresholds, which are not trained on.
    """
    last = grids[-1]
    num_anchors = last.first + last.rows * last.columns * len(last.shapes)
    bound = torch.stack([_bound_best_iou(boxes, grid, i) for grid in grids for i in range(len(grid.shapes))], dim=1)
    best_bound = bound.max(dim=1).values * (1 - SLACK)
    # IoU and row in one number, so that one maximum finds the highest IoU and, on ties, the first row.
    best_key = torch.full((num_anchors,), -1, dtype=torch.int64, device=boxes.device)
    best_iou = torch.zeros(len(boxes), device=boxes.device)
    candidates = [(best_key[:0], best_key[:0], best_iou[:0])]
    shapes = ((grid, i) for grid in grids for i in range(len(grid.shapes)))
    for (grid, shape_index), shape_bound in zip(shapes, bound.T, strict=True):
        is_best_here = (shape_bound >= best_bound) & (best_bound > 0)
        # For all boxes alike: an anchor that is one box's best goes to whichever box has the highest IoU there.
        min_iou = torch.where(is_best_here, best_bound, low).min().clamp(max=low).item()
        for rows, anchors, iou in _iterate_pairs(boxes, grid, shape_index, min_iou):
            key = (iou.view(torch.int32).long() << 32) + (len(boxes) - rows)
            best_key.scatter_reduce_(0, anchors, key, "amax")
            best_iou.scatter_reduce_(0, rows, iou, "amax")
            is_candidate = (iou >= best_bound[rows]) & (iou > 0)
            candidates.append((rows[is_candidate], anchors[is_candidate], iou[is_candidate]))
    best_row = len(boxes) - (best_key & 0xFFFFFFFF)
    iou = (best_key >> 32).int().view(torch.float32)
    matches = torch.where(iou >= high, best_row, -2)
    matches[(best_key < 0) | (iou < low)] = -1
    rows, anchors, iou = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    low_quality = anchors[iou == best_iou[rows]]
    matches[low_quality] = best_row[low_quality]
    return matches


def _bound_best_iou(
    boxes: Float32[Tensor, "instances 4"], grid: AnchorGrid, shape_index: int
) -> Float32[Tensor, " instances"]:
    """IoU of each box with the anchor of one shape whose centre is nearest to its own: the best of that shape."""
    shape = grid.shapes[shape_index]
    overlap = []
    for axis, count, stride in ((0, grid.columns, grid.stride[1]), (1, grid.rows, grid.stride[0])):
        center = (boxes[:, axis] + boxes[:, axis + 2] - shape[axis] - shape[axis + 2]) / 2
        shift = (center / stride).round().clamp(0, count - 1) * stride
        end = torch.minimum(boxes[:, axis + 2], shift + shape[axis + 2])
        overlap.append((end - torch.maximum(boxes[:, axis], shift + shape[axis])).clamp(min=0))
    intersection = overlap[0] * overlap[1]
    return intersection / (box_area(boxes) + box_area(shape[None]) - intersection)


def _iterate_pairs(
    boxes: Float32[Tensor, "instances 4"], grid: AnchorGrid, shape_index: int, min_iou: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """All (row, anchor, IoU) of one shape whose IoU can be ``min_iou`` or more, in chunks."""
    shape = grid.shapes[shape_index]
    shape_size = shape[2:] - shape[:2]
    box_sizes = boxes[:, 2:] - boxes[:, :2]
    smaller = torch.minimum(box_sizes, shape_size)
    # IoU >= t needs an intersection of t / (1 + t) of the two areas, so at least that over the smaller height across.
    min_intersection = min_iou / (1 + min_iou) * (box_area(boxes) + box_area(shape[None]))
    min_overlap = min_intersection[:, None] / smaller.flip(1)
    reach = (box_sizes + shape_size) / 2 * (1 + SLACK) - min_overlap
    centers = (boxes[:, :2] + boxes[:, 2:] - shape[:2] - shape[2:]) / 2
    stride = torch.tensor([grid.stride[1], grid.stride[0]], device=boxes.device)
    count = torch.tensor([grid.columns, grid.rows], device=boxes.device)
    begin = ((centers - reach) / stride).ceil().clamp(min=0).long()
    end = torch.minimum(((centers + reach) / stride).floor().long() + 1, count)
    is_possible = (min_overlap <= smaller * (1 + SLACK)).all(dim=1)
    extent = (end - begin).clamp(min=0) * is_possible[:, None]
    num_pairs = extent.prod(dim=1)
    total = num_pairs.cumsum(0)
    chunk_of = (total - num_pairs) // PAIRS_AT_ONCE
    for chunk in chunk_of[num_pairs > 0].unique():
        rows = torch.nonzero((chunk_of == chunk) & (num_pairs > 0)).flatten()
        yield _measure_pairs(boxes, grid, shape_index, rows, begin[rows], extent[rows])


def _measure_pairs(
    boxes: Tensor, grid: AnchorGrid, shape_index: int, rows: Tensor, begin: Tensor, extent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of some rows with the windows (begin, extent), each (column, row), and their IoU as torchvision's."""
    num_pairs = extent.prod(dim=1)
    local = torch.arange(int(num_pairs.sum()), device=boxes.device)
    local -= (num_pairs.cumsum(0) - num_pairs).repeat_interleave(num_pairs)
    width = extent[:, 0].repeat_interleave(num_pairs)
    column = begin[:, 0].repeat_interleave(num_pairs) + local % width
    row = begin[:, 1].repeat_interleave(num_pairs) + local // width
    shape, area = grid.shapes[shape_index], box_area(grid.shapes[shape_index][None])
    overlap = []
    for axis, shift in ((0, column * grid.stride[1]), (1, row * grid.stride[0])):
        end = torch.minimum(boxes[rows, axis + 2].repeat_interleave(num_pairs), shift + shape[axis + 2])
        start = torch.maximum(boxes[rows, axis].repeat_interleave(num_pairs), shift + shape[axis])
        overlap.append((end - start).clamp_(min=0))
    intersection = overlap[0] * overlap[1]
    iou = intersection / (box_area(boxes[rows]).repeat_interleave(num_pairs) + area - intersection)
    anchor = grid.first + (row * grid.columns + column) * len(grid.shapes) + shape_index
    return rows.repeat_interleave(num_pairs), anchor, iou
