import json

import pytest

from manymask.errors import PlanError
from manymask.plan import (
    RECIPES,
    RESUMABLE,
    SETTINGS,
    DataRecord,
    Plan,
    change_plan,
    list_marked,
    load_plan,
    make_plan,
    parse_settings,
    parse_values,
    read_plan,
    write_plan,
)

TIMM = {"architecture": "maskrcnn_fpn", "backbone": "resnet18", "weights": "none"}
DATA = DataRecord(
    path="train",
    val_path=None,
    data_format="class_folders",
    fingerprint="abc",
    categories=((1, "cell"), (4, "other")),
    train_names=("a", "b"),
    val_names=("c",),
    max_instances=712,
)

# Every setting with another value than its default: as the command line gives it, and what it means.
VALUES = {
    "architecture": ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"),
    "backbone": ("none", None),
    "channels": ("3,1", (3, 1)),
    "convolutions": ("separable", "separable"),
    "weights": ("runs/a/best.ckpt", "runs/a/best.ckpt"),
    "trainable_stages": ("5", 5),
    "anchor_sizes": ("4,8,16,32,64", (4, 8, 16, 32, 64)),
    "aspect_ratios": ("1", (1,)),
    "rpn_samples": ("512", 512),
    "roi_samples": ("128", 128),
    "roi_positives": ("0.5", 0.5),
    "mask_samples": ("48", 48),
    "mask_resolution": ("14", 14),
    "mask_alignment": ("exact", "exact"),
    "box_stages": ("2", 2),
    "box_loss": ("giou", "giou"),
    "dense_loss": ("0.5", 0.5),
    "epochs": ("7", 7),
    "epoch_steps": ("50", 50),
    "max_steps": ("20", 20),
    "minutes": ("0.5", 0.5),
    "batch_size": ("4", 4),
    "accumulate": ("2", 2),
    "optimizer": ("adamw", "adamw"),
    "learning_rate": ("1e-4", 1e-4),
    "momentum": ("0.95", 0.95),
    "weight_decay": ("0", 0.0),
    "gradient_clip": ("1.5", 1.5),
    "scheduler": ("none", "none"),
    "weight_average": ("0.99", 0.99),
    "warmup_steps": ("100", 100),
    "precision": ("fp32", "fp32"),
    "deterministic": ("true", True),
    "crowd_as_objects": ("true", True),
    "ignore_label": ("-1,255 nan", (-1, 255, "nan")),
    "min_size": ("0", 0),
    "max_size": ("2000", 2000),
    "scale": ("2.5", 2.5),
    "crop_size": ("256", 256),
    "normalization": ("image", "image"),
    "augmentation": ("dihedral", "dihedral"),
    "scale_jitter": ("0.3", 0.3),
    "intensity_jitter": ("0.2", 0.2),
    "stain_jitter": ("0.25", 0.25),
    "contact_paste": ("0.3", 0.3),
    "touching_share": ("0.5", 0.5),
    "tta": ("true", True),
    "object_size": ("auto", "auto"),
    "sampling": ("balanced", "balanced"),
    "val_fraction": ("0.2", 0.2),
    "group_by": (r"^slide\d+", r"^slide\d+"),
    "seed": ("3", 3),
    "split_seed": ("4", 4),
    "num_workers": ("0", 0),
    "device": ("cuda:1", "cuda:1"),
    "detections_per_image": ("1000", 1000),
    "min_score": ("0", 0.0),
    "rpn_nms": ("0.8", 0.8),
    "suppression": ("mask", "mask"),
    "nms": ("0.3", 0.3),
    "score_threshold": ("auto", "auto"),
    "mask_threshold": ("0.8", 0.8),
    "keep_checkpoints": ("best", "best"),
}
# What settings need beside them.
NEEDED = {name: {"min_size": "0"} for name in ("scale", "crop_size", "scale_jitter", "object_size")}
NEEDED["convolutions"] = {"architecture": "maskrcnn_compact", "weights": "none"}


def assert_refused(settings, match):
    with pytest.raises(PlanError, match=match) as caught:
        make_plan("baseline", settings)
    assert "\n" not in str(caught.value)


def test_every_setting_is_tested():
    assert set(VALUES) == set(SETTINGS)


