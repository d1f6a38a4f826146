"""Arrival patterns: their laws are closed forms, their schedules absolute and reproducible."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadtests.traffic.arrivals import ArrivalPattern, parse_arrivals
from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MOONCAKE = "".join(
    f'{{"timestamp": {ms}, "input_length": 10, "output_length": 5}}\n' for ms in (0, 100, 400)
)


def _first(pattern: ArrivalPattern, count: int, rate: float, seed: int = 1) -> list[float]:
    return list(itertools.islice(pattern.moments(rate, np.random.default_rng(seed)), count))


def test_constant_does_not_drift() -> None:
    """The k-th arrival is due at k/rate: no sum of roundings."""
    moments = _first(parse_arrivals("constant"), 30_000, 3.0)
    assert moments == [k / 3.0 for k in range(1, 30_001)]


def test_poisson_gaps_are_exponential() -> None:
    """Kolmogorov-Smirnov against the exponential law of mean 1/rate."""
    gaps = np.diff(_first(parse_arrivals("poisson"), 5000, 20.0))
    assert stats.kstest(gaps, "expon", args=(0, 1 / 20)).pvalue > 0.01
    assert stats.kstest(gaps, "expon", args=(0, 1.1 / 20)).pvalue < 0.01  # the test can tell


@pytest.mark.parametrize("cv", [0.3, 1.5, 2.0])
def test_gamma_gaps_have_the_variation(cv: float) -> None:
    """Gaps follow the gamma law of shape 1/CV² and mean 1/rate."""
    gaps = np.diff(_first(parse_arrivals(f"gamma:{cv}"), 5000, 50.0))
    law = stats.gamma(cv**-2, scale=cv**2 / 50)
    assert stats.kstest(gaps, law.cdf).pvalue > 0.01
    assert law.std() / law.mean() == pytest.approx(cv)


@given(
    st.one_of(
        st.just("constant"), st.just("poisson"), st.floats(0.05, 20).map(lambda cv: f"gamma:{cv}")
    ),
    st.floats(0.01, 1e4),
    st.integers(0, 2**32 - 1),
)
def test_schedules_are_ordered_and_reproducible(text: str, rate: float, seed: int) -> None:
    """Moments never decrease, are finite, and are the same for the same seed."""
    pattern = parse_arrivals(text)
    moments = _first(pattern, 300, rate, seed)
    assert moments == _first(pattern, 300, rate, seed)
    assert np.isfinite(moments).all()
    assert (np.diff([0.0, *moments]) >= 0).all()


def test_seeds_differ() -> None:
    """Another seed draws other moments."""
    assert _first(parse_arrivals("poisson"), 9, 1.0, 1) != _first(
        parse_arrivals("poisson"), 9, 1.0, 2
    )


def test_trace_is_stretched_to_the_rate(tmp_path: Path) -> None:
    """A trace keeps its pattern and ends; the folder learns only its file's name."""
    file = tmp_path / "day.jsonl"
    file.write_text(MOONCAKE)
    pattern = parse_arrivals(f"trace:{file}")
    assert pattern.spec == "trace:day.jsonl"
    assert pattern.trace is not None
    assert pattern.trace.rate_per_s == pytest.approx(5.0)
    assert _first(pattern, 99, 5.0) == pytest.approx([0, 0.1, 0.4])
    assert _first(pattern, 99, 2.5) == pytest.approx([0, 0.2, 0.8])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "constant, poisson"),
        ("weibull", "cannot be read"),
        ("poisson:2", "cannot be read"),
        ("gamma", "gamma:2"),
        ("gamma:0", "write constant for 0"),
        ("gamma:nan", "from 0.01 to 100"),
        ("gamma:-1", "from 0.01 to 100"),
        ("gamma:many", "must be a number"),
        ("trace:", "trace:FILE"),
        ("trace:/nowhere/at/all", "No such file"),
    ],
)
def test_bad_patterns_are_refused(text: str, words: str) -> None:
    """One line says what was wrong and what may be written."""
    with pytest.raises(InputError, match="--arrivals") as caught:
        parse_arrivals(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"what is this\n", b"\xff\xfe\x00", b'{"timestamp": 1}'])
def test_files_that_are_no_trace(tmp_path: Path, content: bytes) -> None:
    """Neither format, or no text at all, is refused with the file's name."""
    file = tmp_path / "t"
    file.write_bytes(content)
    with pytest.raises(InputError, match="trace"):
        parse_arrivals(f"trace:{file}")


def test_trace_of_one_moment(tmp_path: Path) -> None:
    """A trace whose requests all come at once has no rate to stretch."""
    file = tmp_path / "t"
    file.write_text(MOONCAKE.splitlines()[0])
    with pytest.raises(InputError, match="has no rate"):
        parse_arrivals(f"trace:{file}")
