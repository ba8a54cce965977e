"""A run that is killed anywhere and resumed is the run that was not."""

import json
import shutil

import pytest
import tifffile

from manymask.errors import CheckpointError, DatasetError, PlanError
from manymask.plan import Plan, read_plan
from manymask.training import train
from manymask.training.resuming import check_changes
from tests.training.runs import (
    SETTINGS,
    find_differences,
    list_arguments,
    list_contents,
    load_checkpoint,
    make_data,
    read_rows,
    run_in_process,
)


@pytest.fixture
def start(data, output, tmp_path):
    """Begin a run in a process of its own; ``accident`` is what befalls it, and when."""

    def start(accident, data=data, **settings):
        arguments = ["train", data, "--output", output, *list_arguments(recipe="baseline", **SETTINGS | settings)]
        return run_in_process(arguments, tmp_path / "log", *accident)

    return start


class TestKilled:
    def test_inside_an_epoch(self, start, run, output, caplog):
        exit_code, _ = start(("SIGKILL", 1, 1))
        assert exit_code == -9
        assert [row["epoch"] for row in read_rows(output)] == ["1"]
        train(resume=output)
        assert find_differences(run / "last.ckpt", output / "last.ckpt") == []
        assert [(row["epoch"], row["step"]) for row in read_rows(output)] == [("1", "3"), ("2", "6")]
        assert f"going on from {output / 'last.ckpt'}, the end of epoch 1/2" in caplog.text

    def test_with_loader_processes_and_moved_data(self, data, start, run, output, tmp_path):
        shutil.copytree(data, tmp_path / "old")
        start(("SIGKILL", 1, 2), data=tmp_path / "old", num_workers=2)
        (tmp_path / "old").rename(tmp_path / "new")
        train(tmp_path / "new", resume=output, settings={"num_workers": 1})
        assert find_differences(run / "last.ckpt", output / "last.ckpt") == []
        plan = read_plan(output / "plan.json")
        assert (plan.data.path, plan.num_workers) == (str(tmp_path / "new"), 1)

    def test_with_all_heads(self, data, start, output, tmp_path):
        settings = {"dense_loss": 1.0, "box_stages": 2, "box_loss": "giou"}
        whole = train(data, output=tmp_path / "whole", recipe="baseline", settings=SETTINGS | settings)
        start(("SIGKILL", 1, 1), **settings)
        train(resume=output)
        assert find_differences(whole / "last.ckpt", output / "last.ckpt") == []
        names = load_checkpoint(output / "last.ckpt")["state_dict"]
        for part in ("dense_head.0.weight", "second.box_predictor.bbox_pred.weight"):
            assert f"network.roi_heads.{part}" in names
        losses = ("loss_dense", "loss_classifier_2", "loss_box_reg_2")
        assert all(0 < float(row[name]) < 10 for row in read_rows(output) for name in losses)

    def test_before_the_first_epoch_ended(self, start, output, caplog):
        start(("SIGKILL", 0, 1), max_steps=2)
        assert not (output / "last.ckpt").exists()
        train(resume=output)
        assert [row["step"] for row in read_rows(output)] == ["2"]
        assert "starting at step 0" in caplog.text


class TestProlonged:
    def train(self, data, output, **settings):
        own = {"scheduler": "trapezoid", "weight_average": 0.9}
        train(data, output=output, recipe="baseline", settings=SETTINGS | own | settings)
        return output

    def test_is_the_run_that_was_long_from_the_start(self, data, tmp_path):
        long = self.train(data, tmp_path / "long", epochs=3)
        short = self.train(data, tmp_path / "short")
        with pytest.raises(PlanError, match=r"falls from step 5 of 6 on, which .*last.ckpt is past; resume from"):
            train(resume=short, settings={"epochs": 3})
        first = short / "checkpoints" / "epoch_001.ckpt"
        train(resume=first, settings={"epochs": 3})
        assert find_differences(long / "last.ckpt", short / "last.ckpt") == []
        assert read_plan(short / "plan.json").epochs == 3
        train(resume=first)  # the plan's length now, not the checkpoint's
        assert find_differences(long / "last.ckpt", short / "last.ckpt") == []

    def test_other_schedules_have_one_length(self, run):
        with pytest.raises(PlanError, match="the run began with epochs=2; a resume cannot change it to 3"):
            train(resume=run, settings={"epochs": 3})

    def test_runs_with_a_time_budget_have_one_length(self):
        """Their learning rate follows the clock: at a checkpoint it may have been falling, whatever its step."""
        plan = Plan(scheduler="trapezoid", minutes=10)
        with pytest.raises(PlanError, match="the run began with epochs=100; a resume cannot change it to 200"):
            check_changes(plan, None, {"epochs": 200})


