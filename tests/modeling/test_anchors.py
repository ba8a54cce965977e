import pytest
import torch
from torchvision.models.detection import _utils as detection_utils
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from manymask.modeling import anchors as anchors_module
from manymask.modeling.anchors import AnchorGrid, match_anchors
from manymask.modeling.rpn import CrowdRegionProposalNetwork, Float32AnchorGenerator

LARGE = (32, 64, 128, 256, 512)
SMALL = (8, 16, 32, 64, 128)
HIGH, LOW = 0.7, 0.3


def make_features(height, width):
    """Empty feature maps of an input whose sides are multiples of 32."""
    sizes = [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
    sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return [torch.zeros(1, 1, *size) for size in sizes]


def make_anchors(height, width, sizes=LARGE):
    """All anchors as torchvision lists them, and the grids that they lie on."""
    generator = Float32AnchorGenerator(tuple((size,) for size in sizes), ((0.5, 1.0, 2.0),) * 5)
    features = make_features(height, width)
    anchors = generator(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), features)[0]
    grids, first = [], 0
    for feature, shapes in zip(features, generator.cell_anchors, strict=True):
        rows, columns = feature.shape[-2:]
        grids.append(AnchorGrid(shapes, rows, columns, (height // rows, width // columns), first))
        first += rows * columns * len(shapes)
    assert first == len(anchors)
    return anchors, grids


def make_boxes(num_boxes, height, width, seed=0, max_side=400.0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([width, height])
    sides = torch.exp(torch.rand(num_boxes, 2, generator=generator) * torch.tensor(max_side).log())
    boxes = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
    return boxes[(boxes[:, 2:] - boxes[:, :2] >= 0.5).all(dim=1)]


def assert_matches_torchvision(boxes, height, width, sizes=LARGE):
    anchors, grids = make_anchors(height, width, sizes)
    matcher = detection_utils.Matcher(HIGH, LOW, allow_low_quality_matches=True)
    assert torch.equal(match_anchors(boxes, grids, HIGH, LOW), matcher(box_iou(boxes, anchors)))


@pytest.mark.parametrize("sizes", [LARGE, SMALL])
@pytest.mark.parametrize("size", [(32, 32), (96, 352), (320, 64), (256, 256)])
@pytest.mark.parametrize("seed", range(5))
def test_many(seed, size, sizes):
    assert_matches_torchvision(make_boxes(40, *size, seed=seed), *size, sizes)


@pytest.mark.parametrize("num_boxes", [1, 2])
def test_few(num_boxes):
    boxes = torch.tensor([[20.0, 30.0, 90.0, 70.0], [100.5, 3.0, 120.0, 40.0]])
    assert_matches_torchvision(boxes[:num_boxes], 128, 192)


@pytest.mark.parametrize("seed", range(5))
def test_whole_pixels_tie_often(seed):
    boxes = make_boxes(60, 192, 160, seed).round()
    assert_matches_torchvision(boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)], 192, 160, SMALL)


def test_equal_boxes_give_the_first_row():
    boxes = make_boxes(10, 128, 128).repeat(3, 1)
    assert_matches_torchvision(boxes, 128, 128)
    assert match_anchors(boxes, make_anchors(128, 128)[1], HIGH, LOW).max() < 10


def test_boxes_far_smaller_than_anchors_tie_on_plateaus():
    corners = torch.rand(30, 2, generator=torch.Generator().manual_seed(0)) * 120
    assert_matches_torchvision(torch.cat([corners, corners + 1.5], dim=1), 128, 128)


def test_boxes_larger_than_anchors():
    boxes = torch.tensor([[0.0, 0.0, 512.0, 384.0], [5.0, 7.0, 500.0, 380.0], [0.0, 0.0, 512.0, 20.0]])
    assert_matches_torchvision(boxes, 384, 512, (4, 8, 16, 32, 64))


def test_small_boxes_beside_large_ones():
    boxes = torch.cat(
        [make_boxes(20, 256, 256, max_side=3.0), make_boxes(20, 256, 256), torch.tensor([[0, 0, 256, 256.0]])]
    )
    assert_matches_torchvision(boxes, 256, 256)


def test_box_that_no_anchor_touches_gets_none():
    _, grids = make_anchors(64, 64, (2, 2, 2, 2, 2))
    boxes = torch.tensor([[1.6, 1.6, 2.2, 2.2]])
    assert (match_anchors(boxes, grids, HIGH, LOW) == -1).all()
    matched = match_anchors(torch.cat([boxes, torch.tensor([[3.5, 3.5, 4.5, 4.5]])]), grids, HIGH, LOW)
    assert set(matched.tolist()) == {-1, 1}


def test_chunks_change_nothing(monkeypatch):
    boxes = make_boxes(50, 256, 320)
    _, grids = make_anchors(256, 320)
    expected = match_anchors(boxes, grids, HIGH, LOW)
    monkeypatch.setattr(anchors_module, "PAIRS_AT_ONCE", 64)
    assert torch.equal(match_anchors(boxes, grids, HIGH, LOW), expected)


def test_crowd_looks_at_few_pairs(monkeypatch):
    """1,000 boxes and 261,888 anchors: torchvision's matrix has 262 million entries."""
    numbers = []
    measure = anchors_module._measure_pairs

    def count_pairs(*args):
        pairs = measure(*args)
        numbers.append(len(pairs[0]))
        return pairs

    monkeypatch.setattr(anchors_module, "_measure_pairs", count_pairs)
    monkeypatch.setattr(anchors_module, "PAIRS_AT_ONCE", 1 << 16)
    corners = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)) * 960
    boxes = torch.cat([corners, corners + 4 + 60 * torch.rand(1000, 2)], dim=1)
    _, grids = make_anchors(1024, 1024)
    match_anchors(boxes, grids, HIGH, LOW)
    largest_window = 256 * 256  # one chunk may end with a whole window
    assert max(numbers) <= (1 << 16) + largest_window
    assert sum(numbers) < 1000 * 2000


def test_anchors_stay_float32_under_autocast():
    generator = Float32AnchorGenerator(tuple((size,) for size in LARGE), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 1024, 64), [(1024, 64)])
    features = make_features(1024, 64)
    expected = generator(images, features)[0]
    found = generator(images, [feature.bfloat16() for feature in features])[0]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def make_rpn(kind):
    generator = Float32AnchorGenerator(tuple((size,) for size in LARGE), ((0.5, 1.0, 2.0),) * 5)
    counts = {"training": 100, "testing": 100}
    torch.manual_seed(0)
    return kind(generator, RPNHead(1, 3), HIGH, LOW, 256, 0.5, counts, counts, 0.7)


@pytest.mark.parametrize("num_boxes", [0, 1, 30])
def test_network_equals_torchvision(num_boxes):
    images = ImageList(torch.zeros(2, 3, 128, 160), [(128, 160)] * 2)
    features = {str(i): torch.randn(2, *f.shape[1:]) for i, f in enumerate(make_features(128, 160))}
    targets = [{"boxes": make_boxes(num_boxes, 128, 160, seed)} for seed in (1, 2)]
    results = []
    for kind in (CrowdRegionProposalNetwork, RegionProposalNetwork):
        rpn = make_rpn(kind).train()
        torch.manual_seed(1)
        proposals, losses = rpn(images, features, targets)
        results.append(
            (
                proposals,
                losses,
                rpn.assign_targets_to_anchors(rpn.anchor_generator(images, list(features.values())), targets),
            )
        )
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
