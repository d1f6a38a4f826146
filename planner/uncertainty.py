"""How sure a figure is: intervals for percentiles, shares and means, and the block bootstrap.

Requests that are near in time share the server's state, so they are not independent: means and
rates are resampled in blocks of consecutive requests. Intervals of percentiles are exact for
exchangeable requests whatever their distribution, and use no resampling.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.table import Floats

__all__ = [
    "BODY",
    "CONFIDENCE",
    "block_length",
    "covering_block",
    "drawn_shares",
    "effective_number",
    "few_blocks_factor",
    "mean_interval",
    "moving_block_indices",
    "needed_for_percentile",
    "order_statistic_interval",
    "replicate_interval",
    "share_interval",
    "share_limits",
    "widened",
]

BODY: npt.NDArray[np.float64] = np.array([0.5, 0.75, 0.9])
"""Levels at which a sample of some dozens still shows how its requests depend on each other."""

CONFIDENCE = 0.9
"""Of every two-sided interval: each end alone is a 95 % bound, and an objective is one-sided."""

_COVERING = 2
"""How many times the block of least mean squared error is drawn: an interval holds the truth more
often with longer blocks than those (Sun, Phillips & Jin, Econometrica 76, 2008), whose bias is what
makes intervals too narrow; twice is what ``benchmarks/interval_coverage.py`` bears out."""
_SCORES = np.linspace(-3.5, 3.5, 15)  # normal scores at which limits are computed
_LEAST_BLOCKS = 6  # fewer say nothing about their own spread

_LAGS_FROM = 2**16  # observations that are enough to see how far dependence reaches


def order_statistic_interval(
    ordered: npt.NDArray[np.floating],
    quantile: float,
    confidence: float = CONFIDENCE,
    *,
    independent: int | None = None,
) -> tuple[float | None, float | None]:
    """A distribution-free interval for a quantile: two order statistics of the sample.

    The number of observations below the true quantile is Binomial(n, quantile), which gives the
    ranks; the coverage is at least ``confidence`` (David & Nagaraja, Order Statistics, 3rd ed.,
    2003, section 7.1).

    Args:
        ordered: (n,) the sample in ascending order.
        quantile: between 0 and 1, both excluded.
        confidence: of the two-sided interval; either end errs with (1 - confidence) / 2 at most.
        independent: how many independent observations the sample is worth, when fewer than n; the
            ranks of so many are spread over it.

    Returns:
        Both ends. ``None`` where no order statistic is far enough out: the sample is too small.
    """
    n = len(ordered) if independent is None else independent
    each = len(ordered) / n
    tail = (1 - confidence) / 2
    # Rank r (from 1) bounds from below if P(Bin < r) <= tail, from above if P(Bin < r) >= 1 - tail;
    # ten standard deviations about the mean hold both.
    reach = 10 * math.sqrt(n * quantile * (1 - quantile)) + 10
    first = max(math.floor(n * quantile - reach), 0)
    below = special.bdtr(np.arange(first, min(math.ceil(n * quantile + reach), n) + 1), n, quantile)
    low = first + int(np.count_nonzero(below <= tail))
    high = first + int(np.count_nonzero(below < 1 - tail)) + 1
    return (
        float(ordered[max(math.floor(low * each), 1) - 1]) if low >= 1 else None,
        float(ordered[min(math.ceil(high * each), len(ordered)) - 1]) if high <= n else None,
    )


def needed_for_percentile(quantile: float, confidence: float = (1 + CONFIDENCE) / 2) -> int:
    """The fewest observations whose extreme bounds a quantile with this one-sided confidence.

    The largest of n exceeds the quantile with probability 1 - quantile^n; by symmetry for low
    quantiles (Wilks, Ann. Math. Statist. 12, 1941). 59 for p95 and 299 for p99 at 95 %.
    """
    inner = max(quantile, 1 - quantile)
    needed = math.ceil(math.log(1 - confidence) / math.log(inner))
    # The logarithms round: 1 - 0.5^1 is 0.5, and asking for that must give 1.
    spare = needed > 1 and 1 - inner ** (needed - 1) >= confidence
    return int(needed - spare)


def share_interval(hits: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson, Biometrika 26, 1934)."""
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def moving_block_indices(
    n: int, block: int, draws: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Resamples of 0..n-1 in blocks of consecutive indices.

    The moving-block bootstrap (Künsch, Ann. Statist. 17, 1989) with the ends joined, so that every
    observation is as likely as any other (Politis & Romano, 1992).

    Args:
        n: number of observations.
        block: block length, from 1 (independent) to n.
        draws: number of resamples.
        rng: source of randomness.

    Returns:
        (draws, n) indices.
    """
    starts = rng.integers(0, n, size=(draws, math.ceil(n / block), 1))
    indices: npt.NDArray[np.int64] = (starts + np.arange(block)) % n
    return indices.reshape(draws, -1)[:, :n]


def block_length(series: Floats) -> int:
    """The block length that suits a series' autocorrelation, at least the cube root of n.

    Politis & White (Econometric Reviews 23, 2004), with the correction of Patton, Politis & White
    (28, 2009): b = (2 G^2 / D)^(1/3) n^(1/3) with D = 4/3 g(0)^2 for the circular bootstrap.
    """
    x = np.asarray(series[-_LAGS_FROM:], dtype=np.float64)
    n = len(x)
    root = math.pow(len(series), 1 / 3)
    least = max(1, round(root))
    most = max(1, math.ceil(min(3 * math.sqrt(len(series)), len(series) / 3)))
    if n < 8 or not np.ptp(x) > 0:  # noqa: PLR2004 - too short to see a dependence, or none
        return min(least, most)
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    lags = min(n - 1, math.ceil(math.sqrt(n)) + run)
    cov = _autocovariance(x, lags)
    small = np.abs(cov[1:] / cov[0]) < 2 * math.sqrt(math.log10(n) / n)
    reach = _first_run(small, run)
    width = min(2 * max(reach, 1), lags)
    k = np.arange(1, width + 1)
    taper = np.clip(2 * (1 - k / width), 0, 1)
    g = 2 * float(np.sum(taper * k * cov[1 : width + 1]))
    spectrum = float(cov[0] + 2 * np.sum(taper * cov[1 : width + 1]))
    if not spectrum > 0:
        return min(least, most)
    best = math.pow(2 * g**2 / (4 / 3 * spectrum**2), 1 / 3) * root
    return int(min(max(least, math.ceil(best)), most))


def covering_block(series: Iterable[Floats], *, least: float = 1) -> int:
    """The block for intervals of figures that rest on several series of the same requests.

    Twice the longest of theirs, which makes an interval of independent data no wider; at least six
    blocks are left.

    Args:
        series: (n,) each, in time order.
        least: a length that is known to be needed, such as two rounds of a closed loop.
    """
    known = [(block_length(one), len(one)) for one in series]
    n = min(count for _, count in known)
    wanted = _COVERING * max(least, *(length for length, _ in known))
    return max(1, min(math.ceil(wanted), n // _LEAST_BLOCKS))


def effective_number(
    levels: Floats, shares: Floats, body: Floats, *, independent: float, blocks: float
) -> Floats:
    """How many independent requests a sample is worth at quantiles of these levels.

    The share of requests below a quantile varies over the resamples as that of n / v independent
    requests would, where v is the design effect. A tail shows its dependence in few exceedances, if
    at all, so its v is at least the mean of the body's, as surveys pool design effects (Kish,
    Survey Sampling, 1965). That the variance is known from few blocks lowers the number once more
    (Korn & Graubard, Survey Methodology 24, 1998).

    Args:
        levels: (K,) between 0 and 1, ascending.
        shares: (B, K) of each resample at or below the sample's own quantile at each level.
        body: (B, J) the same at the levels ``BODY``.
        independent: requests behind the sample, n.
        blocks: independent blocks behind a resample.

    Returns:
        (K,) at most n.
    """
    factor = few_blocks_factor(blocks) ** 2 if blocks > 1 else 1.0
    own, pooled = (
        np.var(drawn, axis=0, ddof=1) / (at * (1 - at))
        for drawn, at in ((shares, levels), (body, BODY))
    )
    effect = np.maximum(own, pooled.mean()) * factor * independent
    return np.asarray(independent / np.maximum(effect, 1.0))


def share_limits(levels: Floats, effective: Floats, confidence: float = CONFIDENCE) -> Floats:
    """Between which quantiles of the sample the quantile at a level lies.

    An interval for a quantile is an interval for the share of requests below it, turned around
    (Woodruff, J. Amer. Statist. Assoc. 47, 1952): that of Clopper and Pearson for so many
    independent requests.

    Args:
        levels: (K,) between 0 and 1.
        effective: (K,) independent requests that the sample is worth at each, also fractions.
        confidence: of the two-sided interval.

    Returns:
        (2, K) shares around the levels.
    """
    below, above = effective * levels, effective * (1 - levels)
    tail = (1 - confidence) / 2
    low = special.betaincinv(below, above + 1, tail)
    return np.stack([low, special.betaincinv(below + 1, above, 1 - tail)])


def drawn_shares(
    levels: Floats, shares: Floats, body: Floats, *, independent: float, blocks: float
) -> Floats:
    """Which quantile of the sample each resample takes for the quantile at a level.

    They spread about as ``share_limits`` of the ``effective_number``, whose arguments these are; a
    resample with a low share draws a high one.

    Returns:
        (B, K) shares; the mean over the resamples is about the level itself.
    """
    effective = effective_number(levels, shares, body, independent=independent, blocks=blocks)
    error = np.std(shares, axis=0, ddof=1)
    scores = (shares.mean(axis=0) - shares) / np.where(error > 0, error, 1.0)
    # Levels beyond the largest value move as the last one below it does.
    last = np.maximum.accumulate(np.where(error > 0, np.arange(len(levels)), 0))
    # From the lower limit of Clopper & Pearson at one end to their upper limit at the other.
    chance = special.ndtr(_SCORES)[:, np.newaxis]
    limits = special.betaincinv(
        effective * levels + chance, effective * (1 - levels) + 1 - chance, chance
    )
    columns = [np.interp(scores[:, last[k]], _SCORES, limits[:, k]) for k in range(len(levels))]
    return np.stack(columns, axis=1)


def widened(replicates: Floats, blocks: float) -> Floats:
    """Replicates of a positive figure, spread as few blocks demand; row 0 is the sample itself.

    In logarithms, so that none gets negative; figures of a sample that are 0 stay as they are.
    """
    if blocks <= 1 or not replicates[0] > 0:
        return replicates
    ratio = np.maximum(replicates / replicates[0], 1e-9)
    return np.asarray(replicates[0] * ratio ** few_blocks_factor(blocks))


def mean_interval(
    series: Floats, *, draws: int, rng: np.random.Generator, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of a mean of observations in time order, by the block bootstrap.

    Args:
        series: (n,) observations in time order.
        draws: number of resamples.
        rng: source of randomness.
        confidence: of the two-sided interval.
    """
    block = block_length(series)
    indices = moving_block_indices(len(series), block, draws, rng)
    means = np.concatenate([[series.mean()], series[indices].mean(axis=1)])
    return replicate_interval(means, len(series) / block, confidence)


