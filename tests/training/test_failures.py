"""Full memory, full disks, broken loader processes and signals."""

import errno
import signal

import pytest
import torch
from torch._utils import ExceptionWrapper

from manymask.cli.app import main
from manymask.errors import FormatError, TrainingError
from manymask.modeling.network import MaskRCNN
from manymask.training import train
from manymask.training.failures import explain_failures
from tests.training.runs import (
    SETTINGS,
    list_arguments,
    load_checkpoint,
    make_data,
    read_rows,
    run_in_process,
)

BUS_ERROR = (
    "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
SHM_FULL = "unable to write to file </torch_7_1_0>: No space left on device (28)"
SHM_GONE = "unable to open shared memory object </torch_7_1_0> in read-write mode: Too many open files (24)"
CPU_FULL = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
CUDA_FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB"
KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "
GONE = "DataLoader worker (pid(s) 7) exited unexpectedly"


class TestExplainFailures:
    @pytest.mark.parametrize(
        ("error", "match"),
        [
            (torch.OutOfMemoryError(CUDA_FULL), "device's memory is full.*batch_size.*crop_size"),
            (RuntimeError("CUDA error: out of memory"), "device's memory is full"),
            (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "device's memory is full"),
            (RuntimeError(CPU_FULL), "^memory is full.*batch_size"),
            (MemoryError("Unable to allocate 3 GiB"), "^memory is full"),
            (RuntimeError(BUS_ERROR), "shared memory; lower num_workers"),
            (RuntimeError(SHM_FULL), "shared memory; lower num_workers"),
            (RuntimeError(SHM_GONE), "shared memory; lower num_workers"),
            (RuntimeError(KILLED), "ended from outside.*num_workers"),
            (RuntimeError(GONE), "ended from outside.*num_workers"),
            (OSError(errno.ENOSPC, "No space left on device", "events"), "disk is full.*resume"),
        ],
    )
    def test_causes(self, error, match):
        with pytest.raises(TrainingError, match=match) as caught, explain_failures():
            raise error
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("a bug"),
            RuntimeError("a bug in /home/me/torch_env/x.py"),
            OSError(errno.EIO, "bad disk"),
            OSError(errno.EACCES, "Permission denied", "/home/me/torch_data/x.tif"),
            OSError(errno.EACCES, "Permission denied", "/home/me/shared memory/x.tif"),
            FormatError("a.tif"),
        ],
    )
    def test_others_pass(self, error):
        with pytest.raises(type(error)) as caught, explain_failures():
            raise error
        assert caught.value is error


def test_error_of_a_loader_process_comes_without_its_traceback():
    text = "expected a TIFF: a.tif is cut short; copy it again"
    try:
        raise FormatError(text)
    except FormatError:
        as_dataloader_sends_it = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(FormatError) as caught, explain_failures():
        as_dataloader_sends_it.reraise()
    assert str(caught.value) == text


class TestInsideTraining:
    def test_device_memory(self, data, output, monkeypatch):
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

        def forward(self, images, targets=None):
            raise torch.OutOfMemoryError(CUDA_FULL)

        monkeypatch.setattr(MaskRCNN, "forward", forward)
        with pytest.raises(TrainingError, match="lower batch_size"):
            train(data, output=output, recipe="baseline", settings=SETTINGS)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    def test_shared_memory(self, data, output, tmp_path):
        """In a process of its own: torch raises the death of a loader wherever the main thread then is."""
        arguments = [
            "train",
            data,
            "--output",
            output,
            *list_arguments(recipe="baseline", **SETTINGS | {"num_workers": 1}),
        ]
        exit_code, text = run_in_process(arguments, tmp_path / "log", "SIGBUS in a loader")
        assert exit_code == 2
        assert "lower num_workers" in text.splitlines()[-1]

    def test_full_disk(self, data, output, tmp_path):
        arguments = ["train", data, "--output", output, *list_arguments(recipe="baseline", **SETTINGS)]
        exit_code, text = run_in_process(arguments, tmp_path / "log", "full", 1, 0)
        assert exit_code == 2
        assert text.splitlines()[-1].startswith(
            f"error: cannot write {output}/checkpoints/epoch_002.ckpt: the file-size"
        )
        assert "Traceback" not in text
        assert {path.name for path in output.rglob("*.ckpt")} == {"best.ckpt", "last.ckpt", "epoch_001.ckpt"}
        assert load_checkpoint(output / "last.ckpt")["epoch"] == load_checkpoint(output / "best.ckpt")["epoch"] == 0
        assert not list(output.rglob("*.partial"))


class TestSignals:
    """Both reach the loader processes too, as from a terminal or a batch system."""

    @pytest.mark.parametrize(("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143)])
    def test_ends_cleanly(self, data, run, output, tmp_path, name, exit_code):
        arguments = [
            "train",
            data,
            "--output",
            output,
            *list_arguments(recipe="baseline", **SETTINGS | {"num_workers": 2, "max_steps": 2}),
        ]
        found, text = run_in_process(arguments, tmp_path / "log", name, 0, 0)
        assert text.splitlines()[-1] == f"stopped by {name}; go on with: manymask train --resume {output}"
        assert "Traceback" not in text
        assert found == exit_code
        if name == "SIGTERM":
            train(resume=output)
            assert [row["step"] for row in read_rows(output)] == ["2"]


class TestCommandLine:
    def test_broken_image(self, tmp_path, capsys, monkeypatch):
        path = make_data(tmp_path / "data", 2) / "0001" / "image.tif"
        path.write_bytes(path.read_bytes()[:300])
        monkeypatch.setattr(
            "sys.argv", ["manymask", "train", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
        )
        with pytest.raises(SystemExit) as caught:
            main()
        text = capsys.readouterr().err
        assert caught.value.code == 2
        assert text.startswith("error: ")
        assert str(path) in text
        assert len(text.splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_full_memory_while_a_step_is_measured(data, output):
    """Terabytes, which torch's allocator refuses as it does a few gigabytes too many."""
    with pytest.raises(
        TrainingError, match="^memory is full with the 2 images of a training step .*set a lower crop_size"
    ):
        train(data, output=output, settings={**SETTINGS, "min_size": 1_000_000, "max_size": 2_000_000})
    assert not output.exists()
