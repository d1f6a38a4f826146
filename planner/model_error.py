"""How wrong a curve may be between and beyond the measured levels.

A bootstrap knows the noise of the levels, not the error of the curve drawn through them. That
error is drawn here from what leaving levels out of 594 published curves showed, one number per
draw for all levels, since a curve that runs too low runs too low along the whole gap. Without it
the probability that an objective is met would be far too sure wherever nothing was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PUBLISHED", "ModelError", "PublishedError", "draw_model_error"]

Array = npt.NDArray[np.float64]

BRACKET = math.log(4.0)
"""log ratio of the two neighbours of the left-out levels behind the interpolation figures."""
SLACK = 0.05
"""How far, in log, a value between two levels may lie outside of what they gave."""


@dataclass(frozen=True)
class PublishedError:
    """Median and 90th percentile of an absolute relative error."""

    median: float
    p90: float

    def magnitude(self, share: Array) -> Array:
        """The quantile function of the error at ``share`` in (0, 1).

        A Weibull distribution through both published figures: their ratio of about five is
        double that of a normal distribution, so the tail must be heavier.
        """
        shape = math.log(math.log(10) / math.log(2)) / math.log(self.p90 / self.median)
        scale = self.median / math.log(2) ** (1 / shape)
        return np.asarray(scale * (-np.log1p(-share)) ** (1 / shape))


PUBLISHED: Mapping[str, tuple[PublishedError, PublishedError]] = {
    "throughput": (PublishedError(0.024, 0.122), PublishedError(0.067, 0.21)),
    "tpot": (PublishedError(0.020, 0.098), PublishedError(0.128, 0.39)),
    "ttft": (PublishedError(0.047, 0.32), PublishedError(0.164, 0.79)),
}
"""Error of interpolation (interior levels left out) and of extrapolation to at most twice the top
level, by quantity. For latencies beyond the range no figure by factor is published: theirs is the
error of predicting the upper half of the levels from the lower, which is more."""

_KIND = {"throughput": ("throughput", 1), "e2e": ("throughput", -1), "ttft": ("ttft", 1)}
"""What a metric's error is drawn as, and its sign. By Little's law E2E = N / X at a given
concurrency, so its error is that of the throughput, turned around. ITL goes with TPOT."""


@dataclass(frozen=True)
class ModelError:
    """One draw of the model error per row; row 0 is the sample itself and has none.

    Attributes:
        levels: (L,) measured concurrencies.
        inside: by kind, (R,) log error in the middle of a gap between levels of ratio four.
        beyond: by kind, (R,) log error at twice the top level.
    """

    levels: Array
    inside: Mapping[str, Array]
    beyond: Mapping[str, Array]

    def log_error(self, metric: str, n: npt.ArrayLike) -> Array:
        """The log error of a metric at concurrencies ``n`` (n,): (R, n), zero at a level.

        Within a gap it follows 4t(1 - t) in log N, the error of a smooth interpolation, and grows
        with the width of the gap: on published curves gaps of ratio eight had about 1.4 times
        the error of gaps of ratio four. Beyond the top it grows with the logarithm of the factor.
        Below the lowest level there is none: the curve is a bound there.
        """
        x, knots = np.log(np.asarray(n, dtype=float)), np.log(self.levels)
        inside = np.zeros_like(x)
        if knots.size > 1:
            right = np.clip(np.searchsorted(knots, x, side="right"), 1, knots.size - 1)
            width = knots[right] - knots[right - 1]
            t = np.clip((x - knots[right - 1]) / width, 0.0, 1.0)
            inside = 4 * t * (1 - t) * width / BRACKET
        beyond = np.maximum(x - knots[-1], 0.0) / math.log(2)
        kind, sign = _KIND.get(metric, ("tpot", 1))
        drawn = np.outer(self.inside[kind], inside) + np.outer(self.beyond[kind], beyond)
        return np.asarray(sign * drawn)

    def perturb(self, metric: str, n: npt.ArrayLike, logs: Array, at_levels: Array) -> Array:
        """Add the error of a metric to its interpolated logarithms.

        Between two levels the result stays within what they gave, with a little slack: of the
        left-out levels of published curves only 2.5 % (TTFT) and 0.7 % (TPOT) had a latency
        above both neighbours, 4 % a throughput outside of them, mostly by a few percent.

        Args:
            metric: as for ``log_error``.
            n: (n,) concurrencies.
            logs: (R, ..., n) log values of the interpolation.
            at_levels: (R, ..., L) log values at the levels.

        Returns:
            (R, ..., n)
        """
        n = np.asarray(n, dtype=float)
        error = self.log_error(metric, n)
        moved = logs + error.reshape(error.shape[0], *[1] * (logs.ndim - 2), n.size)
        inside = (n >= self.levels[0]) & (n <= self.levels[-1])
        right = at_levels[..., np.searchsorted(self.levels, n[inside])]
        left = at_levels[..., np.searchsorted(self.levels, n[inside], side="right") - 1]
        low, high = np.minimum(left, right) - SLACK, np.maximum(left, right) + SLACK
        moved[..., inside] = np.clip(moved[..., inside], low, high)
        return np.asarray(moved)


def draw_model_error(levels: npt.ArrayLike, draws: int, rng: np.random.Generator) -> ModelError:
    """Draw model errors for one target.

    Args:
        levels: (L,) measured concurrencies, increasing.
        draws: number of rows beside row 0.
        rng: source of randomness; always advanced by the same amount for a number of draws.
    """
    inside: dict[str, Array] = {}
    beyond: dict[str, Array] = {}
    for kind, (interpolation, extrapolation) in PUBLISHED.items():
        drawn = rng.uniform(-1.0, 1.0, size=draws)
        sign, share = np.sign(drawn), np.minimum(np.abs(drawn), 1 - 1e-9)
        for target, error in ((inside, interpolation), (beyond, extrapolation)):
            target[kind] = np.concatenate([[0.0], sign * error.magnitude(share)])
    return ModelError(np.asarray(levels, dtype=float), inside, beyond)