def replicate_interval(
    replicates: Floats, blocks: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval of a smooth figure (a mean, a rate) from its bootstrap replicates.

    The replicates' standard error with Student's t: few blocks make a wider interval, which the
    bare percentiles of the replicates do not.

    Args:
        replicates: (1 + B,) the figure of the sample itself, then of each resample.
        blocks: number of independent blocks behind a resample.
        confidence: of the two-sided interval.
    """
    if len(replicates) <= 2 or blocks <= 1:  # noqa: PLR2004 - no spread to see
        return -math.inf, math.inf
    normal = float(special.ndtri((1 + confidence) / 2)) * float(np.std(replicates[1:], ddof=1))
    half = normal * few_blocks_factor(blocks, confidence)
    return float(replicates[0] - half), float(replicates[0] + half)


def few_blocks_factor(blocks: float, confidence: float = CONFIDENCE) -> float:
    """By how much to widen an interval of replicates that rest on few blocks; above 1.

    Student's t instead of the normal, and n/(n - 1) because a resample varies about the sample's
    own mean, which is fitted to it.
    """
    p = (1 + confidence) / 2
    student = float(special.stdtrit(blocks - 1, p)) / float(special.ndtri(p))
    return student * math.sqrt(blocks / (blocks - 1))


def _autocovariance(x: Floats, lags: int) -> Floats:
    """(lags + 1,) autocovariances, by the fast Fourier transform."""
    size = 1 << (2 * len(x) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(x - x.mean(), size)) ** 2
    return np.asarray(np.fft.irfft(spectrum, size)[: lags + 1] / len(x))


def _first_run(flags: npt.NDArray[np.bool_], length: int) -> int:
    """Where the first run of ``length`` true flags begins; the number of flags if there is none."""
    sums = np.convolve(flags, np.ones(length, dtype=int), mode="valid")
    found = np.flatnonzero(sums == length)
    return int(found[0]) if len(found) else len(flags)