@pytest.mark.parametrize("name", VALUES)
def test_from_text(name):
    text, value = VALUES[name]
    needed = NEEDED.get(name, {})
    plan = make_plan("baseline", {**needed, name: text})
    assert getattr(plan, name) == value
    changed = {other for other in SETTINGS if getattr(plan, other) != getattr(RECIPES["baseline"], other)}
    assert changed == ({name, *needed} if name != "backbone" else set())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_steps", "none", None),
        ("epoch_steps", "none", None),
        ("minutes", "none", None),
        ("group_by", "none", None),
        ("aspect_ratios", "0.25,1 4", (0.25, 1, 4)),
        ("mask_resolution", " 56 ", 56),
        ("score_threshold", "1", 1.0),
        ("max_steps", "None", None),
        ("anchor_sizes", "4 8 16 32 64", (4, 8, 16, 32, 64)),
        ("anchor_sizes", "4.5, 8, 16, 32, 64", (4.5, 8, 16, 32, 64)),
        ("deterministic", "false", False),
        ("deterministic", "0", False),
        ("detections_per_image", "auto", "auto"),
        ("scheduler", "cosine", "cosine"),
        ("device", "cuda", "cuda"),
        ("ignore_label", "none", ()),
        ("ignore_label", " -1 ", (-1,)),
        ("ignore_label", 0, (0,)),
        ("ignore_label", float("nan"), ("nan",)),
        ("ignore_label", [65535, "NaN"], (65535, "nan")),
        ("ignore_label", 255.0, (255,)),
    ],
)
def test_other_texts(name, text, value):
    assert getattr(make_plan("baseline", {name: text}), name) == value


def test_values_of_python():
    plan = make_plan("baseline", {"max_steps": None, "anchor_sizes": [2, 4, 8, 16, 32], "deterministic": True, **TIMM})
    assert (plan.anchor_sizes, plan.deterministic, plan.backbone) == ((2, 4, 8, 16, 32), True, "resnet18")


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "near"),
        [("learningrate", "learning_rate"), ("batchsize", "batch_size"), ("detections", "detections_per_image")],
    )
    def test_near_name(self, name, near):
        assert_refused({name: 1}, f"there is no setting '{name}'; did you mean '{near}'")

    def test_far_name(self):
        assert_refused({"xyzzy": 1}, "there is no setting 'xyzzy'; there are: architecture, backbone")

    @pytest.mark.parametrize("name", ["recipe", "data"])
    def test_what_is_no_setting(self, name):
        assert_refused({name: "x"}, f"there is no setting '{name}'")

    def test_recipe(self):
        with pytest.raises(
            PlanError, match="there is no recipe 'best'; there are: auto, baseline, or give the plan.json of a run"
        ):
            make_plan("best")


class TestRecipes:
    def test_draft_of_auto(self):
        plan = make_plan("auto", {"epochs": "7"})
        assert (plan.recipe, plan.epochs, plan.weights) == ("auto", 7, "none")
        assert (plan.architecture, plan.backbone) == ("maskrcnn_compact", None)

    @pytest.mark.parametrize(
        ("settings", "backbone"),
        [({"backbone": "resnet34"}, "resnet34"), ({"weights": "imagenet"}, "resnet18"),
         ({"architecture": "maskrcnn_fpn"}, "resnet18")],
    )  # fmt: skip
    def test_draft_of_auto_with_any_backbone(self, settings, backbone):
        plan = make_plan("auto", settings)
        assert (plan.architecture, plan.backbone) == ("maskrcnn_fpn", backbone)

    @pytest.mark.parametrize("settings", [{"weights": "coco"}, {"architecture": "maskrcnn_resnet50_fpn"}])
    def test_draft_of_auto_with_another_architecture(self, settings):
        plan = make_plan("auto", settings)
        assert plan.architecture.startswith("maskrcnn_resnet50_fpn")
        assert plan.backbone is None

    def test_file(self, tmp_path):
        plan = make_plan("baseline", {"epochs": 7}).model_copy(update={"data": DATA})
        write_plan(plan, tmp_path / "my.json")
        expected = plan.model_copy(update={"data": None, "seed": 3})
        assert make_plan(str(tmp_path / "my.json"), {"seed": "3"}) == expected

    def test_file_with_unknown_key(self, tmp_path):
        (tmp_path / "my.json").write_text('{"epochs": 7, "epoch_size": 3}')
        with pytest.raises(PlanError, match=r"in .*my\.json, epoch_size is 3: Extra inputs"):
            make_plan(str(tmp_path / "my.json"))


