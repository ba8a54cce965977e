"""Targets of the heads: masks inside each proposal and dense maps, both sampled from the layers."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

# Points sampled at once: about 30 MB of temporaries.
POINTS_AT_ONCE = 1 << 20


def sample_mask_targets(
    layers: Int32[Tensor, "layers height width"],
    layer_of: Int64[Tensor, " instances"],
    rows: Int64[Tensor, " proposals"],
    boxes: Float32[Tensor, "proposals 4"],
    num_bins: int,
) -> Float32[Tensor, "proposals num_bins num_bins"]:
    """Cut the mask of one instance out of the layers for each proposal and average it into bins.

    Equal to torchvision's ``roi_align(masks[:, None], boxes, num_bins)`` with its defaults (``aligned=False``,
    adaptive sampling), which ``project_masks_on_boxes`` uses, but reads only the points inside each proposal: a mask's
    value at a pixel is ``layers[layer_of[row]] == row + 1`` there.

    Args:
        layers: Ids of the instances at the resolution that ``boxes`` are in.
        layer_of: The layer that each instance lives in.
        rows: The instance of each proposal, 0-based.
        boxes: x1 y1 x2 y2.
        num_bins: Side of the target, 28 for Mask R-CNN.
    """
    targets = boxes.new_zeros(len(boxes), num_bins, num_bins)
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    grids = (sizes / num_bins).ceil().long()  # samples a bin, across and down
    for grid in grids.unique(dim=0):
        members = torch.nonzero((grids == grid).all(dim=1)).flatten()
        across, down = int(grid[0]), int(grid[1])
        at_once = max(POINTS_AT_ONCE // (num_bins * num_bins * across * down), 1)
        for chunk in members.split(at_once):
            targets[chunk] = _sample(layers, layer_of[rows[chunk]], rows[chunk], boxes[chunk], num_bins, across, down)
    return targets


def _sample(
    layers: Tensor, layer: Tensor, rows: Tensor, boxes: Tensor, num_bins: int, across: int, down: int
) -> Float32[Tensor, "proposals num_bins num_bins"]:
    """The targets of proposals that take the same number of samples a bin."""
    height, width = layers.shape[-2:]
    x_low, x_high, x_weight, x_inside = _place_samples(boxes[:, 0], boxes[:, 2], num_bins, across, width)
    y_low, y_high, y_weight, y_inside = _place_samples(boxes[:, 1], boxes[:, 3], num_bins, down, height)
    flat = layers.flatten()
    ids = (rows + 1)[:, None, None]
    values = boxes.new_zeros(len(boxes), num_bins * down, num_bins * across)
    for y, y_share in ((y_low, 1 - y_weight), (y_high, y_weight)):
        line = (layer[:, None] * height + y)[:, :, None] * width
        for x, x_share in ((x_low, 1 - x_weight), (x_high, x_weight)):
            is_instance = flat[line + x[:, None, :]] == ids
            values += is_instance * ((y_share * y_inside)[:, :, None] * (x_share * x_inside)[:, None, :])
    return values.view(len(boxes), num_bins, down, num_bins, across).mean(dim=(2, 4))


def _place_samples(
    start: Tensor, end: Tensor, num_bins: int, per_bin: int, length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where samples fall along one axis: the pixels below and above, the share of the upper one, and whether inside.

    The rules at the border are those of torchvision's ``roi_align`` (``bilinear_interpolate`` of its kernels).
    """
    bin_size = (end - start).clamp(min=1) / num_bins
    index = torch.arange(num_bins * per_bin, device=start.device)
    place = index // per_bin + (index % per_bin + 0.5) / per_bin
    position = start[:, None] + place * bin_size[:, None]
    is_inside = (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    low = position.long().clamp(max=length - 1)
    return low, (low + 1).clamp(max=length - 1), position - low, is_inside


def find_ignored(
    ignored: Bool[Tensor, "height width"], boxes: Float32[Tensor, "boxes 4"], size: tuple[int, int]
) -> Bool[Tensor, " boxes"]:
    """Whether half of what a box shows of the image, or more, is to be ignored; never all boxes, which have no loss.

    Args:
        ignored: The pixels to ignore, of any resolution.
        boxes: x1 y1 x2 y2 in pixels of the image.
        size: (height, width) of the image.
    """
    height, width = ignored.shape
    # The number of such pixels above and to the left of each corner of a pixel.
    counts = F.pad(ignored.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    scale = boxes.new_tensor([width / size[1], height / size[0]])
    corners = (boxes.view(-1, 2, 2) * scale).round().long()
    (x1, x2), (y1, y2) = (corners[..., axis].clamp(0, side).T for axis, side in enumerate((width, height)))
    inside = counts[y2, x2] - counts[y1, x2] - counts[y2, x1] + counts[y1, x1]
    is_ignored = 2 * inside >= ((x2 - x1) * (y2 - y1)).clamp(min=1)
    is_ignored[:1] &= ~is_ignored.all()
    return is_ignored


def place_cells(
    size: tuple[int, int], own_size: tuple[int, int], stride: int, device: torch.device
) -> tuple[Int64[Tensor, "rows 1"], Int64[Tensor, " columns"]]:
    """Rows and columns of a map of ``own_size`` where the cells of an image of ``size`` have their centres."""
    places = (torch.arange(0, length, stride, device=device) + 0.5 for length in size)
    row, column = (
        (place * (own / length)).long().clamp(max=own - 1)
        for place, own, length in zip(places, own_size, size, strict=True)
    )
    return row[:, None], column


def make_dense_targets(
    layers: Int32[Tensor, "layers height width"],
    boxes: Float32[Tensor, "instances 4"],
    size: tuple[int, int],
    stride: int,
) -> tuple[Float32[Tensor, "4 rows columns"], Bool[Tensor, "rows columns"]]:
    """What holds at each cell of a feature map: foreground, border, and the offset to the object's centre.

    Cell k has its centre on pixel ``stride`` x k, as ``CrowdRoIHeads`` says. Ids are read there and nowhere else, so
    that memory grows as layers x cells. A border is where objects touch or overlap, up to a cell apart: ids of two of
    them lie among a cell and its eight neighbours.

    Args:
        layers: Ids of the instances, of any resolution.
        boxes: x1 y1 x2 y2 in pixels of the image that the features are of.
        size: (height, width) of that image.
        stride: Pixels of it from cell to cell.

    Returns:
        Foreground and border, 0 or 1, and the offsets across and down from the cell to the centre of the object's box,
        in halves of the box's sides; then where these offsets hold: inside one object alone.
    """
    y, x = (torch.arange(0, length, stride, device=boxes.device) + 0.5 for length in size)
    ids = layers[:, *place_cells(size, (layers.shape[1], layers.shape[2]), stride, boxes.device)]
    has_one = (ids > 0).sum(dim=0) == 1
    is_foreground = (ids > 0).any(dim=0)
    # The highest id around a cell, and the lowest counted down from above all ids; float32 holds both exactly.
    above = len(boxes) + 1
    extremes = torch.stack([ids.amax(dim=0), torch.where(ids > 0, above - ids, 0).amax(dim=0)])
    highest, lowest = F.max_pool2d(extremes.float(), 3, stride=1, padding=1)
    x1, y1, x2, y2 = F.pad(boxes.float(), (0, 0, 1, 0))[torch.where(has_one, ids.sum(dim=0), 0).long()].unbind(dim=-1)
    across = (x1 + x2 - 2 * x) / (x2 - x1).clamp(min=1)
    down = (y1 + y2 - 2 * y[:, None]) / (y2 - y1).clamp(min=1)
    return torch.stack([is_foreground.float(), (highest + lowest > above).float(), across, down]), has_one
