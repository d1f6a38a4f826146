"""The forms and their fitter, against certified fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import Refused
from planner.forms import FORMS, fit, pchip, solve

NIST: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "reference" / "nist.json").read_text()
)
LEVELS = np.array([1, 2, 4, 8, 16, 32, 64], dtype=float)


def misra1a(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """Misra1a, exponential class."""
    return b[0] * (1 - np.exp(-b[1] * x))


def mgh09(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """MGH09, rational class, notorious for a second minimum at infinity."""
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def cubic_ratio(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """Thurber and Hahn1, rational class; Hahn1 has parameters from 1 to 1e-7."""
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (
        1 + b[4] * x + b[5] * x**2 + b[6] * x**3
    )


def rat43(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """Rat43, exponential class, a growth curve with a sharpness of its own."""
    return b[0] / (1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3])


MODELS = {
    "Misra1a": misra1a,
    "MGH09": mgh09,
    "Thurber": cubic_ratio,
    "Hahn1": cubic_ratio,
    "Rat43": rat43,
}


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_solver_reproduces_certified_fits(name: str, start: int) -> None:
    """Parameters, deviations, sums of squares come out to six digits, from the hard start too."""
    case = NIST[name]
    x, y = np.array(case["x"], dtype=float), np.array(case["y"])
    found = solve(lambda b: MODELS[name](x, b) - y, case["starts"][start])
    assert found.values == pytest.approx(case["certified"], rel=1e-6)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(
        case["standard_deviations"], rel=1e-6
    )
    assert (found.residuals**2).sum() == pytest.approx(case["residual_sum_of_squares"], rel=1e-9)


VALUES = {
    "softroof": st.tuples(st.floats(0.1, 10), st.floats(30, 300), st.floats(0.5, 4)),
    "linear step": st.tuples(st.floats(0.01, 10), st.floats(0.001, 1)),
    "usl": st.tuples(st.floats(0.1, 10), st.floats(0.001, 0.1), st.floats(1e-5, 1e-3)),
    "exponential": st.tuples(st.floats(10, 300), st.floats(0.5, 0.99), st.floats(0.02, 0.3)),
    "power law": st.tuples(st.floats(0.01, 10), st.floats(-0.5, 1)),
    "quadratic": st.tuples(st.floats(0.1, 10), st.floats(0.1, 1), st.floats(-0.2, 0.1)),
}


@given(st.sampled_from(sorted(FORMS)).flatmap(lambda f: st.tuples(st.just(f), VALUES[f])))
@settings(max_examples=40, deadline=None)
def test_fit_round_trip(case: tuple[str, tuple[float, ...]]) -> None:
    """Fitting points of a form gives that form back, with residuals of nothing."""
    name, values = case
    truth = np.exp(FORMS[name].log_f(LEVELS, np.array(values)))
    found = fit(FORMS[name], LEVELS, truth)
    assert found([3, 24, 60]) == pytest.approx(
        np.exp(FORMS[name].log_f(np.array([3.0, 24.0, 60.0]), np.array(values))), rel=1e-3
    )
    assert np.abs(found.residuals).max() < 1e-3
    assert found.domain == (1, 64)


def test_covariance_covers_the_truth() -> None:
    """Over many noisy samples the fitted standard deviation is the spread of the estimates."""
    rng = np.random.default_rng(1)
    form = FORMS["linear step"]
    truth = np.array([2.0, 0.05])
    exact = np.exp(form.log_f(LEVELS, truth))
    fits = [fit(form, LEVELS, exact * np.exp(rng.normal(0, 0.03, 7))) for _ in range(200)]
    spread = np.std([f.values for f in fits], axis=0)
    claimed = np.sqrt(np.mean([np.diag(f.covariance) for f in fits], axis=0))
    assert claimed == pytest.approx(spread, rel=0.2)


def test_every_form_has_a_round_trip() -> None:
    """No form is left out of the round trips."""
    assert set(VALUES) == set(FORMS)


def test_pchip_is_a_fit_without_parameters_of_its_own() -> None:
    """It passes through the points, knows its domain and goes on at the last slope."""
    drawn = pchip([1, 4, 16], [2.0, 6.0, 12.0])
    assert drawn([1, 4, 16]) == pytest.approx([2, 6, 12])
    assert drawn([64.0]) == pytest.approx(24)
    assert drawn([0.25]) == pytest.approx(2 / 3)
    assert drawn.domain == pytest.approx((1, 16))
    assert not drawn.residuals.any()
    assert np.isinf(drawn.covariance).all()


def test_too_few_levels_are_refused() -> None:
    """Two levels cannot determine three parameters."""
    with pytest.raises(Refused, match="2 levels cannot determine the 3 parameters of softroof"):
        fit(FORMS["softroof"], [1, 2], [1, 2])


def test_no_degrees_of_freedom_is_infinite_doubt() -> None:
    """As many levels as parameters say nothing about their error."""
    assert np.isinf(fit(FORMS["power law"], [1, 8], [2, 5]).covariance).all()
