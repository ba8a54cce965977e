"""A head for training alone, which gives the finest features a gradient at every cell."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

from manymask.modeling.targets import make_dense_targets, place_cells

HIDDEN_CHANNELS = 32
# Borders between touching objects are few cells of many; each counts as this many others.
BORDER_WEIGHT = 5.0


class DenseHead(nn.Sequential):
    """Four maps of a feature map: logits of foreground and of borders between objects, offsets to their centres.

    What HoVer-Net (arXiv 1812.06499) and Cellpose (10.1038/s41592-020-01018-x) learn, beside the heads that detect.

    Args:
        channels: Of the feature map.
        stride: Pixels from cell to cell.
        weight: Of the loss.
    """

    def __init__(self, channels: int, stride: int, weight: float) -> None:
        super().__init__(
            nn.Conv2d(channels, HIDDEN_CHANNELS, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(HIDDEN_CHANNELS, 4, 1)
        )
        self.stride, self.weight = stride, weight

    def compute_loss(
        self,
        features: Float[Tensor, "batch channels rows columns"],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> Float32[Tensor, ""]:
        """Binary cross-entropy of foreground and borders, and smooth L1 of the offsets inside objects.

        Args:
            features: Of images that were padded to one size; cells of the padding do not count.
            image_shapes: (height, width) of each image without padding.
            targets: Of each image, with ``boxes`` in its pixels and ``layers`` of any resolution; cells at pixels of
                ``ignored``, where that is given, do not count.
        """
        maps, wanted, is_inside = [], [], []
        for found, size, target in zip(self(features).float(), image_shapes, targets, strict=True):
            expected, has_offset = make_dense_targets(
                target["layers"].as_subclass(Tensor), target["boxes"], size, self.stride
            )
            found = found[:, : expected.shape[1], : expected.shape[2]]
            if (ignored := target.get("ignored")) is not None:
                is_counted = ~ignored[
                    place_cells(size, (ignored.shape[0], ignored.shape[1]), self.stride, ignored.device)
                ]
                is_counted[0, 0] |= ~is_counted.any()  # a loss of no cells is not a number
                found, expected, has_offset = found[:, is_counted], expected[:, is_counted], has_offset[is_counted]
            maps.append(found.flatten(1))
            wanted.append(expected.flatten(1))
            is_inside.append(has_offset.flatten())
        found, expected, inside = torch.cat(maps, dim=1), torch.cat(wanted, dim=1), torch.cat(is_inside)
        foreground = F.binary_cross_entropy_with_logits(found[0], expected[0])
        border = F.binary_cross_entropy_with_logits(found[1], expected[1], pos_weight=found.new_tensor(BORDER_WEIGHT))
        offsets = F.smooth_l1_loss(found[2:], expected[2:], beta=1 / 9, reduction="none").mean(dim=0)
        return self.weight * (foreground + border + (offsets * inside).sum() / inside.sum().clamp(min=1))
