"""The head that is there in training alone: what it learns, and that nothing else notices it."""

import math

import pytest
import torch

from manymask.core import InstanceLayers
from manymask.modeling.checkpoint import read_state_dict
from manymask.modeling.dense_head import BORDER_WEIGHT, DenseHead
from manymask.modeling.targets import make_dense_targets
from manymask.prediction import load_model
from tests.modeling.scenes import shift_weights
from tests.modeling.test_network import LOSSES, build_small, compute_losses, detect, make_example
from tests.tiny_model import ship, write_tiny_model

# The first two touch; the third overlaps the second and lies in a layer of its own.
BOXES = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [6, 2, 10, 6]])
FOREGROUND = "########.. ########.. ########## ########## ......#### ......####"
BORDER = "...##..... ...######. ...######. ...######. ...######. .........."
ONE_OBJECT = "########.. ########.. ######..## ######..## ......#### ......####"


def make_layers():
    layers = torch.zeros(2, 6, 10, dtype=torch.int32)
    for layer, row in ((0, 0), (0, 1), (1, 2)):
        x1, y1, x2, y2 = BOXES[row].int().tolist()
        layers[layer, y1:y2, x1:x2] = row + 1
    return layers


def read_map(text):
    return torch.tensor([[cell == "#" for cell in line] for line in text.split()])


def assert_maps(maps, is_inside):
    torch.testing.assert_close(maps[:2], torch.stack([read_map(FOREGROUND), read_map(BORDER)]).float())
    torch.testing.assert_close(is_inside, read_map(ONE_OBJECT))


class TestTargets:
    def test_touching_and_overlapping(self):
        maps, is_inside = make_dense_targets(make_layers(), BOXES, (6, 10), 1)
        assert_maps(maps, is_inside)
        places = [0.75, 0.25, -0.25, -0.75]  # of four pixels' centres in halves of a side of 4
        assert maps[2, 1, :8].tolist() == places * 2
        assert maps[3, :4, 1].tolist() == places
        assert maps[3, 2:, 8].tolist() == maps[2, 5, 6:].tolist() == places

    def test_of_a_resized_image(self):
        """Cell k of stride 2 lies on pixel 2 k, whose centre is at 2 k + 0.5 and at k + 0.25 of the layers."""
        maps, is_inside = make_dense_targets(make_layers(), 2 * BOXES, (12, 20), 2)
        assert_maps(maps, is_inside)
        assert maps[2, 1, :4].tolist() == maps[3, :4, 1].tolist() == [0.875, 0.375, -0.125, -0.625]

    def test_of_a_smaller_image(self):
        maps, _ = make_dense_targets(make_layers(), BOXES / 2, (3, 5), 1)
        assert maps[0].tolist() == read_map("####. ##### ...##").float().tolist()
        assert maps[2, 0, :2].tolist() == [0.5, -0.5]

    def test_sides_that_are_no_multiples_of_the_stride(self):
        layers = torch.zeros(1, 5, 7, dtype=torch.int32)
        layers[0, 4, 6] = 1
        maps, is_inside = make_dense_targets(layers, torch.tensor([[6.0, 4, 7, 5]]), (5, 7), 2)
        assert maps[0].tolist() == is_inside.tolist() == read_map(".... .... ...#").tolist()
        assert (maps[1:] * is_inside == 0).all()  # one object alone, whose centre is the cell's

    def test_no_objects(self):
        maps, is_inside = make_dense_targets(torch.zeros(1, 6, 10, dtype=torch.int32), torch.zeros(0, 4), (6, 10), 2)
        assert maps.shape == (4, 3, 5)
        assert not is_inside.any()
        assert not maps[:2].any()

    def test_ids_above_what_bfloat16_holds(self):
        """Neighbours such as 1001 and 1002 are one number in bfloat16."""
        layers = torch.arange(1, 1601, dtype=torch.int32).view(1, 40, 40)
        boxes = torch.zeros(1600, 4)
        with torch.autocast("cpu", torch.bfloat16):
            maps, _ = make_dense_targets(layers, boxes, (40, 40), 1)
        assert maps[1].all()


