"""Rules on measured figures: one backend over others, how that changes with load, batching."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from planner.claims.records import Finding, Ruling
from planner.claims.remedies import doctor_command, measure_command
from planner.claims.weighing import NAMES, bounded, in_words, missing, ruled, several
from planner.comparison import ratio, side_by_side
from planner.levels import is_closed_loop
from planner.records import Estimate
from planner.uncertainty import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.claims.records import Evidence, State
    from planner.claims.rules import Ratio, Scaling, Trend
    from planner.records import OperatingPoint, TargetInfo

__all__ = ["judge_ratio", "judge_scaling", "judge_trend"]

_USUAL = (1.0, 2.0, 4.0, 8.0, 16.0)
_FEWEST_FOR_A_TREND = 3
_NORMAL = 1.6448536269514722  # of a 90 % interval: half of it in standard errors


class _Pair(NamedTuple):
    """Two targets and the levels at which both were measured, ascending."""

    above: str
    below: str
    levels: tuple[tuple[float, OperatingPoint, OperatingPoint], ...]


def judge_ratio(check: Ratio, evidence: Evidence) -> Ruling:
    """A ratio of figures at equal load within bounds, at every level measured in the range."""
    pairs, findings = _pairs(check, evidence)
    wider = several(sum(len(pair.levels) for pair in pairs))
    for pair in pairs:
        for load, above, below in pair.levels:
            found = _figure_ratio(check.figure, above, below, wider)
            findings.append(_finding(check, pair, load, found))
    asks = (
        f"{_named(check)} is {_bounds(check.least, check.most)}"
        f"{_range(check.from_load, check.to_load)}"
    )
    steps = [_measure(check, evidence)] if any(f.state == "open" for f in findings) else []
    return ruled("ratio", asks, findings, next_steps=steps)


def judge_trend(check: Trend, evidence: Evidence) -> Ruling:
    """The slope of the ratio's logarithm over that of the load, by weighted least squares.

    The weights are the inverse variances that the intervals tell; where the levels scatter more
    than that, the slope's error is widened by as much (Birge, Phys. Rev. 40, 1932). Between
    neighbouring levels the ratio must not fall significantly.
    """
    pairs, findings = _pairs(check, evidence)
    for pair in pairs:
        findings += _trend(check.figure, pair, several(len(pairs)))
    asks = f"{_named(check)} grows with the load{_range(check.from_load, check.to_load)}"
    steps = [_measure(check, evidence)] if any(f.state == "open" for f in findings) else []
    return ruled("trend", asks, findings, next_steps=steps)


def _named(check: Ratio | Trend) -> str:
    over = " and ".join(NAMES[name] for name in check.over)
    return f"{_figure(check.figure)} of {NAMES[check.of]} over that of {over}"


def judge_scaling(check: Scaling, evidence: Evidence) -> Ruling:
    """Throughput of several requests at once over that of one; one slot is a choice of its user."""
    findings = [
        *(_scaled(check, target, evidence) for target in evidence.of_backend(check.backend)),
        *_overlapping(check, evidence),
    ]
    refuted = any(finding.state == "fails" for finding in findings)
    if not findings:
        findings = [missing(check.backend, evidence, "no server of this kind was measured")]
    name = NAMES[check.backend]
    asks = (
        f"{name} with several slots makes at most {check.most:g} times the tokens with "
        f"{check.load:g} requests at once that it makes with one"
    )
    steps = [] if refuted else [
        measure_command(evidence, [check.backend], [1, check.load]),
        doctor_command(evidence, [check.backend]),
    ]  # fmt: skip
    ruling = ruled("no_batching", asks, findings, next_steps=steps)
    if not refuted:
        return ruling
    # What one server of the kind can do the kind can do, whatever another one was set to.
    deciding = [finding for finding in findings if finding.state == "fails"]
    return Ruling(
        rule=ruling.rule,
        asks=asks,
        verdict="refuted",
        reason=in_words(deciding),
        findings=ruling.findings,
    )


def _pairs(check: Ratio | Trend, evidence: Evidence) -> tuple[list[_Pair], list[Finding]]:
    """Every target of the one backend with every one of the others, and what is missing."""
    pairs: list[_Pair] = []
    findings = []
    own = evidence.of_backend(check.of)
    if not own:
        findings.append(missing(check.of, evidence, "no server of this kind was measured"))
    for backend in check.over:
        others = evidence.of_backend(backend)
        if not others:
            findings.append(missing(backend, evidence, "no server of this kind was measured"))
        for above in own:
            for below in others:
                pair = _pair(check, above, below, evidence.points)
                if pair.levels:
                    pairs.append(pair)
                else:
                    findings.append(_incomparable(above, below))
    return pairs, findings


def _pair(
    check: Ratio | Trend, above: TargetInfo, below: TargetInfo, points: Iterable[OperatingPoint]
) -> _Pair:
    levels = []
    if _hardware(above) == _hardware(below):
        for row in side_by_side(p for p in points if is_closed_loop(p)):
            both = row.points.get(above.name), row.points.get(below.name)
            inside = check.from_load <= row.load <= check.to_load
            if inside and both[0] is not None and both[1] is not None:
                levels.append((row.load, both[0], both[1]))
    return _Pair(above.name, below.name, tuple(levels))


def _hardware(target: TargetInfo) -> tuple[str | None, int | None]:
    return target.hardware, target.gpus_per_replica


def _incomparable(above: TargetInfo, below: TargetInfo) -> Finding:
    told = "no load in this range was measured on both"
    if _hardware(above) != _hardware(below):
        told = (
            f"they ran on different hardware, {above.hardware or 'undeclared'} and "
            f"{below.hardware or 'undeclared'}"
        )
    return Finding(what=f"{above.name} over {below.name}", state="open", told=told)


def _figure_ratio(
    figure: str, above: OperatingPoint, below: OperatingPoint, wider: float
) -> Estimate | None:
    if figure not in above.figures or figure not in below.figures:
        return None
    return ratio(above.figures[figure], below.figures[figure], wider=wider)


def _finding(check: Ratio, pair: _Pair, load: float, found: Estimate | None) -> Finding:
    what = f"{pair.above} over {pair.below} at {load:g} in flight"
    if found is None:
        return Finding(what=what, state="open", told=f"{_figure(check.figure)} was not reported")
    state = bounded(found, check.least, check.most)
    return Finding(what=what, state=state, told=_times(found), estimate=found)


def _trend(figure: str, pair: _Pair, wider: float) -> list[Finding]:
    what = f"{pair.above} over {pair.below}"
    known: list[tuple[float, float, float]] = []
    for load, above, below in pair.levels:
        found = _figure_ratio(figure, above, below, 1.0)
        if found is not None and found.low and found.high is not None and found.high > found.low:
            error = math.log(found.high / found.low) / 2 / _NORMAL
            known.append((load, math.log(found.value), error))
    if len(known) < _FEWEST_FOR_A_TREND:
        told = f"{len(known)} loads with intervals, a trend needs {_FEWEST_FOR_A_TREND}"
        return [Finding(what=what, state="open", told=told)]
    loads, logs, errors = np.array(known).T
    slope, error = _slope(np.log2(loads), logs, errors)
    half = wider * _NORMAL * error
    estimate = Estimate(
        value=math.exp(slope),
        low=math.exp(slope - half),
        high=math.exp(slope + half),
        n=len(known),
    )
    state: State = "open"
    if slope - half > 0:
        state = "holds"
    elif slope + half < 0:
        state = "fails"
    span = f"from {loads[0]:g} to {loads[-1]:g} in flight"
    told = f"{_times(estimate)} with each doubling of the load, {span}"
    findings = [Finding(what=what, state=state, told=told, estimate=estimate)]
    if state == "holds":
        findings += _falls(what, known, wider)
    return findings


def _slope(
    x: np.ndarray[tuple[int], np.dtype[np.float64]],
    y: np.ndarray[tuple[int], np.dtype[np.float64]],
    errors: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> tuple[float, float]:
    """A weighted slope and its standard error, widened where the scatter asks for it."""
    weights = errors**-2
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float(np.sum(weights * (x - mean_x) ** 2))
    slope = float(np.sum(weights * (x - mean_x) * (y - mean_y)) / spread)
    left = y - mean_y - slope * (x - mean_x)
    birge = math.sqrt(float(np.sum(weights * left**2)) / (len(x) - 2))
    return slope, max(birge, 1.0) / math.sqrt(spread)


def _falls(what: str, known: Sequence[tuple[float, float, float]], wider: float) -> list[Finding]:
    """Where a ratio that grows on the whole falls from one level to the next."""
    factor = wider * several(len(known) - 1) * _NORMAL
    findings = []
    for (load, before, error), (higher, after, other) in pairwise(known):
        half = factor * math.hypot(error, other)
        if after - before + half < 0:
            change = Estimate(
                value=math.exp(after - before),
                low=math.exp(after - before - half),
                high=math.exp(after - before + half),
                n=2,
            )
            where = f"{what} from {load:g} to {higher:g} in flight"
            findings.append(
                Finding(what=where, state="fails", told=_times(change), estimate=change)
            )
    return findings


def _scaled(check: Scaling, target: TargetInfo, evidence: Evidence) -> Finding:
    slots = target.slots or next(
        (d.target.slots for d in evidence.diagnoses if d.target.url == target.url), None
    )
    if slots == 1:
        told = "it was set to one slot, which says nothing of what the engine can"
        return Finding(what=target.name, state="open", told=told)
    levels = {
        row.load: row.points[target.name]
        for row in side_by_side(p for p in evidence.points if is_closed_loop(p))
        if target.name in row.points
    }
    load = min((load for load in levels if load >= check.load), default=None)
    figure = "output_tokens_per_s"
    found = None
    if load is not None and 1 in levels:
        found = _figure_ratio(figure, levels[load], levels[1], 1.0)
    if found is None or load is None:
        told = f"{_figure(figure)} at 1 and at {check.load:g} in flight are not both known"
        return Finding(what=target.name, state="open", told=told)
    state = bounded(found, None, check.most)
    told = f"{_times(found)} the tokens at {load:g} in flight over 1"
    if state == "holds" and slots is None:
        state, told = "open", f"{told}, but how many slots it was set to is not known"
    elif slots is not None:
        told = f"{told}, with {slots} slots"
    return Finding(what=target.name, state=state, told=told, estimate=found)


def _overlapping(check: Scaling, evidence: Evidence) -> list[Finding]:
    """What the doctor saw of two requests at once."""
    return [
        Finding(
            what=f"{diagnosis.target.name}, by the doctor",
            state="fails",
            told="two chats at once overlapped in time",
        )
        for diagnosis in evidence.diagnoses
        if diagnosis.target.backend == check.backend and diagnosis.can("parallel")
    ]


def _measure(check: Ratio | Trend, evidence: Evidence) -> str:
    levels = [n for n in _USUAL if check.from_load <= n <= check.to_load] or [check.from_load]
    return measure_command(evidence, [check.of, *check.over], levels)


def _times(estimate: Estimate) -> str:
    ends = ("open" if end is None else f"{end:.3g}" for end in (estimate.low, estimate.high))
    return f"× {estimate.value:.3g}, {CONFIDENCE:.0%} interval {' to '.join(ends)}"


def _figure(figure: str) -> str:
    names = {"output_tokens_per_s": "throughput", "requests_per_s": "answers per second"}
    metric, _, statistic = figure.removesuffix("_s").partition("_")
    return names.get(figure, f"{metric.upper()} {statistic}")


def _bounds(least: float | None, most: float | None) -> str:
    if least is None:
        return f"at most {most:g}"
    return f"at least {least:g}" if most is None else f"{least:g} to {most:g}"


def _range(first: float, last: float) -> str:
    unbounded = 10_000
    if first == last:
        return f" at {first:g} in flight"
    if last >= unbounded:
        return "" if first <= 1 else f" from {first:g} in flight on"
    return f" up to {last:g} in flight" if first <= 1 else f" from {first:g} to {last:g} in flight"
