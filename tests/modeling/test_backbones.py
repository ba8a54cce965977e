import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from manymask.modeling.backbones import LeanPyramid


def test_pyramid_is_torchvision_s_and_frees_what_it_is_given():
    torch.manual_seed(0)
    lean = LeanPyramid([4, 6, 8], 5, LastLevelMaxPool())
    theirs = FeaturePyramidNetwork([4, 6, 8], 5, LastLevelMaxPool())
    theirs.load_state_dict(lean.state_dict())
    maps = {str(level): torch.randn(2, 4 + 2 * level, 12 >> level, 20 >> level) for level in range(3)}
    expected, found = theirs(dict(maps)), lean(given := dict(maps))
    assert given == {}
    assert list(found) == list(expected)
    for outputs in (expected, found):
        sum(output.square().sum() for output in outputs.values()).backward()
    torch.testing.assert_close(found, dict(expected))
    gradients = [[parameter.grad for parameter in network.parameters()] for network in (lean, theirs)]
    torch.testing.assert_close(*gradients)
