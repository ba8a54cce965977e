import json
import math
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from manymask.core import Instances, RunLengths, encode_coco_rle, encode_crops, paint_layers
from manymask.modeling.detections import Detections, Postprocessing, make_instances, paste_masks, suppress_masks
from manymask.modeling.roi_heads import map_boxes
from manymask.modeling.targets import sample_mask_targets
from manymask.plan import make_plan
from tests import dense
from tests.strategies import stacks

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


class TestExact:
    """Pasting that keeps the fractions of a pixel."""

    @staticmethod
    def paste(probabilities, boxes, size=SIZE, threshold=0.5):
        return paste_masks(probabilities, boxes, size, threshold, is_exact=True)

    @pytest.mark.parametrize("num_bins", [14, 28, 56])
    def test_full_masks_fill_the_pixels_whose_centres_are_inside(self, num_bins):
        boxes = torch.tensor([[10.0, 5.0, 40.0, 30.0], [10.4, 5.6, 40.4, 30.6], [3.0, 3.0, 4.0, 4.0]])
        runs = self.paste(torch.ones(3, num_bins, num_bins), boxes, threshold=0.2)
        assert runs.boxes.tolist() == [[10, 5, 40, 30], [10, 6, 40, 31], [3, 3, 4, 4]]
        assert runs.areas.tolist() == [750, 750, 1]

    def test_empty(self):
        assert len(self.paste(torch.zeros(0, 28, 28), torch.zeros(0, 4))) == 0

    def test_beside_the_image(self):
        boxes = torch.tensor([[-60, 5, -20, 30], [200, 5, 230, 30], [5, -60, 30, -20], [5, 200, 30, 230]]).float()
        assert self.paste(torch.ones(4, 28, 28), boxes).areas.tolist() == [0, 0, 0, 0]

    @given(
        st.lists(st.tuples(st.floats(-70, 170), st.floats(-70, 170), st.floats(0, 90), st.floats(0, 90)), max_size=5),
        st.floats(0.05, 0.95),
    )
    def test_against_one_pixel_after_the_other(self, places, threshold):
        """Boxes may reach out of the image or have no area."""
        boxes = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in places]).reshape(-1, 4)
        probabilities = make_detections(len(boxes))[0].double().round(decimals=3).float()
        masks = dense.decode_runs(self.paste(probabilities, boxes, (24, 30), threshold))
        for mask, bins, box in zip(masks, probabilities, boxes, strict=True):
            values = read_pixels(bins.numpy(), box.tolist(), (24, 30))
            is_clear = np.abs(values - threshold) > 1e-3
            np.testing.assert_array_equal(mask[is_clear], values[is_clear] > threshold)


