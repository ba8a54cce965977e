import pytest
from hypothesis import given
from hypothesis import strategies as st

from manymask.errors import PlanError
from manymask.plan import INHERITED, SETTINGS, change_plan, list_marked, make_plan
from manymask.planning.planner import fit_schedule, format_value, list_decisions, plan_training, write_explanation
from manymask.planning.rules import RULES
from tests.planning.fingerprints import COST, CPU, costs, fingerprints, machines, make_data, make_distribution

# What a user may set, one by one or together.
OWN = {
    "epochs": "7", "batch_size": "3", "accumulate": "2", "optimizer": "sgd", "learning_rate": "0.01", "nms": "0.45",
    "anchor_sizes": "8,16,32,64,128", "crop_size": "0", "suppression": "mask", "score_threshold": "0.4",
    "detections_per_image": "auto", "epoch_steps": "12", "seed": "3", "device": "cpu", "deterministic": "true",
    "augmentation": "none", "scheduler": "multistep", "trainable_stages": "2",
}  # fmt: skip
TOGETHER = [
    {}, {"weights": "coco"}, {"architecture": "maskrcnn_resnet50_fpn_v2"}, {"architecture": "maskrcnn_resnet50_fpn"},
    {"backbone": "resnet34"}, {"weights": "imagenet"}, {"min_size": "800"}, {"scale": "4"}, {"max_steps": "2"},
    {"minutes": "5"}, {"min_size": "512", "weights": "coco", "minutes": "0.1"}, {"max_size": "600"},
]  # fmt: skip


def decide(settings=None, data=None, machine=CPU, cost=COST):
    return plan_training(data or make_data(), machine, settings or {}, lambda plan: cost)


@given(fingerprints(), machines, costs, st.sets(st.sampled_from(sorted(OWN))), st.sampled_from(TOGETHER))
def test_every_plan_is_valid_and_keeps_what_the_user_set(data, machine, cost, names, more):
    settings = {name: OWN[name] for name in names} | more
    draft = make_plan("auto", settings)
    plan, decisions = decide(settings, data, machine, cost)
    assert plan.recipe == "auto"
    assert {name: getattr(plan, name) for name in settings} == {name: getattr(draft, name) for name in settings}
    assert sorted(decision.setting for decision in decisions) == sorted(SETTINGS)
    assert {decision.setting for decision in decisions if decision.source == "--set"} == set(settings)
    assert all(decision.value == getattr(plan, decision.setting) for decision in decisions)
    assert change_plan(plan, {d.setting: format_value(d.value) for d in decisions})


