"""Curves through measured levels and beyond, against published ones and what is possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.backtest import by_ensemble, errors_of
from planner.curves import cross_check, latency_curve, throughput_curve
from planner.points import read_curves

REFERENCE = Path(__file__).parent.parent / "reference" / "curves.csv"
LEVELS = np.array([1, 2, 4, 8, 16, 32, 64], dtype=float)

positive = st.lists(st.floats(0.1, 1e3), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("metric", "split", "median", "p90"),
    [
        ("throughput", "low-half", 12.0, 40.0),
        ("throughput", "leave-one-out", 2.4, 12.2),
        ("throughput", "spread3", 2.8, 13.0),
        ("tpot", "low-half", 11.2, 39.0),
        ("tpot", "leave-one-out", 2.0, 9.8),
        ("ttft", "low-half", 16.4, 79.0),
        ("ttft", "leave-one-out", 4.7, 32.0),
    ],
)
def test_published_curves(metric: str, split: str, median: float, p90: float) -> None:
    """Points left out are predicted about as well as ``docs/accuracy.md`` says, or better."""
    curves, _ = read_curves(REFERENCE.read_text().splitlines(), metric)
    found = errors_of(by_ensemble(curves, split, metric))
    assert found.n >= 30
    assert found.median_ape is not None
    assert found.p90_ape is not None
    assert found.median_ape < median
    assert found.p90_ape < p90


@given(positive)
@settings(deadline=None, max_examples=30)
def test_curves_pass_through_the_measured_levels(values: list[float]) -> None:
    """At a measured level a curve is the measured value, for every draw, without a band."""
    levels, rows = LEVELS[: len(values)], np.array([values, values[::-1]])
    for curve in (throughput_curve(levels, rows), latency_curve(levels, rows)):
        logs, band = curve.log_with_band(levels)
        assert np.exp(logs) == pytest.approx(rows)
        assert np.abs(band).max() < 1e-9


@given(positive, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_curves_stay_between_their_neighbours(values: list[float], share: float) -> None:
    """Between two levels a curve does not leave what these two gave, and has a band."""
    levels = LEVELS[: len(values)]
    n = levels[0] * (levels[-1] / levels[0]) ** share
    right = int(np.clip(np.searchsorted(levels, n), 1, levels.size - 1))
    low, high = sorted(values[right - 1 : right + 1])
    for metric in ("tpot", "ttft"):
        logs, band = latency_curve(levels, [values], metric=metric).log_with_band([n])
        assert low * (1 - 1e-9) <= np.exp(logs[0, 0]) <= high * (1 + 1e-9)
        assert band[0] >= 0


@given(positive)
@settings(deadline=None, max_examples=30)
def test_extensions_keep_the_bounds(values: list[float]) -> None:
    """Above: X never beats N times one stream nor proportional growth. Below: X is linear in N."""
    levels = LEVELS[1 : len(values) + 1]
    n = levels[-1] * np.array([1.5, 2, 64])
    curve = throughput_curve(levels, np.array([values]))
    above = curve(n)[0]
    alone = n * values[0] / levels[0]
    assert (above <= np.maximum(alone, values[-1]) * (1 + 1e-9)).all()
    assert (above <= values[-1] * n / levels[-1] * (1 + 1e-9)).all()
    assert (above > 0).all()
    assert curve([1])[0, 0] == pytest.approx(values[0] / 2)
    latency = latency_curve(levels, np.array([values]))
    assert (latency(n)[0] >= values[-1] * (1 - 1e-9)).all()
    assert latency([1])[0, 0] == pytest.approx(values[0])


@given(st.floats(0.5, 100), st.floats(0.001, 0.5), st.sampled_from(["serving", "llama.cpp"]))
@settings(deadline=None, max_examples=20)
def test_bands_widen_with_distance(base: float, each: float, family: str) -> None:
    """The further beyond the levels, the wider the band; units and scale do not matter."""
    values = LEVELS / (base + each * LEVELS)
    n = LEVELS[-1] * np.array([1.2, 2, 4, 8])
    logs, band = throughput_curve(LEVELS, [values], family=family).log_with_band(n)
    assert (np.diff(band) > 0).all()
    scaled, same = throughput_curve(LEVELS, [60 * values], family=family).log_with_band(n)
    assert scaled - logs == pytest.approx(np.log(60))
    assert same == pytest.approx(band)


def falling(top: float) -> npt.NDArray[Any]:
    """A curve that ends at ``top``, after a peak of 7.9."""
    return np.array([1, 2, 4, 7.5, 7.9, top])


def test_throughput_falls_only_where_measured() -> None:
    """A plateau, and a fall within noise, go on as a plateau; a measured decline as a decline."""
    for top, falls in ((8.0, False), (7.8, False), (6.5, True)):
        curve = throughput_curve(LEVELS[:6], [falling(top)])
        beyond = curve([40, 64])[0]
        assert (beyond[1] < beyond[0] < top) == falls
        assert falls or (beyond >= top * (1 - 1e-9)).all()
        fastest = top * (top / 7.9) if falls else top
        assert beyond[1] >= fastest * (1 - 1e-9)


def test_replicates_must_agree_on_a_fall() -> None:
    """A fall of the sample that a third of its replicates do not share is noise."""
    agreed, doubted = [falling(6.5)] * 12, [falling(6.5)] * 8 + [falling(9.0)] * 4
    assert throughput_curve(LEVELS[:6], agreed)([64])[0, 0] < 6.5
    assert throughput_curve(LEVELS[:6], doubted)([64])[0, 0] >= 6.5 * (1 - 1e-9)


def test_replicates_carry_their_difference() -> None:
    """A replicate that is a tenth faster at all levels is a tenth faster everywhere."""
    row = LEVELS / (1 + 0.1 * LEVELS)
    drawn = throughput_curve(LEVELS, [row, 1.1 * row])([3, 50, 200])
    assert drawn[1] / drawn[0] == pytest.approx(1.1)


def test_many_quantiles_are_drawn_as_each_alone() -> None:
    """Curves that share levels do not touch each other."""
    rows = np.array([[[0.1, 0.2, 0.5, 1.0], [0.3, 0.3, 0.4, 2.0]]])
    n = np.array([1.5, 5.0, 12.0])
    together, bands = latency_curve(LEVELS[:4], rows, metric="ttft").log_with_band(n)
    for k in range(2):
        alone, band = latency_curve(LEVELS[:4], rows[:, k], metric="ttft").log_with_band(n)
        assert together[:, k] == pytest.approx(alone)
        assert bands[k] == pytest.approx(band)


def test_single_level_knows_itself_only() -> None:
    """One level is returned at that level; above, it stays with a band."""
    curve = throughput_curve([8], [[3.0], [4.0]])
    assert curve([8]) == pytest.approx(np.array([[3.0], [4.0]]))
    logs, band = curve.log_with_band([8, 16])
    assert np.exp(logs[0]) == pytest.approx([3, 3])
    assert band[0] == 0
    assert band[1] > 0.05


def test_cross_check_finds_the_odd_level() -> None:
    """The level that breaks a smooth curve is where the two curves differ most."""
    values = LEVELS / (1 + 0.05 * LEVELS)
    found = cross_check(LEVELS, values)
    assert found is not None
    assert found.ratio == pytest.approx(1, abs=0.05)
    values[3] *= 0.4
    found = cross_check(LEVELS, values)
    assert found is not None
    assert found.n == pytest.approx(8, rel=0.2)
    assert found.ratio < 0.7
    assert cross_check(LEVELS[:3], values[:3]) is None
