import math

import numpy as np
import pytest
from scipy.stats import ttest_ind

from manymask.comparison.difference import Difference, Estimates, compute_difference, describe
from manymask.metrics import catalogue

UNITS = 52
METRICS = {metric.label: metric for metric in catalogue.METRICS}


def estimate(values: list[float], draws: np.ndarray | None = None) -> Estimates:
    """A metric whose draws are all its mean, unless they are given."""
    values_array = np.array(values, dtype=np.float64)
    return Estimates(values_array, np.full(1000, values_array.mean()) if draws is None else draws)


def make_draws(center: float, spread: float, seed: int = 0) -> np.ndarray:
    return center + spread * np.random.default_rng(seed).standard_normal(1000)


def make_difference(metric: str, difference: float | None, interval: tuple[float, float] | None) -> Difference:
    return Difference(METRICS[metric], None, None, difference, UNITS, interval, interval, None, None)


class TestPairing:
    def test_equal_variants_differ_by_exactly_nothing(self):
        one = estimate([0.7], make_draws(0.7, 0.1))
        found = compute_difference(METRICS["F1"], one, one, UNITS)
        assert (found.difference, found.image_interval, found.interval) == (0.0, (0.0, 0.0), (0.0, 0.0))
        assert not found.is_told

    def test_what_is_hard_for_both_cancels_out(self):
        draws = make_draws(0.5, 0.2)
        found = compute_difference(METRICS["F1"], estimate([0.5], draws), estimate([0.52], draws + 0.02), UNITS)
        assert found.interval == pytest.approx((0.02, 0.02))
        assert found.is_told

    def test_independent_draws_do_not(self):
        first, second = estimate([0.5], make_draws(0.5, 0.2)), estimate([0.52], make_draws(0.52, 0.2, seed=1))
        found = compute_difference(METRICS["F1"], first, second, UNITS)
        assert not found.is_told
        assert found.interval == found.image_interval
        assert found.interval[0] < 0.02 < found.interval[1]

    def test_one_image_has_no_interval(self):
        found = compute_difference(METRICS["F1"], estimate([0.5]), estimate([0.6]), 1)
        assert found.difference == pytest.approx(0.1)
        assert found.interval is found.image_interval is None
        assert not found.is_told

    @pytest.mark.parametrize(("num_units", "is_told"), [(2, False), (7, False), (8, True)])
    def test_few_images_tell_nothing(self, num_units, is_told):
        found = compute_difference(METRICS["F1"], estimate([0.5]), estimate([0.6]), num_units)
        assert found.interval == pytest.approx((0.1, 0.1))
        assert found.is_told == is_told
        sentence = describe(found, ("A", "B"), f"{num_units} images", (1, 1))
        assert ("can be told on fewer than 8 images or groups" in sentence) != is_told

    @pytest.mark.parametrize(("first", "second"), [(math.nan, 0.5), (0.5, math.nan), (math.nan, math.nan)])
    def test_undefined(self, first, second):
        found = compute_difference(METRICS["F1"], estimate([first, first]), estimate([second]), UNITS)
        assert found.difference is found.interval is found.image_interval is found.first_deviation is None
        assert [found.first, found.second] == [None if math.isnan(value) else value for value in (first, second)]

    def test_deviation_of_an_undefined_run_is_none(self):
        assert estimate([0.5, math.nan]).seed_deviation is None
        assert estimate([0.5]).seed_deviation is None
        assert estimate([0.5, 0.7]).seed_deviation == pytest.approx(0.2 / math.sqrt(2))


class TestSeeds:
    """With no spread over images what is left is Welch's interval."""

    @pytest.mark.parametrize("second", [[0.62, 0.65], [0.6, 0.66, 0.61, 0.69]])
    def test_equals_scipys_welch_interval(self, second):
        first = [0.50, 0.54, 0.49]
        found = compute_difference(METRICS["F1"], estimate(first), estimate(second), UNITS)
        expected = ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
        assert found.interval == pytest.approx((expected.low, expected.high))
        assert found.image_interval == pytest.approx((found.difference, found.difference))

    def test_one_run_adds_nothing(self):
        """Its spread is not known; the others' alone gives Student's interval of their mean: t(0.975; 2) = 4.303."""
        found = compute_difference(METRICS["F1"], estimate([0.50, 0.52, 0.54]), estimate([0.6]), UNITS)
        half = 4.30265 * 0.02 / math.sqrt(3)
        assert found.interval == pytest.approx((0.08 - half, 0.08 + half), rel=1e-5)
        assert found.second_deviation is None

    def test_images_and_seeds_add_in_squares(self):
        first = estimate([0.50, 0.52], make_draws(0.51, 0.0))
        second = estimate([0.60, 0.64], make_draws(0.62, 0.05))
        found = compute_difference(METRICS["F1"], first, second, UNITS)
        welch = compute_difference(METRICS["F1"], first, estimate([0.60, 0.64]), UNITS).interval
        for place in (0, 1):
            expected = math.hypot(welch[place] - 0.11, found.image_interval[place] - 0.11)
            assert abs(found.interval[place] - 0.11) == pytest.approx(expected)
        assert found.interval[0] < found.image_interval[0] < found.image_interval[1] < found.interval[1]

    def test_equal_seeds_widen_nothing(self):
        found = compute_difference(
            METRICS["F1"], estimate([0.5, 0.5]), estimate([0.6, 0.6], make_draws(0.6, 0.1)), UNITS
        )
        assert found.interval == found.image_interval


class TestSentence:
    @pytest.mark.parametrize(
        ("difference", "runs", "expected"),
        [
            (
                make_difference("F1", 0.021, (0.004, 0.039)),
                (1, 1),
                "B is better than A by 0.021 F1, 95 % interval 0.004 to 0.039, on 52 images.",
            ),
            (
                make_difference("F1", -0.021, (-0.039, -0.004)),
                (3, 2),
                "A is better than B by 0.021 F1, 95 % interval 0.004 to 0.039, on 52 images, 3 seeds of A and 2 of B.",
            ),
            (
                make_difference("F1", -0.021, (-0.04, 0.001)),
                (1, 1),
                "No difference in F1 can be told: F1 of B minus that of A is -0.021, 95 % interval -0.040 to "
                "+0.001, on 52 images.",
            ),
            (
                make_difference("F1", 0.0, (0.0, 0.0)),
                (2, 2),
                "No difference in F1 can be told: F1 of B minus that of A is +0.000, 95 % interval +0.000 to "
                "+0.000, on 52 images and 2 seeds each.",
            ),
            (
                make_difference("F1", 0.3, None),
                (1, 1),
                "F1 of B minus that of A is +0.300, on 52 images: without an interval nobody can tell whether that "
                "means anything.",
            ),
            (
                make_difference("mean absolute count error", 2.5, (1.5, 3.5)),
                (1, 1),
                "A is better than B by 2.500 mean absolute count error, 95 % interval 1.500 to 3.500, on 52 images.",
            ),
            (make_difference("F1", None, None), (1, 1), "F1 is undefined for A or B."),
        ],
    )
    def test_says_what_can_be_said(self, difference, runs, expected):
        assert describe(difference, ("A", "B"), "52 images", runs) == expected