def test_loss():
    """Of logits and offsets of 0, on images of two sizes that are padded to one."""
    head = DenseHead(3, 1, 2.0)
    torch.nn.init.zeros_(head[2].weight)
    torch.nn.init.zeros_(head[2].bias)
    empty = {"boxes": torch.zeros(0, 4), "layers": InstanceLayers(torch.zeros(1, 3, 4, dtype=torch.int32))}
    targets = [{"boxes": BOXES, "layers": InstanceLayers(make_layers())}, empty]
    loss = head.compute_loss(torch.rand(2, 3, 8, 12), [(6, 10), (3, 4)], targets)
    share = read_map(BORDER).sum() / 72
    is_one = read_map(ONE_OBJECT)
    maps, _ = make_dense_targets(make_layers(), BOXES, (6, 10), 1)
    offsets = (maps[2:, is_one].abs() - 1 / 18).mean()
    expected = 2 * (math.log(2) * (1 + 1 + (BORDER_WEIGHT - 1) * share) + offsets)
    torch.testing.assert_close(loss, expected)


class TestNetwork:
    def test_gradient_reaches_every_part_of_the_backbone_below(self):
        model = build_small(dense_loss=0.5)
        image, target, _ = make_example(9, 64)
        losses = compute_losses(model, [image], [target])
        assert losses.keys() == LOSSES | {"loss_dense"}
        losses["loss_dense"].backward()
        trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert {name for name, _ in model.named_parameters() if "dense_head" in name or ".body." in name} <= trained
        assert not any(name.startswith("rpn.") or "box_head" in name for name in trained)
        assert all(p.grad.isfinite().all() and p.grad.any() for p in model.roi_heads.dense_head.parameters())

    def test_weight(self):
        image, target, _ = make_example(9, 64)
        once, twice = (compute_losses(build_small(dense_loss=w), [image], [target])["loss_dense"] for w in (1, 2))
        torch.testing.assert_close(2 * once, twice)

    def test_all_else_is_as_without(self):
        image, target, _ = make_example(9, 64)
        plain, dense = build_small(), build_small(dense_loss=1)
        losses = compute_losses(dense, [image], [target])
        del losses["loss_dense"]
        torch.testing.assert_close(losses, compute_losses(plain, [image], [target]), rtol=0, atol=0)
        found, expected = detect(dense, [image])[0], detect(plain, [image])[0]
        torch.testing.assert_close(vars(found), vars(expected), rtol=0, atol=0)

    def test_batch_without_objects_in_bf16(self):
        image, target, _ = make_example(0, 64)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute_losses(build_small(dense_loss=1), [image], [target])["loss_dense"]
        assert loss.dtype == torch.float32
        assert loss.isfinite()


class TestWeights:
    @pytest.mark.parametrize("dense_loss", [0, 1])
    def test_start_from_weights_with_the_head(self, tmp_path, dense_loss):
        state = shift_weights(build_small(dense_loss=1))
        torch.save(state, tmp_path / "a.pth")
        model = build_small(dense_loss=dense_loss, weights=str(tmp_path / "a.pth"))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)
        assert len(model.state_dict()) == len(state) - (0 if dense_loss else 4)

    def test_start_from_weights_without(self, tmp_path):
        plain = build_small()
        torch.save(plain.state_dict(), tmp_path / "a.pth")
        model = build_small(dense_loss=1, weights=str(tmp_path / "a.pth"))
        new = {name for name in model.state_dict() if name not in plain.state_dict()}
        assert new == {f"roi_heads.dense_head.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")}

    def test_models_have_none(self, tmp_path):
        checkpoint = write_tiny_model(tmp_path / "best.ckpt", dense_loss=1.0)
        plain = load_model(write_tiny_model(tmp_path / "plain.ckpt")).detector
        ship(checkpoint, tmp_path / "shipped", "dense")
        shipped = tmp_path / "shipped" / "dense.safetensors"
        assert not any("dense_head" in name for name in read_state_dict(shipped))
        image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
        found, expected = load_model(checkpoint).detector, plain([image])[0]
        assert found.network.roi_heads.dense_head is None
        torch.testing.assert_close(vars(found([image])[0]), vars(expected), rtol=0, atol=0)
        assert len(load_model(shipped).detector([image])[0].boxes) > 0
