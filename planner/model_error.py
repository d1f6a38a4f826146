"""How wrong a curve may be between and beyond the measured levels, drawn.

A bootstrap knows the noise of the levels, not the error of the curve drawn through them. That
error is drawn here in units of the curve's own band (``planner.conformal``), one number per draw
for all concurrencies, since a curve that runs too low runs too low along the whole gap. Without it
the probability that an objective is met would be far too sure wherever nothing was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.conformal import magnitude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.curves import Curve

__all__ = ["ModelError", "draw_model_error"]

Array = npt.NDArray[np.float64]

SLACK = 0.05
"""How far, in log, a value between two levels may lie outside of what they gave: of the left-out
levels of published curves only 2.5 % (TTFT) and 0.7 % (TPOT) had a latency above both neighbours,
4 % a throughput outside of them, mostly by a few percent."""

_DRAWN = ("throughput", "tpot", "ttft")
_KIND = {"throughput": ("throughput", 1), "e2e": ("throughput", -1), "ttft": ("ttft", 1)}
"""Which draw a metric's error is, and its sign. By Little's law E2E = N / X at a given
concurrency, so it is wrong where the throughput is, turned around. ITL goes with TPOT."""


@dataclass(frozen=True)
class ModelError:
    """One draw of the model error per row; row 0 is the sample itself and has none.

    Attributes:
        share: kind -> (R,) in (0, 1): how large the error is among all errors.
        sign: kind -> (R,) -1, 0 or 1.
    """

    share: Mapping[str, Array]
    sign: Mapping[str, Array]

    def perturbed(self, metric: str, curve: Curve, n: npt.ArrayLike) -> Array:
        """Logarithms of a metric's curve with its error: (R, ..., n).

        Between two levels the result stays within what they gave, with a little slack.

        Args:
            metric: throughput, ttft, tpot, itl or e2e.
            curve: of that metric, of R rows.
            n: (n,) concurrencies, increasing.
        """
        n = np.asarray(n, dtype=float)
        logs, band = curve.log_with_band(n)
        kind, turned = _KIND.get(metric, ("tpot", 1))
        rows = slice(0, logs.shape[0])
        share, sign = self.share[kind][rows], turned * self.sign[kind][rows]
        inside = n <= curve.levels[-1]
        units = np.where(
            inside,
            (sign * magnitude(curve.family.inside.bands, share))[:, None],
            (sign * magnitude(curve.family.beyond.bands, share))[:, None],
        )
        logs += units.reshape(-1, *[1] * (logs.ndim - 2), n.size) * band
        _keep_between_neighbours(logs, curve, n)
        return logs


def _keep_between_neighbours(logs: Array, curve: Curve, n: Array) -> None:
    """Clip, in place and a gap between two levels at a time; outside of them anything is allowed.

    Args:
        logs: (R, ..., n)
        curve: of the same rows.
        n: (n,) increasing.
    """
    at_levels = np.log(curve.values)
    starts = np.searchsorted(n, curve.levels)
    starts[-1:] = np.searchsorted(n, curve.levels[-1:], side="right")
    for gap, (start, end) in enumerate(pairwise(starts)):
        left, right = at_levels[..., gap, None], at_levels[..., gap + 1, None]
        part = logs[..., start:end]
        np.clip(part, np.minimum(left, right) - SLACK, np.maximum(left, right) + SLACK, out=part)


def draw_model_error(draws: int, rng: np.random.Generator) -> ModelError:
    """Draw model errors for one target.

    Args:
        draws: number of rows beside row 0.
        rng: source of randomness; always advanced by the same amount for a number of draws.
    """
    share, sign = {}, {}
    for kind in _DRAWN:
        drawn = rng.uniform(-1.0, 1.0, size=draws)
        share[kind] = np.concatenate([[0.0], np.minimum(np.abs(drawn), 1 - 1e-9)])
        sign[kind] = np.concatenate([[0.0], np.sign(drawn)])
    return ModelError(share, sign)
