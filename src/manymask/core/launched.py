"""How this process was started: alone, or as one of several that ``torchrun`` or SLURM's ``srun`` started together."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """What the environment says.

    Attributes:
        rank: The number of this process among all, from 0.
        count: How many there are.
        num_nodes: On how many machines, as far as SLURM says; None for ``torchrun``, which gives ``LOCAL_WORLD_SIZE``.
        launcher: Who has started them; empty for a process that was started alone.
    """

    rank: int = 0
    count: int = 1
    num_nodes: int | None = 1
    launcher: str = ""


def read_launch() -> Launch:
    """Read the environment; a SLURM job's own shell, in which ``srun`` has not started anything, is alone."""
    values = os.environ
    if "TORCHELASTIC_RUN_ID" in values:
        return Launch(int(values["RANK"]), int(values["WORLD_SIZE"]), None, "torchrun")
    # The tasks of a step; SLURM_NTASKS is set in the shell of a job too.
    if (count := int(values.get("SLURM_STEP_NUM_TASKS", "1"))) > 1:
        return Launch(int(values["SLURM_PROCID"]), count, int(values.get("SLURM_STEP_NUM_NODES", "1")), "SLURM")
    return Launch()
