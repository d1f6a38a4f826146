"""What an importer finds in a file: levels of load with their figures, in SI units."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.imported import LONGEST_S, ImportedLevel, Latency
from planner.records import Estimate, OperatingPoint
from planner.resample import QUANTILE_LEVELS
from planner.uncertainty import (
    mean_interval,
    order_statistic_interval,
    share_interval,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from planner.importers.fields import Fields
    from planner.records import LoadKind
    from planner.table import Floats

__all__ = [
    "MOST_LEVELS",
    "MS",
    "Imported",
    "Level",
    "latency",
    "point_of",
    "quantile_share",
    "spread_of",
]

MS = 1e-3
MOST_LOAD = 1e6
MOST_LEVELS = 10_000
"""In one file."""
PERCENTILES = (0.5, 0.9, 0.95, 0.99)
_DRAWS = 400
_MOST_CELLS = 5000
"""Of consecutive requests, between which the bootstrap draws."""
_ROUNDED = 0.02
"""Tools round: a percentile may lie this share below the one before it, and no more."""
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of load, as a file tells it; ``None`` is what it does not tell.

    Attributes:
        load_kind: what ``load`` counts.
        load: requests in flight, or requests per second offered.
        completed: good answers.
        failed: the others.
        duration_s: of the whole level.
        requests_per_s: good answers per second.
        output_tokens_per_s: tokens of good answers per second.
        in_flight_mean: requests in flight, as the tool measured it.
        latencies: by metric.
        values: the latencies of the single requests by metric, (n,) seconds in their order, where
            the file has them; they replace ``latencies`` and give intervals.
        problems: why the level must not be used.
    """

    load_kind: LoadKind
    load: float
    completed: int
    failed: int | None = None
    duration_s: float | None = None
    requests_per_s: float | None = None
    output_tokens_per_s: float | None = None
    in_flight_mean: float | None = None
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    latencies: dict[str, Latency] = field(default_factory=dict)
    values: dict[str, Floats] = field(default_factory=dict)
    arrivals: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The levels of one target in one file.

    Attributes:
        path: the file.
        tool: that wrote it.
        version: of the tool.
        curve: a name by which the file tells its targets apart.
        notes: what a reader must be told.
    """

    path: Path
    tool: str
    levels: tuple[Level, ...]
    version: str | None = None
    curve: str | None = None
    model: str | None = None
    url: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    hardware: str | None = None
    gpus: int | None = None
    settings: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def quantile_share(name: str) -> float | None:
    """The share that ``p95``, ``p99.9`` or ``median`` stands for; ``None``: no percentile."""
    if name == "median":
        return 0.5
    match = _PERCENTILE.fullmatch(name)
    return float(match[1]) / 100 if match else None


def spread_of(fields: Fields | None, *, n: int, scale: float, mean: str = "mean") -> Latency | None:
    """A latency whose statistics stand side by side in an object: mean, p50, p95, min, max, std.

    Args:
        fields: the object; ``None`` gives ``None``.
        n: requests behind it.
        scale: seconds in its unit.
        mean: key of the mean.
    """
    if fields is None:
        return None
    shares = {key: share for key in fields.keys if (share := quantile_share(key)) is not None}
    found = [(share, fields.number(key)) for key, share in shares.items()]
    found += [(0.0, fields.number("min")), (1.0, fields.number("max"))]
    return latency(
        f"{fields.path} at {fields.place}",
        n=n,
        mean=fields.number(mean),
        std=fields.number("std", "stddev", "std_dev"),
        quantiles=found,
        scale=scale,
    )


def latency(
    where: str,
    *,
    n: int,
    mean: float | None,
    std: float | None = None,
    quantiles: Iterable[tuple[float, float | None]] = (),
    scale: float,
) -> Latency | None:
    """One latency of one level.

    Args:
        where: in which file, for messages.
        n: requests behind it.
        mean: in the file's unit.
        std: likewise.
        quantiles: (share, value) likewise, in any order; ``None`` is left out.
        scale: seconds in the unit.

    Returns:
        ``None`` where nothing was reported: tools write zeros for a latency that they did not see,
        such as the time per output token of answers with one token.

    Raises:
        InputError: percentiles that fall, or a latency of more than eleven days.
    """
    known = sorted({q: v * scale for q, v in quantiles if v is not None}.items())
    values = [value for _, value in known] + ([mean * scale] if mean else [])
    if n < 1 or not any(values):
        return None
    longest = max(*values, (std or 0) * scale)
    if longest > LONGEST_S:
        raise InputError(
            f"{where}: a latency of {longest:.3g} s is out of range: is its unit as the tool "
            f"writes it?"
        )
    for (q, value), (above, next_value) in itertools.pairwise(known):
        if next_value < value * (1 - _ROUNDED):
            raise InputError(
                f"{where}: p{above * 100:g} is {next_value:.4g} s, below p{q * 100:g} with "
                f"{value:.4g} s: percentiles do not fall"
            )
    rising: list[float] = list(itertools.accumulate((value for _, value in known), max))
    return Latency(
        n=n,
        mean_s=mean * scale if mean else None,
        std_s=None if std is None else std * scale,
        quantiles=tuple((q, float(value)) for (q, _), value in zip(known, rising, strict=True)),
    )


def point_of(
    level: Level, target: str, backend: str, stage: int, source: str, file: int
) -> ImportedLevel:
    """The operating point of a level.

    Args:
        level: as the file tells it.
        target: name of the target.
        backend: of the target.
        stage: index of the level.
        source: the tool, for ``OperatingPoint.source``.
        file: index of the file.
    """
    latencies = dict(level.latencies)
    figures: dict[str, Estimate] = {}
    requests_per_s = _requests_per_s(level, latencies)
    for name, value in (
        ("requests_per_s", requests_per_s),
        ("output_tokens_per_s", level.output_tokens_per_s),
    ):
        if value is not None and value > 0:
            figures[name] = Estimate(value=value, low=None, high=None, n=level.completed)
    seen = level.completed + (level.failed or 0)
    if level.failed is not None and seen:
        low, high = share_interval(level.failed, seen)
        figures["error_rate"] = Estimate(value=level.failed / seen, low=low, high=high, n=seen)
    for metric, known in level.latencies.items():
        figures |= _figures_of(metric, known)
    for metric, values in level.values.items():
        if values.size:
            latencies[metric] = _of_values(values)
            for name, estimate in _figures_of_values(metric, values).items():
                figures[name] = _bounded(figures.get(name), estimate)
    return ImportedLevel(
        point=OperatingPoint(
            target=target,
            backend=backend,
            stage=stage,
            load_kind=level.load_kind,
            load=level.load,
            in_flight_mean=_in_flight(level, requests_per_s, latencies),
            window_start_s=None if level.duration_s is None else 0.0,
            window_end_s=level.duration_s,
            completed=level.completed,
            failed=level.failed or 0,
            censored=0,
            prompt_tokens_mean=level.prompt_tokens_mean or None,
            output_tokens_mean=level.output_tokens_mean or None,
            figures=dict(sorted(figures.items())),
            source=source,
            problems=(*level.problems, *_missing(level, requests_per_s)),
        ),
        latencies=latencies,
        file=file,
    )


def _requests_per_s(level: Level, latencies: Mapping[str, Latency]) -> float | None:
    """As the file says, else by the tokens of an answer, else by Little's law in a closed loop."""
    if level.requests_per_s:
        return level.requests_per_s
    if level.output_tokens_per_s and level.output_tokens_mean:
        return level.output_tokens_per_s / level.output_tokens_mean
    e2e = latencies.get("e2e")
    if level.load_kind == "concurrency" and e2e is not None and e2e.mean_s:
        return level.load / e2e.mean_s
    return None


