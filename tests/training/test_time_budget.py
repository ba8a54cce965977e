import itertools

import pytest

from manymask.training.time_budget import SECONDS_AT_END, VALIDATION_SHARE, Pace

MINUTES = 10.0
SECONDS = 60 * MINUTES


class Clock:
    """Seconds that pass only where the run below spends them."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def make_pace(clock, epochs=10, num_done=0, deadline=None):
    return Pace(epochs, clock.now + SECONDS if deadline is None else deadline, num_done, clock)


def run(pace, clock, seconds_per_step, seconds_per_validation, first_epoch=0):
    """Go through a run; the seconds of a step may follow from the epoch. Gives the share before each step."""
    shares, epoch = [], first_epoch
    while epoch < pace.num_epochs:
        pace.begin_epoch(epoch)
        while True:
            shares.append(pace.share)
            clock.now += seconds_per_step(epoch) if callable(seconds_per_step) else seconds_per_step
            if not pace.has_time():
                break
        shares.append(pace.share)
        pace.end_steps()
        clock.now += seconds_per_validation
        epoch += 1
    return shares


def assert_rises_to_one(shares):
    assert shares[-1] == 1
    assert all(before <= after for before, after in itertools.pairwise(shares))


@pytest.mark.parametrize("epochs", [1, 2, 10])
@pytest.mark.parametrize("seconds_per_validation", [0.0, 2.0, 20.0])
def test_ends_at_the_deadline(epochs, seconds_per_validation):
    clock = Clock()
    pace = make_pace(clock, epochs)
    deadline = clock.now + SECONDS
    shares = run(pace, clock, 0.5, seconds_per_validation)
    # A validation that was never measured is given its share of the epoch, and may take less.
    slack = VALIDATION_SHARE * SECONDS if epochs == 1 else 1
    assert deadline - SECONDS_AT_END - slack <= clock.now <= deadline
    assert shares[0] == 0
    assert_rises_to_one(shares)


@pytest.mark.parametrize("factor", [4, 0.25])
@pytest.mark.parametrize("changes_at", [1, 5])
def test_machine_becomes_slower_or_faster(factor, changes_at):
    clock = Clock()
    pace = make_pace(clock)
    deadline = clock.now + SECONDS
    shares = run(pace, clock, lambda epoch: 0.5 if epoch < changes_at else 0.5 * factor, 2.0)
    assert deadline - 2 * SECONDS_AT_END <= clock.now <= deadline
    assert_rises_to_one(shares)


def test_slow_validations_leave_fewer_epochs():
    clock = Clock()
    pace = make_pace(clock, 20)
    deadline = clock.now + SECONDS
    shares = run(pace, clock, 0.1, 60.0)
    assert pace.num_epochs < 8
    assert abs(clock.now - deadline) <= 2 * SECONDS_AT_END
    assert_rises_to_one(shares)


def test_no_time_is_left():
    """One step, and one more with which the run ends as it should."""
    clock = Clock()
    pace = make_pace(clock, 4, deadline=clock.now - 5)
    shares = run(pace, clock, 1.0, 1.0)
    assert pace.num_epochs == 2
    assert len(shares) == 4
    assert_rises_to_one(shares)


def test_resumed_run():
    """It goes on with the share of the epochs that are done, and takes the time that is left."""
    clock = Clock()
    pace = make_pace(clock, 10, num_done=6, deadline=clock.now + 0.4 * SECONDS)
    deadline = clock.now + 0.4 * SECONDS
    shares = run(pace, clock, 0.5, 2.0, first_epoch=6)
    assert shares[0] == pytest.approx(0.6)
    assert deadline - 2 * SECONDS_AT_END <= clock.now <= deadline
    assert_rises_to_one(shares)
