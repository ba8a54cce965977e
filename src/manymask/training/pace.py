"""The steps of each epoch of a run with a time budget, fitted to how fast the run really is."""

import time
from collections.abc import Callable

from manymask.planning import Plan

# Seconds kept back for what comes after the last epoch: curves, the end of the loaders and of the process.
SECONDS_AT_END = 3.0
# Share of the time left that an epoch's estimate may be off; the last epoch cannot make it good.
SLACK = 0.02


class Pace:
    """How many steps each epoch takes.

    Every epoch gets an equal part of the time that is left, less the time of a validation. Both times are estimates at
    first, and measured from the first epoch on; where validations turn out slow, there are fewer epochs. The learning
    rate follows the share of the run that is done.

    Args:
        plan: The settings, with ``minutes``, and with the first estimate in ``epoch_steps``.
        deadline: When the run must be over, on ``clock``.
        num_done: Epochs that are done already, in a run that is resumed.
        clock: Seconds.
    """

    def __init__(
        self, plan: Plan, deadline: float, num_done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.num_epochs = plan.epochs
        self.num_steps = plan.epoch_steps or 1
        self.first_step = 0
        self.epoch = num_done
        self._first_epoch = num_done
        self._deadline = deadline
        self._seconds = (plan.minutes or 0) * 60
        self._clock = clock
        self._began = self._ended = 0.0

    def begin_epoch(self, epoch: int, step: int) -> int:
        """Decide the steps of an epoch (0-based) that begins at ``step``."""
        now = self._clock()
        left = max((self._deadline - SECONDS_AT_END - now) * (1 - SLACK), 0.0)
        if epoch == self._first_epoch:
            # The first estimate was of the whole time; start-up is over, and of a resumed run some epochs.
            share = left / (self.num_epochs - epoch) * self.num_epochs / self._seconds
            self.num_steps = max(int(self.num_steps * min(share, 1.0)), 1)
        else:
            seconds_per_step = max(self._ended - self._began, 1e-6) / self.num_steps
            seconds_after = now - self._ended
            # Validations take at most half of what is left: where they are slow, there are fewer epochs.
            num_left = max(min(self.num_epochs - epoch, int(0.5 * left / max(seconds_after, 1e-6))), 1)
            self.num_epochs = epoch + num_left
            self.num_steps = max(int((left / num_left - seconds_after) / seconds_per_step), 1)
        self.epoch, self.first_step, self._began = epoch, step, now
        return self.num_steps

    def end_steps(self) -> None:
        """Note that the steps of an epoch are done and its validation begins."""
        self._ended = self._clock()

    def get_share(self, step: int) -> float:
        """The share of the run that is done at an optimizer step (0-based)."""
        return min((self.epoch + (step - self.first_step) / self.num_steps) / self.num_epochs, 1.0)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, as far as known."""
        return self.first_step + self.num_steps * (self.num_epochs - self.epoch)
