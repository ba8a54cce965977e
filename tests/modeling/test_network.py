import math

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from manymask.core import InstanceLayers, Instances
from manymask.modeling import roi_heads
from manymask.modeling.build import build_model
from manymask.modeling.detections import paste_masks
from manymask.modeling.network import PadTransform
from manymask.modeling.preprocessing import Preprocessing
from manymask.plan import make_plan
from tests.modeling.scenes import make_scene

NUM_CLASSES = 5
LOSSES = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
BUILDERS = {"maskrcnn_resnet50_fpn": maskrcnn_resnet50_fpn, "maskrcnn_resnet50_fpn_v2": maskrcnn_resnet50_fpn_v2}


def build_pair(architecture):
    """Our model and torchvision's with the same random weights; scores vary enough that NMS has a definite order."""
    torch.manual_seed(0)
    own = {"detections_per_image": 100, "min_score": 0.0, "roi_samples": 128}
    ours = build_model(NUM_CLASSES, settings={"architecture": architecture, "weights": "none", **own})
    torch.nn.init.normal_(ours.roi_heads.box_predictor.cls_score.weight, std=0.1)
    torch.nn.init.normal_(ours.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.1)
    theirs = BUILDERS[architecture](
        weights=None,
        weights_backbone=None,
        num_classes=NUM_CLASSES,
        box_detections_per_img=100,
        box_score_thresh=0.0,
        box_batch_size_per_image=128,
        min_size=256,
        max_size=256,
        _skip_resize=True,  # which draws a number
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def make_example(num_instances, size=256):
    """An image, our target and torchvision's."""
    layers, masks, boxes = make_scene(num_instances, size)
    labels = torch.randint(1, NUM_CLASSES, (num_instances,), generator=torch.Generator().manual_seed(0))
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))
    common = {"boxes": boxes, "labels": labels}
    return image, {**common, "layers": layers}, {**common, "masks": masks}


STANDARDIZE = Preprocessing.of(make_plan(settings={"min_size": 0}))


def compute_losses(model, images, targets):
    torch.manual_seed(1)
    return model.train()(images, targets)


def detect(model, images):
    with torch.no_grad():
        return model.eval()(images)


def assert_same_losses(ours, theirs, num_instances):
    image, target, dense_target = make_example(num_instances)
    found = compute_losses(ours, [STANDARDIZE(image)], [target])
    expected = compute_losses(theirs, [image], [dense_target])
    assert found.keys() == expected.keys() == LOSSES
    torch.testing.assert_close(found, dict(expected), rtol=1e-4, atol=1e-7)


def assert_same_detections(ours, theirs):
    image = make_example(0)[0]
    found, expected = detect(ours, [STANDARDIZE(image)])[0], detect(theirs, [image])[0]
    assert len(found.boxes) > 20
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(getattr(found, name), expected[name], rtol=0, atol=1e-4)
    runs = paste_masks(found.mask_probabilities, found.boxes, (256, 256))
    masks = Instances.from_runs(runs, np.ones(len(runs), dtype=np.int64)).to_masks()
    probabilities = expected["masks"][:, 0].numpy()
    is_clear = np.abs(probabilities - 0.5) > 1e-4
    assert 0.001 < masks.mean() < 0.999
    np.testing.assert_array_equal(masks[is_clear], probabilities[is_clear] > 0.5)


@pytest.fixture(scope="module")
def v2():
    return build_pair("maskrcnn_resnet50_fpn_v2")


class TestEqualsTorchvision:
    @pytest.mark.parametrize("num_instances", [0, 1, 150])
    def test_losses(self, v2, num_instances):
        assert_same_losses(*v2, num_instances)

    def test_detections(self, v2):
        assert_same_detections(*v2)

    def test_first_version(self):
        pair = build_pair("maskrcnn_resnet50_fpn")
        assert_same_losses(*pair, 20)
        assert_same_detections(*pair)


def build_small(**settings):
    """A model of few parameters, so that the tests below take no time."""
    torch.manual_seed(0)
    counts = {"detections_per_image": 20, "roi_samples": 64}
    settings = {"min_size": 0, "min_score": 0.0, "anchor_sizes": (8, 16, 32, 64, 128), **counts, **settings}
    return build_model(
        NUM_CLASSES, settings={"architecture": "maskrcnn_fpn", "backbone": "test_resnet", "weights": "none", **settings}
    )


@pytest.fixture(scope="module")
def small():
    return build_small()


