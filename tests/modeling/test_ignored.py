"""Pixels to ignore are no background in any loss, and change nothing where there are none."""

import math

import pytest
import torch

from manymask.core import InstanceLayers
from manymask.modeling.dense_head import DenseHead
from manymask.modeling.targets import find_ignored
from tests.modeling.test_network import build_small, compute_losses, make_example

SIZE = 64


@pytest.fixture(scope="module")
def small():
    return build_small(box_stages=2, dense_loss=0.5)


def ignore(*slices, size=SIZE):
    ignored = torch.zeros(size, size, dtype=torch.bool)
    ignored[slices] = True
    return ignored


@pytest.mark.parametrize("factor", [1, 2])
def test_boxes_of_which_half_is_ignored(factor):
    generator = torch.Generator().manual_seed(0)
    ignored = torch.rand(40, 50, generator=generator) < 0.5
    corners = torch.randint(-5, 60, (500, 2, 2), generator=generator)
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    found = find_ignored(ignored, boxes.float() * factor, (40 * factor, 50 * factor))
    for box, is_ignored in zip(boxes.tolist(), found.tolist(), strict=True):
        x1, y1, x2, y2 = (max(value, 0) for value in box)
        part = ignored[y1:y2, x1:x2]
        assert is_ignored == (part.numel() > 0 and part.float().mean().item() >= 0.5)


def test_never_all_boxes():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 5, 9, 9]])
    assert find_ignored(ignore(...), boxes, (SIZE, SIZE)).tolist() == [False, True]
    assert find_ignored(ignore(...), boxes[:0], (SIZE, SIZE)).shape == (0,)


def test_anchors(small):
    """Those on ignored pixels are neither, unless they are objects'."""
    image, target, _ = make_example(9, SIZE)
    rpn, seen = small.rpn, []

    def watch(anchors, targets):
        seen.append((anchors, type(rpn).assign_targets_to_anchors(rpn, anchors, targets)[0]))
        return type(rpn).assign_targets_to_anchors(rpn, anchors, targets)

    rpn.assign_targets_to_anchors = watch
    try:
        for own in (target, {**target, "ignored": ignore(slice(None), slice(0, 32))}):
            compute_losses(small, [image], [own])
    finally:
        del rpn.assign_targets_to_anchors
    ((anchors, before),), ((_, after),) = ([(a[0], labels[0])] for a, labels in seen)
    is_inside = find_ignored(ignore(slice(None), slice(0, 32)), anchors, (SIZE, SIZE))
    assert torch.equal(after, torch.where((before == 0) & is_inside, -1, before))
    assert ((before == 1) & is_inside).any()
    assert (after == 0).any()


def test_proposals(small):
    target = make_example(1, SIZE)[1]
    target["ignored"] = ignore(...)
    box = target["boxes"][0].tolist()
    proposals = torch.tensor([[0.0, 0, 2, 2], box, [SIZE - 2.0, SIZE - 2, SIZE, SIZE]])
    (kept,) = small.roi_heads._drop_ignored([proposals], [(SIZE, SIZE)], [target])
    assert kept.tolist() == proposals[:2].tolist()  # the first one because not all of them are left out


def test_dense_head():
    head = DenseHead(3, 1, 1.0)
    torch.nn.init.zeros_(head[2].weight)
    head[2].bias.data = torch.tensor([9.0, 9, 0, 0])
    layers = torch.zeros(1, 4, 4, dtype=torch.int32)
    layers[0, :, :2] = 1
    target = {"boxes": torch.tensor([[0.0, 0, 2, 4]]), "layers": InstanceLayers(layers)}
    features, background = torch.zeros(1, 3, 4, 4), ignore(slice(None), slice(2, None), size=4)
    found, wrong = (
        head.compute_loss(features, [(4, 4)], [own]).item() for own in ({**target, "ignored": background}, target)
    )
    assert wrong - found == pytest.approx(9 / 2, abs=0.2)  # half of the cells are called foreground, which they are not
    everything = head.compute_loss(features, [(4, 4)], [{**target, "ignored": ignore(..., size=4)}])
    assert math.isfinite(everything.item())


def test_losses(small):
    image, target, _ = make_example(9, SIZE)
    plain = compute_losses(small, [image], [target])
    same = compute_losses(small, [image], [{**target, "ignored": ignore(slice(0, 0))}])
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    for num_instances in (0, 9):
        image, target, _ = make_example(num_instances, SIZE)
        losses = compute_losses(small, [image], [{**target, "ignored": ignore(...)}])
        assert all(math.isfinite(loss.item()) for loss in losses.values())
