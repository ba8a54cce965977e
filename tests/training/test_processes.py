"""Several processes that train one model, as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manymask.core.launched import Launch, read_launch
from manymask.errors import Interrupted, PlanError
from manymask.plan import make_plan
from manymask.run_folder import RunFolder
from manymask.training import train
from manymask.training.callbacks import EndOnSignal
from manymask.training.launching import launch_processes
from manymask.training.loading import check_batches
from manymask.training.processes import Processes, join_processes, share_out
from tests.training.runs import SETTINGS, list_arguments, load_checkpoint, make_data, read_rows

# Without BatchNorm, which measures the part of a batch that a process sees.
ALIKE = SETTINGS | {"architecture": "maskrcnn_fpn", "backbone": "test_convnext", "crop_size": 32, "batch_size": 4}
SCRIPT = Path(__file__).with_name("log_steps.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), 10)


@given(st.lists(st.floats(1, 1e6), max_size=40), st.integers(1, 8))
def test_shares_hold_everything_once_and_are_alike(costs, count):
    shares = share_out(costs, count)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if costs:  # of rounds in which each gets one, none parts the loads by more than its dearest
        loads = [sum(costs[index] for index in share) for share in shares]
        assert max(loads) - min(loads) <= max(costs) * 1.001


def test_a_crowd_goes_to_one_and_the_rest_to_the_other():
    assert share_out([10.0, 1.0, 9.0, 2.0], 2) == [[0, 1], [2, 3]]


def run_script(data: Path, folder: Path, num_processes: int, **settings: object) -> list[list[dict]]:
    """The log of each process."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"] if num_processes > 1 else []
    values = [argument.removeprefix("--") for argument in list_arguments(**settings)]
    command = [sys.executable, *launcher, str(SCRIPT), str(data), str(folder / "run"), str(folder / "log"), *values]
    folder.mkdir()
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, timeout=200, env=environment, capture_output=True)
    return [
        [json.loads(line) for line in (folder / f"log.{rank}").read_text().splitlines()]
        for rank in range(num_processes)
    ]


def test_two_processes_take_the_steps_of_one(data, tmp_path):
    """Without learning: what is learnt parts in last digits, from which proposals, and so samples, soon part too."""
    settings = ALIKE | {
        "epochs": 1,
        "epoch_steps": 20,
        "learning_rate": 1e-12,
        "dense_loss": 1,
        "mask_samples": 4,
        "val_fraction": 0.3,
    }
    alone, both = (run_script(data, tmp_path / str(count), count, **settings) for count in (1, 2))
    assert len(alone[0]) == len(both[0]) == len(both[1]) == 20
    for one, *parts in zip(*alone, *both, strict=True):
        assert sorted(one["images"]) == sorted(parts[0]["images"] + parts[1]["images"])
        assert sorted(one["seeds"]) == sorted(parts[0]["seeds"] + parts[1]["seeds"])
        assert len(parts[0]["images"]) == len(parts[1]["images"]) == 2
        assert (parts[0]["loss"] + parts[1]["loss"]) / 2 == pytest.approx(one["loss"], rel=1e-5)
    seen = [
        json.loads(line)[0] for file in (tmp_path / "2").glob("log.val.*") for line in file.read_text().splitlines()
    ]
    assert len(seen) == len(set(seen)) == len((tmp_path / "1" / "log.val.0").read_text().splitlines()) > 1
    rows = [read_rows(tmp_path / count / "run")[0] for count in ("1", "2")]
    assert float(rows[0]["val_mask_AP"]) == pytest.approx(float(rows[1]["val_mask_AP"]), abs=1e-6)
    assert float(rows[0]["loss"]) == pytest.approx(float(rows[1]["loss"]), rel=1e-5)


def test_two_processes_learn_what_one_does(data, tmp_path):
    """One step, after which the weights are alike but for last digits."""
    settings = ALIKE | {"epochs": 1, "epoch_steps": 1, "learning_rate": 0.1}
    for count in (1, 2):
        run_script(data, tmp_path / str(count), count, **settings)
    train(data, output=tmp_path / "0" / "run", recipe="baseline", settings=settings | {"learning_rate": 1e-12})
    start, one, two = (load_checkpoint(tmp_path / n / "run" / "last.ckpt")["state_dict"] for n in "012")
    moved = {name: (one[name] - start[name]).norm().item() for name in one if one[name].is_floating_point()}
    assert max(moved.values()) > 1e-2
    for name, length in moved.items():
        assert (one[name] - two[name]).norm().item() <= 1e-4 * length + 1e-6, name


