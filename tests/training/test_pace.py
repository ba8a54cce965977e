import itertools

import pytest

from manymask.planning import make_plan
from manymask.training.pace import SECONDS_AT_END, Pace

# The deadline, and so what 2 % of it are.
MINUTES = 10.0
SECONDS = 60 * MINUTES


class Clock:
    """Seconds that pass only where the run below spends them."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def make_pace(clock, epoch_steps, epochs=10, num_done=0, deadline=None):
    plan = make_plan(settings={"minutes": MINUTES, "epochs": epochs, "epoch_steps": epoch_steps})
    return Pace(plan, clock.now + SECONDS if deadline is None else deadline, num_done, clock)


def run(pace, clock, seconds_per_step, seconds_per_validation, epoch=0, step=0):
    """Go through a run; the seconds of a step may follow from the epoch. Gives the shares at each step."""
    shares = []
    while epoch < pace.num_epochs:
        num_steps = pace.begin_epoch(epoch, step)
        shares += [pace.get_share(step + index) for index in range(num_steps)]
        step += num_steps
        clock.now += num_steps * (seconds_per_step(epoch) if callable(seconds_per_step) else seconds_per_step)
        pace.end_steps()
        clock.now += seconds_per_validation
        epoch += 1
    return [*shares, pace.get_share(step)], step


def assert_rises_to_one(shares):
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1, abs=1e-12)
    assert all(before < after for before, after in itertools.pairwise(shares))


@pytest.mark.parametrize("estimate", [1, 50, 90])
@pytest.mark.parametrize("seconds_per_validation", [0.0, 2.0, 20.0])
def test_ends_at_the_deadline(estimate, seconds_per_validation):
    clock = Clock()
    pace = make_pace(clock, estimate)
    deadline = clock.now + SECONDS
    shares, _ = run(pace, clock, 0.5, seconds_per_validation)
    assert deadline - SECONDS_AT_END - 0.02 * SECONDS <= clock.now <= deadline
    assert_rises_to_one(shares)


@pytest.mark.parametrize("factor", [2, 0.5])
@pytest.mark.parametrize("changes_at", [1, 5])
def test_machine_becomes_slower_or_faster(factor, changes_at):
    clock = Clock()
    pace = make_pace(clock, 110)
    deadline = clock.now + SECONDS
    shares, _ = run(pace, clock, lambda epoch: 0.5 if epoch < changes_at else 0.5 * factor, 2.0)
    assert abs(clock.now - deadline) <= 0.02 * SECONDS + SECONDS_AT_END
    assert_rises_to_one(shares)


def test_no_time_is_left():
    """One step, and one more with which the run ends as it should."""
    clock = Clock()
    pace = make_pace(clock, 50, epochs=4, deadline=clock.now - 5)
    shares, step = run(pace, clock, 1.0, 1.0)
    assert step == 2
    assert_rises_to_one(shares)


def test_slow_validations_leave_fewer_epochs():
    clock = Clock()
    pace = make_pace(clock, 100, epochs=20)
    deadline = clock.now + SECONDS
    shares, _ = run(pace, clock, 0.1, 60.0)
    assert pace.num_epochs < 8
    assert abs(clock.now - deadline) <= 0.02 * SECONDS + SECONDS_AT_END
    assert_rises_to_one(shares)


def test_start_up_is_taken_off_the_first_epoch():
    clock = Clock()
    assert make_pace(clock, 100, epochs=1, deadline=clock.now + SECONDS / 2).begin_epoch(0, 0) == 48


def test_resumed_run():
    """It begins with the plan's steps, and with the share of the epochs that are done."""
    clock = Clock()
    pace = make_pace(clock, 40, num_done=6, deadline=clock.now + 0.4 * SECONDS)
    deadline = clock.now + 0.4 * SECONDS
    assert pace.total_steps == 4 * 40
    shares, _ = run(pace, clock, 0.5, 2.0, epoch=6, step=700)
    assert shares[0] == 0.6
    assert_rises_to_one([0, *shares])
    assert deadline - SECONDS_AT_END - 0.02 * SECONDS <= clock.now <= deadline


def test_share_is_kept_beyond_the_end():
    clock = Clock()
    pace = make_pace(clock, 6, epochs=1)
    assert pace.begin_epoch(0, 0) == 5
    assert [pace.get_share(step) for step in (0, 4, 5, 6)] == [0, 0.8, 1, 1]


def test_total_steps_follow_the_measured_speed():
    clock = Clock()
    pace = make_pace(clock, 10)
    assert pace.total_steps == 100
    _, step = run(pace, clock, 0.5, 2.0)
    assert pace.total_steps == step
    assert step == pytest.approx((SECONDS - SECONDS_AT_END - 10 * 2) / 0.5, rel=0.03)
