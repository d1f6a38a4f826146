"""Quantities as users write them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.units import (
    format_duration,
    format_figure,
    format_rate,
    highest_percentile,
    parse_duration,
    parse_rate,
    parse_slo,
    percentile_of,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2), ("5m", 300), ("1.5h", 5400), ("20 us", 2e-5), (".5s", 0.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Each unit means what it says."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", "", "s", "5 parsecs", "-3s", "nan s", "5S", "1e999s"])
def test_bad_durations_are_refused(text: str) -> None:
    """A bare number, an unknown unit, or no number is refused with the units that are known."""
    with pytest.raises(InputError, match=r"500ms or 2s|out of range"):
        parse_duration(text)


def test_rates_are_read_and_bare_numbers_refused() -> None:
    """A rate needs its unit of time."""
    assert parse_rate("20/s") == 20
    assert parse_rate("90 / min") == pytest.approx(1.5)
    with pytest.raises(InputError, match="write for example 20/s"):
        parse_rate("20")


@given(
    st.sampled_from(["ttft", "tpot", "itl", "e2e"]),
    st.sampled_from(["mean", "p50", "p95", "p99", "p99.9"]),
    st.integers(1, 100_000),
)
def test_objectives_round_trip(metric: str, statistic: str, milliseconds: int) -> None:
    """Figure, bound and text of an objective are what was written."""
    slo = parse_slo(f" {metric}_{statistic} <= {milliseconds}ms ")
    assert slo.figure == f"{metric}_{statistic}_s"
    assert slo.bound == pytest.approx(milliseconds / 1e3)
    assert slo.met(slo.bound)
    assert not slo.met(slo.bound * 1.01)


def test_error_rate_is_a_share() -> None:
    """An error rate may be a share or percent."""
    assert parse_slo("error_rate<=0.01").bound == pytest.approx(0.01)
    assert parse_slo("error_rate<=1%").bound == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ttft_p95<=1", "is not a duration"),
        ("ttft_p95<=1 furlong", "is not a duration"),
        ("ttft_p95>=1s", "bounded from above"),
        ("ttft_p95<1s", "bounded from above"),
        ("ttft<=1s", "write ttft_p95 or ttft_mean"),
        ("latency_p95<=1s", "unknown figure 'latency'"),
        ("ttft_p95", "cannot be read"),
        ("ttft_p0<=1s", "a percentile lies between"),
        ("ttft_p95<=0s", "bound of zero"),
        ("error_rate<=3", "between 0 and 1"),
    ],
)
def test_bad_objectives_are_named(text: str, why: str) -> None:
    """Each bad objective is one line with the remedy."""
    with pytest.raises(InputError, match=re.escape(why)):
        parse_slo(text)


def test_percentiles_of_figures() -> None:
    """A figure's name tells its percentile, and objectives their highest."""
    assert percentile_of("ttft_p95_s") == pytest.approx(0.95)
    assert percentile_of("ttft_mean_s") is None
    slo = [parse_slo(text) for text in ("ttft_p95<=1s", "tpot_p99<=1s", "e2e_mean<=9s")]
    assert highest_percentile(slo) == pytest.approx(0.99)
    assert highest_percentile(slo[2:]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00001234, "12.3 µs"),
        (0.0123, "12.3 ms"),
        (0.99951, "1.00 s"),
        (1.337, "1.34 s"),
        (119.9, "120 s"),
        (185, "3 min 5 s"),
        (0.0, "0 s"),
        (float("inf"), "unbounded"),
    ],
)
def test_durations_are_shown(seconds: float, text: str) -> None:
    """Three significant digits and a fitting unit."""
    assert format_duration(seconds) == text


def test_rates_are_shown_without_an_exponent() -> None:
    """Three digits where they are needed, whole numbers above."""
    shown = [format_rate(rate) for rate in (0.0123, 2.5, 20.0, 999.4, 999.6, 2747.2, 1e9)]
    assert shown == ["0.0123", "2.5", "20", "999", "1,000", "2,747", "1,000,000,000"]


def test_figures_are_shown_with_their_unit() -> None:
    """Each kind of figure has its unit."""
    assert format_figure("output_tokens_per_s", 1234.5) == "1,234 tok/s"
    assert format_figure("requests_per_s", 4.567) == "4.57 req/s"
    assert format_figure("error_rate", 0.0042) == "0.420 %"
    assert format_figure("ttft_p95_s", 0.5) == "500 ms"
