"""A network made fast for prediction gives what it gave before."""

import copy

import pytest
import torch
from torch import nn

from manymask.modeling import fast as fast_module
from manymask.modeling.backbones import SeparableConv2d
from manymask.modeling.build import build_model
from manymask.modeling.fast import (
    NORMS,
    StripedSeparableConv2d,
    WinogradConv2d,
    cut_stripes,
    fold_norms,
    speed_up,
    use_winograd,
)

SETTINGS = {"weights": "none", "min_size": 0, "min_score": 0.0, "detections_per_image": 20}
COMPACT = {"architecture": "maskrcnn_compact", "anchor_sizes": (8, 16, 32, 64, 128)}


def build(**settings):
    """A network of random weights whose statistics of BatchNorm are not those of a new one."""
    torch.manual_seed(0)
    network = build_model(3, settings=SETTINGS | settings).eval()
    for module in network.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.1)
    return network


def list_norms(network):
    return [module for module in network.modules() if isinstance(module, NORMS)]


def assert_close(network, fast):
    """The same features, and the same boxes, classes and masks of the same proposals."""
    images = torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([[4.0, 8, 40, 60], [30, 20, 90, 70], [1, 1, 120, 90]])] * 2
    found = []
    with torch.no_grad():
        for each in (network, fast):
            features, heads = each.backbone(images), each.roi_heads
            masks = heads._run_mask_head(features, boxes, [(96, 128)] * 2)
            outputs = heads._run_box_head(features, boxes, [(96, 128)] * 2)
            objectness, deltas = each.rpn.head(list(features.values()))
            found.append([*features.values(), *objectness, *deltas, *outputs, masks])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("settings", "num_left"),
    [
        (COMPACT, 0),
        ({"architecture": "maskrcnn_resnet50_fpn_v2"}, 0),
        ({"architecture": "maskrcnn_resnet50_fpn"}, 0),
        ({"architecture": "maskrcnn_fpn", "backbone": "test_resnet"}, 0),
        ({"architecture": "maskrcnn_fpn", "backbone": "efficientnet_b0"}, 0),  # activations within the norms
        ({"architecture": "maskrcnn_fpn", "backbone": "densenet121"}, None),  # norms of features put together
        ({"architecture": "maskrcnn_fpn", "backbone": "xception41p"}, "all"),  # outputs that others than norms use too
    ],
)
def test_equals_the_network(settings, num_left):
    network = build(**settings)
    num_norms = len(list_norms(network))
    fast = speed_up(network, torch.device("cpu"), "fp32")
    assert len(list_norms(network)) == num_norms
    left = len(list_norms(fast))
    if num_left is None:
        assert 0 < left < num_norms
    else:
        assert left == (num_norms if num_left == "all" else num_left)
    assert any(isinstance(module, WinogradConv2d) for module in fast.modules())
    assert not any(isinstance(module, WinogradConv2d) for module in network.modules())
    assert_close(network, fast)


def test_nothing_found():
    network = build(**COMPACT)
    fast = speed_up(network, torch.device("cpu"), "fp32")
    fast.roi_heads.score_thresh = 1.0
    with torch.no_grad():
        found = fast([torch.rand(3, 64, 96), torch.zeros(3, 64, 64)])
    assert [detections.mask_probabilities.shape for detections in found] == [(0, 28, 28)] * 2


def test_in_a_callers_autocast():
    fast = speed_up(build(**COMPACT), torch.device("cpu"), "fp32")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fast.backbone(torch.rand(1, 3, 64, 96))["0"].dtype == torch.bfloat16


def test_the_network_can_be_trained_on():
    network = build(**COMPACT)
    state = copy.deepcopy(network.state_dict())
    network.train()
    speed_up(network, torch.device("cpu"), "fp32")
    assert network.training
    torch.testing.assert_close(dict(network.state_dict()), dict(state), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(1, 20, 33), (4, 40, 50), (5, 14, 14), (0, 14, 14)])
def test_winograd(size):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1))
    maps = torch.randn(size[0], 16, *size[1:])
    expected = layer(maps)
    use_winograd(layer)
    assert isinstance(layer[0], WinogradConv2d)
    torch.testing.assert_close(layer(maps), expected, rtol=0, atol=1e-4)


def test_winograd_in_stripes_is_the_same_to_the_last_digit(monkeypatch):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1))
    use_winograd(layers)
    maps = torch.randn(2, 16, 40, 50)
    whole = layers(maps)
    monkeypatch.setattr(fast_module, "STRIPE_PIXELS", 12 * 50)
    torch.testing.assert_close(layers(maps), whole, rtol=0, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(2, 40, 50), (1, 3, 900), (0, 14, 14)])
def test_separable_convolutions_in_stripes(monkeypatch, size, memory_format):
    monkeypatch.setattr(fast_module, "STRIPE_PIXELS", 600)
    torch.manual_seed(0)
    layers = nn.Sequential(SeparableConv2d(8))
    maps = torch.randn(size[0], 8, *size[1:]).to(memory_format=memory_format)
    expected = layers(maps)
    cut_stripes(layers)
    assert isinstance(layers[0], StripedSeparableConv2d)
    torch.testing.assert_close(layers(maps), expected)
    assert layers(maps).stride() == expected.stride()


@pytest.mark.parametrize("change", [{"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"kernel_size": 1}])
def test_other_convolutions_stay(change):
    settings = {"kernel_size": 3, "padding": 1} | change
    layers = nn.Sequential(nn.Conv2d(4, 4, **settings), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    use_winograd(layers)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Conv2d]


def test_a_convolution_that_two_norms_follow_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.alone, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, images):
            maps = self.conv(torch.stack(images))
            return self.norm(self.alone(self.first(maps) + self.second(maps)))

    network = Twice().eval()
    nn.init.uniform_(network.second.running_var, 2.0, 3.0)
    images = [torch.rand(3, 64, 96)]
    expected = network(images)
    fold_norms(network, lambda: network(images))
    assert [type(layer) for layer in (network.first, network.norm)] == [nn.BatchNorm2d, nn.Identity]
    torch.testing.assert_close(network(images), expected)
