"""Operating points that another tool measured, as a run folder keeps them.

A result file of another tool holds summaries, not requests: for each level a mean, a spread and
some percentiles of each latency. From those and the number of requests, replicates are drawn as
the requests would be if they were independent: what the file cannot tell is told to be unknown, not
made up, and a point's figures carry no interval that the file does not have.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.errors import InputError
from planner.records import OperatingPoint, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = [
    "LONGEST_S",
    "ImportedLevel",
    "ImportedPoints",
    "Latency",
    "mean_replicates",
    "quantile_replicates",
    "rate_replicates",
]

SCHEMA = 1
LONGEST_S = 1e6
"""A latency beyond eleven days was not measured: a unit was mistaken."""
_MOST_NOISE = 20.0
"""Logarithm of the largest factor by which noise changes a mean."""
_NORMAL = 1e-9
"""Relative gap below which two knots count as one."""


class Latency(Record, frozen=True, kw_only=True):
    """What a file says about one latency of one level, in seconds."""

    n: int  # requests behind it
    mean_s: float | None = None
    std_s: float | None = None
    quantiles: tuple[tuple[float, float], ...] = ()  # (share in [0, 1], seconds), ascending


class ImportedLevel(Record, frozen=True, kw_only=True):
    """One level: its point, and the latencies that replicates are drawn from."""

    point: OperatingPoint
    latencies: dict[str, Latency]  # by metric: ttft, tpot, itl, e2e
    file: int  # index into RunManifest.sources


class ImportedPoints(Record, frozen=True, kw_only=True):
    """The points file of a run folder that was imported."""

    schema: int = SCHEMA
    levels: tuple[ImportedLevel, ...]

    def points(self) -> tuple[OperatingPoint, ...]:
        """The operating points, in the order of the manifest's stages."""
        return tuple(level.point for level in self.levels)

    @classmethod
    def parse(cls, data: bytes, where: str) -> ImportedPoints:
        """From the bytes of a points file.

        Raises:
            InputError: torn, of wrong types, or of a newer schema.
        """
        try:
            found = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{where} is torn or no points file of Headroom: {error}") from error
        if found.schema > SCHEMA:
            raise InputError(
                f"{where} has schema {found.schema}, this Headroom reads up to {SCHEMA}: upgrade it"
            )
        for number, level in enumerate(found.levels):
            for metric, latency in level.latencies.items():
                if not _possible(latency):
                    raise InputError(
                        f"{where}, level {number}: {metric[:40]} is no latency: of no request, "
                        f"with a mean or spread out of range, or quantiles that do not ascend"
                    )
        return found


def _possible(latency: Latency) -> bool:
    return (
        latency.n >= 1
        and (latency.mean_s is None or 0 < latency.mean_s <= LONGEST_S)
        and (latency.std_s is None or 0 <= latency.std_s <= LONGEST_S)
        and all(value <= LONGEST_S for _, value in latency.quantiles)
        and _ascending(latency.quantiles)
    )


def _ascending(quantiles: Sequence[tuple[float, float]]) -> bool:
    shares, values = [q for q, _ in quantiles], [v for _, v in quantiles]
    return (
        all(0 <= q <= 1 for q in shares)
        and all(v >= 0 for v in values)
        and shares == sorted(set(shares))
        and values == sorted(values)
    )


def quantile_replicates(
    latency: Latency, levels: Floats, draws: int, rng: np.random.Generator
) -> Floats | None:
    """Quantiles of resamples, were the requests independent; row 0 is the file's own.

    A quantile of n independent requests is the distribution's at the order statistic of n uniform
    shares (David & Nagaraja, Order Statistics, 3rd ed., 2003, sec. 2.1), whose spacings are
    exponential: the distribution is read between its known percentiles as a straight line over
    -log(1 - share), which an exponential tail follows, and goes on so beyond the last one.

    Args:
        latency: with at least two percentiles, otherwise there is no distribution to draw from.
        levels: (K,) ascending, inside (0, 1).
        draws: number of replicates B.
        rng: source of randomness.

    Returns:
        (1 + B, K) seconds, non-decreasing along K; ``None`` without a distribution.
    """
    known = [(q, v) for q, v in latency.quantiles if q < 1]
    if len(known) < 2:  # noqa: PLR2004 - a line needs two points
        return None
    n = latency.n
    ranks = np.ceil(np.round(n * levels, 9)).clip(1, n)
    steps = np.diff(ranks, prepend=0.0)
    sums = np.cumsum(rng.standard_gamma(np.broadcast_to(steps, (draws, steps.size))), axis=1)
    total = sums[:, -1:] + rng.standard_gamma(n + 1 - ranks[-1], size=(draws, 1))
    shares = np.concatenate([levels[np.newaxis], sums / total])
    top = latency.quantiles[-1][1] if latency.quantiles[-1][0] == 1 else math.inf
    values = _read_at(known, shares)
    values[0] = np.minimum(values[0], top)  # no value of the sample lies above its largest
    return np.maximum.accumulate(values, axis=1)


def _read_at(known: Sequence[tuple[float, float]], shares: Floats) -> Floats:
    x = -np.log1p(-np.array([q for q, _ in known]))
    y = np.array([v for _, v in known])
    at = -np.log1p(-np.minimum(shares, 1 - 1e-12))
    last = len(known) - 2
    left = np.clip(np.searchsorted(x, at, side="right") - 1, 0, last)
    slope = (y[left + 1] - y[left]) / np.maximum(x[left + 1] - x[left], _NORMAL)
    below = at < x[0]  # nothing is known below the least percentile: it stands for all of them
    return np.asarray(np.where(below, y[0], y[left] + (at - x[left]) * slope))


def mean_replicates(latency: Latency, draws: int, rng: np.random.Generator) -> Floats | None:
    """Means of resamples (1 + B,), by the file's own spread; ``None`` without a mean.

    Without a spread they are all alike: the file says nothing about its noise.
    """
    if latency.mean_s is None:
        return None
    error = _spread(latency) / math.sqrt(latency.n)
    noise = error * rng.standard_normal(draws)
    # A latency is positive: noise that is as large as the mean is folded in, not subtracted.
    share = np.concatenate([[0.0], noise]) / max(latency.mean_s, _NORMAL)
    return latency.mean_s * np.exp(np.clip(share, -_MOST_NOISE, _MOST_NOISE))


def _spread(latency: Latency) -> float:
    """The standard deviation in seconds; 0 where neither it nor percentiles are known."""
    if latency.std_s is not None:
        return latency.std_s
    known = dict(latency.quantiles)
    if 0.5 in known and 0.9 in known:  # noqa: PLR2004 - as a tail that falls off exponentially
        return (known[0.9] - known[0.5]) / math.log(5)
    return 0.0


def rate_replicates(value: float | None, e2e: Floats | None, draws: int) -> Floats:
    """A throughput (1 + B,): in a closed loop it varies as one over the mean latency.

    Args:
        value: as the file has it; ``None`` gives NaN: it was not reported.
        e2e: (1 + B,) replicates of the mean latency, where there are any.
        draws: number of replicates B.
    """
    if value is None:
        return np.full(1 + draws, np.nan)
    return np.full(1 + draws, value) if e2e is None else value * e2e[0] / e2e
