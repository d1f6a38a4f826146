"""Which part of a stage counts, and when a running stage has been measured for long enough.

Excluded are the ramp and the first wave: in a closed loop all users start at once, so the first
request of each meets a burst that a running service never sees. What is left is truncated by MSER-5
where that finds a transient, and must not drift. Requests count where they end: a stationary system
has the same distribution at departures as at arrivals, and no long request is cut off by the end of
the stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from planner.crowding import NEEDED, independent_requests
from planner.dependence import long_run
from planner.table import CANCELLED, OK, RequestTable
from planner.uncertainty import CONFIDENCE, needed_for_percentile

if TYPE_CHECKING:
    from planner.records import StageInfo
    from planner.table import Floats, Mask

__all__ = [
    "LITTLE_TOLERANCE",
    "Verdict",
    "Window",
    "in_flight_mean",
    "in_service_mean",
    "little_ratio",
    "mser5",
    "stage_verdict",
    "steady_window",
    "within",
]

LITTLE_TOLERANCE = 0.10
"""By how much X·R may differ from the mean number in flight."""

_BATCH = 5  # of MSER-5
_LEAST_BATCHES = 20  # below it truncation finds noise, not a transient
_DRIFT = 0.20  # relative change between the halves of a window that is too much ...
_DRIFT_LEVEL = 0.01  # ... if it is significant at this level
_HALF_BATCHES = 8  # of each half of a window
_BATCHES = 10  # of the interval of the throughput


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a stage that counts.

    Attributes:
        start_s, end_s: moments in seconds since the run's start.
        reason: why the stage is not steady; ``None`` when it is.
    """

    start_s: float
    end_s: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a running stage has been measured for long enough.

    Attributes:
        done: whether it has.
        reason: what was reached, or what is missing.
        window: the part that counts so far.
        completed: good answers in the window.
        needed: good answers that are needed.
        half_width: of the throughput's interval, relative; of an open loop, where arrivals decide
            the throughput, of the mean E2E latency's. ``None`` when not known yet.
    """

    done: bool
    reason: str
    window: Window
    completed: int
    needed: int
    half_width: float | None


def steady_window(table: RequestTable, stage: StageInfo, *, now_s: float) -> Window:
    """The steady part of one stage.

    Args:
        table: the stage's requests, those that have ended.
        stage: the stage.
        now_s: the moment of the question; it ends the window of a stage that still runs.

    What MSER-5 cuts off counts as a transient only if it differs from the rest by more than chance.
    """
    end = now_s if stage.ended_s is None else stage.ended_s
    wave, reason = _first_wave_end(table, stage)
    if not reason and wave >= end:
        reason = "the first requests had not ended when the stage did"
    if reason:
        return Window(stage.started_s, end, reason)
    rows = _between(table, wave, end) & (table.status == OK)
    order = np.argsort(table.ended_s[rows], kind="stable")
    e2e, ended = table.e2e_s[rows][order], table.ended_s[rows][order]
    cut = _whole_rounds(_transient(e2e), stage, len(e2e))
    start = float(ended[cut - 1]) if cut else wave
    return Window(start, end, _drift(ended[cut:], e2e[cut:], start, end))


def stage_verdict(
    table: RequestTable,
    stage: StageInfo,
    *,
    now_s: float,
    quantile: float | None,
    target_half_width: float = 0.10,
    min_requests: int = 30,
) -> Verdict:
    """Whether a running stage may end: steady, enough answers, throughput known well enough.

    Where a quantile is asked of an open loop, whose requests crowd together, the answers must also
    be worth enough independent ones: else it has no upper bound (``planner.crowding``).

    Args:
        table: the stage's requests that have ended.
        stage: the stage.
        now_s: seconds since the run's start.
        quantile: the highest quantile that is asked for; its upper bound must exist.
        target_half_width: of the throughput's two-sided 90 % interval, relative.
        min_requests: good answers that are needed in any case.
    """
    window = steady_window(table, stage, now_s=now_s)
    good = within(table, window) & (table.status == OK)
    completed = int(np.count_nonzero(good))
    needed = max(min_requests, needed_for_percentile(quantile) if quantile else 1)
    half_width = None
    missing = [window.reason] if window.reason else []
    if completed < needed:
        asked = f" for p{quantile * 100:g}" if quantile else ""
        missing.append(f"{completed} of {needed} answers{asked}")
    if not window.reason:
        half_width = _rate_half_width(table.where(good), stage.think_time_s)
        if half_width is None or half_width > target_half_width:
            now = "unknown" if half_width is None else f"±{half_width:.0%}"
            what = "mean E2E" if stage.load_kind == "rate" else "throughput"
            missing.append(f"{what} {now}, wanted ±{target_half_width:.0%}")
        if stage.load_kind == "rate" and quantile and completed >= needed:
            worth = independent_requests(table.where(good))
            if worth < NEEDED:
                missing.append(f"worth {worth:.0f} of {NEEDED} independent answers")
        # The requests in flight are not in the table yet; a closed loop knows their number.
        busy = in_service_mean(table, window) / stage.load
        if stage.load_kind == "concurrency" and abs(busy - 1) > LITTLE_TOLERANCE:
            missing.append(f"X·R is {busy:.0%} of the load, wanted 100 ± {LITTLE_TOLERANCE:.0%}")
    reason = "; ".join(missing) if missing else "steady"
    return Verdict(not missing, reason, window, completed, needed, half_width)


def within(table: RequestTable, window: Window) -> Mask:
    """(n,) which requests completed, well or badly, in the window."""
    return _between(table, window.start_s, window.end_s) & np.not_equal(table.status, CANCELLED)


def in_flight_mean(table: RequestTable, window: Window) -> float:
    """Requests in flight, averaged over the window: the sum of the overlaps over its length."""
    start = np.maximum(table.sent_s, window.start_s)
    end = np.minimum(table.ended_s, window.end_s)
    return float(np.sum(np.clip(end - start, 0, None))) / (window.end_s - window.start_s)


def little_ratio(table: RequestTable, window: Window) -> float | None:
    """X·R over the mean number in flight: 1 by Little's law (Oper. Res. 9, 1961) when steady.

    ``None`` when nothing completed.
    """
    busy = in_service_mean(table, window)
    return busy / in_flight_mean(table, window) if busy > 0 else None


def in_service_mean(table: RequestTable, window: Window) -> float:
    """X·R: the summed time from send to end of what completed in the window, over its length."""
    lengths = (table.ended_s - table.sent_s)[within(table, window)]
    return float(np.sum(lengths)) / (window.end_s - window.start_s)


def mser5(series: Floats) -> int:
    """How many leading observations MSER-5 drops; 0 when there are too few to tell.

    Drop the first d batches of five so that the standard error of the mean of the rest is least, d
    at most half of them (White, Simulation 69, 1997; White, Cobb & Spratt, WSC 2000).
    """
    count = len(series) // _BATCH
    if count < _LEAST_BATCHES:
        return 0
    batches = series[: count * _BATCH].reshape(count, _BATCH).mean(axis=1)
    left = count - np.arange(count // 2 + 1)
    sums = np.cumsum(batches[::-1])[::-1][: len(left)]
    squares = np.cumsum((batches**2)[::-1])[::-1][: len(left)]
    return int(np.argmin((squares - sums**2 / left) / left**2)) * _BATCH


def _transient(e2e: Floats) -> int:
    """Where MSER-5 cuts, if the mean of what it drops differs from the mean of the rest; else 0.

    The least standard error is often found behind a crowded moment that was no transient: of
    steady stages a third would lose one, and their tails would look better than they are. So the
    difference is tested by Student's t, with the variance that the dependence of the rest gives.
    """
    cut = mser5(e2e)
    head, rest = e2e[:cut], e2e[cut:]
    known = long_run(rest) if cut else None
    if known is None:
        return cut
    error = math.sqrt(known.variance * (1 + len(rest) / len(head)))
    least = float(special.stdtrit(known.freedom, 1 - _DRIFT_LEVEL / 2)) * error
    return cut if abs(float(head.mean() - rest.mean())) > least else 0


def _whole_rounds(cut: int, stage: StageInfo, count: int) -> int:
    """The cut, rounded up to whole rounds of a closed loop.

    Users in lock-step end together. A window that began within a round would count its answers
    but not its time.
    """
    if stage.load_kind == "rate":
        return cut
    rounded = math.ceil(cut / math.ceil(stage.load)) * math.ceil(stage.load)
    return rounded if rounded <= count / 2 else cut


def _first_wave_end(table: RequestTable, stage: StageInfo) -> tuple[float, str | None]:
    """The moment at which the first wave was over, or why it is not."""
    if not len(table):
        return math.nan, "no request has ended yet"
    if stage.load_kind == "rate":
        first = float(np.min(table.ended_s))
        return float(np.max(table.ended_s[table.sent_s <= first])), None
    order = np.argsort(table.ended_s, kind="stable")
    users, first_row = np.unique(table.user[order], return_index=True)
    if len(users) < stage.load:
        return math.nan, (
            f"{stage.load - len(users):g} of {stage.load:g} users have not finished a request yet"
        )
    return float(np.max(table.ended_s[order][first_row])), None


def _between(table: RequestTable, start: float, end: float) -> Mask:
    """(n,) which requests ended after the start, and not after the end."""
    return np.greater(table.ended_s, start) & np.less_equal(table.ended_s, end)


def _drift(ended: Floats, e2e: Floats, start: float, end: float) -> str | None:
    """Why the window is not steady: its halves differ, by more than noise.

    Welch's test on batch means, which are nearly independent where single requests are not.
    """
    half = (start + end) / 2
    early, late = (_batch_means(e2e[part], _HALF_BATCHES) for part in (ended <= half, ended > half))
    if early is None or late is None:
        return None
    change = late.mean() / early.mean() - 1
    if abs(change) <= _DRIFT or _welch(early, late) > _DRIFT_LEVEL:
        return None
    return (
        f"not steady: the mean E2E latency went from {early.mean():.3g} s to {late.mean():.3g} s "
        f"({change:+.0%}, bound ±{_DRIFT:.0%})"
    )


def _welch(a: Floats, b: Floats) -> float:
    """The two-sided p-value of Welch's t-test (Biometrika 34, 1947)."""
    va, vb = (float(np.var(x, ddof=1)) / len(x) for x in (a, b))
    if va + vb == 0:
        return 0.0 if a.mean() != b.mean() else 1.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    t = abs(float(a.mean() - b.mean())) / math.sqrt(va + vb)
    return float(2 * special.stdtr(freedom, -t))


def _batch_means(values: Floats, count: int) -> Floats | None:
    """(count,) means of consecutive batches; None when there are too few values."""
    size = len(values) // count
    return values[: size * count].reshape(count, size).mean(axis=1) if size else None


def _rate_half_width(good: RequestTable, think_time_s: float) -> float | None:
    """Relative half-width of the throughput's interval; None when there are too few answers.

    In a closed loop X = N / (R + Z), so X is known as well as R + Z is. Counting answers per second
    would take the rounds of users in lock-step for noise. Batch means: Schmeiser (Oper. Res. 30,
    1982).
    """
    means = _batch_means(good.e2e_s[np.argsort(good.ended_s, kind="stable")], _BATCHES)
    if means is None:
        return None
    error = float(np.std(means, ddof=1)) / math.sqrt(_BATCHES)
    factor = float(special.stdtrit(_BATCHES - 1, (1 + CONFIDENCE) / 2))
    return factor * error / (float(np.mean(means)) + think_time_s)
