"""Runs by the recipe auto, by a plan of one's own, and by the clock."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import save_file

from manymask.comparison.comparing import _describe_unfinished
from manymask.errors import CheckpointError, PlanError
from manymask.modeling import catalogue
from manymask.modeling.catalogue import resolve_weights
from manymask.modeling.checkpoint import CHECKPOINT_KEY, read_checkpoint, read_state_dict, write_checkpoint
from manymask.plan import INHERITED, SETTINGS, change_plan, list_marked, read_plan, write_plan
from manymask.prediction import load_model
from manymask.run_folder import read_diagnosis
from manymask.training import plan_run, train
from tests.tiny_model import ship, write_tiny_model
from tests.training.runs import (
    SETTINGS as SMALL_SETTINGS,
)
from tests.training.runs import (
    find_differences,
    list_arguments,
    list_contents,
    load_checkpoint,
    read_rows,
    run_in_process,
)

# A network and images as small as can be; rules decide the rest.
SMALL = {
    "backbone": "test_resnet", "roi_samples": 8, "detections_per_image": 10, "batch_size": 2, "num_workers": 0,
    "device": "cpu", "precision": "fp32",
}  # fmt: skip
COMPACT = SMALL | {"architecture": "maskrcnn_compact"}


@pytest.fixture(scope="module")
def auto(data, tmp_path_factory):
    """A run of two epochs of two steps. Tests only look at it."""
    output = tmp_path_factory.mktemp("runs") / "auto"
    own = {"max_steps": 4, "epochs": 2, "crop_size": 32, "sampling": "balanced", "keep_checkpoints": "all"}
    yield train(data, output=output, settings=SMALL | own)
    shutil.rmtree(output)


class TestRun:
    def test_plan(self, auto):
        plan = read_plan(auto / "plan.json")
        assert (plan.recipe, plan.architecture, plan.backbone) == ("auto", "maskrcnn_fpn", "test_resnet")
        assert (plan.weights, plan.optimizer, plan.augmentation) == ("none", "adamw", "dihedral")
        assert (plan.epoch_steps, plan.accumulate, plan.score_threshold) == (2, 2, "auto")
        assert [row["step"] for row in read_rows(auto)] == ["2", "4"]

    def test_explanation(self, auto):
        lines = (auto / "plan.md").read_text().splitlines()
        rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
        assert {row[0] for row in rows} == {"setting", "---", *SETTINGS}
        assert {row[0] for row in rows if row[2] == "set by you"} == {
            *SMALL,
            "max_steps",
            "epochs",
            "crop_size",
            "sampling",
            "keep_checkpoints",
        }

    def test_resumed_is_the_same_to_the_bit(self, auto, output):
        shutil.copytree(auto, output)
        train(resume=output / "checkpoints" / "epoch_001.ckpt")
        assert find_differences(auto / "last.ckpt", output / "last.ckpt") == []
        assert (output / "plan.md").read_text() == (auto / "plan.md").read_text()

    def test_score_threshold_goes_with_the_checkpoint(self, auto, tmp_path):
        checkpoint = load_checkpoint(auto / "last.ckpt")
        assert load_model(auto / "last.ckpt").plan.score_threshold == checkpoint["manymask"]["score_threshold"]
        assert load_model(auto / "last.ckpt").is_threshold_chosen
        checkpoint["manymask"]["score_threshold"] = 0.37
        write_checkpoint(checkpoint, tmp_path / "a.ckpt")
        assert load_model(tmp_path / "a.ckpt").plan.score_threshold == 0.37
        assert load_model(tmp_path / "a.ckpt", settings={"score_threshold": 0.9}).plan.score_threshold == 0.9
        del checkpoint["manymask"]["score_threshold"]
        write_checkpoint(checkpoint, tmp_path / "a.ckpt")
        with pytest.raises(PlanError, match=r"a\.ckpt holds no score threshold .*; set score_threshold to a number"):
            load_model(tmp_path / "a.ckpt")

    def test_recipe_cannot_change(self, auto):
        with pytest.raises(PlanError, match="began with recipe 'auto'; a resume cannot change it to 'baseline'"):
            train(resume=auto, recipe="baseline")


class TestPlanFile:
    @pytest.fixture
    def file(self, auto, tmp_path):
        """The plan of the run, changed by hand."""
        values = json.loads((auto / "plan.json").read_text())
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(values | {"nms": 0.44, "seed": 5}))
        return path

    def test_is_a_recipe(self, auto, data, file):
        plan, decisions = plan_run(data, recipe=file, settings={"seed": "6"})
        expected = change_plan(read_plan(auto / "plan.json"), {"nms": 0.44, "seed": 6})
        assert plan == expected.model_copy(update={"data": None})
        assert decisions == ()

    def test_trains(self, data, file, output):
        train(data, output=output, recipe=str(file), settings={"max_steps": 1})
        plan = read_plan(output / "plan.json")
        assert (plan.recipe, plan.nms, plan.seed, plan.optimizer) == ("auto", 0.44, 5, "adamw")
        assert not (output / "plan.md").exists()

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"nmss": 0.4}, r"mine\.json, nmss is 0\.4: Extra inputs"),
            ({"version": 2}, r"mine\.json, version is 2: .*be 1"),
        ],
    )
    def test_is_refused(self, data, file, change, match):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(PlanError, match=match):
            plan_run(data, recipe=file)


def test_plan_run_of_baseline(data, tmp_path):
    plan, decisions = plan_run(data, recipe="baseline", settings=SMALL_SETTINGS)
    assert decisions == ()
    write_plan(plan, tmp_path / "plan.json")
    assert plan_run(data, recipe=tmp_path / "plan.json")[0] == plan


class TestStartFromFile:
    """What weights were made for is taken from a checkpoint of ours; other files do not say."""

    def test_checkpoint(self, auto, data):
        own = {name: value for name, value in SMALL.items() if name != "backbone"}
        _, decisions = plan_run(data, settings={"weights": str(auto / "last.ckpt"), **own})
        inherited = {d.setting: d.value for d in decisions if d.because == "as the weights were trained"}
        assert inherited["backbone"] == "test_resnet"
        assert inherited["mask_alignment"] == "exact"

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_state_dict(self, auto, data, tmp_path, suffix):
        state = read_state_dict(auto / "last.ckpt")
        write = torch.save if suffix == ".pth" else save_file
        write(state, tmp_path / f"weights{suffix}")
        plan, decisions = plan_run(data, settings={"weights": str(tmp_path / f"weights{suffix}"), **SMALL})
        assert plan.weights.endswith(suffix)
        assert not any(decision.because == "as the weights were trained" for decision in decisions)


class TestStartFromShippedModel:
    @pytest.fixture(autouse=True)
    def nuclei(self, tmp_path, monkeypatch):
        """A shipped model nuclei with a backbone of its own, and no other."""
        write_tiny_model(
            tmp_path / "a.ckpt", scale=1.5, mask_alignment="exact", optimizer="adamw", anchor_sizes=(6, 12, 24, 48, 96)
        )
        ship(tmp_path / "a.ckpt", tmp_path / "models", "nuclei")
        monkeypatch.setattr(catalogue, "FOLDER", tmp_path / "models")

    # The rule takes it by itself: objects are of its sizes, and there is no GPU.
    @pytest.mark.parametrize("weights", [{}, {"weights": "nuclei"}])
    def test_plan(self, data, weights):
        plan, decisions = plan_run(data, settings={**({n: v for n, v in SMALL.items() if n != "backbone"}), **weights})
        assert (plan.weights, plan.architecture, plan.backbone) == ("nuclei", "maskrcnn_compact", "test_resnet")
        assert (plan.scale, plan.anchor_sizes) == (1.5, (6, 12, 24, 48, 96))
        assert (plan.optimizer, plan.trainable_stages, plan.mask_alignment) == ("adamw", 5, "exact")
        assert {d.setting for d in decisions if d.source == "weights"} == set(list_marked(INHERITED))

    def test_trains_from_its_weights(self, data, output):
        own = {n: v for n, v in SMALL.items() if n != "backbone"}
        train(data, output=output, settings={**own, "max_steps": 1, "epochs": 1, "learning_rate": 1e-9})
        trained, start = read_state_dict(output / "last.ckpt"), read_state_dict(resolve_weights("nuclei"))
        name = "backbone.body.conv1.0.weight"
        assert torch.allclose(trained[name], start[name].float(), atol=1e-6)
        assert load_model(output).plan.weights == "nuclei"

    def test_names_of_those_there_are(self, data):
        with pytest.raises(
            CheckpointError, match="weights is 'nucle', expected coco, imagenet, none, nuclei, a run folder or a file"
        ):
            plan_run(data, settings={"weights": "nucle", "device": "cpu"})


class TestMinutes:
    @pytest.fixture(scope="class")
    def ended(self, data, tmp_path_factory):
        """A run that had time for nothing: an epoch of one step that measures, and one that ends it, of three."""
        output = tmp_path_factory.mktemp("runs") / "ended"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("manymask.training.run.LEAST_SECONDS", 60.0)  # a busy machine may need more than two
            train(data, output=output, settings=COMPACT | {"minutes": 0.001, "epochs": 3})
        yield output
        shutil.rmtree(output)

    def test_learning_rate_follows_the_share_of_the_run(self, ended):
        rows, highest = read_rows(ended), read_plan(ended / "plan.json").learning_rate
        assert [row["step"] for row in rows] == ["1", "2"]
        # The time of the first of three epochs is over after its step.
        assert float(rows[1]["learning_rate"]) / highest == pytest.approx(0.75)

    def test_has_a_diagnosis(self, ended):
        assert [shares.num_images for shares in read_diagnosis(ended).values()] == [6, 1]

    def test_a_run_that_ended_on_time_is_complete(self, ended, caplog):
        """After two of three epochs; a resume leaves it alone, and compare does not call it unfinished."""
        before = list_contents(ended)
        train(resume=ended)
        assert "the run is complete: 2 of 2 epochs are done" in caplog.text
        assert list_contents(ended) == before
        assert _describe_unfinished(ended / "best.ckpt") is None

    def test_a_run_of_before_that_ended_on_time_is_complete(self, ended, output, caplog):
        """Its checkpoint holds no number of epochs, but its time has no room for another one."""
        shutil.copytree(ended, output)
        checkpoint = read_checkpoint(output / "last.ckpt")
        del checkpoint[CHECKPOINT_KEY]["num_epochs"]
        write_checkpoint(checkpoint, output / "last.ckpt")
        before = list_contents(output)
        assert _describe_unfinished(output) is None
        train(resume=output)
        assert "the run is complete: 2 of 2 epochs are done" in caplog.text
        assert list_contents(output) == before

    def test_steps_cannot_be_set_too(self, data, tmp_path):
        with pytest.raises(PlanError, match="minutes decide how many steps an epoch has; leave epoch_steps out"):
            train(data, output=tmp_path / "run", settings={"minutes": 1, "epoch_steps": 5, "device": "cpu"})

    @pytest.mark.slow
    def test_ends_on_time(self, data, output):
        """From the call on, with the learning rate at its end."""
        began = time.monotonic()
        train(data, output=output, settings=COMPACT | {"minutes": 0.75, "epochs": 4, "accumulate": 1})
        assert 35 < time.monotonic() - began < 50
        rows = read_rows(output)
        assert float(rows[-1]["learning_rate"]) < 0.05 * read_plan(output / "plan.json").learning_rate

    def test_can_be_interrupted(self, data, output, tmp_path):
        arguments = ["train", data, "--recipe", "baseline", "--output", output, "--minutes", 5]
        log = tmp_path / "log"
        exit_code, text = run_in_process([*arguments, *list_arguments(**SMALL_SETTINGS)], log, "SIGINT", 0, 1)
        assert exit_code == 130
        assert text.splitlines()[-1] == f"stopped by SIGINT; go on with: manymask train --resume {output}"
        assert read_plan(output / "plan.json").epoch_steps > 1
