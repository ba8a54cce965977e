import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from manymask.errors import DatasetError, ManymaskError, PlanError
from manymask.evaluation import evaluate
from manymask.formats import read_dataset
from manymask.plan import make_plan, read_plan
from manymask.prediction import predict_files
from manymask.reporting import report
from manymask.training import train
from tests.training.runs import SETTINGS, add_image, load_checkpoint, make_data, read_rows

LOSSES = ["loss", "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"]
SCORES = [f"val_{kind}_{name}" for kind in ("mask", "box") for name in ("AP", "AP50", "AP75")]
CLASSES = [f"val_mask_{name}_class{number}" for number in (1, 2) for name in ("AP", "AP50", "AP75")]


class TestRunFolder:
    def test_files(self, run):
        files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
        assert len([name for name in files if name.startswith("tensorboard/events")]) == 1
        assert {name for name in files if not name.startswith("tensorboard/")} == {
            "plan.json", "metrics.csv", "curves/loss.png", "curves/map.png", "last.ckpt", "best.ckpt",
            "checkpoints/epoch_001.ckpt", "checkpoints/epoch_002.ckpt",
        }  # fmt: skip

    def test_metrics(self, run):
        rows = read_rows(run)
        assert list(rows[0]) == ["epoch", "step", *LOSSES, "learning_rate", *SCORES, *CLASSES, "seconds"]
        assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
        assert all(0 <= float(row[name]) <= 1 for row in rows for name in SCORES)
        for row in rows:
            assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in LOSSES[1:]), rel=1e-5)

    def test_loss_falls(self, run):
        first, second = (float(row["loss"]) for row in read_rows(run))
        assert second < 0.95 * first

    def test_tensorboard(self, run):
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        assert {*LOSSES, *SCORES, "learning_rate"} <= set(events.Tags()["scalars"])
        assert [(e.step, round(e.value, 4)) for e in events.Scalars("loss")] == [
            (int(row["step"]), round(float(row["loss"]), 4)) for row in read_rows(run)
        ]

    @pytest.mark.parametrize("name", ["loss", "map"])
    def test_curves(self, run, name):
        assert (run / "curves" / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    def test_plan(self, run, data):
        plan = read_plan(run / "plan.json")
        assert plan.data.path == str(data)
        assert (len(plan.data.train_names), len(plan.data.val_names)) == (6, 1)
        assert plan.data.categories == ((1, "class1"), (2, "class2"))
        assert json.loads((run / "plan.json").read_text())["backbone"] == "test_resnet"

    def test_checkpoint(self, run):
        checkpoint = load_checkpoint(run / "last.ckpt")
        assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 6)
        assert checkpoint["manymask"]["plan"] == json.loads((run / "plan.json").read_text())
        assert (run / "last.ckpt").read_bytes() == (run / "checkpoints" / "epoch_002.ckpt").read_bytes()

    def test_best(self, run):
        scores = [float(row["val_mask_AP"]) for row in read_rows(run)]
        best = run / "checkpoints" / f"epoch_{int(np.argmax(scores)) + 1:03d}.ckpt"
        assert (run / "best.ckpt").read_bytes() == best.read_bytes()


