"""Pooling by one gather is torchvision's RoIAlign."""

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from manymask.modeling import pooling
from manymask.modeling.pooling import pool_boxes
from manymask.modeling.roi_heads import LevelPooler


def draw_boxes(num_boxes: int, height: float, width: float, num_images: int = 1) -> torch.Tensor:
    """Boxes of all sizes, of which many reach out of the image: index of the image, x1 y1 x2 y2."""
    generator = torch.Generator().manual_seed(num_boxes)
    center, size = torch.rand(2, num_boxes, 2, generator=generator, dtype=torch.float64)
    center, size = center * torch.tensor([width, height]) * 1.2, size**3 * torch.tensor([width, height])
    images = torch.randint(num_images, (num_boxes, 1), generator=generator)
    return torch.cat([images, center - size / 2, center + size / 2], dim=1)


def draw_features(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("per_bin", [1, 2, 3])
@pytest.mark.parametrize("num_bins", [7, 14])
def test_equals_torchvision(num_bins, per_bin, memory_format):
    features = draw_features(2, 5, 30, 41).contiguous(memory_format=memory_format)
    boxes = draw_boxes(200, 120, 164, num_images=2).float()
    found = pool_boxes(features, boxes, num_bins, 0.25, per_bin)
    torch.testing.assert_close(found, roi_align(features, boxes, num_bins, 0.25, per_bin), atol=1e-4, rtol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_chunks_change_nothing(monkeypatch):
    features, boxes = draw_features(1, 4, 16, 16), draw_boxes(50, 64, 64).float()
    whole = pool_boxes(features, boxes, 7, 0.25, 2)
    monkeypatch.setattr(pooling, "ENTRIES_AT_ONCE", 3 * (7 * 2 * 2) ** 2)
    assert torch.equal(pool_boxes(features, boxes, 7, 0.25, 2), whole)


def test_no_boxes():
    assert pool_boxes(draw_features(1, 4, 16, 16), torch.zeros(0, 5), 7, 0.25, 1).shape == (0, 4, 7, 7)


def test_gradients():
    features = draw_features(2, 3, 9, 11, dtype=torch.float64).requires_grad_()
    boxes = draw_boxes(6, 18, 22, num_images=2)
    assert torch.autograd.gradcheck(lambda values: pool_boxes(values, boxes, 3, 0.5, 2), features)


def test_bf16_rounds_as_bf16_does():
    features = draw_features(1, 8, 30, 41)
    boxes = draw_boxes(100, 120, 164).float()
    found = pool_boxes(features.bfloat16(), boxes, 7, 0.25, 2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), roi_align(features, boxes, 7, 0.25, 2), atol=0.05, rtol=0.02)


@pytest.mark.parametrize("counts", [(40, 25), (0, 9), (0, 0)])
def test_levels(counts):
    """Each box comes from the level that torchvision takes, and keeps its place."""
    pooler = LevelPooler(7, 2, 2, 112)
    features = {str(level): draw_features(2, 4, 96 // 2**level, 128 // 2**level) for level in range(4)}
    boxes = [draw_boxes(count, 192, 256)[:, 1:].float() for count in counts]
    sizes = [(192, 256)] * 2
    expected = MultiScaleRoIAlign.forward(pooler, features, boxes, sizes)
    torch.testing.assert_close(pooler(features, boxes, sizes), expected, atol=1e-4, rtol=1e-4)