def assert_finite(losses, model):
    assert losses.keys() == LOSSES
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    model.zero_grad()
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_images_of_several_sizes_in_a_batch(small):
    examples = [make_example(12, size) for size in (96, 64, 160)]
    assert_finite(compute_losses(small, [e[0] for e in examples], [e[1] for e in examples]), small)
    for (image, _, _), found in zip(examples, detect(small, [e[0] for e in examples]), strict=True):
        assert 0 < len(found.boxes) <= 20
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= image.shape[-1]
        assert found.mask_probabilities.shape == (len(found.boxes), 28, 28)


def test_batch_without_objects(small):
    examples = [make_example(0, 64), make_example(0, 96)]
    losses = compute_losses(small, [e[0] for e in examples], [e[1] for e in examples])
    assert_finite(losses, small)
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0


def test_objects_on_one_image_of_two(small):
    examples = [make_example(0, 64), make_example(9, 64)]
    losses = compute_losses(small, [e[0] for e in examples], [e[1] for e in examples])
    assert_finite(losses, small)
    assert losses["loss_mask"] > 0


def test_instance_of_one_pixel(small):
    image, target, _ = make_example(0, 64)
    layers = InstanceLayers(torch.zeros(1, 64, 64, dtype=torch.int32))
    layers[0, 10, 20] = 1
    target = {"boxes": torch.tensor([[20.0, 10.0, 21.0, 11.0]]), "labels": torch.tensor([1]), "layers": layers}
    assert_finite(compute_losses(small, [image], [target]), small)


def test_first_image_does_not_set_the_scales():
    """torchvision takes a 33-pixel image, padded to 64, for features of strides 2 to 16, for all later images too."""
    fresh, used = build_small(), build_small()
    image = make_example(0, 128)[0]
    detect(used, [torch.rand(3, 33, 33)])
    found, expected = detect(used, [image])[0], detect(fresh, [image])[0]
    torch.testing.assert_close(vars(found), vars(expected), rtol=0, atol=0)
    assert used.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


def test_images_are_padded_to_whole_cells():
    images = [torch.ones(3, 33, 20), torch.ones(3, 50, 64)]
    batch, targets = PadTransform()(images, [{}, {}])
    assert batch.image_sizes == [(33, 20), (50, 64)]
    assert tuple(batch.tensors.shape) == (2, 3, 64, 64)
    assert batch.tensors.sum(dim=(1, 2, 3)).tolist() == [3 * 33 * 20, 3 * 50 * 64]
    assert targets == [{}, {}]


def test_layers_of_another_resolution(small):
    image, target, _ = make_example(3, 48)
    prepared, target = Preprocessing.of(make_plan(settings={"min_size": 96, "max_size": 200})).prepare(image, target)
    assert prepared.shape == (3, 96, 96)
    assert target["layers"].shape[-2:] == (48, 48)
    assert_finite(compute_losses(small, [prepared], [target]), small)


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_resolution": 14, "mask_alignment": "exact"},
        {"mask_resolution": 56},
        {"mask_alignment": "exact", "aspect_ratios": (1.0,)},
        {"suppression": "mask", "nms": 0.3, "rpn_nms": 0.6},
    ],
)
def test_planned_settings(settings):
    model = build_small(**settings)
    image, target, _ = make_example(9, 64)
    assert_finite(compute_losses(model, [image], [target]), model)
    found = detect(model, [image])[0]
    num_bins = settings.get("mask_resolution", 28)
    assert found.mask_probabilities.shape == (len(found.boxes), num_bins, num_bins)


def test_samples_of_the_heads():
    """Half of the boxes may be objects, and the mask head gets some of these alone."""
    model = build_small(roi_samples=32, roi_positives=0.5, mask_samples=5)
    image, target, _ = make_example(12, 96)
    seen = {}
    model.roi_heads.box_head.register_forward_hook(lambda _, inputs, __: seen.update(boxes=len(inputs[0])))
    model.roi_heads.mask_head.register_forward_hook(lambda _, inputs, __: seen.update(masks=len(inputs[0])))
    sample = model.roi_heads.select_training_samples
    labels = []
    model.roi_heads.select_training_samples = lambda *given: labels.append(found := sample(*given)) or found
    assert_finite(compute_losses(model, [image, image], [target, target]), model)
    assert seen == {"boxes": 64, "masks": 10}
    # The true boxes are among the proposals, so that there are twelve objects at least, and more than a quarter.
    assert all(12 <= (own > 0).sum() <= 16 for own in labels[0][2])


def test_weights_fit_whatever_the_masks_are_like(small):
    shapes = {name: value.shape for name, value in small.state_dict().items()}
    for settings in ({"mask_resolution": 14}, {"mask_alignment": "exact"}, {"suppression": "mask"}):
        assert {name: value.shape for name, value in build_small(**settings).state_dict().items()} == shapes


