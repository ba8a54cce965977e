"""What rules know of the machine, and of the cost of a training step on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepCost:
    """What a training step costs on a machine, measured with the densest image.

    Attributes:
        seconds_per_image: Seconds of a step for each image of its batch.
        seconds_per_validation: Seconds of a validation on all held-out images, estimated from a typical one.
        fixed_mib: Memory of the process without a step.
        mib_per_image: Memory that each image of a batch adds.
    """

    seconds_per_image: float
    seconds_per_validation: float
    fixed_mib: float
    mib_per_image: float


@dataclass(frozen=True)
class Machine:
    """Where training runs.

    Attributes:
        device: ``cpu`` or ``cuda``.
        num_cores: Cores that this process may use.
        memory_mib: Memory of the device, or of the machine.
    """

    device: str
    num_cores: int
    memory_mib: float
