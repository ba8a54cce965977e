import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.modeling.catalogue import read_cards
from manymask.plan import SETTINGS, Plan, change_plan
from manymask.planning.rules import RULES, Facts, Machine, StepCost
from tests.planning.fingerprints import (
    COST,
    CPU,
    CUDA,
    costs,
    fingerprints,
    machines,
    make_class,
    make_data,
    make_distribution,
)

# What rules that are asked alone find decided.
DECIDED = {
    "weights": "none", "architecture": "maskrcnn_fpn", "min_size": 0, "max_size": 4096, "scale": 1.0, "crop_size": 0,
    "optimizer": "adamw", "suppression": "box", "batch_size": 4, "accumulate": 1, "epochs": 20, "epoch_steps": 100,
}  # fmt: skip
CARDS = read_cards()
BY_SETTING = {rule.setting: rule for rule in RULES}


def choose(setting, data=None, machine=CPU, cost=COST, **values):
    facts = Facts(data or make_data(), machine, DECIDED | values, cost, shipped=CARDS)
    return BY_SETTING[setting].choose(facts)[0]


def test_each_rule_has_a_setting_a_source_and_a_docstring():
    assert len(BY_SETTING) == len(RULES)
    assert set(BY_SETTING) < set(SETTINGS)
    for rule in RULES:
        assert len(rule.source) > 10
        assert rule.choose.__doc__


def test_rules_that_need_the_cost_come_last():
    assert [rule.needs_cost for rule in RULES] == sorted(rule.needs_cost for rule in RULES)


@given(fingerprints(), machines, costs, st.none() | st.floats(0.1, 600))
def test_rules_are_pure_and_each_value_is_a_setting_s(data, machine, cost, minutes):
    values = {"minutes": minutes}
    for rule in RULES:
        facts = Facts(data, machine, dict(values), cost, shipped=CARDS)
        value, because = rule.choose(facts)
        assert rule.choose(Facts(data, machine, dict(values), cost, shipped=CARDS)) == (value, because)
        assert facts.values == values
        assert because
        assert "\n" not in because
        values[rule.setting] = value
    change_plan(Plan(recipe="auto", weights="none"), values)


def test_cost_that_was_not_measured():
    with pytest.raises(ValueError, match="cost of a step is not measured"):
        choose("batch_size", cost=None)


@pytest.mark.parametrize(
    ("setting", "changes", "value"),
    [
        ("architecture", {}, "maskrcnn_compact"),
        ("architecture", {"weights": "imagenet"}, "maskrcnn_fpn"),
        ("architecture", {"backbone": "resnet34"}, "maskrcnn_fpn"),
        ("architecture", {"weights": "coco"}, "maskrcnn_resnet50_fpn_v2"),
        ("backbone", {}, "resnet18"),
        ("backbone", {"architecture": "maskrcnn_resnet50_fpn"}, None),
        ("backbone", {"architecture": "maskrcnn_compact"}, None),
        ("convolutions", {"architecture": "maskrcnn_compact"}, "separable"),
        ("convolutions", {"architecture": "maskrcnn_fpn"}, "full"),
        ("weights", {}, "nuclei"),
        ("weights", {"min_size": 800}, "none"),
        ("trainable_stages", {}, 5),
        ("trainable_stages", {"weights": "nuclei"}, 5),
        ("trainable_stages", {"weights": "coco"}, 3),
        ("mask_alignment", {}, "exact"),
        ("mask_alignment", {"weights": "coco"}, "torchvision"),
        ("mask_alignment", {"weights": "imagenet"}, "exact"),
        ("optimizer", {}, "adamw"),
        ("optimizer", {"weights": "coco"}, "sgd"),
        ("optimizer", {"weights": "imagenet"}, "sgd"),
        ("optimizer", {"weights": "a.pth"}, "sgd"),
        ("optimizer", {"weights": "nuclei"}, "adamw"),
        ("trainable_stages", {"weights": "a.pth"}, 3),
        ("learning_rate", {"weights": "nuclei"}, 3e-4),
        ("score_threshold", {}, "auto"),
        ("scale", {"min_size": 800}, 1.0),
        ("accumulate", {"batch_size": 1}, 4),
        ("accumulate", {"batch_size": 3}, 1),
        ("accumulate", {"batch_size": 16}, 1),
        ("learning_rate", {}, 5e-4),
        ("learning_rate", {"batch_size": 16}, 1e-3),
        ("learning_rate", {"batch_size": 2, "accumulate": 2, "optimizer": "sgd"}, 0.005),
        ("epochs", {}, 20),
        ("epochs", {"max_steps": 2}, 1),
        ("epochs", {"max_steps": 250}, 5),
        ("epochs", {"max_steps": 10**6}, 20),
        ("epoch_steps", {"max_steps": 250, "epochs": 5}, 50),
        ("epoch_steps", {"max_steps": 7, "epochs": 3}, 3),
        ("warmup_steps", {}, 100),
        ("warmup_steps", {"epoch_steps": 1, "epochs": 2}, 1),
        ("warmup_steps", {"epoch_steps": 10_000}, 200),
        ("warmup_steps", {"epoch_steps": None, "epochs": 4}, 3),  # 15 steps a pass
    ],
)
def test_by_other_settings(setting, changes, value):
    assert choose(setting, **changes) == value


