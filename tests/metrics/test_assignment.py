import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from manymask.metrics.assignment import find_assignment


def make_pairs(seed: int, num_rows: int, num_columns: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random pairs whose weights have ties."""
    rng = np.random.default_rng(seed)
    rows, columns = np.nonzero(rng.random((num_rows, num_columns)) < share)
    return rows, columns, rng.integers(1, 12, len(rows)) / 12


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.6])
def test_no_other_choice_is_worth_more(seed, share):
    rows, columns, weights = make_pairs(seed, 30, 25, share)
    chosen = find_assignment(rows, columns, weights)
    assert (np.diff(chosen) > 0).all()
    assert len(set(rows[chosen])) == len(set(columns[chosen])) == len(chosen)
    gain = np.zeros((30, 25))
    gain[rows, columns] = weights
    best = gain[linear_sum_assignment(gain, maximize=True)].sum()
    assert weights[chosen].sum() == pytest.approx(best, abs=1e-12)


def test_a_sum_is_preferred_to_the_best_pair():
    chosen = find_assignment(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0.9, 0.6, 0.5]))
    assert chosen.tolist() == [1, 2]


def test_parts_that_do_not_touch_are_solved_by_themselves():
    parts = [make_pairs(seed, 6, 6, 0.5) for seed in range(600)]
    rows, columns, weights = (
        np.concatenate([part[i] + (6 * k if i < 2 else 0) for k, part in enumerate(parts)]) for i in range(3)
    )
    expected = sum(part[2][find_assignment(*part)].sum() for part in parts)
    assert weights[find_assignment(rows, columns, weights)].sum() == pytest.approx(expected)
