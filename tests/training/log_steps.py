"""A training, in each of the processes that it is started in, which logs what each step did.

Usage: log_steps.py DATA OUTPUT LOG NAME=VALUE ..: LOG.RANK gets a JSON line a step with its images and losses.
"""

import json
import os
import sys
from pathlib import Path

import torch

from manymask.training import train
from manymask.training.module import TrainingModule


def main(data: str, output: str, log: str, *settings: str) -> None:
    torch.backends.mkldnn.enabled = False  # whose last digits of an image depend on how many are beside it
    step = TrainingModule.training_step

    def logged(self, batch, index):
        loss = step(self, batch, index)
        line = {"images": batch[2], "seeds": [int(target["seed"]) for target in batch[1]], "loss": loss.item()}
        with open(f"{log}.{os.environ.get('RANK', 0)}", "a") as f:
            f.write(json.dumps(line) + "\n")
        return loss

    validate = TrainingModule.validation_step

    def logged_validation(self, batch, index):
        with open(f"{log}.val.{os.environ.get('RANK', 0)}", "a") as f:
            f.write(json.dumps(batch[2]) + "\n")
        validate(self, batch, index)

    TrainingModule.training_step, TrainingModule.validation_step = logged, logged_validation
    train(Path(data), output=Path(output), recipe="baseline", settings=dict(s.split("=") for s in settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
