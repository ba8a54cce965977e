"""Intervals: what a score would be on other images of the same kind, by the bootstrap."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.stats import norm, t

LEVEL = 0.95
"""Share of data sets whose interval holds the true value."""

MIN_DEFINED = 0.95
"""Share of the draws that must be defined: a class that only one or two images hold is in 63 or 86 % of the draws, and
its interval would be that of nearly the same images again and again."""


def draw_weights(
    num_images: int, groups: Sequence[str] | None = None, draws: int = 1000, seed: int = 0
) -> Float64[np.ndarray, "draws images"]:
    """How often each image occurs in each draw with replacement of as many images (Efron 1979).

    Args:
        num_images: Number of images.
        groups: The group of each image (slide, patient, sample): groups are drawn, each with all its images, since
            images of one group resemble each other.
        draws: Number of draws.
        seed: Seed of the draws.
    """
    names = [str(row) for row in range(num_images)] if groups is None else list(groups)
    units, unit = np.unique(names, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(units), np.full(len(units), 1 / len(units)), size=draws)
    return drawn[:, unit].astype(np.float64)


def compute_interval(values: Float64[np.ndarray, " draws"], num_units: int) -> tuple[float, float] | None:
    """The interval of ``LEVEL`` that the draws give; None with fewer than two units or where too little is defined.

    Percentiles of the draws, widened as Student's t is wider than the normal distribution: for a mean of n values the
    bootstrap's spread is too small by sqrt((n - 1) / n) (the expanded percentile interval of Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap", section 3.1 and appendix).

    Args:
        values: The statistic of each draw; NaN where it is undefined.
        num_units: Images, or groups, that were drawn from.
    """
    defined = values[~np.isnan(values)]
    if num_units < 2 or len(defined) < MIN_DEFINED * len(values):
        return None
    tail = norm.cdf(math.sqrt(num_units / (num_units - 1)) * t.ppf((1 - LEVEL) / 2, num_units - 1))
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
