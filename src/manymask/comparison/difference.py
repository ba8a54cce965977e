"""The difference of two variants on the same images, with its interval and a sentence."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.stats import t

from manymask.metrics import FEW_UNITS, compute_interval, none_if_nan
from manymask.metrics.catalogue import Metric

MIN_UNITS = 8
"""Images, or groups, that a difference is claimed from at the least: intervals of fewer are too short (measured, see
``benchmarks/RESULTS.md``)."""


@dataclass(frozen=True, eq=False)
class Estimates:
    """A metric of one variant.

    Attributes:
        values: Its value in each run (one a seed), on all images.
        draws: Its mean over the runs, in each bootstrap draw of the images.
    """

    values: Float64[np.ndarray, " runs"]
    draws: Float64[np.ndarray, " draws"]

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return float(self.values.mean())

    @property
    def seed_deviation(self) -> float | None:
        """Standard deviation over the runs; None where there is one only, or one is undefined."""
        return None if len(self.values) < 2 or math.isnan(self.mean) else float(self.values.std(ddof=1))


@dataclass(frozen=True)
class Difference:
    """How much higher a metric of the second variant is than of the first; None where it is undefined.

    Attributes:
        metric: The metric.
        first: Value of the first variant, the mean over its runs.
        second: Value of the second.
        difference: Second minus first.
        num_units: Images, or groups, that were drawn from.
        image_interval: 95 % interval of the difference of these very runs, on other images of the same kind.
        interval: The same for runs with other seeds too; equal to ``image_interval`` where each variant has one run.
        first_deviation: Standard deviation over the seeds of the first; None with one.
        second_deviation: The same of the second.
    """

    metric: Metric
    first: float | None
    second: float | None
    difference: float | None
    num_units: int
    image_interval: tuple[float, float] | None
    interval: tuple[float, float] | None
    first_deviation: float | None
    second_deviation: float | None

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves 0 out, and there are images enough to trust it."""
        if self.interval is None or self.num_units < MIN_UNITS:
            return False
        return self.interval[0] > 0 or self.interval[1] < 0

    def to_json(self) -> dict[str, Any]:
        """The same with the metric as people call it."""
        return asdict(self) | {"metric": self.metric.label}


def compute_difference(metric: Metric, first: Estimates, second: Estimates, num_units: int) -> Difference:
    """Subtract two variants, draw by draw, so that what makes images hard for both cancels out."""
    difference = second.mean - first.mean
    if math.isnan(difference):
        known = (none_if_nan(first.mean), none_if_nan(second.mean))
        return Difference(metric, *known, None, num_units, None, None, None, None)
    images = compute_interval(second.draws - first.draws, num_units)
    interval = None if images is None else _widen(images, difference, [first, second])
    deviations = (first.seed_deviation, second.seed_deviation)
    return Difference(metric, first.mean, second.mean, difference, num_units, images, interval, *deviations)


def _widen(interval: tuple[float, float], difference: float, variants: Sequence[Estimates]) -> tuple[float, float]:
    """Add what other seeds would change, by Welch's interval (1947): the squares add up, as of normal distributions."""
    parts = [(e.values.var(ddof=1) / len(e.values), len(e.values) - 1) for e in variants if len(e.values) > 1]
    total = sum(part for part, _ in parts)
    if total == 0:
        return interval
    freedom = total**2 / sum(part**2 / degrees for part, degrees in parts)
    half = t.ppf(0.975, freedom) * math.sqrt(total)
    low, high = (math.hypot(difference - edge, half) for edge in interval)
    return difference - low, difference + high


def describe(difference: Difference, names: tuple[str, str], unit: str, runs: tuple[int, int]) -> str:
    """A sentence on which of two variants is better, as far as that can be told.

    Args:
        difference: The difference.
        names: Names of the variants.
        unit: What was drawn, as in ``52 images``.
        runs: Runs of each variant.
    """
    first, second = names
    seeds = (
        f" and {runs[0]} seeds each"
        if runs[0] == runs[1]
        else f", {runs[0]} seeds of {first} and {runs[1]} of {second}"
    )
    seeds = seeds if max(runs) > 1 else ""
    kind = "rough 95 % interval" if difference.num_units < FEW_UNITS else "95 % interval"
    metric = difference.metric.label
    if difference.difference is None:
        return f"{metric} is undefined for {first} or {second}."
    size = f"{abs(difference.difference):.3f} {metric}"
    subtracted = f"{metric} of {second} minus that of {first} is {difference.difference:+.3f}"
    if difference.interval is None:
        return f"{subtracted}, on {unit}{seeds}: without an interval nobody can tell whether that means anything."
    low, high = difference.interval
    if not difference.is_told:
        few = f" on fewer than {MIN_UNITS} images or groups" if difference.num_units < MIN_UNITS else ""
        return (
            f"No difference in {metric} can be told{few}: {subtracted}, {kind} {low:+.3f} to "
            f"{high:+.3f}, on {unit}{seeds}."
        )
    better, worse = (
        (second, first) if (difference.difference > 0) == difference.metric.higher_is_better else (first, second)
    )
    near, far = sorted((abs(low), abs(high)))
    return f"{better} is better than {worse} by {size}, {kind} {near:.3f} to {far:.3f}, on {unit}{seeds}."