@pytest.mark.parametrize(
    ("setting", "cpu", "cuda"),
    [
        ("backbone", "resnet18", "resnet50"),
        ("batch_size", 4, 8),
        ("num_workers", 2, 8),
        ("architecture", "maskrcnn_compact", "maskrcnn_fpn"),
        ("weights", "nuclei", "none"),
    ],
)
def test_by_device(setting, cpu, cuda):
    assert (choose(setting), choose(setting, machine=CUDA)) == (cpu, cuda)


@pytest.mark.parametrize(("num_cores", "num_workers"), [(1, 1), (2, 2), (64, 2)])
def test_workers(num_cores, num_workers):
    assert choose("num_workers", machine=Machine("cpu", num_cores, 8000.0)) == num_workers


@pytest.mark.parametrize(
    ("box_size", "scale"),
    [
        (20, 1), (12, 1), (11.9, 2), (9.6, 2.5), (8, 3), (6, 4), (1, 4), (96, 1), (128, 0.75), (192, 0.5), (5000, 0.25),
        (make_distribution(200, p25=90), 1), (make_distribution(12, p25=3), 1),
    ],
)  # fmt: skip
def test_scale(box_size, scale):
    assert choose("scale", make_data(box_size=box_size)) == scale


@pytest.mark.parametrize("side", [1024, 8000])
def test_scale_does_not_depend_on_the_size_of_images(side):
    """Tiles of large ones are enlarged as crops are."""
    assert choose("scale", make_data(box_size=6, widths=side)) == 4


@pytest.mark.parametrize(
    ("changes", "values", "crop_size"),
    [
        ({}, {}, 0),
        ({"heights": 1024, "widths": 300}, {}, 256),
        ({"heights": 257}, {}, 256),
        ({"widths": 1024}, {"scale": 2.0}, 128),
        ({"widths": 1024}, {"scale": 0.5}, 512),
        ({"widths": 1024, "heights": 1024}, {"min_size": 512}, 0),
        ({"widths": 1024, "box_size": make_distribution(20, p95=200.0)}, {}, 416),
        ({"widths": 1024, "box_size": make_distribution(20, p95=600.0)}, {}, 0),
    ],
)
def test_crop_size(changes, values, crop_size):
    assert choose("crop_size", make_data(**changes), **values) == crop_size


@pytest.mark.parametrize(
    ("box_size", "values", "first"),
    [
        (make_distribution(20), {}, 20),
        (make_distribution(20), {"scale": 2.0}, 40),
        (make_distribution(20, p5=10.4), {}, 10),
        (make_distribution(2), {}, 4),
        (make_distribution(20, p99=480.0), {}, 30),
        (make_distribution(20), {"min_size": 512}, 40),
    ],
)
def test_anchor_sizes(box_size, values, first):
    expected = (first, 2 * first, 4 * first, 8 * first, 16 * first)
    assert choose("anchor_sizes", make_data(box_size=box_size), **values) == expected


