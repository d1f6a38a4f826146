"""Bands that hold on curves never seen: half widths learnt from what leaving levels out showed.

The half width of a 90 % band grows with the distance from the measured levels, with the error that
leaving levels out showed on the curve itself, and with the disagreement between the members of
the ensemble. Its scale is split conformal (Vovk et al. 2005; Lei et al. 2018): chosen so that nine
in ten errors lay within it on curves of models whose curves took no part in the learning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from planner.ensemble import Drawn
    from planner.prior import Bands, RegimePrior

__all__ = ["COVERAGE", "distance_beyond", "distance_inside", "half_width", "magnitude",
           "typical_half_width"]  # fmt: skip

Array = npt.NDArray[np.float64]

COVERAGE = 0.9
"""Share of errors within the half width."""


def distance_inside(levels: Array, n: Array) -> Array:
    """Octaves of the gap around n (m,), weighted 4t(1 - t) by the place in it; 0 at a level.

    That is the shape of the error of a smooth interpolation.
    """
    x, knots = np.log2(n), np.log2(levels)
    if knots.size == 1:
        return np.zeros_like(x)
    right = np.clip(np.searchsorted(knots, x, side="right"), 1, knots.size - 1)
    width = knots[right] - knots[right - 1]
    t = np.clip((x - knots[right - 1]) / width, 0.0, 1.0)
    return np.asarray(4 * t * (1 - t) * width)


def distance_beyond(levels: Array, n: Array) -> Array:
    """Octaves above the highest level, (m,)."""
    return np.asarray(np.maximum(np.log2(n / levels[-1]), 0.0))


def half_width(bands: Bands, distance: Array, drawn: Drawn) -> Array:
    """Half width (B, m) of the 90 % band as a log ratio, at distances (m,)."""
    per_octave = bands.per_octave + bands.per_doubt * drawn.doubt[:, None]
    return np.asarray(distance * per_octave + bands.per_spread * drawn.spread)


def typical_half_width(regime: RegimePrior, octaves: float) -> float:
    """Half width for a curve like most: its best member errs as usual and the others agree."""
    doubt = min(regime.errors.values())
    return octaves * (regime.bands.per_octave + regime.bands.per_doubt * doubt)


def magnitude(bands: Bands, share: Array) -> Array:
    """Quantile function of the absolute error in units of the half width, at ``share`` in (0, 1).

    A Weibull distribution through the median and the 90th percentile: its tail is heavier than a
    normal one's where the two are far apart, as they are on published curves.
    """
    shape = math.log(math.log(1 / (1 - COVERAGE)) / math.log(2)) / -math.log(bands.median_share)
    scale = math.log(1 / (1 - COVERAGE)) ** (-1 / shape)
    return np.asarray(scale * (-np.log1p(-share)) ** (1 / shape))
