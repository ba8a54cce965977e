import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from manymask.core import InstanceLayers, find_layers
from manymask.modeling import targets as targets_module
from manymask.modeling.roi_heads import map_boxes
from manymask.modeling.targets import sample_mask_targets
from tests.modeling.scenes import make_scene

SIZE = 160


@pytest.fixture(scope="module")
def scene():
    layers, masks, boxes = make_scene(60, SIZE)
    assert len(layers) > 1
    return layers, masks, boxes


def sample(layers, num_instances, rows, boxes, num_bins=28):
    return sample_mask_targets(
        layers.as_subclass(torch.Tensor), find_layers(layers, num_instances), rows, boxes, num_bins
    )


def jitter(boxes, amount, seed=0):
    """Boxes whose corners have moved, still of positive size."""
    moved = boxes + amount * torch.randn(boxes.shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.minimum(moved[:, :2], moved[:, 2:] - 0.5), moved[:, 2:]], dim=1)


def assert_equals_torchvision(scene, rows, boxes, num_bins=28):
    layers, masks, _ = scene
    found = sample(layers, len(masks), rows, boxes, num_bins)
    torch.testing.assert_close(found, project_masks_on_boxes(masks, boxes, rows, num_bins), rtol=0, atol=1e-4)
    return found


@pytest.mark.parametrize("num_bins", [7, 28])
@pytest.mark.parametrize("amount", [0.0, 2.0, 8.0])
def test_overlapping_instances(scene, amount, num_bins):
    rows = torch.arange(60).repeat(3)
    found = assert_equals_torchvision(scene, rows, jitter(scene[2][rows], amount), num_bins)
    assert found.mean() > 0.2


@pytest.mark.parametrize("shift", [(-20, -20), (20, 0), (0, 150), (400, 400), (-400, 3)])
def test_boxes_outside_the_image(scene, shift):
    assert_equals_torchvision(scene, torch.arange(60), scene[2] + torch.tensor(shift).repeat(2).float())


def test_boxes_smaller_than_a_pixel(scene):
    corners = scene[2][:, :2] + 3.3
    assert_equals_torchvision(scene, torch.arange(60), torch.cat([corners, corners + 0.2], dim=1))


def test_whole_image(scene):
    boxes = torch.tensor([[0.0, 0.0, SIZE, SIZE], [-1.0, -1.0, SIZE + 1.0, SIZE + 1.0]])
    assert_equals_torchvision(scene, torch.tensor([3, 5]), boxes)


def test_no_proposals(scene):
    assert sample(scene[0], 60, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)).shape == (0, 28, 28)


def test_instance_without_pixels():
    layers = InstanceLayers(torch.zeros(1, 9, 9, dtype=torch.int32))
    assert not sample(layers, 1, torch.tensor([0]), torch.tensor([[1.0, 1.0, 5.0, 5.0]])).any()


def test_ids_above_65535():
    layers = InstanceLayers(torch.zeros(1, 30, 30, dtype=torch.int32))
    layers[0, 5:20, 8:25] = 70_000
    box = torch.tensor([[8.0, 5.0, 24.0, 19.0]])
    assert sample(layers, 70_000, torch.tensor([69_999]), box).min() == 1
    assert sample(layers, 70_000, torch.tensor([69_998]), box).max() == 0


def test_chunks_change_nothing(scene, monkeypatch):
    rows = torch.arange(60)
    boxes = jitter(scene[2], 4.0)
    expected = sample(scene[0], 60, rows, boxes)
    monkeypatch.setattr(targets_module, "POINTS_AT_ONCE", 1)
    assert torch.equal(sample(scene[0], 60, rows, boxes), expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_resized_image_keeps_the_layers(scene, scale):
    """Boxes mapped back to the layers see what torchvision sees in masks that were resized."""
    layers, masks, boxes = scene
    resized = interpolate(masks[:, None].float(), scale_factor=scale)[:, 0].byte()
    proposals = jitter(boxes * scale, 3.0)
    mapped = map_boxes(proposals, (SIZE * scale, SIZE * scale), (SIZE, SIZE))
    found = sample(layers, len(masks), torch.arange(60), mapped)
    expected = project_masks_on_boxes(resized, proposals, torch.arange(60), 28)
    assert (found - expected).abs().mean() < 0.05
    assert abs(found.mean() - expected.mean()) < 0.02


class TestMapBoxes:
    def test_same_size(self):
        boxes = torch.rand(3, 4)
        assert torch.equal(map_boxes(boxes, (9, 7), (9, 7)), boxes)

    def test_pixel_centres_stay_on_pixel_centres(self):
        """Pixels 0 and 1 of the small image become the middles of pixels 0-1 and 2-3 of one twice as large."""
        boxes = torch.tensor([[0.0, 1.0, 1.0, 2.0]])
        assert map_boxes(boxes, (10, 20), (20, 80)).tolist() == [[1.5, 2.5, 5.5, 4.5]]

    def test_no_boxes(self):
        assert map_boxes(torch.zeros(0, 4), (9, 7), (3, 3)).shape == (0, 4)
