"""Targets beside each other in a report: at each load, together over alone, pair by pair.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from dashboards.content import NONE, Cell, range_text
from dashboards.evidence import column_name, load_text
from dashboards.text import count_text, figure_text, interval_text, plain
from planner.comparison import FIGURES, memory_bytes, sharing, side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboards.answer import Measured
    from planner.comparison import LevelRow, Sharing
    from planner.records import Estimate, OperatingPoint, PairCrossovers, Recommendation

__all__ = ["Beside", "PairRow", "SideBySide", "side_by_side_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One target at one load."""

    target: str
    name: str
    figures: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A stretch of users on which one of two targets is the better answer."""

    pair: str  # empty where it is that of the row above
    users: str
    target: str
    name: str
    known: str  # the interval of where the stretch begins


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """What the template lays out; each part may be empty.

    Attributes:
        columns: headings of the figures.
        levels: (load, its targets).
        shared_columns: headings of the ratios.
        shared: (load, its targets), together over alone.
        pairs: crossovers between every two targets.
    """

    columns: tuple[str, ...] = ()
    levels: tuple[tuple[str, tuple[Beside, ...]], ...] = ()
    shared_columns: tuple[str, ...] = ()
    shared: tuple[tuple[str, tuple[Beside, ...]], ...] = ()
    pairs: tuple[PairRow, ...] = ()


def side_by_side_of(
    measured: Sequence[Measured], recommendation: Recommendation | None
) -> SideBySide:
    """The comparison of all targets. Runs of different workloads do not compare."""
    if len({m.run.manifest.workload for m in measured}) != 1:
        return SideBySide()
    points = [point for m in measured for point in m.points]
    rows = [row for row in side_by_side(points) if len(row.points) > 1]
    memory = any(memory_bytes(p) is not None for row in rows for p in row.points.values())
    costs = sharing(points)
    pairs = () if recommendation is None else recommendation.pairs
    return SideBySide(
        columns=(*map(column_name, FIGURES), *(["Memory"] if memory else [])),
        levels=tuple(_level(row, memory=memory) for row in rows),
        shared_columns=tuple(map(column_name, FIGURES)),
        shared=_shared(costs),
        pairs=tuple(row for pair in pairs for row in _pair(pair)),
    )


def _level(row: LevelRow, *, memory: bool) -> tuple[str, tuple[Beside, ...]]:
    beside = tuple(
        Beside(
            target=target,
            name=plain(target),
            figures=(
                *(_figure(name, point) for name in FIGURES),
                *([_memory(point)] if memory else []),
            ),
        )
        for target, point in sorted(row.points.items())
    )
    return load_text(row), beside


def _figure(name: str, point: OperatingPoint) -> Cell:
    estimate = point.figures.get(name)
    if estimate is None:
        return Cell(NONE)
    return Cell(figure_text(name, estimate.value), interval_text(name, estimate.low, estimate.high))


def _memory(point: OperatingPoint) -> Cell:
    count = memory_bytes(point)
    return Cell(NONE if count is None else f"{count / 1e9:,.3g} GB")


def _shared(costs: Sequence[Sharing]) -> tuple[tuple[str, tuple[Beside, ...]], ...]:
    groups: dict[str, list[Beside]] = {}
    for cost in costs:
        beside = Beside(
            target=cost.target,
            name=plain(cost.target),
            figures=tuple(_times(cost.ratios.get(name)) for name in FIGURES),
        )
        members = ", ".join(map(plain, sorted((cost.target, *cost.together))))
        load = f"{load_text(cost)} on each of {members}"
        groups.setdefault(load, []).append(beside)
    return tuple((load, tuple(some)) for load, some in groups.items())


def _times(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell(NONE)
    if estimate.low is None or estimate.high is None:
        return Cell(f"× {estimate.value:.2f}", "no interval")
    return Cell(f"× {estimate.value:.2f}", f"{estimate.low:.2f} – {estimate.high:.2f}")


def _pair(pair: PairCrossovers) -> list[PairRow]:
    ends: list[int | None] = [step.from_users - 1 for step in pair.crossovers[1:]]
    rows: list[PairRow] = []
    for step, end in zip_longest(pair.crossovers, ends):
        low = "fewer" if step.low is None else count_text(step.low)
        high = "more" if step.high is None else count_text(step.high)
        sharp = step.low == step.high  # both open, or the same in each draw
        rows.append(
            PairRow(
                pair="" if rows else f"{plain(pair.a)} and {plain(pair.b)}",
                users=range_text(step.from_users, end),
                target=step.target,
                name=plain(step.target),
                known="" if sharp else f"begins at {low} – {high}",
            )
        )
    return rows
