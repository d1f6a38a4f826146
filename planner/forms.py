"""Parametric forms of a curve over concurrency N, and their fitter.

A form is fitted in log space, so that every level counts by its relative error, and its fit keeps
what is needed to doubt it: covariance, residuals and the range it was fitted on. A latency is
fitted through Little's law, as the throughput N / latency.
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

__all__ = ["FORMS", "Fit", "Form", "Parameter", "Solution", "fit", "pchip", "solve"]

Array = npt.NDArray[np.float64]

STEP = float(np.finfo(float).eps ** (1 / 3))
"""Of finite differences, as a share of each parameter: SciPy's own is absolute below 1, far too
coarse for parameters of 1e-7."""


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
    """Bounded least squares by the trust region reflective method (Branch, Coleman and Li 1999).

    Args:
        residuals: maps parameters (p,) to residuals (n,).
        guess: (p,) first values, none of them zero: they set the scale of the search.
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
        diff_step=np.full(start.size, STEP),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
        max_nfev=2000,
    )
    freedom = found.fun.size - start.size
    if freedom > 0:
        # The normal matrix is inverted in scaled parameters, whose magnitudes are alike.
        steepness = np.linalg.norm(np.asarray(found.jac), axis=0)
        scale = 1 / np.where(steepness > 0, steepness, 1.0)
        jacobian = np.asarray(found.jac) * scale
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


def pchip(n: npt.ArrayLike, y: npt.ArrayLike) -> Fit:
    """The monotone cubic in log-log through all points (Fritsch and Butland 1984), as a fit.

    Its parameters are the log values themselves, with residuals of nothing and unknown
    covariance; beyond the points it goes on at the slope of the last two.

    Args:
        n: (m,) concurrencies, increasing, at least two.
        y: (m,) positive values.
    """
    x, log_y = np.log(np.asarray(n, dtype=float)), np.log(np.asarray(y, dtype=float))
    first, last = (np.diff(log_y) / np.diff(x))[[0, -1]]

    def log_f(at: Array, values: Array) -> Array:
        u = np.log(at)
        within = PchipInterpolator(x, values)(np.clip(u, x[0], x[-1]))
        past = last * np.maximum(u - x[-1], 0) + first * np.minimum(u - x[0], 0)
        return np.asarray(within + past)

    return Fit(
        values=log_y,
        covariance=np.full((x.size, x.size), np.inf),
        residuals=np.zeros(x.size),
        form=Form("pchip", log_f, ()),
        domain=(float(np.exp(x[0])), float(np.exp(x[-1]))),
    )


def _log_softroof(n: Array, values: Array) -> Array:
    per_stream, ceiling, sharpness = values
    roofs = -sharpness * np.log(per_stream * n), np.full_like(n, -sharpness * np.log(ceiling))
    return np.asarray(-np.logaddexp(*roofs) / sharpness)


def _log_linear_step(n: Array, values: Array) -> Array:
    base, per_request = values
    return np.asarray(np.log(n) - np.log(base + per_request * n))


def _log_usl(n: Array, values: Array) -> Array:
    alone, contention, coherency = values
    return np.asarray(np.log(alone * n) - np.log1p(contention * (n - 1) + coherency * n * (n - 1)))


def _log_exponential(n: Array, values: Array) -> Array:
    ceiling, missing, rate = values
    return np.asarray(np.log(ceiling) + np.log1p(-missing * np.exp(-rate * n)))


def _log_power(n: Array, values: Array) -> Array:
    scale, exponent = values
    return np.asarray(np.log(scale) + exponent * np.log(n))


def _log_quadratic(n: Array, values: Array) -> Array:
    scale, slope, bend = values
    return np.asarray(np.log(scale) + slope * np.log(n) + bend * np.log(n) ** 2)


def _alone(n: Array, y: Array) -> float:
    return float(y[0] / n[0])


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        # X = [(X1·N)^-p + X∞^-p]^(-1/p): the roofline with a rounded corner; p = 1 is the linear
        # step time, p → ∞ the hard roofline. Published curves have p 0.6 (serving) to 1.7.
        Form(
            "softroof",
            _log_softroof,
            (
                Parameter("throughput of one stream", _alone),
                Parameter("ceiling", lambda _, y: 1.5 * float(y.max())),
                Parameter("sharpness", lambda *_: 1.0, lower=0.2, upper=20.0),
            ),
        ),
        # X = N/(a + b·N): a step takes a + b per sequence in the batch (Orca; USL with κ = 0).
        Form(
            "linear step",
            _log_linear_step,
            (
                Parameter("time of an empty step", lambda n, y: float(n[0] / y[0])),
                Parameter("time per request", lambda _, y: 1 / float(y.max())),
            ),
        ),
        # X = λN / (1 + σ(N-1) + κN(N-1)) (Gunther 2007, eq. 4.31).
        Form(
            "usl",
            _log_usl,
            (
                Parameter("throughput of one stream", _alone),
                Parameter("contention", lambda *_: 0.01, upper=10.0),
                Parameter("coherency", lambda *_: 1e-5, upper=1.0),
            ),
        ),
        # X = c·(1 - m·e^(-bN)): approach to a ceiling at a constant rate.
        Form(
            "exponential",
            _log_exponential,
            (
                Parameter("ceiling", lambda _, y: 1.2 * float(y.max())),
                Parameter("share missing at N = 0", lambda *_: 0.95, upper=1.0),
                Parameter("rate per request", lambda n, _: 1 / float(n[n.size // 2])),
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
        Form(
            "quadratic",
            _log_quadratic,
            (
                Parameter("value at N = 1", _alone),
                Parameter("slope at N = 1", lambda *_: 0.9, lower=-10.0, upper=10.0),
                Parameter("bend", lambda *_: -0.05, lower=-2.0, upper=2.0),
            ),
        ),
    )
}
"""The forms of a throughput curve by name; ``pchip`` beside them has no parameters of its own."""
