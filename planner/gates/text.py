"""What all outputs of a gate share: a verdict in a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.gates.checks import show
from planner.phrases import one_line

if TYPE_CHECKING:
    from planner.gates.records import GateReport, Verdict

__all__ = ["bound_told", "headline", "interval_told", "place_told", "value_told"]


def headline(report: GateReport) -> str:
    """The outcome in one line."""
    counts = [
        f"{report.count('fail')} failed",
        f"{report.count('inconclusive')} inconclusive",
        f"{report.count('pass')} passed",
    ]
    said = {"pass": "passed", "fail": "FAILED", "inconclusive": "is INCONCLUSIVE"}[report.outcome]
    emulated = f" EMULATED ({', '.join(report.emulated)}), not measured:" if report.emulated else ""
    return one_line(f"Gate {said}:{emulated} {', '.join(counts)}")


def place_told(verdict: Verdict) -> str:
    """Where a verdict holds: ``vllm at 8 in flight``."""
    if verdict.target is None:
        return "nothing measured"
    if verdict.level is None:
        return one_line(verdict.target)
    stage = f" (stage {verdict.stages[0]})" if len(verdict.stages) == 1 else ""
    return one_line(f"{verdict.target} at {verdict.level}{stage}")


def value_told(verdict: Verdict) -> str:
    """The value with its unit."""
    return show(verdict.figure, verdict.value)


def interval_told(verdict: Verdict) -> str:
    """The interval with its unit; an open end is told."""
    if verdict.value is None or verdict.low is None is verdict.high:
        return "-"
    low, high = (
        "open" if end is None else show(verdict.figure, end) for end in (verdict.low, verdict.high)
    )
    return f"{low} to {high}"


def bound_told(verdict: Verdict) -> str:
    """The bound with its direction; of a rule against a baseline with what it comes to."""
    if verdict.bound is None:
        return one_line(verdict.check)
    told = f"{verdict.op} {show(verdict.figure, verdict.bound, declared=verdict.factor is None)}"
    if verdict.factor is None:
        return told
    return f"{told} ({verdict.factor:g} × {show(verdict.figure, verdict.baseline)})"