class TestUsersOwn:
    def test_later_rules_see_them(self):
        data = make_data(heights=1024)
        (plain, _), (scaled, decisions) = decide({}, data), decide({"scale": "4"}, data)
        assert (plain.scale, plain.crop_size, plain.anchor_sizes[0]) == (1, 256, 20)
        assert (scaled.scale, scaled.crop_size, scaled.anchor_sizes[0]) == (4, 64, 80)
        (own,) = [decision for decision in decisions if decision.source == "--set"]
        assert (own.setting, own.value, own.because, own.source) == ("scale", 4.0, "set by you", "--set")

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"weights": "coco"}, {"architecture": "maskrcnn_resnet50_fpn_v2", "backbone": None, "optimizer": "sgd"}),
            ({"weights": "coco"}, {"mask_alignment": "torchvision", "learning_rate": 0.005}),
            ({"architecture": "maskrcnn_resnet50_fpn_v2"}, {"backbone": None, "weights": "none", "optimizer": "adamw"}),
            ({"min_size": "512"}, {"scale": 1, "anchor_sizes": (40, 80, 160, 320, 640)}),
            ({"max_steps": "40", "epoch_steps": "2"}, {"epochs": 20, "epoch_steps": 2, "warmup_steps": 2}),
            ({"max_steps": "41", "epoch_steps": "20"}, {"epochs": 3, "warmup_steps": 2}),
            ({"max_steps": "40", "epoch_steps": "none"}, {"epochs": 40, "epoch_steps": None, "warmup_steps": 2}),
            ({"max_steps": "120"}, {"epochs": 2, "epoch_steps": 60, "warmup_steps": 6}),
            ({"epochs": "10"}, {"epoch_steps": None}),
            ({"optimizer": "sgd"}, {"learning_rate": 0.005, "weights": "nuclei"}),
            ({"batch_size": "16"}, {"accumulate": 1, "learning_rate": 0.0006}),
            ({"batch_size": "16", "weights": "none"}, {"accumulate": 1, "learning_rate": 0.001}),
            ({"weights": "imagenet"}, {"architecture": "maskrcnn_fpn", "backbone": "resnet18", "optimizer": "sgd"}),
            ({"backbone": "resnet34"}, {"architecture": "maskrcnn_fpn", "weights": "none", "trainable_stages": 5}),
        ],
    )
    def test_what_follows_from_them(self, settings, expected):
        plan, _ = decide(settings)
        assert {name: getattr(plan, name) for name in expected} == expected

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"epohs": "1"}, "there is no setting 'epohs'; did you mean 'epochs'"),
            ({"epochs": "0"}, "in the settings, epochs is '0'"),
            ({"min_size": "800", "scale": "2"}, "set min_size=0 to resize by a factor"),
            (
                {"backbone": "resnet18", "weights": "coco"},
                "backbone goes with architecture=maskrcnn_fpn or maskrcnn_compact only",
            ),
        ],
    )
    def test_refused(self, settings, match):
        with pytest.raises(PlanError, match=match):
            decide(settings)


def test_a_step_is_measured_once_with_all_but_the_schedule():
    plans = []
    plan, _ = plan_training(make_data(), CPU, {"seed": "3"}, lambda plan: plans.append(plan) or COST)
    (measured,) = plans
    late = {rule.setting for rule in RULES if rule.needs_cost}
    changed = {name for name in SETTINGS if getattr(measured, name) != getattr(plan, name)}
    assert "learning_rate" in changed
    assert changed <= late


def test_nothing_is_measured_where_the_user_set_the_schedule():
    late = [rule.setting for rule in RULES if rule.needs_cost]
    settings = {name: str(OWN.get(name, "5e-4" if name == "learning_rate" else 5)) for name in late}
    plan, _ = plan_training(make_data(), CPU, settings, lambda plan: pytest.fail("measured"))
    assert (plan.epochs, plan.batch_size, plan.warmup_steps) == (7, 3, 5)


class TestFitSchedule:
    def test_baseline(self):
        """10 minutes: 90 s for validations of 6 s, the rest in steps of 1 s, two images each."""
        plan = make_plan("baseline", {"minutes": "10"})
        fitted = fit_schedule(plan, make_data(), CPU, {}, lambda plan: COST)
        assert (fitted.epochs, fitted.epoch_steps) == (15, 34)
        assert fitted.model_copy(update={"epochs": 100, "epoch_steps": None}) == plan

    def test_little_time(self):
        plan = make_plan("baseline", {"minutes": "0.01"})
        fitted = fit_schedule(plan, make_data(), CPU, {}, lambda plan: COST)
        assert (fitted.epochs, fitted.epoch_steps) == (3, 1)

    def test_own_epochs_stay(self):
        plan = make_plan("baseline", {"minutes": "10", "epochs": "5"})
        fitted = fit_schedule(plan, make_data(), CPU, {"epochs"}, lambda plan: COST)
        assert (fitted.epochs, fitted.epoch_steps) == (5, 114)