def read_pixels(bins, box, size):
    """The value of a small mask at the centre of each pixel of an image, read one by one; 0 outside of its box."""
    values = np.zeros(size)
    x1, y1, x2, y2 = box
    for row, column in np.ndindex(size):
        x, y = column + 0.5, row + 0.5
        if not (x1 <= x <= x2 and y1 <= y <= y2 and x1 < x2 and y1 < y2):
            continue
        u, v = (x - x1) / (x2 - x1) * len(bins) - 0.5, (y - y1) / (y2 - y1) * len(bins) - 0.5
        for i, j in ((math.floor(v) + a, math.floor(u) + b) for a in (0, 1) for b in (0, 1)):
            if 0 <= i < len(bins) and 0 <= j < len(bins):
                values[row, column] += bins[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return values


def make_blobs(count=60, size=(200, 240)):
    """Runs of round blobs of 6 to 60 pixels, a few of which the border cuts."""
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        height, width = rng.uniform(6, 60, 2)
        y, x = np.mgrid[: math.ceil(height), : math.ceil(width)] + 0.5
        mask = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 <= 0.25
        crops.append((int(rng.integers(0, size[1] - 60)), int(rng.integers(0, size[0] - 60)), mask))
    return encode_crops(iter(crops), size)


def send_round(runs, scale, num_bins, is_exact):
    """IoU of true masks with what a perfect network trained on them gives: targets of the true boxes, pasted."""
    size, layers = runs.size, paint_layers(runs)
    resized = (round(size[0] * scale), round(size[1] * scale))
    boxes = torch.from_numpy(runs.boxes)
    factor = torch.tensor([resized[1] / size[1], resized[0] / size[0]]).repeat(2)
    rows = torch.arange(len(runs))
    layer_of = torch.tensor([int((layers == id_).flatten(1).any(1).nonzero()[0]) for id_ in range(1, len(runs) + 1)])
    places = map_boxes(boxes * factor, resized, size, is_exact=is_exact)
    targets = sample_mask_targets(layers.as_subclass(torch.Tensor), layer_of, rows, places, num_bins)
    found = dense.decode_runs(paste_masks(targets, boxes, size, is_exact=is_exact))
    true = dense.decode_runs(runs)
    return (found & true).sum(axis=(1, 2)) / (found | true).sum(axis=(1, 2))


@pytest.mark.parametrize("scale", [0.73, 1.0, 1.5, 2.25])
def test_round_trip(scale):
    runs = make_blobs()
    exact, torchvision = (send_round(runs, scale, 28, is_exact) for is_exact in (True, False))
    assert exact.min() > 0.9
    assert exact.mean() > 0.98
    assert exact.mean() > torchvision.mean() + 0.03


def suppress_one_by_one(masks, labels, threshold):
    """Greedy, on a dense stack."""
    kept = []
    for row, mask in enumerate(masks):
        rivals = [other for other in kept if labels[other] == labels[row]]
        ious = dense.iou(mask[None], masks[rivals])[0] if rivals else np.zeros(0)
        if not (ious > threshold).any():
            kept.append(row)
    return kept


class TestSuppressMasks:
    @given(st.data(), stacks(max_instances=8), st.floats(0.05, 1.0))
    def test_against_the_dense_greedy_way(self, data, masks, threshold):
        labels = np.array(
            data.draw(st.lists(st.integers(1, 2), min_size=len(masks), max_size=len(masks))), dtype=np.int64
        )
        found = suppress_masks(dense.encode_runs(masks), labels, threshold)
        assert found.tolist() == suppress_one_by_one(masks, labels, threshold)

    @pytest.mark.parametrize(("threshold", "kept"), [(0.4, [0, 2]), (0.5, [0, 1, 2]), (0.19, [0])])
    def test_a_suppressed_mask_suppresses_nothing(self, threshold, kept):
        """Of 6 pixels, each 2 on from the last: IoU 0.5 of neighbours, 0.2 of the outer two; and at 0.5 itself."""
        masks = np.zeros((3, 1, 10), dtype=bool)
        for row, mask in enumerate(masks):
            mask[0, 2 * row : 2 * row + 6] = True
        assert suppress_masks(dense.encode_runs(masks), np.ones(3, dtype=np.int64), threshold).tolist() == kept

    def test_other_classes_are_left_alone(self):
        runs = dense.encode_runs(np.ones((4, 3, 3), dtype=bool))
        assert suppress_masks(runs, np.array([1, 2, 1, 2]), 0.5).tolist() == [0, 1]

    def test_no_masks_and_empty_ones(self):
        none = np.zeros(0, dtype=np.int64)
        assert suppress_masks(RunLengths.empty((5, 5)), none, 0.5).tolist() == []
        assert suppress_masks(RunLengths.empty((5, 5), 2), np.array([1, 1]), 0.5).tolist() == [0, 1]


class TestMakeInstances:
    """Two crossing bars, whose boxes are nearly the same, and a copy of the first."""

    @pytest.fixture
    def detections(self):
        bar = torch.nn.functional.max_pool2d(torch.eye(28)[None], 5, 1, 2)[0]
        boxes = torch.tensor([[10.0, 10, 66, 66], [11, 10, 66, 66], [10, 10, 66, 67]])
        masks = torch.stack([bar, bar.flip(1), bar])
        return Detections(boxes, torch.ones(3).long(), torch.tensor([0.9, 0.8, 0.7]), masks)

    def postprocess(self, **settings):
        return Postprocessing.of(make_plan(settings={"detections_per_image": 10, **settings}))

    @pytest.mark.parametrize(("suppression", "scores"), [("mask", [0.9, 0.8]), ("box", [0.9, 0.8, 0.7])])
    def test_by_masks(self, detections, suppression, scores):
        postprocessing = self.postprocess(suppression=suppression, mask_alignment="exact")
        instances = make_instances(detections, (80, 80), postprocessing)
        assert instances.scores.tolist() == pytest.approx(scores)
        assert (instances.runs.areas > 300).all()
        assert instances.boxes.tolist() == detections.boxes[: len(scores)].tolist()

    def test_the_cap_comes_after(self, detections):
        detections = Detections(*(value[[0, 2, 1]] for value in vars(detections).values()))
        for cap, scores in ((2, [0.9, 0.8]), (1, [0.9])):
            postprocessing = self.postprocess(suppression="mask", detections_per_image=cap)
            assert make_instances(detections, (80, 80), postprocessing).scores.tolist() == pytest.approx(scores)

    def test_alignment(self, detections):
        size = (80, 80)
        for alignment in ("torchvision", "exact"):
            is_exact = alignment == "exact"
            expected = paste_masks(detections.mask_probabilities, detections.boxes, size, is_exact=is_exact)
            found = make_instances(detections, size, self.postprocess(mask_alignment=alignment))
            dense.assert_same_runs(found.runs, expected)

    def test_postprocessing_is_json(self):
        postprocessing = self.postprocess(suppression="mask")
        assert Postprocessing(**json.loads(json.dumps(asdict(postprocessing)))) == postprocessing
