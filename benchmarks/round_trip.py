"""What a mask can lose between the ground truth and the page: box, bins, and back to pixels, with no network between.

For each instance the mask target of its true box is made as in training and pasted as in prediction; the IoU with the
mask that it came from bounds what any network can reach. Usage: python benchmarks/round_trip.py DATA [DATA ...]
"""

import sys

import numpy as np
import torch

from manymask.core import compute_iou, encode_layers, find_layers, intersect_runs
from manymask.formats import read_dataset
from manymask.modeling.detections import paste_masks
from manymask.modeling.roi_heads import map_boxes
from manymask.modeling.targets import sample_mask_targets
from manymask.training.augmentation import make_target

SIZES = ((0, 8), (8, 12), (12, 16), (16, 24), (24, 48), (48, 96), (96, 1000))


def measure(sample, num_bins, is_exact):
    """IoU of each instance of an image with what is left of it, and the square root of its box's area."""
    target = make_target(sample.layers, sample.labels, sample.iscrowd)
    layers, boxes = target["layers"].as_subclass(torch.Tensor), target["boxes"]
    size = tuple(layers.shape[-2:])
    rows = torch.arange(len(boxes))
    placed = map_boxes(boxes, size, size, is_exact=is_exact)
    masks = sample_mask_targets(layers, find_layers(target["layers"], len(boxes)), rows, placed, num_bins)
    pasted = paste_masks(masks, boxes, size, is_exact=is_exact)
    truth = encode_layers(target["layers"], len(boxes))
    pairs = intersect_runs(pasted, truth)
    iou = compute_iou(pairs, pasted.areas, truth.areas, np.zeros(len(truth), dtype=bool))
    own = pairs.first == pairs.second
    result = np.zeros(len(truth))
    result[pairs.first[own]] = iou[own]
    lengths = (boxes[:, 2:] - boxes[:, :2]).numpy()
    return result, np.sqrt(lengths.prod(axis=1))


def main():
    """Print a table for each data set."""
    for path in sys.argv[1:]:
        dataset = read_dataset(path)
        chosen = dataset.subset(range(0, len(dataset), max(len(dataset) // 60, 1)))
        print(f"{path}: mean IoU after the round trip, by the square root of the box's area")
        print("| bins | alignment | " + " | ".join(f"{low} to {high}" for low, high in SIZES) + " | all |")
        for num_bins in (14, 28, 56):
            for is_exact in (False, True):
                parts = [measure(sample, num_bins, is_exact) for sample in chosen]
                iou, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
                cells = [iou[(lengths >= low) & (lengths < high)] for low, high in SIZES] + [iou]
                text = " | ".join(f"{cell.mean():.3f}" if len(cell) else "-" for cell in cells)
                print(f"| {num_bins} | {'exact' if is_exact else 'torchvision'} | {text} |")


if __name__ == "__main__":
    main()