class TestStart:
    """Weights of an earlier run were made for some settings."""

    def test_are_taken_over(self):
        network = {"architecture": "maskrcnn_fpn", "backbone": "resnet34", "weights": "none", "min_size": 0}
        start = make_plan("baseline", network)
        own = {"weights": "a.ckpt", "normalization": "type"}
        asked = []

        def read_start(weights):
            asked.append(weights)
            return start

        plan, decisions = plan_training(make_data(elongation=1), CPU, own, lambda plan: COST, read_start)
        assert asked == ["a.ckpt"]
        assert (plan.backbone, plan.mask_alignment, plan.aspect_ratios) == ("resnet34", "torchvision", (0.5, 1, 2))
        inherited = {decision.setting for decision in decisions if decision.source == "weights"}
        assert inherited == set(list_marked(INHERITED)) - {"normalization"}
        assert {decision.setting for decision in decisions if decision.source == "--set"} == set(own)
        assert (plan.optimizer, plan.recipe) == ("sgd", "auto")  # as the weights were made

    def test_of_the_shipped_model_where_the_rule_takes_it(self):
        """Its scale and anchors fit its weights, whatever the data's own sizes; crops follow the scale."""
        start = make_plan(
            "auto", {"scale": "1.5", "anchor_sizes": "8,16,32,64,128", "optimizer": "adamw", "weights": "none"}
        )
        plan, _ = plan_training(make_data(box_size=40), CPU, {}, lambda plan: COST, {"nuclei": start}.get)
        assert (plan.weights, plan.architecture, plan.scale) == ("nuclei", "maskrcnn_compact", 1.5)
        assert plan.anchor_sizes == (8, 16, 32, 64, 128)
        assert (plan.crop_size, plan.learning_rate) == (192, 0.0003)

    @pytest.mark.parametrize(
        ("made_with", "own"), [({"min_size": "800"}, {}), ({}, {"scale": "2"}), ({}, {"min_size": "512"})]
    )
    def test_anchors_of_another_scale_are_not(self, made_with, own):
        start = make_plan("auto", {"anchor_sizes": "3,6,12,24,48", "weights": "none", **made_with})
        own = {"weights": "a.ckpt", **own}
        plan, _ = plan_training(make_data(), CPU, own, lambda plan: COST, lambda weights: start)
        assert plan.anchor_sizes[0] >= 20
        assert plan.scale == (2 if "scale" in own else 1)

    def test_large_images_are_enlarged_as_the_weights_know_it(self):
        start = make_plan("auto", {"scale": "1.5", "weights": "none"})
        plan, _ = plan_training(make_data(heights=4000), CPU, {}, lambda plan: COST, lambda weights: start)
        assert plan.scale == 1.5

    def test_min_size_resizes_by_itself(self):
        start = make_plan("auto", {"scale": "1.5", "weights": "none"})
        own = {"weights": "a.ckpt", "min_size": "512"}
        plan, _ = plan_training(make_data(), CPU, own, lambda plan: COST, lambda weights: start)
        assert (plan.min_size, plan.scale) == (512, 1)


class TestExplanation:
    def test_table(self):
        _, decisions = decide({"group_by": "a|b", "seed": "3"})
        lines = write_explanation(decisions).splitlines()
        rows = [line.replace(r"\|", "/").strip("| ").split(" | ") for line in lines[4:]]
        assert all(len(row) == 4 for row in rows)
        assert sorted(row[0] for row in rows) == sorted(SETTINGS)
        assert ["group_by", "a/b", "set by you", "--set"] in rows

    def test_rules_say_the_evidence(self):
        data = make_data(densest_image="slide 7", instances_per_image=make_distribution(5, max=400.0))
        rows = {row[0]: row for row in list_decisions(decide(data=data)[1])}
        assert rows["detections_per_image"][1] == "600"
        assert "slide 7" in rows["detections_per_image"][2]
        assert "400" in rows["detections_per_image"][2]

    @pytest.mark.parametrize(
        ("value", "text"),
        [(None, "none"), (True, "true"), (0.0005, "0.0005"), ((8.0, 16.0), "8,16"), (3, "3"), ("auto", "auto")],
    )
    def test_format_value(self, value, text):
        assert format_value(value) == text
