"""Mask targets, sampled from the layers inside each proposal."""

import torch
from jaxtyping import Float32, Int32, Int64
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