@pytest.mark.parametrize(
    ("elongation", "ratios"),
    [(1.5, (1,)), (1.51, (0.5, 1, 2)), (3, (0.5, 1, 2)), (3.01, (0.25, 0.5, 1, 2, 4)), (50, (0.25, 0.5, 1, 2, 4))],
)
def test_aspect_ratios(elongation, ratios):
    assert choose("aspect_ratios", make_data(elongation=elongation)) == ratios
    assert choose("aspect_ratios", make_data(elongation=elongation), weights="coco") == (0.5, 1, 2)


@pytest.mark.parametrize(("size", "bins"), [(10, 14), (28, 14), (29, 28), (400, 28), (401, 56)])
def test_mask_resolution(size, bins):
    assert choose("mask_resolution", make_data(box_size=size)) == bins


@pytest.mark.parametrize(
    ("changes", "normalization"),
    [
        ({"brightness": 0.95}, "type"),
        ({"brightness": make_distribution(0.95, p5=0.77)}, "type"),
        ({"brightness": make_distribution(0.95, p5=0.75)}, "image"),
        ({"brightness": 0.7}, "type"),
        ({"brightness": 0.69}, "image"),
        ({"brightness": 0.95, "pixel_types": {"uint8": 59, "float32": 1}}, "image"),
    ],
)
def test_normalization(changes, normalization):
    assert choose("normalization", make_data(**changes)) == normalization


@pytest.mark.parametrize(
    ("trend", "num_images", "augmentation"),
    [
        ((0.0, 0.0), 60, "dihedral"),
        ((0.5, 20.0), 60, "flip"),
        ((-0.5, -20.0), 60, "flip"),
        ((0.5, 20.0), 7, "dihedral"),
        ((0.5, 20.0), 8, "flip"),
        ((0.2, 20.0), 60, "dihedral"),
        ((0.5, 5.0), 60, "dihedral"),
    ],
)
def test_augmentation(trend, num_images, augmentation):
    assert choose("augmentation", make_data(vertical_trend=trend, num_images=num_images)) == augmentation


@pytest.mark.parametrize(
    ("small", "large", "min_size", "jitter"), [(10.0, 50.0, 0, 0.0), (10.0, 51.0, 0, 0.5), (10.0, 51.0, 800, 0.0)]
)
def test_scale_jitter(small, large, min_size, jitter):
    data = make_data(box_size=make_distribution(20, p5=small, p95=large))
    assert choose("scale_jitter", data, min_size=min_size) == jitter


@pytest.mark.parametrize(
    ("changes", "sampling"),
    [
        ({}, "uniform"),
        (
            {"heights": make_distribution(256, max=384.0), "areas": make_distribution(256**2, max=384 * 256.0)},
            "uniform",
        ),
        (
            {"heights": make_distribution(256, max=385.0), "areas": make_distribution(256**2, max=385 * 256.0)},
            "balanced",
        ),
        ({"classes": (make_class(1, 60), make_class(2, 30))}, "uniform"),
        ({"classes": (make_class(1, 60), make_class(2, 29))}, "balanced"),
        ({"classes": (make_class(1, 60), make_class(2, 0))}, "uniform"),
    ],
)
def test_sampling(changes, sampling):
    assert choose("sampling", make_data(**changes)) == sampling


@pytest.mark.parametrize(
    ("changes", "values", "number"),
    [
        ({"instances_per_image": 5}, {}, 64),
        ({"instances_per_image": 50}, {}, 224),
        ({"instances_per_image": 900}, {}, 512),
        ({"instances_per_image": 900, "instances_per_megapixel": 500}, {"crop_size": 256}, 160),
    ],
)
def test_roi_samples(changes, values, number):
    assert choose("roi_samples", make_data(**changes), **values) == number


