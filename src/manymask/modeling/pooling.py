"""RoIAlign as one gather: each bin is a weighted sum of rows of the table of feature cells."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Entries of the table of cells and weights that are made at once: about 50 MB.
ENTRIES_AT_ONCE = 1 << 22


def pool_boxes(
    features: Float[Tensor, "images channels height width"],
    boxes: Float[Tensor, "boxes 5"],
    num_bins: int,
    scale: float,
    per_bin: int,
) -> Float[Tensor, "boxes channels num_bins num_bins"]:
    """Equal to torchvision's ``roi_align(features, boxes, num_bins, scale, per_bin)``, which is not aligned.

    On a CPU torchvision's reads each channel's plane by itself, with a stride of the whole plane, and turns features in
    channels-last or bf16 into contiguous fp32 at every call. Here the features are a table of one row a cell. Each bin
    is the sum of four rows a sample, by bilinear weights (Mask R-CNN, section 3), which ``embedding_bag`` reads whole.

    Args:
        features: Best in channels-last memory, where the table is no copy.
        boxes: Index of the image, x1 y1 x2 y2 in pixels.
        num_bins: Bins a side.
        scale: Feature cells a pixel.
        per_bin: Samples a side of each bin.

    Returns:
        In channels-last memory, of the type of ``features``.
    """
    num_images, channels, height, width = features.shape
    # Of one image in contiguous memory ``reshape`` is a view with the channels far apart, which takes 40 times as long.
    table = features.permute(0, 2, 3, 1).reshape(num_images * height * width, channels).contiguous()
    at_once = max(ENTRIES_AT_ONCE // (num_bins * per_bin * 2) ** 2, 1)
    parts = [_pool(table, chunk, (height, width), num_bins, scale, per_bin) for chunk in boxes.split(at_once)]
    pooled = torch.cat(parts) if len(parts) > 1 else parts[0]
    return pooled.view(len(boxes), num_bins, num_bins, channels).permute(0, 3, 1, 2)


def _pool(
    table: Tensor, boxes: Tensor, size: tuple[int, int], num_bins: int, scale: float, per_bin: int
) -> Float[Tensor, "bins channels"]:
    """The bins of some boxes, row by row."""
    height, width = size
    corners = boxes[:, 1:] * scale
    columns, across = _weigh_cells(corners[:, 0], corners[:, 2], num_bins, per_bin, width)
    rows, down = _weigh_cells(corners[:, 1], corners[:, 3], num_bins, per_bin, height)
    rows = rows + (boxes[:, :1].int() * height)[:, :, None]
    # box, bin down, bin across, entry down, entry across
    cells = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = down[:, :, None, :, None] * across[:, None, :, None, :]
    entries = (2 * per_bin) ** 2
    return F.embedding_bag(
        cells.view(-1, entries), table, mode="sum", per_sample_weights=weights.view(-1, entries).to(table.dtype)
    )


def _weigh_cells(start: Tensor, end: Tensor, num_bins: int, per_bin: int, length: int) -> tuple[Tensor, Tensor]:
    """The cells along one axis that each bin is made of, and their weights, (boxes, bins, 2 x samples).

    The rules at the border are those of torchvision's ``roi_align`` (``bilinear_interpolate`` of its kernels).
    """
    bin_size = (end - start).clamp(min=1) / num_bins
    sample = torch.arange(num_bins * per_bin, device=start.device, dtype=start.dtype)
    place = (sample + 0.5) / per_bin
    position = start[:, None] + place * bin_size[:, None]
    is_inside = (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    low = position.int()
    share = position - low
    cells = torch.stack([low, (low + 1).clamp(max=length - 1)], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1) * (is_inside.to(start.dtype) / per_bin)[..., None]
    shape = (len(start), num_bins, 2 * per_bin)
    return cells.view(shape), weights.view(shape)
