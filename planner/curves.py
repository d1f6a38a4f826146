"""Curves over concurrency N: the forms, their fitter, and the interpolation that is used.

Inside the measured range a curve is a monotone cubic (PCHIP) in log N and log y, which left-out
points of published curves favoured over every parametric form. Above it the median of the forms
carries on, anchored at the highest measured level and clipped to what is physically possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.optimize import least_squares

from planner.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "FORMS",
    "CrossCheck",
    "Curve",
    "Fit",
    "Form",
    "Parameter",
    "Solution",
    "cross_check",
    "fit",
    "latency_curve",
    "solve",
    "throughput_curve",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form.

    Attributes:
        name: what it means.
        guess: a first value from N and y, also the scale of the search.
        lower: smallest value allowed.
        upper: largest value allowed.
    """

    name: str
    guess: Callable[[Array, Array], float]
    lower: float = 1e-12
    upper: float = np.inf


@dataclass(frozen=True)
class Form:
    """A curve y = f(N, parameters) with what its fitter needs to know.

    Attributes:
        name: its key in ``FORMS``.
        log_f: log y from N (n,) and the parameter values (p,).
        parameters: one entry per value.
    """

    name: str
    log_f: Callable[[Array, Array], Array]
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class Solution:
    """What least squares found.

    Attributes:
        values: (p,) parameters.
        covariance: (p, p), linearised: s² (JᵀJ)⁻¹; infinite without degrees of freedom.
        residuals: (n,) at the solution.
    """

    values: Array
    covariance: Array
    residuals: Array


@dataclass(frozen=True)
class Fit(Solution):
    """A fitted form: residuals are in log y, ``domain`` is the fitted range of N."""

    form: Form
    domain: tuple[float, float]

    def __call__(self, n: npt.ArrayLike) -> Array:
        """The curve at concurrencies ``n``, any shape, in the unit that was fitted."""
        return np.exp(self.form.log_f(np.asarray(n, dtype=float), self.values))


def solve(
    residuals: Callable[[Array], Array],
    guess: npt.ArrayLike,
    lower: float | Sequence[float] = -np.inf,
    upper: float | Sequence[float] = np.inf,
) -> Solution:
    """Bounded least squares (trust region reflective), scaled by the first guess.

    Args:
        residuals: maps parameters (p,) to residuals (n,).
        guess: (p,) first values, none of them zero.
        lower: (p,) or scalar.
        upper: (p,) or scalar.
    """
    start = np.clip(np.asarray(guess, dtype=float), lower, upper)
    found = least_squares(
        residuals,
        start,
        bounds=(lower, upper),
        x_scale=np.abs(start),
        jac="3-point",
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
        max_nfev=300,
    )
    freedom = found.fun.size - start.size
    if freedom > 0:
        # The normal matrix is inverted in the scaled parameters, whose magnitudes are alike.
        scale = np.abs(start)
        jacobian = found.jac * scale
        variance = 2 * found.cost / freedom
        covariance = variance * np.linalg.pinv(jacobian.T @ jacobian) * np.outer(scale, scale)
    else:
        covariance = np.full((start.size, start.size), np.inf)
    return Solution(values=found.x, covariance=covariance, residuals=found.fun)


def fit(form: Form, n: npt.ArrayLike, y: npt.ArrayLike) -> Fit:
    """Fit a form in log space, so that every level counts by its relative error.

    Args:
        form: one of ``FORMS``.
        n: (m,) concurrencies, positive.
        y: (m,) positive values.

    Raises:
        Refused: fewer points than parameters.
    """
    n, y = np.asarray(n, dtype=float), np.asarray(y, dtype=float)
    if n.size < len(form.parameters):
        raise Refused(
            f"{n.size} levels cannot determine the {len(form.parameters)} parameters of "
            f"{form.name}: measure more levels"
        )
    log_y = np.log(y)
    found = solve(
        lambda values: form.log_f(n, values) - log_y,
        [parameter.guess(n, y) for parameter in form.parameters],
        [parameter.lower for parameter in form.parameters],
        [parameter.upper for parameter in form.parameters],
    )
    return Fit(
        values=found.values,
        covariance=found.covariance,
        residuals=found.residuals,
        form=form,
        domain=(float(n.min()), float(n.max())),
    )


def _log_softroof(n: Array, values: Array) -> Array:
    per_stream, ceiling, sharpness = values
    roofs = -sharpness * np.log(per_stream * n), np.full_like(n, -sharpness * np.log(ceiling))
    return np.asarray(-np.logaddexp(*roofs) / sharpness)


def _log_linear_step(n: Array, values: Array) -> Array:
    base, per_request = values
    return np.asarray(np.log(n) - np.log(base + per_request * n))