class TestDamaged:
    @pytest.fixture
    def damaged(self, run, output):
        """The finished run with a ``last.ckpt`` that was cut short, and what a kill while writing leaves."""
        (output / "checkpoints").mkdir(parents=True)
        for name in ("plan.json", "best.ckpt", "checkpoints/epoch_001.ckpt"):
            shutil.copy(run / name, output / name)
        (output / "metrics.csv").write_bytes(b"\xff\x00 garbage")
        (output / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:1_000_000])
        (output / "checkpoints" / ".epoch_002.ckpt.123.partial").write_bytes(b"half")
        return output

    def test_names_the_newest_good_checkpoint(self, damaged, run):
        good = damaged / "checkpoints" / "epoch_001.ckpt"
        with pytest.raises(CheckpointError, match=rf"last.ckpt is cut short.*--resume {good}") as caught:
            train(resume=damaged)
        assert "\n" not in str(caught.value)
        train(resume=good)
        assert find_differences(run / "last.ckpt", damaged / "last.ckpt") == []
        assert [row["epoch"] for row in read_rows(damaged)] == ["1", "2"]
        assert find_differences(run / "best.ckpt", damaged / "best.ckpt") == []
        assert not list(damaged.rglob("*.partial"))

    def test_nothing_good(self, damaged):
        for name in ("best.ckpt", "checkpoints/epoch_001.ckpt"):
            (damaged / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match="start anew"):
            train(resume=damaged)

    def test_last_is_gone(self, damaged):
        (damaged / "last.ckpt").unlink()
        (damaged / "checkpoints" / "epoch_002.ckpt").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"last.ckpt.*no such file.*epoch_001"):
            train(resume=damaged)


class TestRefused:
    def test_changed_pixels(self, data, run, tmp_path):
        changed = shutil.copytree(data, tmp_path / "data")
        path = changed / "0003" / "image.tif"
        pixels = tifffile.imread(path)
        pixels[5, 5, 0] ^= 1
        tifffile.imwrite(path, pixels, photometric="rgb")
        with pytest.raises(DatasetError, match="not what the run began with .pixels, labels or classes changed"):
            train(changed, resume=run)

    @pytest.mark.parametrize("num_images", [6, 8])
    def test_image_added_or_removed(self, run, tmp_path, num_images):
        name = f"000{min(num_images, 7)}"
        with pytest.raises(DatasetError, match=rf"added or removed: {name}"):
            train(make_data(tmp_path / "data", num_images), resume=run)

    def test_data_is_gone(self, run, tmp_path):
        with pytest.raises(DatasetError, match="nowhere is not a folder"):
            train(tmp_path / "nowhere", resume=run)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("learning_rate", 0.1), ("epochs", "9"), ("seed", 1), ("detections_per_image", 20), ("precision", "bf16")],
    )
    def test_changed_setting(self, run, name, value):
        with pytest.raises(PlanError, match=rf"began with {name}=.*cannot change it to {value}"):
            train(resume=run, settings={name: value})

    def test_changed_recipe(self, run):
        with pytest.raises(PlanError, match="began with recipe 'baseline'.*to 'other'"):
            train(resume=run, recipe="other")

    def test_other_output_format_or_val(self, run, data, tmp_path):
        with pytest.raises(PlanError, match="stays in its folder"):
            train(resume=run, output=tmp_path)
        with pytest.raises(PlanError, match="data format class_folders.*to coco"):
            train(resume=run, data_format="coco")
        with pytest.raises(PlanError, match="began without a separate validation set; leave --val out"):
            train(resume=run, val=data)

    def test_plan_file_changed_by_hand(self, run, output):
        output.mkdir()
        shutil.copy(run / "last.ckpt", output)
        plan = json.loads((run / "plan.json").read_text())
        (output / "plan.json").write_text(json.dumps(plan | {"epochs": 4, "num_workers": 1}))
        text = r"plan.json says epochs=4, but the checkpoint was made with epochs=2; restore it$"
        with pytest.raises(PlanError, match=text):
            train(resume=output)

    def test_a_run_that_would_see_other_intensities(self, run, output):
        output.mkdir()
        shutil.copy(run / "last.ckpt", output)
        plan = json.loads((run / "plan.json").read_text()) | {"normalization": "image"}
        (output / "plan.json").write_text(json.dumps(plan | {"min_contrast": 0.01}))
        with pytest.raises(PlanError, match=r"began with min_contrast=0\.01 .*other intensities; start a new run"):
            train(resume=output)
        (output / "plan.json").write_text(json.dumps(plan | {"min_contrast": 0.0}))  # it did nothing then
        with pytest.raises(PlanError, match="says normalization=image, but the checkpoint"):
            train(resume=output)

    def test_no_run(self, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(PlanError, match=r"expected a plan at .*plan.json.*is this a run folder"):
                train(resume=path)


def test_finished_run(run, caplog):
    before = list_contents(run)
    assert train(resume=run, recipe="baseline", settings=SETTINGS | {"num_workers": 1, "device": "auto"}) == run
    assert "the run is complete: 2 of 2 epochs" in caplog.text
    assert list_contents(run) == before


def test_lost_metrics_of_a_finished_run(run):
    before = (run / "metrics.csv").read_bytes()
    (run / "metrics.csv").unlink()
    train(resume=run)
    assert (run / "metrics.csv").read_bytes() == before
