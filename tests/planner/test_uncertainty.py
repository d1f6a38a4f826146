"""Intervals against closed forms and published tables, and their coverage on simulated data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal, special, stats

from planner.uncertainty import (
    BODY,
    block_length,
    covering_block,
    drawn_shares,
    few_blocks_factor,
    mean_interval,
    moving_block_indices,
    needed_for_percentile,
    order_statistic_interval,
    replicate_interval,
    share_interval,
    widened,
)

if TYPE_CHECKING:
    from planner.table import Floats

samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=400).map(sorted).map(np.array)
quantiles = st.floats(0.01, 0.99)


@pytest.mark.parametrize(
    ("quantile", "confidence", "needed"),
    [
        *[(0.5, 0.95, 5), (0.9, 0.9, 22), (0.9, 0.95, 29), (0.95, 0.95, 59), (0.95, 0.99, 90)],
        *[(0.99, 0.9, 230), (0.99, 0.95, 299), (0.99, 0.99, 459), (0.05, 0.95, 59), (0.5, 0.5, 1)],
    ],
)
def test_needed_observations_are_wilks_published_ones(
    quantile: float, confidence: float, needed: int
) -> None:
    """The sample sizes of the first-order tables for one-sided tolerance limits (Wilks)."""
    assert needed_for_percentile(quantile, confidence) == needed


@pytest.mark.parametrize(
    ("n", "ranks"), [(8, (1, 8)), (10, (2, 9)), (15, (4, 12)), (20, (6, 15)), (25, (8, 18))]
)
def test_median_ranks_are_the_sign_test_tables(n: int, ranks: tuple[int, int]) -> None:
    """The 95 % intervals of a median in the tables of the sign test (Conover, table A3).

    At n = 10 the pair (2, 9) covers 97.9 %; (3, 8) would cover 89.1 %.
    """
    ordered = np.arange(1.0, n + 1)
    assert order_statistic_interval(ordered, 0.5, 0.95) == ranks


@given(n=st.integers(1, 400), quantile=quantiles, confidence=st.floats(0.5, 0.99))
def test_each_end_errs_with_at_most_half_the_rest_and_no_closer_rank_would_do(
    n: int, quantile: float, confidence: float
) -> None:
    """By the binomial sum: each rank holds its bound, and the next one inwards breaks it."""
    low, high = order_statistic_interval(np.arange(1.0, n + 1), quantile, confidence)
    below = stats.binom(n, quantile)
    tail = (1 - confidence) / 2
    rank = int(low or 0)
    assert rank == 0 or below.cdf(rank - 1) <= tail + 1e-12
    assert below.cdf(rank) > tail - 1e-12
    rank = int(high or n + 1)
    assert rank == n + 1 or below.sf(rank - 1) <= tail + 1e-12
    assert below.sf(rank - 2) > tail - 1e-12 or rank == 1


@given(samples, quantiles)
def test_an_interval_holds_the_sample_quantile(ordered: Floats, quantile: float) -> None:
    """Low <= sample quantile <= high, whatever the sample."""
    low, high = order_statistic_interval(ordered, quantile)
    value = np.quantile(ordered, quantile, method="inverted_cdf")
    assert low is None or low <= value
    assert high is None or value <= high


@given(quantiles)
def test_an_upper_bound_exists_from_the_needed_size_on(quantile: float) -> None:
    """At the needed number of observations the outer end exists, with one fewer it does not."""
    needed = needed_for_percentile(quantile)
    outer = 1 if quantile >= 0.5 else 0
    assert order_statistic_interval(np.arange(needed * 1.0), quantile)[outer] is not None
    assert order_statistic_interval(np.arange(needed - 1.0), quantile)[outer] is None


def test_the_outermost_rank_stays_in_the_sample() -> None:
    """Where rounding carries the last rank past the end, the end bounds: 59 ranks over 62."""
    _, high = order_statistic_interval(np.arange(62.0), 0.95, independent=59)
    assert high == 61.0


@given(samples, quantiles, st.integers(1, 50))
def test_fewer_independent_observations_never_narrow_an_interval_to_the_inside(
    ordered: Floats, quantile: float, factor: int
) -> None:
    """A sample of copies has the interval of the originals."""
    copies = np.repeat(ordered, factor)
    found = order_statistic_interval(copies, quantile, independent=len(ordered))
    assert found == order_statistic_interval(ordered, quantile)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (4, 10, 0.1216, 0.7376)],
)
def test_share_interval_is_clopper_and_pearsons(hits: int, n: int, low: float, high: float) -> None:
    """The published 95 % limits for samples of ten."""
    assert share_interval(hits, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 60), st.data())
def test_resamples_consist_of_blocks_of_neighbours(n: int, data: st.DataObject) -> None:
    """Each resample has n indices within range, consecutive (around the end) inside a block."""
    block = data.draw(st.integers(1, n))
    found = moving_block_indices(n, block, 5, np.random.default_rng(1))
    assert found.shape == (5, n)
    assert found.min() >= 0
    assert found.max() < n
    steps = (np.diff(found, axis=1) - 1) % n
    inside = np.arange(1, n) % block != 0
    assert not steps[:, inside].any()


def test_every_observation_is_drawn_equally_often() -> None:
    """The joined ends leave no edge under-drawn: counts are within six standard errors."""
    n, draws = 20, 4000
    counts = np.bincount(moving_block_indices(n, 6, draws, np.random.default_rng(2)).ravel())
    assert np.abs(counts - draws).max() < 6 * np.sqrt(draws * 6)


def ar1(phi: float, n: int, rng: np.random.Generator) -> Floats:
    """A first-order autoregression of mean 0."""
    return np.asarray(signal.lfilter([1], [1, -phi], rng.normal(size=n + 200))[200:])


def test_blocks_grow_with_dependence() -> None:
    """Independent data get about the cube root of n, strongly dependent data several times that."""
    rng = np.random.default_rng(3)
    short = np.median([block_length(ar1(0.0, 2000, rng)) for _ in range(20)])
    long = np.median([block_length(ar1(0.8, 2000, rng)) for _ in range(20)])
    assert short < 20
    assert long > 2 * short


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200).map(np.array))
def test_a_block_fits_any_series(series: Floats) -> None:
    """Between one and the length, for constant, tiny and wild series alike."""
    assert 1 <= block_length(series) <= len(series)


@pytest.mark.parametrize(("phi", "least"), [(0.0, 0.86), (0.5, 0.84), (0.8, 0.80)])
def test_mean_intervals_cover_the_truth(phi: float, least: float) -> None:
    """Of 90 % intervals of an AR(1) mean nearly 90 % hold it; independent resampling holds 56 %.

    The bounds leave three binomial standard errors (300 repetitions) below what was seen.
    """
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        low, high = mean_interval(ar1(phi, 500, rng), draws=150, rng=rng)
        hits += low <= 0 <= high
    assert hits / 300 > least


def test_percentile_intervals_cover_the_truth() -> None:
    """Of 90 % intervals of an exponential's p95 at least 90 % hold it, three errors granted."""
    rng = np.random.default_rng(5)
    truth, hits = stats.expon.ppf(0.95), 0
    for _ in range(1000):
        low, high = order_statistic_interval(np.sort(rng.exponential(size=120)), 0.95)
        hits += (low or 0) <= truth <= (high or np.inf)
    assert hits / 1000 > 0.9 - 3 * np.sqrt(0.09 / 1000)


