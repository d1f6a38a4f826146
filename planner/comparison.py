"""Targets beside each other at each load, and what sharing a machine costs each of them.

A ratio of two figures that were measured independently has the interval that the method of variance
estimates recovery gives from the two intervals alone, here on logarithms, where ratios are
differences (Zou & Donner, Statistics in Medicine 27, 2008). Intervals may be skewed; no
distribution is assumed, and no resamples are needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.records import Estimate, LoadKind, Name, OperatingPoint, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "FIGURES",
    "LevelRow",
    "Sharing",
    "memory_bytes",
    "ratio",
    "sharing",
    "side_by_side",
]

FIGURES = ("output_tokens_per_s", "tpot_p50_s", "ttft_p50_s", "ttft_p95_s")
"""What targets are compared by: tokens per second, time per token, time to the first one."""

Level = tuple[LoadKind, float, float]
"""Kind of load, load, think time."""


class LevelRow(Record, frozen=True, kw_only=True):
    """One load, and what each target gave at it."""

    load_kind: LoadKind
    load: float
    think_time_s: float
    points: dict[str, OperatingPoint]  # by target


class Sharing(Record, frozen=True, kw_only=True):
    """What one target gives beside others, over what it gives alone at the same load."""

    target: Name
    load_kind: LoadKind
    load: float
    think_time_s: float
    together: tuple[Name, ...]
    ratios: dict[str, Estimate]  # by figure


def ratio(a: Estimate, b: Estimate, *, wider: float = 1.0) -> Estimate | None:
    """One figure over another, measured independently; ``None`` where one is not positive.

    Args:
        a: the numerator.
        b: the denominator.
        wider: factor on both halves of the interval in logarithms, for several comparisons.
    """
    if not (a.value > 0 and b.value > 0):
        return None
    value = math.log(a.value / b.value)
    down = _half(_below(a), _above(b))
    up = _half(_above(a), _below(b))
    return Estimate(
        value=math.exp(value),
        low=None if down is None else math.exp(value - wider * down),
        high=None if up is None else math.exp(value + wider * up),
        n=min(a.n, b.n),
    )


def memory_bytes(point: OperatingPoint) -> float | None:
    """The most memory that a server held over the window: of its GPUs, or of its processes."""
    if point.server is None:
        return None
    gpus = point.server.gpu_memory_bytes_max
    return gpus if gpus is not None else point.server.memory_bytes_max


def side_by_side(points: Iterable[OperatingPoint]) -> tuple[LevelRow, ...]:
    """The usable points of all targets, a row for each load, ascending; those of users come last.

    Of several points of one target at one load the one with most answers stands.
    """
    rows: dict[Level, dict[str, OperatingPoint]] = {}
    for point in points:
        if point.usable:
            _keep(rows.setdefault(_level(point), {}), point)
    return tuple(
        LevelRow(load_kind=kind, load=load, think_time_s=think_s, points=found)
        for (kind, load, think_s), found in sorted(rows.items())
    )


def sharing(points: Iterable[OperatingPoint]) -> tuple[Sharing, ...]:
    """What being loaded together costs each target, wherever it was loaded alone as much."""
    alone: dict[Level, dict[str, OperatingPoint]] = {}
    beside: dict[tuple[Level, tuple[str, ...]], dict[str, OperatingPoint]] = {}
    for point in points:
        if point.problems:
            continue
        if point.together:
            group = tuple(sorted((point.target, *point.together)))
            _keep(beside.setdefault((_level(point), group), {}), point)
        else:
            _keep(alone.setdefault(_level(point), {}), point)
    found = []
    for (level, _), shared in sorted(beside.items()):
        for target, point in shared.items():
            own = alone.get(level, {}).get(target)
            if own is not None:
                found.append(_shared(point, own))
    return tuple(found)


def _shared(point: OperatingPoint, alone: OperatingPoint) -> Sharing:
    ratios = {
        name: known
        for name in FIGURES
        if name in point.figures and name in alone.figures
        if (known := ratio(point.figures[name], alone.figures[name])) is not None
    }
    return Sharing(
        target=point.target,
        load_kind=point.load_kind,
        load=point.load,
        think_time_s=point.think_time_s,
        together=point.together,
        ratios=ratios,
    )


def _keep(found: dict[str, OperatingPoint], point: OperatingPoint) -> None:
    other = found.get(point.target)
    if other is None or point.completed > other.completed:
        found[point.target] = point


def _level(point: OperatingPoint) -> Level:
    return point.load_kind, point.load, point.think_time_s


def _below(estimate: Estimate) -> float | None:
    """How far the interval reaches below the value, as a difference of logarithms."""
    if estimate.low is None or estimate.low <= 0:
        return None
    return max(math.log(estimate.value / estimate.low), 0.0)


def _above(estimate: Estimate) -> float | None:
    if estimate.high is None:
        return None
    return max(math.log(estimate.high / estimate.value), 0.0)


def _half(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else math.hypot(one, other)
