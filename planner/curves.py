"""Curves over concurrency N, through measured levels and beyond, with the error to expect.

The ensemble draws the curve of the sample itself, and what is physically impossible is clipped
off. Bootstrap replicates follow that curve, moved by what they differ from the sample at the
levels: their noise is in the levels, the error of the curve is told apart from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.conformal import distance_beyond, distance_inside, half_width
from planner.ensemble import Drawn, Ensemble
from planner.forms import FORMS, fit
from planner.members import interpolation_weights
from planner.prior_table import PRIOR

if TYPE_CHECKING:
    from planner.prior import FamilyPrior, Prior
    from planner.waiting import Occupancy

__all__ = ["CrossCheck", "Curve", "cross_check", "latency_curve", "throughput_curve"]

Array = npt.NDArray[np.float64]

FALL = 0.03
"""How far below its peak, as a share, the highest level must lie for a throughput to be falling.
Less than 1 % of published serving curves end so far below: it is more than their noise."""
SURE = 0.9
"""Share of the replicates that must agree that the throughput is falling."""


@dataclass(frozen=True)
class Curve:
    """A positive quantity over concurrency, for many draws at once.

    Attributes:
        levels: (L,) measured concurrencies, increasing.
        values: (R, ..., L) measured values; row 0 is the sample itself.
        throughput: whether it grows with N, or is a latency.
        family: prior of the quantity in the engine's family.
        occupancy: at the levels, for a TTFT that may hold the wait for a slot.
    """

    levels: Array
    values: Array
    throughput: bool
    family: FamilyPrior
    occupancy: Occupancy | None = None

    def __call__(self, n: npt.ArrayLike) -> Array:
        """The curve at concurrencies ``n`` (m,): (R, ..., m)."""
        return np.exp(self.log_with_band(n)[0])

    def log_with_band(self, n: npt.ArrayLike) -> tuple[Array, Array]:
        """The logarithm at ``n`` (m,), and the half width of the model's own 90 % band.

        The band is a log ratio and holds the error of the curve between and beyond the levels:
        nothing at a level, where only the noise of the measurement counts, and nothing below the
        lowest, where the curve is a bound.

        Returns:
            (R, ..., m) and (..., m).
        """
        n = np.asarray(n, dtype=float)
        logs = np.log(self.values)
        sample = logs[0].reshape(-1, self.levels.size)
        curve, band = self._of_sample(sample, n)
        weights = interpolation_weights(np.log2(self.levels), np.log2(n))
        moved = (logs - logs[:1]) @ weights.T
        shape = (*logs.shape[1:-1], n.size)
        moved += curve.reshape(shape)
        return moved, band.reshape(shape)

    def _of_sample(self, logs: Array, n: Array) -> tuple[Array, Array]:
        """Curve and band (B, m) of the sample's rows (B, L)."""
        curve, band = np.empty((logs.shape[0], n.size)), np.zeros((logs.shape[0], n.size))
        low, high = n < self.levels[0], n > self.levels[-1]
        middle = ~(low | high)
        below = np.log(n[low] / self.levels[0]) if self.throughput else np.zeros(int(low.sum()))
        curve[:, low] = logs[:, :1] + below
        if self.levels.size == 1:
            curve[:, ~low] = logs
            still = Drawn(curve[:, high], np.zeros_like(curve[:, high]), np.zeros(logs.shape[0]))
            band[:, high] = half_width(
                self.family.beyond.bands, distance_beyond(self.levels, n[high]), still
            )
            return curve, band
        ensemble = Ensemble(
            throughput=self.throughput,
            levels=self.levels,
            logs=logs,
            prior=self.family,
            occupancy=self.occupancy,
        )
        if middle.any():
            drawn = ensemble.inside(n[middle])
            curve[:, middle] = self._between_neighbours(logs, n[middle], drawn.log)
            distance = distance_inside(self.levels, n[middle])
            band[:, middle] = half_width(self.family.inside.bands, distance, drawn)
        if high.any():
            drawn = ensemble.beyond(n[high])
            curve[:, high] = self._possible(logs, n[high], drawn.log)
            distance = distance_beyond(self.levels, n[high])
            band[:, high] = half_width(self.family.beyond.bands, distance, drawn)
        return curve, band

    def _between_neighbours(self, logs: Array, n: Array, drawn: Array) -> Array:
        """Nothing measured says that the curve leaves what the two levels around it gave."""
        right = logs[:, np.searchsorted(self.levels, n)]
        left = logs[:, np.searchsorted(self.levels, n, side="right") - 1]
        return np.clip(drawn, np.minimum(left, right), np.maximum(left, right))

    def _possible(self, logs: Array, n: Array, drawn: Array) -> Array:
        """Clip what lies beyond the levels to what is possible.

        No more is served than in proportion to N, neither from the highest level nor from one
        request alone; a throughput falls only if it was measured to, and then no faster; a
        latency does not fall.
        """
        top = logs[:, -1:]
        if not self.throughput:
            return np.maximum(drawn, top)
        octaves = np.log(n / self.levels[-1])
        alone = np.maximum(top, logs[:, :1] + np.log(n / self.levels[0]))
        rising = np.clip(drawn, top, np.minimum(top + octaves, alone))
        fall = (top - logs[:, -2:-1]) / np.log(self.levels[-1] / self.levels[-2])
        falling = np.clip(drawn, top + np.minimum(fall, 0.0) * octaves, top)
        return np.where(self._falls(logs), falling, rising)

    def _falls(self, logs: Array) -> npt.NDArray[np.bool_]:
        """Whether the highest level lies below the peak beyond noise, (B, 1)."""
        every = np.log(self.values).reshape(self.values.shape[0], -1, self.levels.size)
        agreed = (every[..., -1:] < every.max(axis=-1, keepdims=True)).mean(axis=0) >= SURE
        return np.asarray(agreed & (logs[:, -1:] < logs.max(axis=-1, keepdims=True) - FALL))


