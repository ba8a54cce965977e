"""The promise: nothing grows as instances x pixels or as instances x anchors, at 2,000 instances on 2048 x 2048."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from manymask.core import Category, Instances, encode_crops, paint_layers
from manymask.formats import encode_coco_results
from manymask.metrics import score_image
from manymask.modeling.anchors import AnchorGrid, match_anchors
from manymask.modeling.detections import paste_masks
from manymask.modeling.targets import sample_mask_targets
from manymask.training.augmentation import make_target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
NUM_INSTANCES, SIZE = 2000, 2048
# One byte for each pixel of each mask takes 8.4 GB, one float for each pair of an instance and an anchor as much.
DENSE_STACK = NUM_INSTANCES * SIZE * SIZE
BOUND = DENSE_STACK / 10


def measure_peak(work) -> float:
    """Bytes that a function takes beyond what the process holds before it."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present use
    before = read_status("VmRSS")
    work()
    return read_status("VmHWM") - before


def read_status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def truth() -> Instances:
    """Discs of 24 pixels, of which many overlap."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[-1:1:24j, -1:1:24j]
    corners = rng.integers(0, SIZE - 24, (NUM_INSTANCES, 2)).tolist()
    runs = encode_crops(((left, top, x * x + y * y <= 1) for left, top in corners), (SIZE, SIZE))
    return Instances.from_runs(runs, np.ones(NUM_INSTANCES, dtype=np.int64))


def test_the_measurement_sees_a_dense_stack():
    """A twentieth of one, lest the measurement itself needs a large machine."""
    num_bytes = DENSE_STACK // 20
    assert 0.9 * num_bytes <= measure_peak(lambda: np.ones(num_bytes, dtype=np.uint8)) < BOUND


def test_targets(truth):
    layers, boxes = paint_layers(truth.runs), torch.from_numpy(truth.boxes).float()
    no_crowd = np.zeros(NUM_INSTANCES, dtype=bool)
    assert measure_peak(lambda: make_target(layers, truth.labels, no_crowd)) < BOUND
    rows = torch.arange(512)
    layer_of = torch.zeros(NUM_INSTANCES, dtype=torch.int64)
    assert measure_peak(lambda: sample_mask_targets(layers, layer_of, rows, boxes[:512], 28)) < BOUND


def test_matching(truth):
    boxes = torch.from_numpy(truth.boxes).float()
    grids, first = [], 0
    for stride in (4, 8, 16, 32, 64):
        shapes = torch.tensor([[-1.0, -1, 1, 1], [-2, -1, 2, 1], [-1, -2, 1, 2]]) * 3 * stride
        grids.append(AnchorGrid(shapes, SIZE // stride, SIZE // stride, (stride, stride), first))
        first += 3 * (SIZE // stride) ** 2
    assert measure_peak(lambda: match_anchors(boxes, grids, 0.7, 0.3)) < BOUND


@pytest.mark.parametrize("is_exact", [False, True])
def test_pasting(truth, is_exact):
    masks, boxes = torch.rand(NUM_INSTANCES, 28, 28), torch.from_numpy(truth.boxes).float()
    assert measure_peak(lambda: paste_masks(masks, boxes, (SIZE, SIZE), is_exact=is_exact)) < BOUND


def test_encoding(truth):
    assert measure_peak(lambda: encode_coco_results(truth, 1, (Category(1, "disc"),))) < BOUND


def test_scoring(truth):
    assert measure_peak(lambda: score_image(1, truth, truth, max_detections=None, score_threshold=0.5)) < BOUND