def test_one_block_bounds_nothing() -> None:
    """A resample of a single block says nothing about the spread."""
    assert replicate_interval(np.array([1.0, 1.0, 1.0]), 1) == (-np.inf, np.inf)


def test_drawn_shares_of_independent_data_spread_as_the_binomial() -> None:
    """Resampled one by one, the drawn shares have the standard error of a binomial share."""
    rng = np.random.default_rng(6)
    n, levels = 400, np.array([*BODY, 0.95])
    shares = rng.binomial(n, levels, size=(4000, 4)) / n
    drawn = drawn_shares(levels, shares, shares[:, :3], independent=n, blocks=n)
    assert drawn.mean(axis=0) == pytest.approx(levels, abs=0.005)
    assert drawn.std(axis=0) == pytest.approx(np.sqrt(levels * (1 - levels) / n), rel=0.1)


def test_drawn_shares_know_that_neighbours_depend_on_each_other() -> None:
    """Of resamples in which the share varies three times as much, draws vary as much, or more."""
    rng = np.random.default_rng(7)
    n, levels = 400, np.array([*BODY, 0.95])
    shares = np.clip(
        levels + 3 * rng.normal(0, np.sqrt(levels * (1 - levels) / n), (4000, 4)), 0, 1
    )
    drawn = drawn_shares(levels, shares, shares[:, :3], independent=n, blocks=n)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    worth = levels * n / 9
    assert low == pytest.approx(special.betaincinv(worth, n / 9 - worth + 1, 0.05), abs=0.01)
    assert high == pytest.approx(special.betaincinv(worth + 1, n / 9 - worth, 0.95), abs=0.01)


def test_widened_replicates_keep_the_sample_and_stay_positive() -> None:
    """Ten blocks widen the logarithms by Student's t; row 0 is untouched."""
    rows = np.array([1.0, 0.5, 2.0])
    found = widened(rows, 10)
    assert found[0] == 1.0
    assert np.log(found[1:]) == pytest.approx(np.log([0.5, 2.0]) * few_blocks_factor(10))


def test_a_covering_block_leaves_six_blocks() -> None:
    """However long the dependence, six blocks remain; a short one is doubled."""
    rng = np.random.default_rng(8)
    assert 60 < covering_block([np.cumsum(rng.normal(size=600))]) <= 100
    series = rng.normal(size=4000)
    assert covering_block([series]) == 2 * block_length(series)
