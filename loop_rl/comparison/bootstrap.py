"""Intervals by bootstrap over seeds and tasks together.

Shapes: S seeds, U units (tasks, or families of tasks), B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie."""

    mean: float
    low: float
    high: float


def mean_with_interval(scores_SU: NDArray, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over seeds and units, and the percentiles of the means of resamples in which both, independently of each other, are
    drawn with replacement: the interval says what other seeds and other tasks would have given.

    Two-way ("pigeonhole") bootstrap, Owen 2007, doi 10.1214/07-AOAS122; it is a little wide. The difference of two methods that
    were run with the same seeds on the same tasks is the mean of their differences, pair by pair.

    Args:
        scores_SU: share of a unit's tasks that were done.
    """
    num_seeds, num_units = scores_SU.shape
    rng = np.random.default_rng(seed)
    seeds_BS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLES) / num_seeds
    units_BU = rng.multinomial(num_units, np.full(num_units, 1 / num_units), NUM_RESAMPLES) / num_units
    means_B = ((seeds_BS @ scores_SU) * units_BU).sum(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means_B, [tail, 100 - tail])
    return Interval(float(scores_SU.mean()), float(low), float(high))