class TestParseValues:
    def test_each_by_itself(self):
        assert parse_values({"scale": "2", "minutes": "5", "max_steps": "3", "weights": "none"}) == {
            "scale": 2.0, "minutes": 5.0, "max_steps": 3, "weights": "none",
        }  # fmt: skip

    @pytest.mark.parametrize("name", VALUES)
    def test_as_in_a_plan(self, name):
        text, value = VALUES[name]
        assert parse_values({name: text}) == {name: value}

    def test_refused(self):
        with pytest.raises(PlanError, match=r"^in the settings, epochs is '0': Input should be greater than or equal"):
            parse_values({"epochs": "0"})
        with pytest.raises(PlanError, match="there is no setting 'epohs'; did you mean 'epochs'"):
            parse_values({"epohs": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "unet"),
        ("trainable_stages", "6"),
        ("trainable_stages", "-1"),
        ("anchor_sizes", "4,8"),
        ("anchor_sizes", "1,8,16,32,64"),
        ("anchor_sizes", "a,8,16,32,64"),
        ("anchor_sizes", "inf,8,16,32,64"),
        ("aspect_ratios", "a"),
        ("rpn_samples", "1"),
        ("roi_samples", "3"),
        ("epochs", "0"),
        ("epochs", "many"),
        ("epochs", "1.5"),
        ("max_steps", "0"),
        ("epoch_steps", "0"),
        ("minutes", "0"),
        ("minutes", "inf"),
        ("mask_resolution", "20"),
        ("mask_alignment", "half"),
        ("scale", "0.05"),
        ("scale", "9"),
        ("crop_size", "-1"),
        ("normalization", "percentile"),
        ("augmentation", "colour"),
        ("sampling", "rare"),
        ("rpn_nms", "0"),
        ("suppression", "pixels"),
        ("nms", "0"),
        ("nms", "1.1"),
        ("batch_size", "0"),
        ("accumulate", "0"),
        ("optimizer", "lion"),
        ("learning_rate", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "inf"),
        ("momentum", "1"),
        ("weight_decay", "-1"),
        ("weight_decay", "inf"),
        ("gradient_clip", "-1"),
        ("scheduler", "step"),
        ("warmup_steps", "-1"),
        ("precision", "fp8"),
        ("deterministic", "perhaps"),
        ("min_size", "-1"),
        ("max_size", "0"),
        ("val_fraction", "0"),
        ("val_fraction", "1"),
        ("seed", "-1"),
        ("seed", str(2**31)),
        ("num_workers", "-1"),
        ("num_workers", "257"),
        ("device", "tpu"),
        ("device", "3"),
        ("device", "cuda:"),
        ("detections_per_image", "0"),
        ("detections_per_image", "all"),
        ("min_score", "1"),
        ("min_score", "-0.1"),
        ("score_threshold", "1.1"),
        ("mask_threshold", "0"),
        ("mask_threshold", "1"),
        ("keep_checkpoints", "last"),
    ],
)
def test_out_of_range(name, value):
    assert_refused({name: value}, f"{name} is ")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"backbone": "resnet18"},
            "backbone goes with architecture=maskrcnn_fpn or maskrcnn_compact only, not with maskrcnn_resnet50_fpn_v2",
        ),
        ({"architecture": "maskrcnn_fpn", "weights": "none"}, "maskrcnn_fpn needs backbone=<timm name>"),
        (
            {**TIMM, "weights": "coco"},
            "no COCO weights of maskrcnn_fpn; set weights to imagenet, none or a file",
        ),
        ({"convolutions": "separable"}, "convolutions=separable goes with architecture=maskrcnn_compact only"),
        ({"architecture": "maskrcnn_compact"}, "no COCO weights of maskrcnn_compact; set weights to imagenet"),
        (
            {"architecture": "maskrcnn_compact", "weights": "imagenet"},
            "no ImageNet weights of maskrcnn_compact's own body; set backbone=<timm name>",
        ),
        ({"min_size": "2000"}, "min_size is 2000, but max_size only 1333"),
        ({"scale": "2"}, "min_size is 800 and scale 2; set min_size=0 to resize by a factor"),
        ({"scale_jitter": "0.2"}, "min_size is 800, which would undo scale_jitter; set min_size=0"),
        ({"roi_samples": "64", "roi_positives": "0.01"}, "roi_positives is 0.01, less than one of roi_samples=64, .*"),
        ({"object_size": "20"}, "min_size is 800, which would undo object_size; set min_size=0"),
        ({"crop_size": "64"}, "min_size is 800 and crop_size 64: .*; set min_size=0"),
        ({"aspect_ratios": ""}, "aspect_ratios is .., expected numbers from 0.05 to 20"),
        ({"aspect_ratios": "1,30"}, "aspect_ratios is .1.0, 30.0., expected numbers from 0.05 to 20"),
        ({"minutes": "5", "max_steps": "5"}, "minutes and max_steps both end a run; set one of them to none"),
        ({"group_by": "("}, "group_by is '.', which is not a regular expression"),
    ],
)
def test_settings_that_do_not_fit(settings, match):
    assert_refused(settings, match)


