"""The answer in a report: from a recommendation to the tiles and rows that the template lays out.

Everything here is text without markup; the template escapes it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from dashboards.text import count_text, figure_name, figure_text, interval_text, plain, tick_text
from planner.phrases import whole_percent
from planner.units import format_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.records import Option, Predicted, Recommendation, Slo

__all__ = [
    "NONE",
    "Cell",
    "OptionRow",
    "Tile",
    "WhatIfRow",
    "capacity_rows",
    "crossover_rows",
    "option_rows",
    "range_text",
    "second_road",
    "share_text",
    "step_of",
    "tiles",
    "what_if_rows",
]

NONE = "–"
_COMMAND = re.compile(r"(headroom .+?)(?: \(([^()]*)\))?")
_EVEN = 0.5  # less sure than this is no capacity; the planner keeps such numbers for itself


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in a table: its value, its interval, and how far it stands from the evidence."""

    value: str
    interval: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """One fact of the verdict."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRow:
    """One option: whether it is the recommended one, its counts and its predicted figures."""

    target: str
    name: str
    detail: str
    recommended: bool
    replicas: str
    gpus: str
    cost: str
    confidence: str
    binding: str
    figures: tuple[Cell, ...]
    refused: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfRow:
    """What the recommended target would need under another demand."""

    what: str
    replicas: str
    gpus: str
    label: str
    why: str


def share_text(share: float | None) -> str:
    """A probability in whole percent, never rounded up to certainty."""
    if share is None or not math.isfinite(share):
        return NONE
    if share > 0.99:  # noqa: PLR2004 - "100 %" would claim certainty
        return "> 99 %"
    return "< 1 %" if share < 0.01 else whole_percent(share)  # noqa: PLR2004


def tiles(recommendation: Recommendation) -> tuple[Tile, ...]:
    """The recommended option at a glance; empty when nothing is recommended."""
    best = recommendation.recommended
    if best is None:
        return ()
    found = [
        Tile(
            "Confidence",
            share_text(best.confidence),
            f"asked: {share_text(recommendation.confidence)}",
        ),
        Tile("Replicas", _count(best.replicas), _spare_text(recommendation.spare)),
    ]
    if best.gpus is not None:
        found.append(Tile("GPUs", _count(best.gpus), best.hardware or ""))
    if best.cost_per_hour is not None:
        found.append(Tile("Cost per hour", f"{best.cost_per_hour:,.2f}"))
    binding = _binding(recommendation, best)
    if binding is not None:
        bound = f"must be ≤ {tick_text(binding.figure, binding.bound)}"
        found.append(Tile("Decided by", figure_name(binding.figure), bound))
    for objective in recommendation.slo:
        predicted = best.predicted.get(objective.figure)
        if predicted is not None and predicted.value is not None:
            cell = _predicted_cell(objective.figure, predicted)
            found.append(
                Tile(
                    f"{figure_name(objective.figure)} then",
                    cell.value,
                    f"{cell.interval}, {cell.label}",
                )
            )
    return tuple(found)


def option_rows(recommendation: Recommendation, figures: Sequence[str]) -> tuple[OptionRow, ...]:
    """A row per option, in the ranked order.

    Args:
        recommendation: the answer.
        figures: names of the predicted figures to show, one column each.
    """
    best = recommendation.recommended
    return tuple(
        OptionRow(
            target=option.target,
            name=plain(option.target),
            detail=" · ".join(
                plain(t)
                for t in (
                    option.backend,
                    option.hardware,
                    option.emulated and f"emulated: {option.emulated}",
                )
                if t
            ),
            recommended=best is not None and option.target == best.target,
            replicas=_count(option.replicas),
            gpus=_count(option.gpus),
            cost=NONE if option.cost_per_hour is None else f"{option.cost_per_hour:,.2f}",
            confidence=share_text(option.confidence),
            binding=figure_name(slo.figure) if (slo := _binding(recommendation, option)) else NONE,
            figures=tuple(_predicted_cell(f, option.predicted.get(f)) for f in figures),
            refused=None if option.refused is None else plain(option.refused),
            notes=tuple(plain(note) for note in option.notes),
        )
        for option in recommendation.options
    )


def capacity_rows(
    options: Iterable[Option],
) -> tuple[tuple[str, ...], tuple[tuple[str, str, tuple[str, ...]], ...]]:
    """What one replica carries: the confidences as headings, then (target, name, amounts).

    Users, or requests per second where those are asked for. An amount with ``≥`` is where
    knowledge ends, not the replica.
    """
    shown = [option for option in options if option.users_per_replica or option.rate_per_replica]
    told = {k for o in shown for k in (*o.users_per_replica, *o.rate_per_replica)}
    keys = sorted((key for key in told if float(key) >= _EVEN), key=float)
    rows = tuple((o.target, plain(o.target), tuple(_carried(o, k) for k in keys)) for o in shown)
    return tuple(f"{float(key) * 100:g} %" for key in keys), rows


def crossover_rows(recommendation: Recommendation) -> tuple[tuple[str, str, str], ...]:
    """(range of users, target, name) for each stretch on which one target is the best answer."""
    steps = recommendation.crossovers
    ends: list[int | None] = [step.from_users - 1 for step in steps[1:]]
    return tuple(
        (range_text(step.from_users, end), step.target, plain(step.target))
        for step, end in zip_longest(steps, ends)
    )


def step_of(text: str) -> tuple[str, str]:
    """A next step as the command to type, which may be empty, and the words after it."""
    told = _COMMAND.fullmatch(plain(text))
    return (told[1], told[2] or "") if told else ("", plain(text))


def second_road(recommendation: Recommendation) -> str:
    """The recommended option simulated, beside what its curves say, or why it is not; in a line."""
    found, best = recommendation.simulated, recommendation.recommended
    if found is None or best is None:
        return ""
    told = []
    for figure, estimate in found.figures.items():
        curves = _predicted_cell(figure, best.predicted.get(figure))
        second = figure_text(figure, estimate.value)
        span = interval_text(figure, estimate.low, estimate.high)
        told.append(f"{figure_name(figure)} {second} ({span}), by the curves {curves.value}")
    lines = [f"Simulated request by request: {'; '.join(told)}."] if told else []
    if found.why_not is not None:
        lines.append(f"Not simulated: {plain(found.why_not)}.")
    return " ".join(lines)


def what_if_rows(recommendation: Recommendation) -> tuple[WhatIfRow, ...]:
    """A row per other demand that the planner looked at."""
    return tuple(
        WhatIfRow(
            what=plain(case.what),
            replicas=_count(case.replicas),
            gpus=_count(case.gpus),
            label=case.label,
            why=plain(case.why or ""),
        )
        for case in recommendation.sensitivity
    )


def _predicted_cell(figure: str, predicted: Predicted | None) -> Cell:
    if predicted is None or predicted.value is None:
        return Cell(NONE, label="" if predicted is None else predicted.label)
    return Cell(
        figure_text(figure, predicted.value),
        interval_text(figure, predicted.low, predicted.high),
        predicted.label,
    )


def _binding(recommendation: Recommendation, option: Option) -> Slo | None:
    """The objective that decides an option, which the planner names by its text."""
    return next((s for s in recommendation.slo if s.text == option.binding), None)


def _spare_text(spare: int) -> str:
    return f"of them {spare} spare" if spare else "no spare"


def _carried(option: Option, key: str) -> str:
    rate = option.rate_per_replica.get(key)
    if rate is not None:
        return f"{'≥ ' if option.is_lower_bound_rate(rate) else ''}{format_rate(rate)}/s"
    users = option.users_per_replica.get(key)
    return ("≥ " if option.is_lower_bound(users) else "") + _count(users)


def _count(value: int | None) -> str:
    return NONE if value is None else count_text(value)


def range_text(first: int, last: int | None) -> str:
    """A stretch of whole numbers: ``1 – 14``, ``from 15 on``."""
    if last is None:
        return f"from {count_text(first)} on"
    return count_text(first) if first == last else f"{count_text(first)} – {count_text(last)}"
