"""What a report shows: runs with their operating points, and the planner's answer about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashboards.capacity import CapacityCurve
    from dashboards.curves import Curve
    from planner.records import OperatingPoint, Recommendation, Slo
    from planner.runfolder import Run

__all__ = ["Answer", "Measured"]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A run and what each of its levels gave."""

    run: Run
    points: tuple[OperatingPoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The planner's answer, or why there is none.

    Attributes:
        question: what was asked, as one line.
        sentence: the answer in one sentence, or why there is none.
        recommendation: ``None`` when nothing was asked or the planner refused.
        slo: the objectives asked for, known even when the planner refused.
        next_measurements, warnings: one line each.
        curves, capacities: the planner's predictions, drawn as lines.
    """

    question: str
    sentence: str
    recommendation: Recommendation | None = None
    slo: tuple[Slo, ...] = ()
    next_measurements: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()
    capacities: tuple[CapacityCurve, ...] = ()
