"""The second box stage, and the box losses of both."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, generalized_box_iou

from manymask.errors import CheckpointError
from manymask.modeling.fast import NORMS, speed_up
from manymask.modeling.roi_heads import GIOU_WEIGHT
from tests.modeling.scenes import shift_weights
from tests.modeling.test_network import LOSSES, assert_finite, build_small, compute_losses, detect, make_example

SIZE = [(128, 128)]


def make_proposals(boxes, amount=3.0):
    """Four near each box."""
    near = boxes.repeat(4, 1)
    near = near + amount * torch.randn(near.shape, generator=torch.Generator().manual_seed(2))
    return torch.cat([near[:, :2], torch.maximum(near[:, 2:], near[:, :2] + 1)], dim=1)


def build(**settings):
    """Both stages, with larger weights, so that boxes move."""
    model = build_small(box_stages=2, **settings)
    torch.nn.init.normal_(model.roi_heads.box_predictor.bbox_pred.weight, std=0.3)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.1)
    model.roi_heads.copy_first_stage()
    return model


class TestSecondStage:
    def test_a_copy_refines_as_the_first_stage_does_twice(self):
        model = build().eval()
        image, target, _ = make_example(9, 128)
        first, second = model.roi_heads, model.roi_heads.second
        with torch.no_grad():
            features, boxes = model.backbone(image[None]), [make_proposals(target["boxes"])]
            once = first._refine(*first._run_box_head(features, boxes, SIZE), boxes, SIZE)
            twice = first._refine(*first._run_box_head(features, once, SIZE), once, SIZE)
            found = second._refine(*second._run_box_head(features, once, SIZE), once, SIZE)
        torch.testing.assert_close(found, twice)
        assert (once[0] - twice[0]).abs().max() > 1

    def test_is_trained_on_what_the_first_stage_found(self, monkeypatch):
        """A first stage that halves each proposal's distance to its object leaves closer boxes to the second."""
        model = build().train()
        heads = model.roi_heads
        image, target, _ = make_example(9, 128)
        boxes, seen = target["boxes"], {}

        def halve(features, proposals, image_shapes):
            seen["proposals"], (own,) = proposals, proposals
            nearest = boxes[box_iou(own, boxes).argmax(dim=1)]
            (deltas,) = heads.box_coder.encode([(own + nearest) / 2], [own])
            logits = torch.zeros(len(own), 5).index_fill(1, torch.tensor([2]), 1.0)
            return logits, torch.zeros(len(own), 5, 4).index_fill(1, torch.tensor([2]), 1).mul(deltas[:, None]).flatten(
                1
            )

        def note(features, proposals, image_shapes):
            seen["refined"] = proposals
            return run(features, proposals, image_shapes)

        run = heads.second._run_box_head
        monkeypatch.setattr(heads, "_run_box_head", halve)
        monkeypatch.setattr(heads.second, "_run_box_head", note)
        losses = compute_losses(model, [image], [target])
        assert losses.keys() == LOSSES | {"loss_classifier_2", "loss_box_reg_2"}
        (proposals,), (refined,) = seen["proposals"], seen["refined"]
        before, after = (box_iou(own, boxes).amax(dim=1) for own in (proposals, refined))
        is_near = (before > 0.3) & (before < 0.99)
        assert is_near.sum() > 5
        assert (after >= before - 1e-5)[is_near].all()
        assert after[is_near].mean() > before[is_near].mean() + 0.1

    def test_objects_are_closer_boxes(self):
        heads = build_small(box_stages=2).roi_heads
        truth = torch.tensor([[0.0, 0, 10, 10]])
        boxes = [torch.tensor([[0.0, 0, 10, 5.5], [0, 0, 10, 6.5]])]
        labels = [
            part.assign_targets_to_proposals(boxes, [truth], [torch.tensor([3])])[1][0]
            for part in (heads, heads.second)
        ]
        assert [own.tolist() for own in labels] == [[3, 3], [0, 3]]

    @pytest.mark.parametrize("num_instances", [0, 9])
    def test_losses(self, num_instances):
        model = build()
        examples = [make_example(num_instances, 64), make_example(0, 96)]
        losses = compute_losses(model, [e[0] for e in examples], [e[1] for e in examples])
        second = {name: losses.pop(name) for name in ("loss_classifier_2", "loss_box_reg_2")}
        assert second["loss_classifier_2"] > 0
        assert num_instances or second["loss_box_reg_2"] == 0
        assert_finite({**losses, "loss_mask": losses["loss_mask"] + sum(second.values())}, model)

    def test_the_first_stages_losses_are_as_without(self):
        image, target, _ = make_example(9, 64)
        losses, expected = (compute_losses(build_small(box_stages=n), [image], [target]) for n in (2, 1))
        torch.testing.assert_close({name: losses[name] for name in expected}, expected, rtol=0, atol=0)

    def test_scores_are_the_mean_of_both(self):
        model = build().eval()
        heads, image = model.roi_heads, make_example(0, 128)[0]
        with torch.no_grad():
            features, proposals = model.backbone(image[None]), [torch.tensor([[10.0, 20, 50, 70]])]
            logits, deltas = heads._run_box_head(features, proposals, SIZE)
            refined = heads._refine(logits, deltas, proposals, SIZE)
            torch.nn.init.normal_(heads.second.box_predictor.cls_score.bias)
            second, deltas = heads.second._run_box_head(features, refined, SIZE)
            (found,) = heads._detect(features, proposals, SIZE)
        scores = (logits.softmax(1) + second.softmax(1))[0, 1:] / 2
        torch.testing.assert_close(found.scores, scores.sort(descending=True).values)
        boxes = BoxCoder((20.0, 20.0, 10.0, 10.0)).decode(deltas, refined)[0, found.labels]
        torch.testing.assert_close(found.boxes, boxes.clamp(0, 128))

    def test_made_fast(self):
        model = build(architecture="maskrcnn_resnet50_fpn_v2", backbone=None).eval()
        for module in model.modules():
            if isinstance(module, NORMS):
                torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
        fast, image = speed_up(model, torch.device("cpu"), "fp32"), torch.rand(1, 3, 64, 96)
        assert not any(isinstance(module, NORMS) for module in fast.modules())
        boxes = [torch.tensor([[4.0, 8, 40, 60]])]
        with torch.no_grad():
            expected, found = (
                each.roi_heads.second._run_box_head(each.backbone(image), boxes, [(64, 96)]) for each in (model, fast)
            )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected[0].abs().max().item())


