"""The members of the ensemble: ways to draw a curve through levels, for many curves at once.

All work in x = log2 N and the natural logarithm of the value. A member that is a form is anchored:
its shape is fitted by least squares, and what it leaves is interpolated in x, linearly but for
kriging, and kept beyond the levels, so that every member passes through every level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline, PchipInterpolator

if TYPE_CHECKING:
    from planner.prior import FamilyPrior

__all__ = ["best_sharpness", "growth_terms", "interpolation_weights", "members_beyond",
           "members_inside"]  # fmt: skip

Array = npt.NDArray[np.float64]

LN2 = float(np.log(2.0))
KNEES = np.arange(-4.0, 14.0, 0.25)
"""Where the curve may bend, in octaves of N: from 1/16 to 16384 in quarters of an octave. What a
coarse grid leaves, the anchoring takes up."""
SHARPNESS = np.array([0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0])
TYPICAL_MISFIT = 0.04
"""Log error with which a softroof fits the levels of a published curve: weighs the levels against
the prior of its sharpness."""
SMOOTH_OVER = 4.0
"""Octaves over which what a linear step time leaves of a throughput is alike; with 2 to 8 the
errors on published curves are the same within chance."""
ROUGH, ROUGH_OVER = 0.05, 0.5
"""Variance of what is a level's own, as a share of the smooth part's (alike from 0.02 to 0.1), and
the octaves within which it fades."""
FURTHEST = 3.0
"""Octaves beyond the levels that the slopes of published curves reach; further on they are kept."""


def members_inside(
    throughput: bool, levels: Array, logs: Array, n: Array, prior: FamilyPrior
) -> dict[str, Array]:
    """Log values between the levels, by member.

    Args:
        throughput: whether y grows as N at low concurrency; a latency is flat there.
        levels: (L,) concurrencies, increasing, at least two.
        logs: (B, L) log values of B curves.
        n: (m,) concurrencies within the levels.
        prior: of the family.

    Returns:
        Member -> (B, m).
    """
    x, at = np.log2(levels), np.log2(n)
    found = {
        "softroof": _softroof(throughput, x, logs, at, prior.sharpness),
        "linear step": _anchored(_linear_step(throughput, x), _linear_step(throughput, at), x,
                                 logs, at),
        "pchip": PchipInterpolator(x, logs, axis=-1)(at),
        "spline": CubicSpline(x, logs, axis=-1, bc_type="natural")(at),
    }  # fmt: skip
    if throughput:
        found["exponential"] = _anchored(_exponential(x), _exponential(at), x, logs, at)
        found["kriging"] = _anchored(_linear_step(True, x), _linear_step(True, at), x, logs, at,
                                     weights=kriging_weights(x, at))  # fmt: skip
    return found


def members_beyond(
    throughput: bool, levels: Array, logs: Array, n: Array, prior: FamilyPrior
) -> dict[str, Array]:
    """Log values beyond the highest level, by member; arguments as for ``members_inside``."""
    x, at = np.log2(levels), np.log2(n)
    slope = (logs[:, -1:] - logs[:, -2:-1]) / (x[-1] - x[-2])
    octaves = at - x[-1]
    near = np.minimum(octaves, FURTHEST)
    c0, c1, c2, c3 = prior.slope
    last = c0 + 2 * FURTHEST * c2 + (c1 + 2 * FURTHEST * c3) * slope / LN2
    grown = growth_terms(near, slope / LN2) @ np.asarray(prior.slope)
    grown = grown + np.clip(last, 0.0, 1.0) * (octaves - near)
    return {
        "slope": logs[:, -1:] + LN2 * grown,
        "linear step": _anchored(_linear_step(throughput, x), _linear_step(throughput, at), x,
                                 logs, at),
        "power": logs[:, -1:] + slope * octaves,
    }  # fmt: skip


def growth_terms(octaves: Array, slope: Array) -> Array:
    """What ``FamilyPrior.slope`` multiplies, (..., 4): d, d·s, d², d²·s (shapes broadcast)."""
    d, s = np.broadcast_arrays(octaves, slope)
    return np.stack([d, d * s, d * d, d * d * s], axis=-1)


def best_sharpness(throughput: bool, levels: Array, logs: Array) -> float:
    """Log sharpness of the softroof that fits one curve (L,) best."""
    x = np.log2(levels)
    misfit = _misfit(_softroofs(throughput, x), logs[None])[0]
    return float(np.log(np.repeat(SHARPNESS, KNEES.size)[int(np.argmin(misfit))]))


def interpolation_weights(x: Array, at: Array) -> Array:
    """(m, L) weights of linear interpolation from knots x (L,) to ``at`` (m,), flat outside."""
    return np.stack([np.interp(at, x, row) for row in np.eye(x.size)], axis=-1)


def kriging_weights(x: Array, at: Array) -> Array:
    """(m, L) weights of ordinary kriging from knots x (L,) to ``at`` (m,).

    What a form leaves is taken for a sum of two unknown functions: a smooth one, with a Matérn
    3/2 covariance, which neighbours share, and a rough one that hardly reaches beyond its level,
    such as a stage that was out of line. The levels are kept, and what is rough at one of them
    does not bend the curve far from it (Rasmussen and Williams 2006, chapters 2 and 4; a constant
    mean is estimated along with it).
    """

    def covariance(a: Array, b: Array) -> Array:
        apart = np.abs(a[:, None] - b[None])
        scaled = np.sqrt(3) * apart / SMOOTH_OVER
        rough = ROUGH * np.maximum(1 - apart / ROUGH_OVER, 0.0)
        return np.asarray((1 + scaled) * np.exp(-scaled) + rough)

    bordered = np.ones((x.size + 1, x.size + 1))
    bordered[:-1, :-1] = covariance(x, x)
    bordered[-1, -1] = 0.0
    known = np.vstack([covariance(x, at), np.ones((1, at.size))])
    return np.asarray(np.linalg.solve(bordered, known)[:-1].T)


def _softroof(
    throughput: bool, x: Array, logs: Array, at: Array, sharpness: tuple[float, float]
) -> Array:
    median, spread = sharpness
    penalty = ((np.log(SHARPNESS) - median) / spread) ** 2 * TYPICAL_MISFIT**2
    return _anchored(
        _softroofs(throughput, x), _softroofs(throughput, at), x, logs, at,
        np.repeat(penalty, KNEES.size),
    )  # fmt: skip


def _softroofs(throughput: bool, x: Array) -> Array:
    """Log shapes (S, L): the rounded corner ``[(N*/N)^p + 1]^(-1/p)``, or N over it."""
    p, knee = (grid.ravel()[:, None] for grid in np.meshgrid(SHARPNESS, KNEES, indexing="ij"))
    bend = np.logaddexp(0.0, p * LN2 * (x - knee)) / p
    return np.asarray(LN2 * x - bend if throughput else bend)


def _linear_step(throughput: bool, x: Array) -> Array:
    """Log shapes (S, L) of ``N / (a + b N)``, or of ``a + b N``."""
    bend = np.logaddexp(0.0, LN2 * (x - KNEES[:, None]))
    return np.asarray(LN2 * x - bend if throughput else bend)


def _exponential(x: Array) -> Array:
    """Log shapes (S, L) of ``1 - exp(-N/N*)``."""
    return np.asarray(np.log(-np.expm1(-np.exp2(x - KNEES[:, None]))))


def _misfit(shapes: Array, logs: Array) -> Array:
    """Sum of squares (B, S) of each curve about each shape at its best height.

    Less the curve's own, which is the same for all shapes: |g|² - 2 g·y of the centred shape g.
    """
    centred = shapes - shapes.mean(axis=-1, keepdims=True)
    return np.asarray((centred**2).sum(axis=-1) - 2 * logs @ centred.T)


def _anchored(
    shapes: Array,
    shapes_at: Array,
    x: Array,
    logs: Array,
    at: Array,
    penalty: Array | float = 0.0,
    weights: Array | None = None,
) -> Array:
    """The best shape (S, L) of each curve, moved through its levels: (B, m).

    What it leaves is interpolated by ``weights`` (m, L), linearly where none are given.
    """
    best = np.argmin(_misfit(shapes, logs) + penalty, axis=-1)
    left = logs - shapes[best]
    if weights is None:
        weights = interpolation_weights(x, at)
    return np.asarray(shapes_at[best] + left @ weights.T)
