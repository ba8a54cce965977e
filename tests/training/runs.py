"""Small runs, in this process and in others."""

import csv
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manymask.core import Instances
from manymask.formats import write_class_folder
from manymask.synthetic import make_categories, make_sample

SETTINGS: dict[str, Any] = {
    "architecture": "maskrcnn_compact",
    "backbone": "test_resnet",
    "weights": "none",
    "epochs": 2,
    "min_size": 0,
    "anchor_sizes": (8, 16, 32, 64, 128),
    "roi_samples": 8,
    "detections_per_image": 10,
    "learning_rate": 0.005,
    "num_workers": 0,
    "device": "cpu",
    "precision": "fp32",
}
STEPS_PER_EPOCH = 3

# Starts with manymask imported: a process of its own costs no seconds.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["manymask.cli.app", "manymask.training"])


def make_data(root: Path, num_images: int) -> Path:
    for index in range(num_images):
        pixels, cells = make_sample(index, size=(40, 48), num_instances=5, num_classes=2, diameter=12.0)
        write_class_folder(root, f"{index:04d}", pixels, cells, make_categories(2))
    return root


def add_image(root: Path, name: str, masks: np.ndarray) -> Path:
    """An image with instances of class 1, which may be none."""
    pixels = np.random.default_rng(0).integers(0, 255, (*masks.shape[1:], 3)).astype(np.uint8)
    instances = Instances.from_masks(masks, np.ones(len(masks), dtype=np.int64))
    write_class_folder(root, name, pixels, instances, make_categories(1))
    return root


def read_rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as f:
        return list(csv.DictReader(f))


def load_checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def find_differences(first: Path, second: Path) -> list[str]:
    """Names of weights and optimizer states that differ in any bit, and what else of two checkpoints differs."""
    a, b = load_checkpoint(first), load_checkpoint(second)
    names = [name for name in a["state_dict"] if not torch.equal(a["state_dict"][name], b["state_dict"][name])]
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (a, b)]
    names += [
        f"{key} {i}" for i, own in states[0].items() for key in own if not torch.equal(own[key], states[1][i][key])
    ]
    return names + [name for name in ("epoch", "global_step", "lr_schedulers") if a[name] != b[name]]


def list_contents(run: Path) -> dict[Path, int | bytes]:
    """Checkpoints by the time they were written, small files by their bytes."""
    files = [path for path in run.rglob("*") if path.is_file()]
    return {f: f.stat().st_mtime_ns if f.suffix == ".ckpt" else f.read_bytes() for f in files}


def list_arguments(**settings: Any) -> list[str]:
    values = {name: ",".join(map(str, v)) if isinstance(v, tuple) else v for name, v in settings.items()}
    return [f"--{name}={value}" for name, value in values.items()]


def run_in_process(
    arguments: list[Any], log: Path, action: str = "", epoch: int = 0, batch: int = 0
) -> tuple[int | None, str]:
    """Run the command line in a process and a process group of its own.

    Args:
        arguments: What follows ``manymask``.
        log: Takes what it prints.
        action: What befalls it before a training step: ``SIGKILL`` (it alone), ``SIGINT`` or ``SIGTERM`` (it and its
            loader processes), or ``full``, from which on no file can grow above a megabyte; or ``SIGBUS in a loader``,
            which ends its loader processes at once, as a full shared memory does.
        epoch: The epoch of that step, 0-based.
        batch: The batch of that step, 0-based.

    Returns:
        The exit code, negative for a signal, and what it printed.
    """
    process = _SERVER.Process(target=_main, args=([str(a) for a in arguments], log, action, epoch, batch))
    process.start()
    process.join(timeout=100)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode, log.read_text()


def _main(arguments: list[str], log: Path, action: str, epoch: int, batch: int) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked from a server
    with open(log, "wb") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    torch.set_num_threads(1)
    from manymask.cli.app import main
    from manymask.training.loading import TrainingImages
    from manymask.training.module import TrainingModule

    step = TrainingModule.training_step

    def step_with_accident(self: TrainingModule, *args: Any) -> torch.Tensor:
        if action and (self.current_epoch, args[1]) == (epoch, batch):
            _act(action)
        return step(self, *args)

    TrainingModule.training_step = step_with_accident
    if action == "SIGBUS in a loader":
        TrainingImages.__getitem__ = lambda *_: os.kill(os.getpid(), signal.SIGBUS)  # pyright: ignore
    sys.argv = ["manymask", *arguments]
    try:
        main()
    except SystemExit as error:
        exit_code = error.code
    sys.exit(exit_code)  # outside of the handler: its traceback holds the loaders, and their end would take seconds


def _act(action: str) -> None:
    if action == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    else:
        os.killpg(os.getpgrp(), signal.Signals[action])