class TestWeights:
    def test_one_stage_becomes_two(self, tmp_path):
        plain = build_small()
        torch.save(plain.state_dict(), tmp_path / "a.pth")
        heads = build_small(box_stages=2, weights=str(tmp_path / "a.pth")).roi_heads
        expected, found = plain.roi_heads.box_predictor, heads.second.box_predictor
        torch.testing.assert_close(found.cls_score.weight, expected.cls_score.weight)
        torch.testing.assert_close(found.bbox_pred.weight, 2 * expected.bbox_pred.weight)
        torch.testing.assert_close(heads.second.box_head.fc6.weight, plain.roi_heads.box_head.fc6.weight)

    def test_two_stages_stay_two(self, tmp_path):
        state = shift_weights(build_small(box_stages=2))
        torch.save(state, tmp_path / "a.pth")
        found = build_small(box_stages=2, weights=str(tmp_path / "a.pth")).state_dict()
        torch.testing.assert_close(dict(found), state, rtol=0, atol=0)

    def test_two_stages_are_not_one(self, tmp_path):
        torch.save(build_small(box_stages=2).state_dict(), tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="unknown .*roi_heads.second.*set architecture, .* and box_stages"):
            build_small(weights=str(tmp_path / "a.pth"))


class TestGeneralizedIoU:
    def test_equals_torchvision_on_decoded_boxes(self):
        heads = build_small(box_loss="giou").roi_heads
        torch.manual_seed(0)
        truth = make_example(9, 128)[1]["boxes"]
        rows, labels = torch.arange(9).repeat(4), torch.randint(0, 5, (36,))
        proposals, deltas = make_proposals(truth), torch.randn(36, 20, requires_grad=True)
        logits = torch.randn(36, 5)
        targets = [{"boxes": truth}]
        losses = heads._compute_box_losses(logits, deltas, [proposals], [rows], [labels], targets)
        decoded = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode(deltas, [proposals])
        objects = [index for index in range(36) if labels[index] > 0]
        values = [1 - generalized_box_iou(decoded[i, labels[i]][None], truth[rows[i]][None])[0, 0] for i in objects]
        torch.testing.assert_close(losses[1], GIOU_WEIGHT * torch.stack(values).sum() / 36)
        torch.testing.assert_close(losses[0], torch.nn.functional.cross_entropy(logits, labels))
        losses[1].backward()
        is_object = labels > 0
        assert deltas.grad[is_object].any(dim=1).all()
        assert not deltas.grad[~is_object].any()

    @pytest.mark.parametrize("box_stages", [1, 2])
    def test_network(self, box_stages):
        model = build_small(box_loss="giou", box_stages=box_stages, roi_samples=64)
        image, target, _ = make_example(9, 64)
        with torch.autocast("cpu", torch.bfloat16):
            losses = compute_losses(model, [image], [target])
        assert 0 < losses["loss_box_reg"] < GIOU_WEIGHT
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        empty = compute_losses(model, *[[part] for part in make_example(0, 64)[:2]])
        assert empty["loss_box_reg"] == 0
        assert len(detect(model, [image])[0].boxes) > 0
