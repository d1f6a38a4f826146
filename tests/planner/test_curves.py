"""The forms, their fitter and the interpolation, against certified fits and published curves."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.curves import FORMS, fit, latency_curve, solve, throughput_curve
from planner.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

REFERENCE = Path(__file__).parent.parent / "reference"
NIST: dict[str, Any] = json.loads((REFERENCE / "nist.json").read_text())
LEVELS = np.array([1, 2, 4, 8, 16, 32, 64], dtype=float)


def misra1a(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """Misra1a, exponential class."""
    return b[0] * (1 - np.exp(-b[1] * x))


def mgh09(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """MGH09, rational class, notorious for a second minimum at infinity."""
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def thurber(x: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
    """Thurber, rational class."""
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (
        1 + b[4] * x + b[5] * x**2 + b[6] * x**3
    )


@pytest.mark.parametrize(
    ("name", "start"),
    [("Misra1a", 0), ("Misra1a", 1), ("MGH09", 1), ("Thurber", 0), ("Thurber", 1)],
)
def test_solver_reproduces_certified_fits(name: str, start: int) -> None:
    """NIST's certified parameters, standard deviations and sums of squares come out."""
    model = {"Misra1a": misra1a, "MGH09": mgh09, "Thurber": thurber}[name]
    case = NIST[name]
    x, y = np.array(case["x"]), np.array(case["y"])
    found = solve(lambda b: model(x, b) - y, case["starts"][start])
    assert found.values == pytest.approx(case["certified"], rel=1e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(
        case["standard_deviations"], rel=1e-4
    )
    assert (found.residuals**2).sum() == pytest.approx(case["residual_sum_of_squares"], rel=1e-8)


VALUES = {
    "softroof": st.tuples(st.floats(0.1, 10), st.floats(30, 300), st.floats(0.5, 4)),
    "linear step time": st.tuples(st.floats(0.01, 10), st.floats(0.001, 1)),
    "power law": st.tuples(st.floats(0.01, 10), st.floats(-0.5, 1)),
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
    form = FORMS["linear step time"]
    truth = np.array([2.0, 0.05])
    exact = np.exp(form.log_f(LEVELS, truth))
    fits = [fit(form, LEVELS, exact * np.exp(rng.normal(0, 0.03, 7))) for _ in range(200)]
    spread = np.std([f.values for f in fits], axis=0)
    claimed = np.sqrt(np.mean([np.diag(f.covariance) for f in fits], axis=0))
    assert claimed == pytest.approx(spread, rel=0.2)


def test_too_few_levels_are_refused() -> None:
    """Two levels cannot determine three parameters."""
    with pytest.raises(Refused, match="2 levels cannot determine the 3 parameters of softroof"):
        fit(FORMS["softroof"], [1, 2], [1, 2])


def test_no_degrees_of_freedom_is_infinite_doubt() -> None:
    """As many levels as parameters say nothing about their error."""
    assert np.isinf(fit(FORMS["power law"], [1, 8], [2, 5]).covariance).all()


def published(column: str) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """The reference curves of one column, as (N, y), incomplete ones left out."""
    curves = defaultdict(list)
    with (REFERENCE / "curves.csv").open() as file:
        for row in csv.DictReader(file):
            curves[row["curve_id"]].append((float(row["concurrency"]), row[column]))
    complete = [sorted(rows) for rows in curves.values() if all(y for _, y in rows)]
    return [
        (np.array([n for n, _ in rows]), np.array([float(y) for _, y in rows])) for rows in complete
    ]


@pytest.mark.parametrize(
    ("column", "curve", "median", "p90"),
    [
        ("output_tokens_per_s", throughput_curve, 2.4, 12.2),
        ("tpot_ms", latency_curve, 2.0, 9.8),
        ("ttft_ms", latency_curve, 4.7, 32.0),
    ],
)
def test_left_out_levels_of_published_curves(
    column: str, curve: Callable[..., Any], median: float, p90: float
) -> None:
    """Interior levels left out are predicted as well as PCHIP did on 594 published curves."""
    errors = []
    for n, y in published(column):
        for i in range(1, n.size - 1):
            keep = np.arange(n.size) != i
            errors.append(abs(curve(n[keep], y[None, keep])(n[[i]])[0, 0] / y[i] - 1) * 100)
    assert len(errors) >= 50
    assert np.percentile(errors, 50) == pytest.approx(median, rel=0.6)
    assert np.percentile(errors, 90) < 1.5 * p90


positive = st.lists(st.floats(0.1, 1e3), min_size=2, max_size=6)


@given(positive)
@settings(deadline=None, max_examples=30)
def test_curves_pass_through_the_measured_levels(values: list[float]) -> None:
    """A curve interpolates: at a measured level it is the measured value, for every draw."""
    levels, rows = LEVELS[: len(values)], np.array([values, values[::-1]])
    for curve in (throughput_curve(levels, rows), latency_curve(levels, rows)):
        assert curve(levels) == pytest.approx(rows)


@given(positive)
@settings(deadline=None, max_examples=30)
def test_extensions_keep_the_bounds(values: list[float]) -> None:
    """Above: X never beats N times one stream nor proportional growth. Below: X is linear in N."""
    levels = LEVELS[1 : len(values) + 1]
    n = np.array([*levels[-1:] * 1.5, *levels[-1:] * 2])
    curve = throughput_curve(levels, np.array([values]))
    above = curve(n)[0]
    alone = n * values[0] / levels[0]
    assert (above <= np.maximum(alone, values[-1]) * (1 + 1e-9)).all()
    assert (above <= values[-1] * n / levels[-1] * (1 + 1e-9)).all()
    assert (above > 0).all()
    assert curve([1])[0, 0] == pytest.approx(values[0] / 2)
    latency = latency_curve(levels, np.array([values]))
    assert (latency(n)[0] >= values[-1]).all()
    assert latency([1])[0, 0] == values[0]


def test_throughput_falls_only_where_measured() -> None:
    """A plateau carries on as a plateau; a measured decline carries on as a decline."""
    rows = np.array([[1, 2, 4, 7.5, 7.9], [1, 2, 4, 7.5, 6.5]])
    plateau, decline = throughput_curve(LEVELS[:5], rows)([32])
    assert plateau[0] >= 7.9
    assert decline[0] < 6.5


def test_single_level_knows_itself_only() -> None:
    """One level is returned at that level; nothing is fitted to it."""
    assert throughput_curve([8], [[3.0], [4.0]])([8]).tolist() == [[3.0], [4.0]]
