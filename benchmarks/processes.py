"""What a training step costs in two processes against one: processor seconds and the clock.

Usage: python benchmarks/processes.py DATA [NAME=VALUE ..], where DATA is a folder of labelled images. Each case is a
training of its own with one thread a process; interleaved, twice.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 12
SETTINGS = {
    "weights": "nuclei",
    "architecture": "maskrcnn_compact",
    "convolutions": "separable",
    "anchor_sizes": "8,16,32,64,128",
    "min_size": 0,
    "crop_size": 192,
    "batch_size": 4,
    "epochs": 1,
    "epoch_steps": STEPS,
    "num_workers": 0,
    "device": "cpu",
    "precision": "fp32",
}


def run_case(data: Path, num_processes: int, settings: dict[str, str]) -> tuple[float, float]:
    """Processor seconds of all processes, and seconds of the clock, of a step: medians without the first two."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"] if num_processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        values = [f"{name}={value}" for name, value in (SETTINGS | settings).items()]
        command = [sys.executable, *launcher, __file__, "--worker", str(data), folder, *values]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
        logs = [
            [tuple(map(float, line.split())) for line in f.read_text().splitlines()] for f in Path(folder).glob("*.log")
        ]
    steps = [
        (sum(after[i][0] - before[i][0] for i in range(len(logs))), after[0][1] - before[0][1])
        for before, after in zip(zip(*logs, strict=True), list(zip(*logs, strict=True))[1:], strict=False)
    ][2:]
    processor, clock = (statistics.median(column) for column in zip(*steps, strict=True))
    return processor, clock


def work(data: str, folder: str, *settings: str) -> None:
    """Train, and write the times at the beginning of each step."""
    from manymask.training import train
    from manymask.training.module import TrainingModule

    step = TrainingModule.training_step

    def timed(self: TrainingModule, *arguments: object) -> object:
        with open(Path(folder) / f"{os.environ.get('RANK', 0)}.log", "a") as f:
            f.write(f"{time.process_time()} {time.monotonic()}\n")
        return step(self, *arguments)

    TrainingModule.training_step = timed
    values = dict(setting.split("=") for setting in settings)
    train(Path(data), output=Path(folder) / "run", recipe="baseline", settings=values)


def main(data: str, *settings: str) -> None:
    """Run both cases in turn."""
    own = dict(setting.split("=") for setting in settings)
    for turn in range(2):
        (one, one_clock), (two, two_clock) = (run_case(Path(data), count, own) for count in (1, 2))
        print(
            f"turn {turn + 1}: a step of one process {one:.2f} s of a processor, {one_clock:.2f} s; of two {two:.2f} s "
            f"together, {two_clock:.2f} s: {two / one:.3f} times the processor, {one_clock / two_clock:.2f} as fast",
            flush=True,
        )


if __name__ == "__main__":
    work(*sys.argv[2:]) if sys.argv[1] == "--worker" else main(*sys.argv[1:])