@pytest.mark.parametrize(("largest", "cap"), [(0, 100), (66, 100), (67, 101), (701, 1052)])
def test_detections_per_image(largest, cap):
    data = make_data(instances_per_image=make_distribution(5, max=float(largest)))
    assert choose("detections_per_image", data) == cap
    assert Plan().resolve_detections(largest).max_detections == cap


@pytest.mark.parametrize(
    ("box_iou", "suppression", "nms"), [(0.0, "box", 0.3), (0.3, "box", 0.35), (0.4, "box", 0.45), (0.41, "mask", 0.3)]
)
def test_suppression(box_iou, suppression, nms):
    data = make_data(neighbor_box_iou=box_iou, neighbor_mask_iou=0.05)
    assert choose("suppression", data) == suppression
    assert choose("nms", data, suppression=suppression) == nms


def test_nms_is_at_most_0_6():
    assert choose("nms", make_data(neighbor_mask_iou=0.9), suppression="mask") == 0.6


@pytest.mark.parametrize(("num_images", "share"), [(1, 0.2), (49, 0.2), (50, 0.1)])
def test_val_fraction(num_images, share):
    assert choose("val_fraction", make_data(num_images=num_images)) == share


@pytest.mark.parametrize(
    ("mib_per_image", "size"), [(300, 4), (1000, 4), (1001, 2), (2000, 2), (2001, 1), (1e6, 1), (0, 4)]
)
def test_batch_size(mib_per_image, size):
    """60 % of 8,000 MiB, less 800, are 4,000."""
    assert choose("batch_size", cost=StepCost(0.5, 6.0, 800.0, float(mib_per_image))) == size


@pytest.mark.parametrize(
    ("minutes", "seconds", "epochs"), [(10.0, 4.5, 20), (10.0, 9.0, 10), (1.0, 9.0, 3), (1.0, 0.0, 20)]
)
def test_epochs_by_time(minutes, seconds, epochs):
    """Validations take at most 15 %, but there are three at least, of which the first shows what they really take."""
    assert choose("epochs", cost=StepCost(0.5, seconds, 0.0, 0.0), minutes=minutes) == epochs


@pytest.mark.parametrize(
    ("changes", "values", "steps"),
    [
        ({}, {"minutes": 10.0, "epochs": 10}, 27),  # 600 s less 60 in steps of 2 s
        ({}, {"minutes": 0.1}, 1),
        ({}, {}, 75),  # 100 passes over 60 images, 4 a step
        ({"num_images": 10, "megapixels": 0.6}, {}, 50),
        ({"num_images": 10_000, "megapixels": 600.0}, {}, 1000),
        ({"num_images": 10, "megapixels": 6.55}, {"crop_size": 256}, 125),  # 100 crops
    ],
)
def test_epoch_steps(changes, values, steps):
    assert choose("epoch_steps", make_data(**changes), **values) == steps


@pytest.mark.parametrize(
    ("small", "large", "weights"), [(6, 90, "nuclei"), (20, 20, "nuclei"), (5, 20, "none"), (20, 91, "none")]
)
def test_shipped_model_for_objects_of_its_sizes(small, large, weights):
    data = make_data(box_size=make_distribution(20, p5=small, p25=small, p75=large, p95=large, p99=large, max=large))
    assert choose("weights", data) == weights


@pytest.mark.parametrize("name", ["architecture", "backbone", "aspect_ratios", "scale"])
def test_no_shipped_model_for_a_network_of_one_s_own(name):
    facts = Facts(make_data(), CPU, DECIDED, COST, own={name})
    assert BY_SETTING["weights"].choose(facts) == ("none", f"you set {name}")


@pytest.mark.parametrize(("architecture", "scale"), [("maskrcnn_compact", 1.0), ("maskrcnn_fpn", 3.0)])
def test_a_finer_level_needs_less_enlarging(architecture, scale):
    assert choose("scale", make_data(box_size=8), architecture=architecture) == scale
