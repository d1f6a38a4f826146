"""The gates that a stage must pass before its figures may carry a plan. Each breach is one line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from planner.steady import LITTLE_TOLERANCE, in_flight_mean, little_ratio
from planner.table import ERROR, OK, TIMEOUT
from planner.uncertainty import needed_for_percentile
from planner.units import format_duration

if TYPE_CHECKING:
    from planner.records import StageInfo
    from planner.steady import Window
    from planner.table import RequestTable

__all__ = ["MAX_ERROR_RATE", "MIN_ANSWERS", "problems"]

MAX_ERROR_RATE = 0.01
MIN_ANSWERS = 30
"""Good answers that any point needs, whichever percentile is asked for."""

_LOAD_TOLERANCE = 0.10


def problems(
    table: RequestTable,
    rows: RequestTable,
    stage: StageInfo,
    window: Window,
    *,
    quantiles: tuple[float, ...],
    error_kinds: dict[str, int],
    others: int = 0,
) -> tuple[str, ...]:
    """Why a stage must not be used; empty when it may.

    Args:
        table: all requests of the stage.
        rows: those that completed in the window.
        stage: the stage.
        window: its steady part.
        quantiles: those that were asked for.
        error_kinds: kind -> count over the whole stage, the most frequent first.
        others: good answers at the same level in other stages, which count with its own.
    """
    found = [stage.invalid, window.reason, _errors(rows, error_kinds)]
    answers = int(np.count_nonzero(rows.status == OK))
    if not answers:
        found.append(f"no request was answered in {_length(window)}: check the server's log")
    elif not window.reason:
        found += [
            _too_few(answers, others, window, quantiles),
            _timed_out(rows, quantiles),
            _little(table, window),
            _load(table, rows, stage, window),
        ]
    return tuple(problem for problem in found if problem)


def _errors(rows: RequestTable, kinds: dict[str, int]) -> str | None:
    failed = int(np.count_nonzero((rows.status == ERROR) | (rows.status == TIMEOUT)))
    if not failed or failed < MAX_ERROR_RATE * len(rows):
        return None
    top = ", ".join(f"{_printable(kind)} {count}" for kind, count in list(kinds.items())[:3])
    return (
        f"{failed / len(rows):.1%} of requests failed ({failed} of {len(rows)}; {top}), the bound "
        f"is {MAX_ERROR_RATE:.0%}: mend the cause or lower the load"
    )


def _too_few(answers: int, others: int, window: Window, quantiles: tuple[float, ...]) -> str | None:
    needed = max([MIN_ANSWERS, *(needed_for_percentile(q) for q in quantiles)])
    if answers + others >= needed:
        return None
    more = (needed - answers - others) * (window.end_s - window.start_s) / answers
    asked = f"for p{max(quantiles) * 100:g}, which needs" if quantiles else "where it takes"
    return (
        f"{answers + others} answers are too few {asked} {needed}: measure this level "
        f"for {format_duration(more)} longer"
    )


def _timed_out(rows: RequestTable, quantiles: tuple[float, ...]) -> str | None:
    late = int(np.count_nonzero(rows.status == TIMEOUT))
    whole = len(rows) - int(np.count_nonzero(rows.status == ERROR))
    lost = [q for q in quantiles if math.ceil(round(q * whole, 6)) > whole - late]
    if not lost:
        return None
    return (
        f"p{min(lost) * 100:g} lies among {late} requests that timed out: it is longer than their "
        f"time limit; raise the limit or lower the load"
    )


def _little(table: RequestTable, window: Window) -> str | None:
    ratio = little_ratio(table, window)
    if ratio is None or abs(ratio - 1) <= LITTLE_TOLERANCE:
        return None
    return (
        f"Little's law fails: X·R is {ratio:.0%} of the mean number in flight, the bound is "
        f"100 ± {LITTLE_TOLERANCE * 100:.0f} %: the window of {_length(window)} is short "
        f"beside one request, measure this level for longer"
    )


def _load(table: RequestTable, rows: RequestTable, stage: StageInfo, window: Window) -> str | None:
    """Whether a closed loop held the load that it promised.

    With think time Z the interactive law gives the users: N = X (R + Z). The mean of n drawn pauses
    varies by about 1/sqrt(n), so the tolerance grows by twice that.
    """
    if stage.load_kind == "rate":
        return None
    held, tolerance = in_flight_mean(table, window), _LOAD_TOLERANCE
    if stage.load_kind == "users":
        held += len(rows) / (window.end_s - window.start_s) * stage.think_time_s
        tolerance += 2 / math.sqrt(len(rows))
    if abs(held / stage.load - 1) <= tolerance:
        return None
    what = "requests in flight" if stage.load_kind == "concurrency" else "users"
    return (
        f"the load was not what it should be: {held:.3g} {what} instead of {stage.load:g} "
        f"(bound ±{tolerance:.0%}): give the client more CPU, or see what limits connections"
    )


def _length(window: Window) -> str:
    return format_duration(window.end_s - window.start_s)


def _printable(kind: str) -> str:
    return kind[:60] if kind.isprintable() else ascii(kind)[:60]