def test_a_lost_process_ends_the_others_and_the_run_goes_on_with_one(data, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    settings = SETTINGS | {"epochs": 5, "batch_size": 2, "epoch_steps": 2}
    command = [sys.executable, "-m", "manymask", "train", data, "--output", output, "--devices", "2"]
    with open(log, "w") as f:
        process = subprocess.Popen(
            [*command, *list_arguments(recipe="baseline", **settings)], stderr=f, stdout=f, env=ENVIRONMENT
        )
    try:
        wait_for(lambda: (output / "metrics.csv").exists(), process)
        ranks = sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))
        assert len(ranks) == 2
        ranks[1].kill()
        assert process.wait(timeout=60) == 2
    finally:
        process.kill()
    last = log.read_text().splitlines()[-1]
    assert f"process 1 of the run (pid {ranks[1].pid}) was ended by SIGKILL" in last
    assert "Traceback" not in log.read_text()
    assert not any(rank.is_running() for rank in ranks)
    assert len(read_rows(output)) < 5
    train(resume=output)
    assert [row["epoch"] for row in read_rows(output)] == ["1", "2", "3", "4", "5"]


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.2)


class TestRefused:
    def test_more_devices_than_there_are(self, monkeypatch):
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "9999")
        monkeypatch.setenv("SLURM_PROCID", "0")
        with pytest.raises(PlanError, match=f"9999 devices were asked for, but .* has {os.cpu_count()} processors"):
            join_processes(torch.device("cpu"))

    def test_others_than_were_started(self):
        with pytest.raises(PlanError, match="2 devices on 1 machines were asked for, but nobody has started"):
            join_processes(torch.device("cpu"), 2)

    def test_processes_that_are_not_as_many_on_each_machine(self, monkeypatch):
        for name, value in {"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0", "SLURM_STEP_NUM_NODES": "2"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PlanError, match="SLURM has started 3 processes, not as many on each machine"):
            join_processes(torch.device("cpu"))

    def test_one_device_for_several(self, monkeypatch):
        for name, value in {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(PlanError, match="set device to cuda"):
            join_processes(torch.device("cuda", 1))

    def test_machines_that_are_not_named(self):
        with pytest.raises(PlanError, match="the environment has no MASTER_ADDR and no NODE_RANK"):
            launch_processes(["train"], 1, 2)

    @pytest.mark.parametrize(
        ("settings", "num_images", "part"),
        [({"batch_size": 2}, 8, "set batch_size to 3"), ({"batch_size": 4}, 9, "1 images .* set epoch_steps")],
    )
    def test_too_small_batches(self, settings, num_images, part):
        with pytest.raises(PlanError, match=part):
            check_batches(make_plan("baseline", settings), num_images, 3)
        check_batches(make_plan("baseline", settings | {"epoch_steps": 3, "batch_size": 3}), num_images, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 1, 1, "")),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1, 1, "")),  # a job's shell
        ({"RANK": "3", "WORLD_SIZE": "8"}, (0, 1, 1, "")),  # a pod without a launcher
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_STEP_NUM_NODES": "2"}, (5, 8, 2, "SLURM")),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "3", "WORLD_SIZE": "8"}, (3, 8, None, "torchrun")),
    ],
)
def test_how_a_process_was_started(monkeypatch, values, expected):
    for name in [name for name in os.environ if name.startswith(("SLURM", "TORCHELASTIC"))]:
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert read_launch() == Launch(*expected)


def test_a_signal_while_processes_agree_is_not_lost(tmp_path):
    callback = EndOnSignal(RunFolder(tmp_path), Processes())

    class Receiving(Processes):
        def find_highest(self, value: float) -> float:
            callback._receive(signal.SIGTERM, None)
            return 0.0

    callback.processes = Receiving()
    with pytest.raises(Interrupted, match="SIGTERM"):
        callback.on_train_batch_end(L.Trainer(logger=False), L.LightningModule())


def test_alone_everything_is_its_own():
    alone = Processes()
    assert alone.is_first
    assert alone.gather("a") == ["a"]
    assert alone.find_highest(3.0) == 3.0
    assert alone.run_on_first(lambda: 7) == 7
