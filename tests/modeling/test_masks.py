import time

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from manymask.core import Instances, encode_coco_rle
from manymask.modeling.masks import paste_masks

SIZE = (90, 120)


def make_detections(num_detections, seed=0, max_side=50.0):
    """Smooth random masks, and boxes inside an image of ``SIZE``."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    coarse = torch.rand(num_detections, 1, 5, 5, generator=generator)
    probabilities = torch.nn.functional.interpolate(coarse, size=28, mode="bilinear")[:, 0]
    corners = torch.rand(num_detections, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([corners, corners + max_side * torch.rand(num_detections, 2, generator=generator)], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    return probabilities, boxes


def assert_equals_torchvision(probabilities, boxes, threshold=0.5, size=SIZE):
    runs = paste_masks(probabilities, boxes, size, threshold)
    found = Instances.from_runs(runs, np.ones(len(boxes), dtype=np.int64)).to_masks()
    expected = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0] > threshold
    np.testing.assert_array_equal(found, expected.numpy())
    return runs


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("num_detections", [0, 1, 200])
def test_every_pixel(num_detections, threshold):
    runs = assert_equals_torchvision(*make_detections(num_detections), threshold)
    assert len(runs) == num_detections


def test_boxes_at_the_borders():
    height, width = SIZE
    boxes = [[0, 0, 10, 12], [width - 10, height - 7, width, height], [-5, -6, 20, 20], [100, 80, 140, 99]]
    boxes = torch.tensor([*boxes, [0, 0, width, height], [-30, -30, width + 30, height + 30]]).float()
    runs = assert_equals_torchvision(torch.full((6, 28, 28), 0.9), boxes)
    assert runs.areas[-1] == height * width


def test_boxes_without_area():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [5.2, 5.2, 5.2, 5.2], [7.0, 7.0, 7.01, 7.01]])
    assert_equals_torchvision(torch.full((3, 28, 28), 0.9), boxes)


@pytest.mark.parametrize("box", [[-60, 5, -20, 30], [5, -60, 30, -20], [200, 5, 230, 30], [5, 200, 30, 230]])
def test_boxes_outside_are_empty(box):
    runs = paste_masks(torch.ones(1, 28, 28), torch.tensor([box]).float(), SIZE)
    assert (len(runs), len(runs.owner)) == (1, 0)


def test_one_thousand_detections_are_fast():
    corners = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 1935
    boxes = torch.cat([corners, corners + 60], dim=1)
    probabilities = make_detections(1000)[0]
    start = time.perf_counter()
    rles = encode_coco_rle(paste_masks(probabilities, boxes, (2000, 2000)))
    assert time.perf_counter() - start < 2
    assert len(rles) == 1000
