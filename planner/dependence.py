"""How far the mean of a short, autocorrelated series may lie from the truth.

The block bootstrap draws blocks that are at most a sixth of the series. Where the server's state
lasts about as long as such a block (a neighbour that is busy for some seconds, in a stage of
thirty), every block sees a part of one such state, and the bootstrap finds the mean two or three
times as sure as it is. What the blocks cannot show, an autoregression of batch means extrapolates:
the correlation adjustment of Skart (Tafazzoli, Steiger & Wilson, IIE Transactions 43, 2011), here
with an upper limit of the correlation, since a short series hides it. ``docs/comparing.md`` tells
what each step is worth.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from planner.table import Floats

__all__ = ["LongRun", "independent_number", "long_run"]

_BATCHES = (32, 16)
"""Many, which leave degrees of freedom, and few, each of which holds a longer state."""
_LEAST_IN_BATCH = 5
_LEAST_BATCHES = 6
_DOUBT = 0.5  # standard errors by which the correlation found may be too small
_STRONGEST = 0.95  # beyond, an autoregression is no stationary series


class LongRun(NamedTuple):
    """What a series says about its mean.

    Attributes:
        variance: of the mean.
        freedom: degrees of freedom that this variance is known with.
    """

    variance: float
    freedom: float


def long_run(series: Floats) -> LongRun | None:
    """The variance of the mean of an (n,) series in the order of time.

    For each number of batches m: Var = s^2 / m (1 + r) / (1 - r), as of an AR(1) series, with r the
    lag-one correlation of the batch means, corrected for its bias in a short series, (1 + 3 r) / m
    (Kendall, Biometrika 41, 1954), plus half a standard error, sqrt((1 - r^2) / m); never below 0.
    So correlated, m batches are worth m (1 - r) / (1 + r) independent ones. The largest variance
    and the fewest degrees of freedom count.

    Returns:
        ``None`` where the series is too short, or does not vary.
    """
    counts = {min(count, len(series) // _LEAST_IN_BATCH) for count in _BATCHES}
    found = [_of_batches(series, count) for count in counts if count >= _LEAST_BATCHES]
    known = [one for one in found if one is not None]
    if not known:
        return None
    return LongRun(max(one.variance for one in known), min(one.freedom for one in known))


def independent_number(series: Floats) -> float:
    """How many independent observations have a mean as sure as that of an (n,) series; at most n.

    A series that is too short to tell, or does not vary, is worth its length.
    """
    known = long_run(series)
    if known is None:
        return float(len(series))
    return min(float(np.var(series, ddof=1)) / known.variance, float(len(series)))


def _of_batches(series: Floats, m: int) -> LongRun | None:
    size = len(series) // m
    means = series[: m * size].reshape(m, size).mean(axis=1)
    left = means - means.mean()
    squares = float(left @ left)
    if not squares > 0:
        return None
    seen = float(left[1:] @ left[:-1]) / squares
    likely = seen + (1 + 3 * seen) / m
    upper = likely + _DOUBT * math.sqrt(max(1 - likely**2, 0.0) / m)
    correlation = min(max(upper, 0.0), _STRONGEST)
    times = (1 + correlation) / (1 - correlation)
    return LongRun(squares / (m - 1) / m * times, max(m / times - 1, 1.0))