def _in_flight(
    level: Level, requests_per_s: float | None, latencies: Mapping[str, Latency]
) -> float | None:
    """Requests in flight: as the tool says, else by Little's law."""
    if level.in_flight_mean is not None:
        return level.in_flight_mean
    e2e = latencies.get("e2e")
    if e2e is None or e2e.mean_s is None or requests_per_s is None:
        return None
    return requests_per_s * e2e.mean_s


def _missing(level: Level, requests_per_s: float | None) -> tuple[str, ...]:
    """Why nothing can be made of a level."""
    if level.completed < 1:
        return ("no request was answered",)
    if requests_per_s is None:
        return ("the file tells no throughput",)
    return ()


def _figures_of(metric: str, known: Latency) -> dict[str, Estimate]:
    """Of a summary: what it has, without intervals, which it does not have."""
    figures = {}
    if known.mean_s is not None and known.mean_s > 0:
        figures[f"{metric}_mean_s"] = Estimate(value=known.mean_s, low=None, high=None, n=known.n)
    for share, value in known.quantiles:
        if 0 < share < 1:
            name = f"{metric}_p{share * 100:g}_s"
            figures[name] = Estimate(value=value, low=None, high=None, n=known.n)
    return figures


def _of_values(values: Floats) -> Latency:
    levels = [float(q) for q in QUANTILE_LEVELS]
    found = np.quantile(values, levels, method="inverted_cdf")
    return Latency(
        n=values.size,
        mean_s=float(values.mean()),
        std_s=float(values.std(ddof=1)) if values.size > 1 else None,
        quantiles=tuple(zip(levels, map(float, found), strict=True)),
    )


def _figures_of_values(metric: str, values: Floats) -> dict[str, Estimate]:
    """Of single requests: percentiles by order statistics, the mean by a block bootstrap.

    The draws are seeded by the number of values, so that the same file gives the same intervals.
    """
    n = values.size
    ordered = np.sort(values)
    each = max(1, math.ceil(n / _MOST_CELLS))
    cells = values[: n // each * each].reshape(-1, each).mean(axis=1)
    low, high = mean_interval(cells, draws=_DRAWS, rng=np.random.default_rng(n))
    bounded = math.isfinite(high)
    figures = {
        f"{metric}_mean_s": Estimate(
            value=float(values.mean()),
            low=max(low, 0.0) if bounded else None,
            high=high if bounded else None,
            n=n,
        )
    }
    for share in PERCENTILES:
        value = float(np.quantile(ordered, share, method="inverted_cdf"))
        ends = order_statistic_interval(ordered, share)
        figures[f"{metric}_p{share * 100:g}_s"] = Estimate(
            value=value, low=ends[0], high=ends[1], n=n
        )
    return figures


def _bounded(told: Estimate | None, drawn: Estimate) -> Estimate:
    """The figure as the tool prints it, with the interval that its single requests give."""
    if told is None:
        return drawn
    return Estimate(
        value=told.value,
        low=None if drawn.low is None else min(drawn.low, told.value),
        high=None if drawn.high is None else max(drawn.high, told.value),
        n=drawn.n,
    )