def _log_power(n: Array, values: Array) -> Array:
    scale, exponent = values
    return np.asarray(np.log(scale) + exponent * np.log(n))


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        # X = [(X1·N)^-p + X∞^-p]^(-1/p): the roofline with a rounded corner; p = 1 is the linear
        # step time, p → ∞ the hard roofline. Published curves have p 0.6 (serving) to 1.7.
        Form(
            "softroof",
            _log_softroof,
            (
                Parameter("throughput of one stream", lambda n, y: float(y[0] / n[0])),
                Parameter("ceiling", lambda _, y: 1.5 * float(y.max())),
                Parameter("sharpness", lambda *_: 1.0, lower=0.2, upper=20.0),
            ),
        ),
        # X = N/(a + b·N): a step takes a + b per sequence in the batch (Orca; USL with κ = 0).
        Form(
            "linear step time",
            _log_linear_step,
            (
                Parameter("time of an empty step", lambda n, y: float(n[0] / y[0])),
                Parameter("time per request", lambda _, y: 1 / float(y.max())),
            ),
        ),
        Form(
            "power law",
            _log_power,
            (
                Parameter("value at N = 1", lambda n, y: float(y[0] / n[0] ** 0.5)),
                Parameter("exponent", lambda *_: 0.5, lower=-5.0, upper=5.0),
            ),
        ),
    )
}
"""The forms of a throughput curve by name."""


@dataclass(frozen=True)
class Curve:
    """A positive quantity over concurrency, for many draws at once.

    Attributes:
        levels: (L,) measured concurrencies, increasing.
        values: (..., L) measured values, one row per draw.
        below: N (n,) under the lowest level to values (..., n).
        above: N (n,) over the highest level to values (..., n).
    """

    levels: Array
    values: Array
    below: Callable[[Array], Array]
    above: Callable[[Array], Array]

    def __call__(self, n: npt.ArrayLike) -> Array:
        """The curve at concurrencies ``n`` (n,): (..., n)."""
        n = np.asarray(n, dtype=float)
        result = np.empty((*self.values.shape[:-1], n.size))
        low, high = n < self.levels[0], n > self.levels[-1]
        inside = ~(low | high)
        result[..., low] = self.below(n[low])
        result[..., high] = self.above(n[high])
        if self.levels.size == 1:
            result[..., inside] = self.values
        else:
            logs = PchipInterpolator(np.log(self.levels), np.log(self.values), axis=-1)
            result[..., inside] = np.exp(logs(np.log(n[inside])))
        return result


def throughput_curve(levels: npt.ArrayLike, values: npt.ArrayLike) -> Curve:
    """Throughput X(N) of a closed loop, in any unit per second.

    Above the top level the median of the fitted forms carries on from each draw's own top value.
    It is clipped to N times the throughput of one request alone and to the fitted ceiling, and
    falls only where the two highest levels fell. Below the lowest level every request takes as
    long as it does there, which can only understate the throughput.

    Args:
        levels: (L,) concurrencies, increasing.
        values: (..., L) positive, the sample itself in the first row.
    """
    levels, values = np.asarray(levels, dtype=float), np.asarray(values, dtype=float)
    sample = values.reshape(-1, levels.size)[0]
    top, highest = levels[-1], values[..., -1:]
    fits = {
        name: fit(form, levels, sample)
        for name, form in FORMS.items()
        if len(form.parameters) <= levels.size
    }
    fall = np.zeros_like(highest)
    if levels.size > 1:
        fall = np.diff(np.log(values[..., -2:])) / np.log(top / levels[-2])
        fall = np.minimum(fall, 0.0)

    def above(n: Array) -> Array:
        growth = np.ones_like(n)
        if fits:
            growth = np.exp(np.median([np.log(f(n) / f(top)) for f in fits.values()], axis=0))
        if "softroof" in fits:
            growth = np.minimum(growth, max(1.0, fits["softroof"].values[1] / sample[-1]))
        growth = np.clip(growth, 1.0, n / top)
        bound = np.maximum(highest, n * values[..., :1] / levels[0])
        rising = np.minimum(highest * growth, bound)
        falling = highest * (n / top) ** fall
        return np.asarray(np.where(fall < 0, np.minimum(rising, falling), rising))

    return Curve(levels, values, lambda n: values[..., :1] * n / levels[0], above)


def latency_curve(levels: npt.ArrayLike, values: npt.ArrayLike) -> Curve:
    """A latency over N, in seconds.

    Above the top level it goes on in a straight line through the two highest levels, never
    falling: a step of continuous batching grows linearly with the batch, and so does the wait for
    a slot. Below the lowest level it keeps that level's value, which can only overstate it.

    Args:
        levels: (L,) concurrencies, increasing.
        values: (..., L) seconds, positive.
    """
    levels, values = np.asarray(levels, dtype=float), np.asarray(values, dtype=float)
    highest = values[..., -1:]
    slope = np.zeros_like(highest)
    if levels.size > 1:
        slope = np.maximum(np.diff(values[..., -2:]), 0.0) / (levels[-1] - levels[-2])
    return Curve(
        levels,
        values,
        lambda n: np.broadcast_to(values[..., :1], (*values.shape[:-1], n.size)),
        lambda n: highest + slope * (n - levels[-1]),
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