def test_suppression_by_masks_leaves_more_to_decide():
    boxes, masks = build_small(nms=0.3).roi_heads, build_small(nms=0.3, suppression="mask").roi_heads
    assert (boxes.nms_thresh, boxes.detections_per_img) == (0.3, 20)
    assert (masks.nms_thresh, masks.detections_per_img) == (0.8, 40)
    assert build_small(rpn_nms=0.6).rpn.nms_thresh == 0.6


@pytest.mark.parametrize(("alignment", "shift"), [("exact", 0.0), ("torchvision", 0.5)])
def test_features_are_read_where_they_lie(alignment, shift):
    """Cell k of stride 4 has its centre at 4 k + 0.5. Where cells hold that, bins must hold their own centres."""
    heads = build_small(mask_alignment=alignment).roi_heads
    features = {str(level): (torch.arange(128 >> level) * 2.0 ** (level + 2) + 0.5) for level in range(4)}
    features = {name: row.expand(1, 1, len(row), len(row)) for name, row in features.items()}
    box = torch.tensor([[21.3, 30.0, 77.3, 90.0]])
    pooled = heads.box_roi_pool(features, heads._shift([box]), [(512, 512)])
    centres = 21.3 + 8 * (torch.arange(7) + 0.5)
    torch.testing.assert_close(pooled[0, 0, 0], centres + shift, rtol=0, atol=1e-3)


def test_many_detections_pass_the_mask_head_in_chunks(monkeypatch):
    model = build_small()
    image = make_example(0, 128)[0]
    sizes = []
    model.roi_heads.mask_head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    at_once = detect(model, [image])[0]
    monkeypatch.setattr(roi_heads, "DETECTIONS_AT_ONCE", 8)
    torch.testing.assert_close(vars(detect(model, [image])[0]), vars(at_once), rtol=0, atol=1e-5)
    assert sizes == [20, 8, 8, 4]


def test_many_proposals_pass_the_box_head_in_chunks(monkeypatch):
    model = build_small()
    image = make_example(0, 128)[0]
    sizes = []
    model.roi_heads.box_head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    at_once = detect(model, [image])[0]
    monkeypatch.setattr(roi_heads, "PROPOSALS_AT_ONCE", 300)
    torch.testing.assert_close(vars(detect(model, [image])[0]), vars(at_once), rtol=0, atol=1e-5)
    assert sizes[0] == sum(sizes[1:])
    assert sizes[1] == 300


def test_proposals_are_matched_in_chunks(monkeypatch, small):
    image, target, _ = make_example(30, 128)
    expected = compute_losses(small, [image], [target])
    monkeypatch.setattr(roi_heads, "IOUS_AT_ONCE", 1000)
    torch.testing.assert_close(compute_losses(small, [image], [target]), expected, rtol=0, atol=0)


def test_no_detections():
    found = detect(build_small(min_score=0.999), [torch.rand(3, 64, 64)])[0]
    assert {name: tuple(value.shape) for name, value in vars(found).items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "scores": (0,),
        "mask_probabilities": (0, 28, 28),
    }


def test_cap_is_the_only_limit():
    """The RPN's own counts of 1,000 and 2,000 rise with the cap."""
    model = build_small(detections_per_image=3000)
    assert model.roi_heads.detections_per_img == 3000
    assert model.rpn._pre_nms_top_n == model.rpn._post_nms_top_n == {"training": 3000, "testing": 3000}


class TestAutocast:
    def test_training(self, small):
        image, target, _ = make_example(20, 128)
        with torch.autocast("cpu", torch.bfloat16):
            losses = compute_losses(small, [image], [target])
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert_finite(losses, small)
        expected = compute_losses(small, [image], [target])
        torch.testing.assert_close(sum(losses.values()), sum(expected.values()), rtol=0.1, atol=0)

    def test_detections_are_float32(self, small):
        with torch.autocast("cpu", torch.bfloat16):
            found = detect(small, [make_example(0, 128)[0]])[0]
        dtypes = {name: value.dtype for name, value in vars(found).items()}
        assert dtypes.pop("labels") == torch.int64
        assert set(dtypes.values()) == {torch.float32}

    def test_boxes_are_not_rounded(self, small):
        """At 300 pixels neighbouring bfloat16 numbers are 2 apart."""
        with torch.autocast("cpu", torch.bfloat16):
            boxes = detect(small, [torch.rand(3, 32, 320)])[0].boxes
        assert not torch.equal(boxes, boxes.bfloat16().float())
        assert small.rpn.anchor_generator.cell_anchors[0].dtype == torch.float32


def test_targets_without_layers(small):
    image, target, _ = make_example(3, 64)
    del target["layers"]
    with pytest.raises(ValueError, match=r"\['layers'\] missing"):
        compute_losses(small, [image], [target])