class TestChangePlan:
    def test_others_stay(self):
        plan = make_plan("baseline", {"epochs": "7"}).model_copy(update={"data": DATA})
        assert change_plan(plan, {"device": "cpu"}) == plan.model_copy(update={"device": "cpu"})

    def test_what_a_resumed_run_may_change(self):
        assert list_marked(RESUMABLE) == ("num_workers", "device")


class TestParseSettings:
    def test_names_and_values(self):
        found = parse_settings(["scheduler=none", "batch-size = 4", "weights=a=b.pth", "max_steps="])
        assert found == {"scheduler": "none", "batch_size": "4", "weights": "a=b.pth", "max_steps": ""}
        assert make_plan("baseline", found).max_steps is None

    def test_nothing(self):
        assert parse_settings([]) == {}

    def test_no_value(self):
        with pytest.raises(PlanError, match="expected name=value, found 'epochs'; for example --set scheduler=none"):
            parse_settings(["epochs"])

    def test_twice(self):
        with pytest.raises(PlanError, match="the setting 'batch_size' is given twice"):
            parse_settings(["batch_size=1", "batch-size=2"])


class TestFile:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            TIMM,
            {n: text for n, (text, _) in VALUES.items() if n != "max_steps"} | {"architecture": "maskrcnn_compact"},
        ],
    )
    @pytest.mark.parametrize("data", [None, DATA])
    def test_round_trip(self, tmp_path, settings, data):
        plan = make_plan("baseline", settings).model_copy(update={"data": data})
        write_plan(plan, tmp_path / "plan.json")
        assert read_plan(tmp_path / "plan.json") == plan

    def test_people_can_read_it(self, tmp_path):
        write_plan(Plan(), tmp_path / "plan.json")
        text = (tmp_path / "plan.json").read_text()
        assert '  "learning_rate": 0.005,\n' in text
        assert json.loads(text).keys() == {*SETTINGS, "version", "recipe", "data"}

    def refuse(self, tmp_path, content, match):
        path = tmp_path / "plan.json"
        path.write_bytes(content)
        with pytest.raises(PlanError, match=match) as caught:
            read_plan(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_unknown_key(self, tmp_path):
        self.refuse(tmp_path, b'{"epochs": 3, "epoch_count": 4}', "epoch_count is 4: Extra inputs are not permitted")

    def test_other_version(self, tmp_path):
        self.refuse(tmp_path, b'{"version": 2, "epochs": 3}', "version is 2: Input should be 1")

    def test_from_before_versions(self, tmp_path):
        (tmp_path / "plan.json").write_text('{"epochs": 3}')
        assert read_plan(tmp_path / "plan.json").version == 1

    def test_out_of_range(self, tmp_path):
        self.refuse(tmp_path, b'{"epochs": 0}', "epochs is 0: Input should be greater than or equal to 1")

    def test_damaged_record_of_the_data(self, tmp_path):
        self.refuse(tmp_path, b'{"data": {"path": 3}}', r"data\.path is 3")

    @pytest.mark.parametrize("content", [b"", b'{"epochs": 3', b"\xff\xfe\x00"])
    def test_not_json(self, tmp_path, content):
        self.refuse(tmp_path, content, "is not JSON .*restore it")

    @pytest.mark.parametrize("content", [b"[1]", b"3", b"null"])
    def test_not_a_mapping(self, tmp_path, content):
        self.refuse(tmp_path, content, "expected settings by name in")

    def test_missing(self, tmp_path):
        with pytest.raises(PlanError, match=r"none\.json.*is this a run folder"):
            read_plan(tmp_path / "none.json")
        with pytest.raises(PlanError, match="is this a run folder"):
            read_plan(tmp_path)

    def test_source_is_named(self):
        with pytest.raises(PlanError, match=r"in last\.ckpt, seed is -1"):
            load_plan({"seed": -1}, "last.ckpt")


class TestDetections:
    @pytest.mark.parametrize(("largest", "cap"), [(0, 100), (66, 100), (67, 101), (68, 102), (700, 1050), (701, 1052)])
    def test_one_and_a_half_times_the_largest_count(self, largest, cap):
        assert Plan().resolve_detections(largest).max_detections == cap

    def test_a_number_stays(self):
        plan = make_plan("baseline", {"detections_per_image": "50"})
        assert plan.resolve_detections(700).max_detections == plan.max_detections == 50

    def test_auto_without_data(self):
        with pytest.raises(PlanError, match=r"detections_per_image is auto, .*set a number"):
            _ = Plan().max_detections


def test_baseline_is_the_report():
    """Setting by setting what the course report trained with; its cap of 100 and its 0.8 in inference are not taken."""
    plan = RECIPES["baseline"]
    assert plan == Plan()
    assert (plan.architecture, plan.weights, plan.trainable_stages) == ("maskrcnn_resnet50_fpn_v2", "coco", 3)
    assert (plan.min_size, plan.max_size, plan.anchor_sizes) == (800, 1333, (32, 64, 128, 256, 512))
    assert (plan.scale, plan.crop_size, plan.aspect_ratios) == (1, 0, (0.5, 1, 2))
    assert (plan.mask_resolution, plan.mask_alignment) == (28, "torchvision")
    assert (plan.normalization, plan.augmentation, plan.sampling) == ("type", "none", "uniform")
    assert (plan.rpn_nms, plan.suppression, plan.nms) == (0.7, "box", 0.5)
    assert (plan.epoch_steps, plan.minutes) == (None, None)
    assert (plan.rpn_samples, plan.roi_samples) == (256, 512)
    assert (plan.epochs, plan.max_steps, plan.batch_size, plan.accumulate) == (100, None, 2, 1)
    assert (plan.optimizer, plan.learning_rate, plan.momentum, plan.weight_decay) == ("sgd", 0.005, 0.9, 5e-4)
    assert (plan.scheduler, plan.warmup_steps, plan.gradient_clip) == ("multistep", 0, 0)
    assert (plan.val_fraction, plan.seed, plan.keep_checkpoints) == (0.1, 0, "all")
    assert (plan.precision, plan.detections_per_image) == ("auto", "auto")
    assert (plan.min_score, plan.score_threshold, plan.mask_threshold) == (0.05, 0.5, 0.5)


def test_plans_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Plan().epochs = 3


def test_a_run_from_when_the_split_went_by_the_seed_keeps_its_split():
    assert load_plan({"seed": 3}, "plan.json").split_seed == 3
    assert load_plan({"seed": 3, "split_seed": 1}, "plan.json").split_seed == 1


def test_a_setting_that_is_no_more_is_left_out_of_old_plans():
    """Plans of before hold a floor on contrast as a share of the type's range."""
    assert load_plan({**Plan().model_dump(), "min_contrast": 0.2}, "plan.json") == Plan()
    with pytest.raises(PlanError, match="no setting 'min_contrast' any more; leave it out: the noise of each image"):
        make_plan(settings={"min_contrast": "0.2"})
