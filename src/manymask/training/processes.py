"""The processes that train one model together, each on a device of its own.

Who starts them is torch's own launcher (``torchrun``, which ``manymask train --devices`` runs) or SLURM; Lightning's
DistributedDataParallel joins them.
"""

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from manymask.core.launched import read_launch
from manymask.errors import LostProcess, PlanError

Result = TypeVar("Result")

# So long processes wait for each other: the first reads all data while the others wait.
TIMEOUT = timedelta(hours=6)
INSTANCE_PIXELS = 1400
"""An instance costs a step, and a prediction, as much time as so many pixels: "a crowd's cost" in RESULTS.md."""


class Processes:
    """What the processes of a run tell each other; a run of one process tells itself.

    Attributes:
        rank: The number of this process, from 0.
        count: How many there are.
        num_devices: How many there are on each machine.
        num_nodes: How many machines there are.
    """

    def __init__(self, rank: int = 0, num_devices: int = 1, num_nodes: int = 1) -> None:
        self.rank, self.num_devices, self.num_nodes = rank, num_devices, num_nodes
        self.count = num_devices * num_nodes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def choose_device(self, device: torch.device) -> torch.device:
        """The device of this process, of the kind that all use."""
        if self.count == 1 or device.type == "cpu":
            return device
        return torch.device(device.type, self.rank % self.num_devices)

    def run_on_first(self, function: Callable[[], Result]) -> Result:
        """What a function gives in the first process, in all of them.

        Raises:
            BaseException: In the first process what the function raised; the others end without a word.
        """
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, False]
        error = None
        if self.is_first:
            try:
                outcome[0] = function()
            except BaseException as raised:  # Ctrl-C too: the others wait
                error, outcome[1] = raised, True
        dist.broadcast_object_list(outcome, device=_choose_channel())
        if error is not None:
            raise error
        if outcome[1]:
            raise SystemExit(2)
        return outcome[0]

    def fail_together(self, error: Exception) -> Exception | SystemExit:
        """What to raise where all processes fail for the same reason, which the first tells."""
        return error if self.is_first else SystemExit(2)

    def gather(self, value: Result) -> list[Result]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def find_highest(self, value: float) -> float:
        """The highest of the processes' values."""
        if self.count == 1:
            return value
        highest = torch.tensor(value, dtype=torch.float64, device=_choose_channel())
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return highest.item()

    def read_clock(self) -> float:
        """The time of the first process, on ``time.monotonic``, so that all decide alike."""
        return time.monotonic() if self.count == 1 else self.find_highest(time.monotonic() if self.is_first else -1.0)

    @torch.no_grad()
    def average_buffers(self, module: torch.nn.Module) -> None:
        """Give all processes the mean of what BatchNorm has measured in each; the weights are alike already."""
        if self.count == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.count


def join_processes(device: torch.device, devices: int = 1, num_nodes: int = 1) -> Processes:
    """Join the processes that ``torchrun`` or SLURM has started for this run; alone where none has.

    Args:
        device: The kind of device that all use.
        devices: Processes on each machine, as the user has asked for; 1 leaves it to who has started them.
        num_nodes: Machines, likewise.

    Raises:
        PlanError: Others were started than asked for, they do not find each other, or devices are missing.
    """
    launch = read_launch()
    found_nodes = launch.num_nodes or launch.count // int(os.environ["LOCAL_WORLD_SIZE"])
    own = launch.count // found_nodes
    found = (own, found_nodes)
    if own * found_nodes != launch.count:
        raise PlanError(
            f"{launch.launcher} has started {launch.count} processes, not as many on each machine; start as many"
        )
    if (devices, num_nodes) not in ((1, 1), found):
        raise PlanError(
            f"{devices} devices on {num_nodes} machines were asked for, but {launch.launcher or 'nobody'} has started "
            f"{own} processes on each of {found_nodes}; make them agree, or leave --devices and --num-nodes out"
        )
    if launch.count == 1:
        return Processes()
    if device.index is not None:
        raise PlanError(
            f"device is {device}, but {launch.count} processes take a device each; set device to {device.type}"
        )
    check_devices(device, own)
    accelerator = "cpu" if device.type == "cpu" else "gpu"
    try:
        with quiet_lightning():
            strategy = DDPStrategy(timeout=TIMEOUT)
            fabric = Fabric(accelerator=accelerator, devices=own, num_nodes=found_nodes, strategy=strategy)
            fabric.launch()
    except (RuntimeError, ValueError) as error:
        raise PlanError(
            f"the {launch.count} processes that {launch.launcher} has started cannot meet ({error}); look whether "
            "MASTER_ADDR and MASTER_PORT name a free port that all machines reach, and --ntasks-per-node the devices"
        ) from error
    return Processes(fabric.global_rank, *found)


def check_devices(device: torch.device, num_devices: int) -> None:
    """Refuse more processes than the machine has devices of a kind.

    Raises:
        PlanError: There are fewer.
    """
    found = (os.cpu_count() or 1) if device.type == "cpu" else torch.cuda.device_count()
    if num_devices > found:
        what = "processors" if device.type == "cpu" else "GPUs"
        raise PlanError(
            f"{num_devices} devices were asked for, but {socket.gethostname()} has {found} {what} for this process"
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on its own set-up, and on loaders that this package chose on purpose, from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message="Grad strides do not match")  # a matter of little speed
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def explain_lost(processes: Processes) -> Iterator[None]:
    """Tell an end of the connection from other errors: one of the processes is gone.

    Raises:
        LostProcess: Another process of the run has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if processes.count > 1 and any(sign in str(error) for sign in _LOST_SIGNS):
            raise LostProcess("another process of the run has ended; resume the run") from error
        raise


# What torch (2.15) writes where gloo, NCCL or the store that processes meet at lose one of them.
_LOST_SIGNS = ("gloo", "Gloo", "NCCL", "TCPStore", "Connection closed by peer", "Connection reset", "Broken pipe")


def share_out(costs: Sequence[float], count: int) -> list[list[int]]:
    """Indices for each of ``count`` processes, alike in number but for one, and in cost as far as that allows.

    The dearest first, each to the process with the least so far that is not full (longest processing time first).
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for place, index in enumerate(sorted(range(len(costs)), key=lambda i: -costs[i])):
        fewest = place // count  # a round of one each, so that none has two more than another
        best = min((i for i in range(count) if len(shares[i]) == fewest), key=lambda i: loads[i])
        shares[best].append(index)
        loads[best] += costs[index]
    return [sorted(share) for share in shares]


def _choose_channel() -> torch.device:
    """Where a tensor has to be for the processes to exchange it: NCCL takes those of a GPU alone."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