class TestLengths:
    def test_max_steps_inside_an_epoch(self, data, output):
        train(data, output=output, recipe="baseline", settings=SETTINGS | {"max_steps": 2, "keep_checkpoints": "best"})
        (row,) = read_rows(output)
        assert row["step"] == "2"
        assert row["val_mask_AP"] != ""
        assert load_checkpoint(output / "best.ckpt")["global_step"] == 2
        assert {path.name for path in output.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt"}

    def test_accumulate(self, data, output):
        train(
            data, output=output, recipe="baseline", settings=SETTINGS | {"epochs": 1, "batch_size": 1, "accumulate": 4}
        )
        assert [row["step"] for row in read_rows(output)] == ["2"]


class TestUnusualData:
    def test_no_instances_and_extreme_ones(self, tmp_path, output):
        """Nothing, one pixel, the whole image, and nothing to validate on."""
        pixel = np.zeros((1, 40, 48), dtype=bool)
        pixel[0, 0, 47] = True
        for name, masks in {"none": pixel[:0], "pixel": pixel, "full": np.ones_like(pixel)}.items():
            add_image(tmp_path / "train", name, masks)
        val = add_image(tmp_path / "val", "val", pixel[:0])
        train(tmp_path / "train", val=val, output=output, recipe="baseline", settings=SETTINGS | {"epochs": 1})
        (row,) = read_rows(output)
        assert np.isfinite([float(row[name]) for name in LOSSES]).all()
        assert row["val_mask_AP"] == row["val_box_AP"] == ""
        assert (output / "best.ckpt").exists()
        assert read_plan(output / "plan.json").data.val_names == ("val",)

    def test_more_instances_to_validate_on_than_the_cap(self, tmp_path, output, caplog):
        squares = np.zeros((4, 40, 48), dtype=bool)
        for index, square in enumerate(squares):
            square[10 * index : 10 * index + 8, :8] = True
        add_image(tmp_path / "train", "few", squares[:1])
        val = add_image(add_image(tmp_path / "val", "full", squares), "half", squares[:2])
        train(
            tmp_path / "train",
            val=val,
            output=output,
            recipe="baseline",
            settings=SETTINGS | {"max_steps": 1, "detections_per_image": 3},
        )
        (line,) = [line for line in caplog.messages if "image full" in line]
        assert line.startswith("validation image full holds 4 instances, but at most 3 detections")
        assert "set detections_per_image to at least 4" in line

    def test_one_image(self, tmp_path, output, caplog):
        """It serves as both parts."""
        add_image(tmp_path / "train", "one", np.ones((1, 50, 30), dtype=bool))
        train(
            tmp_path / "train",
            output=output,
            recipe="baseline",
            settings=SETTINGS | {"max_steps": 1, "detections_per_image": "auto"},
        )
        assert "one image only" in caplog.text
        plan = read_plan(output / "plan.json")
        assert plan.data.train_names == plan.data.val_names == ("one",)
        assert (plan.data.max_instances, plan.detections_per_image) == (1, 100)
        assert plan.data.object_sizes == (38.7,) * 5


class TestRefused:
    """Before the first step, by name, and with nothing left behind."""

    def test_output_in_use(self, data, run):
        with pytest.raises(PlanError, match=r"is not empty.*--resume"):
            train(data, output=run, recipe="baseline", settings=SETTINGS)

    def test_no_data(self):
        with pytest.raises(PlanError, match="expected a data set"):
            train()

    @pytest.mark.parametrize("settings", [{"backbone": "no_such_net"}, {"weights": "no_such_file.pth"}])
    def test_settings_before_the_data_is_read(self, tmp_path, settings):
        with pytest.raises(ManymaskError, match=next(iter(settings.values()))):
            train(
                tmp_path, output=tmp_path / "run", recipe="baseline", settings=SETTINGS | settings
            )  # a folder without any data

    def test_no_instances_at_all(self, tmp_path):
        add_image(tmp_path / "data", "none", np.zeros((0, 50, 30), dtype=bool))
        self.check_refused(tmp_path, DatasetError, "instance, found none in 1 image of", str(tmp_path / "data"))

    def test_broken_image(self, tmp_path):
        path = make_data(tmp_path / "data", 2) / "0001" / "image.tif"
        path.write_bytes(path.read_bytes()[:300])
        remedy = f"manymask inspect {tmp_path / 'data'} --fix COPY"
        self.check_refused(tmp_path, DatasetError, str(path), remedy)

    @pytest.mark.parametrize(
        ("pixels", "text"),
        [
            (np.full((40, 48), 7, dtype=np.float32), "in [0, 1], found 7"),
            (np.full((40, 48, 2), 7, dtype=np.uint8), "1 or 3 channels, found 2"),
        ],
    )
    def test_image_that_cannot_be_scaled(self, tmp_path, pixels, text):
        path = make_data(tmp_path / "data", 2) / "0001" / "image.tif"
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
        self.check_refused(tmp_path, DatasetError, text, str(path))

    @pytest.mark.parametrize(
        ("settings", "text"),
        [
            ({"device": "cuda:77"}, "device"),
            ({"backbone": "no_such_net"}, "no_such_net"),
            ({"weights": "no_such_file.pth"}, "no_such_file"),
            ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
        ],
    )
    def test_settings(self, tmp_path, settings, text):
        make_data(tmp_path / "data", 2)
        self.check_refused(tmp_path, ManymaskError, text, **settings)

    @staticmethod
    def check_refused(tmp_path, error, *texts, **settings):
        with pytest.raises(error) as caught:
            train(tmp_path / "data", output=tmp_path / "run", recipe="baseline", settings=SETTINGS | settings)
        assert all(text in str(caught.value) for text in texts)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_baseline_does_not_clip_gradients():
    assert make_plan().gradient_clip == 0


class TestClaim:
    """Two processes in one run folder."""

    @pytest.fixture
    def other(self, output):
        """Another process that trains in the folder."""
        output.mkdir()
        code = "import sys; from manymask.run_folder import *\n"
        code += "with RunFolder(Path(sys.argv[1])).claim(): print('held', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, str(output)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "held\n"
            yield process
            process.kill()

    def test_a_folder_is_one_process_s(self, data, output, other):
        with pytest.raises(ManymaskError, match=r"another process trains in .*run; wait until it ends, or choose"):
            train(data, output=output, recipe="baseline", settings=SETTINGS)
        assert [path.name for path in output.iterdir()] == [".lock"]

    def test_a_run_that_runs_is_not_resumed(self, run, output, other):
        for name in ("plan.json", "last.ckpt", "best.ckpt", "metrics.csv"):
            shutil.copy(run / name, output / name)
        with pytest.raises(ManymaskError, match="another process trains in"):
            train(resume=output)

    def test_nothing_is_left_of_what_cannot_begin(self, tmp_path, output):
        (tmp_path / "data").mkdir()
        with pytest.raises(DatasetError):
            train(tmp_path / "data", output=output, recipe="baseline", settings=SETTINGS)
        assert not output.exists()


@pytest.mark.filterwarnings("ignore:no instance has a score")  # after one step
def test_a_run_is_weights_and_may_lie_in_its_data(tmp_path, monkeypatch):
    settings = SETTINGS | {"architecture": "maskrcnn_fpn", "epochs": 1, "learning_rate": 0.001}
    make_data(tmp_path / "cells", 3)
    monkeypatch.chdir(tmp_path / "cells")
    first = train(".", recipe="baseline", settings=settings)
    assert first == Path("runs/cells")
    second = train(
        ".",
        output="runs/second",
        recipe="baseline",
        settings=settings | {"weights": "runs/cells", "max_steps": 1},
    )
    assert read_plan(second / "plan.json").weights == "runs/cells"
    losses = [float(read_rows(path)[0]["loss"]) for path in (first, second)]
    assert losses[1] < losses[0] / 2  # random weights lose more than trained ones
    (first / "last.ckpt").unlink()
    (first / "checkpoints" / "epoch_001.ckpt").unlink()
    (first / "best.ckpt").unlink()
    train(resume=first)
    assert evaluate(first).num_images == 1
    assert report(first, output=None) == first / "report.html"
    predict_files(first, ".", ".")
    assert len(read_dataset(".")) == 3
