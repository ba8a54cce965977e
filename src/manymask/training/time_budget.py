"""How a run with a time budget keeps to it: the clock ends each epoch's steps and sets the learning rate."""

import time
from collections.abc import Callable

# Seconds kept back for what comes after the last epoch: curves, the end of the loaders and of the process.
SECONDS_AT_END = 5.0
# Share of an epoch that its validation is given before one was measured; the rule of ``epochs`` allows as much.
VALIDATION_SHARE = 0.15


class Pace:
    """When the steps of an epoch are over, and what share of the run is done.

    Every epoch gets an equal part of the time that is left, and what a validation takes of it is measured: where they
    turn out slow, there are fewer epochs. The learning rate follows the share, so it ends at its end however fast the
    machine is, or becomes.

    Args:
        num_epochs: Epochs of the run, those done before included; there are fewer where validations turn out slow.
        deadline: When the run must be over, on ``clock``.
        num_done: Epochs that are done already, in a run that is resumed.
        clock: Seconds.

    Attributes:
        num_epochs: Their number as far as is known now.
    """

    def __init__(
        self, num_epochs: int, deadline: float, num_done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_epochs = num_epochs
        self._epoch = num_done
        self._deadline = deadline - SECONDS_AT_END
        self._clock = clock
        self._began = self._until = clock()
        self._ended: float | None = None

    def begin_epoch(self, epoch: int) -> None:
        """Decide how long the steps of an epoch (0-based) may take."""
        now = self._clock()
        left = self.seconds_left
        if self._ended is None:
            seconds_after = VALIDATION_SHARE * left / (self.num_epochs - epoch)
        else:
            seconds_after = now - self._ended
            # Validations take at most a third of what is left, if one can.
            num_left = min(self.num_epochs - epoch, int(left / 3 / max(seconds_after, 1e-6)))
            self.num_epochs = epoch + max(num_left, 1)
        self._epoch, self._began = epoch, now
        self._until = now + max(left / (self.num_epochs - epoch) - seconds_after, 0.0)

    def has_time(self) -> bool:
        """Whether the epoch has time for another step."""
        return self._clock() < self._until

    def end_steps(self) -> None:
        """Note that the steps of an epoch are done and its validation begins."""
        self._ended = self._clock()

    @property
    def share(self) -> float:
        """The share of the run that is done, which never falls and ends at 1."""
        length = self._until - self._began
        within = min((self._clock() - self._began) / length, 1.0) if length > 0 else 1.0
        return (self._epoch + within) / self.num_epochs

    @property
    def seconds_left(self) -> float:
        """Time until the run must be over."""
        return max(self._deadline - self._clock(), 0.0)