def throughput_curve(
    levels: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    family: str = "serving",
    prior: Prior = PRIOR,
) -> Curve:
    """Throughput X(N) of a closed loop, in any unit per second.

    Below the lowest level every request takes as long as it does there, which can only understate
    the throughput.

    Args:
        levels: (L,) concurrencies, increasing.
        values: (R, ..., L) positive, the sample itself in the first row.
        family: of engines (``planner.prior.family_of``).
        prior: what published curves taught.
    """
    return _curve("throughput", levels, values, family, prior)


def latency_curve(
    levels: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    metric: str = "tpot",
    family: str = "serving",
    prior: Prior = PRIOR,
    occupancy: Occupancy | None = None,
) -> Curve:
    """A latency over N, in any unit of time.

    Below the lowest level it keeps that level's value, which can only overstate it.

    Args:
        levels: (L,) concurrencies, increasing.
        values: (R, ..., L) positive, the sample itself in the first row.
        metric: ``ttft``, or any other latency: those go by what is known of TPOT.
        family: of engines (``planner.prior.family_of``).
        prior: what published curves taught.
        occupancy: of the engine at the levels, where it is known; only a TTFT holds waiting.
    """
    if metric != "ttft":
        return _curve("tpot", levels, values, family, prior)
    return replace(_curve("ttft", levels, values, family, prior), occupancy=occupancy)


def _curve(
    kind: str, levels: npt.ArrayLike, values: npt.ArrayLike, family: str, prior: Prior
) -> Curve:
    families = prior[kind]
    return Curve(
        levels=np.asarray(levels, dtype=float),
        values=np.asarray(values, dtype=float),
        throughput=kind == "throughput",
        family=families.get(family, families["serving"]),
    )


@dataclass(frozen=True)
class CrossCheck:
    """Where the interpolation is furthest from the softroof.

    Attributes:
        n: the concurrency.
        ratio: interpolation over softroof there.
    """

    n: float
    ratio: float


def cross_check(levels: npt.ArrayLike, values: npt.ArrayLike) -> CrossCheck | None:
    """Compare the interpolated throughput with a fitted softroof over the measured range.

    Args:
        levels: (L,) concurrencies, increasing.
        values: (L,) positive.

    Returns:
        The largest disagreement; ``None`` with fewer levels than would show one (4).
    """
    levels, values = np.asarray(levels, dtype=float), np.asarray(values, dtype=float)
    if levels.size <= len(FORMS["softroof"].parameters):
        return None
    n = np.geomspace(levels[0], levels[-1], 50)
    ratio = throughput_curve(levels, values[None])(n)[0] / fit(FORMS["softroof"], levels, values)(n)
    worst = int(np.argmax(np.abs(np.log(ratio))))
    return CrossCheck(n=float(n[worst]), ratio=float(ratio[worst]))
