"""Which level of load to measure next.

Where one measures matters more than which curve one fits: three levels at the bottom, the middle
and the top of the range predict the rest of a throughput curve about five times better than the
three lowest. So: the ends first, then where the objectives are crossed, then the widest gap.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from planner.crowding import WAITING
from planner.ranking import confidence_key, prices_of
from planner.records import OperatingPoint
from planner.roofline import IMPOSSIBLE
from planner.uncertainty import needed_for_percentile
from planner.units import metric_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planner.records import Option, Recommendation, Slo, TargetInfo
    from planner.summary import LevelSample

__all__ = [
    "NextStep",
    "is_closed_loop",
    "least_certain",
    "next_level",
    "plan_next",
    "stage_seconds",
]

HOPELESS = 4.0
"""A figure so many times its bound: nothing above that load can matter."""
TIGHT = 1.25
"""Two levels with at most this ratio pin a crossing down: what is left between them is less than
what one run differs from the next."""
WIDE = 4.0
"""The widest ratio of neighbouring levels that is interpolated without another measurement; the
published interpolation errors were taken at about this one (every second level left out)."""
WELL_KNOWN = 0.05
"""Relative width of an interval that more measuring would not narrow to any use."""
CLIMB = 4
"""Step of the climb to the top where the server does not tell its slots."""

REACH = 2.0
"""The range ends where the mean wait for a slot alone is this many times a bound."""
ONSET = 1.25
"""Times the slots: where the queue has begun. Waits jump there from nothing to a good part of an
answer's time, which no curve through the slots and twice the slots can show (docs/accuracy.md)."""
SAME = 0.03
"""Levels that differ by this share are one."""
ATTEMPTS = 3
"""So often a level is measured before its figures are given up as unusable."""
MARGIN = 1.2
"""Of time, over what a level needs on average."""

Verdict = Literal["met", "missed", "hopeless", "unsure"]


@dataclass(frozen=True)
class NextStep:
    """One more measurement for ``headroom plan``.

    Attributes:
        target: the target's name.
        level: requests in flight.
        extend: the level was measured already; measure it longer.
        why: one clause for the progress line.
    """

    target: str
    level: int
    extend: bool
    why: str


def is_closed_loop(point: OperatingPoint) -> bool:
    """Whether a point holds a fixed number of requests in flight, so that it lies on the curve."""
    return point.load_kind == "concurrency" or (
        point.load_kind == "users" and point.think_time_s == 0
    )


def next_level(
    samples: Sequence[LevelSample | OperatingPoint],
    *,
    slots: int | None,
    top: int,
    slo: Sequence[Slo] = (),
) -> int | None:
    """The next level to measure on one target, or ``None`` when its curve and crossing are known.

    The order is: 1; the slot limit; the top of the range (a climb of factors of four where the
    slot limit is unknown); a quarter above the slot limit where an objective counts the wait for a
    slot; the geometric middle of the gap that holds the crossing of the objectives; the geometric
    middle of the widest gap. The range ends where an objective is missed by a factor of four:
    nothing above can matter.

    Args:
        samples: what was measured on this target so far, in any order.
        slots: sequences that the engine decodes at once, where it tells.
        top: the highest level allowed, requests in flight.
        slo: the objectives; without any, only the shape of the curve counts.
    """
    points = _levels(samples)
    verdicts = {level: _verdict(point, slo) for level, point in points.items()}
    top = min(top, _reach(points, slots, slo))
    missing = _next_of_skeleton(verdicts, slots, top, slo)
    if missing is not None:
        return missing
    known = sorted(level for level in verdicts if level <= _ceiling(verdicts, top))
    gaps = list(pairwise(known))
    crossing = [gap for gap in gaps if not _same_side(verdicts[gap[0]], verdicts[gap[1]])]
    return _middle_of_widest(crossing, TIGHT) or _middle_of_widest(gaps, WIDE)


def plan_next(
    recommendation: Recommendation,
    samples: Sequence[LevelSample | OperatingPoint],
    targets: Sequence[TargetInfo],
    *,
    top: int,
) -> NextStep | None:
    """What ``headroom plan`` should measure next, or ``None`` when the answer is sure enough.

    Every target gets its skeleton (1, the slot limit, the top, where the queue begins) before any
    gets its details, so that an exhausted budget leaves comparable curves. Then only targets that
    may still win and whose number of replicas is open are refined, the best first: new levels at
    the crossing of the objectives, then the deciding level again, until its figures are known to
    5 %. A target with a level beyond what its hardware can do is left alone: none was made by what
    is declared.

    Args:
        recommendation: the answer from the samples so far.
        samples: all samples so far, of all targets.
        targets: the targets under test.
        top: the highest level allowed, requests in flight.
    """
    slo = recommendation.slo
    points = {t.name: _levels([s for s in samples if _point(s).target == t.name]) for t in targets}
    points = {name: levels for name, levels in points.items() if not _is_impossible(levels)}
    slots = {t.name: t.slots for t in targets}
    for name in sorted(points, key=lambda name: len(points[name])):
        verdicts = {level: _verdict(point, slo) for level, point in points[name].items()}
        reach = min(top, _reach(points[name], slots[name], slo))
        level = _next_of_skeleton(verdicts, slots[name], reach, slo)
        if level is not None:
            return NextStep(name, level, extend=False, why="the ends of the curve")
        level = _unfinished(points[name], [s for s in samples if _point(s).target == name])
        if level is not None:
            return NextStep(name, level, extend=True, why="its figures are not usable yet")
    for name in filter(points.__contains__, _undecided(recommendation)):
        level = next_level(list(points[name].values()), slots=slots[name], top=top, slo=slo)
        if level is not None:
            return NextStep(name, level, extend=False, why="where the objective is crossed")
        level = least_certain(points[name], slo)
        if level is not None:
            return NextStep(name, level, extend=True, why="the level that decides")
    return None


def stage_seconds(
    points: Sequence[OperatingPoint], level: int, quantile: float | None
) -> float | None:
    """How long a level has to be held until its figures can be used.

    The first answer of each user is warm-up, N/X seconds of it; then the percentile needs its
    fewest observations.

    Args:
        points: what was measured on this target so far, usable or not.
        level: requests in flight.
        quantile: the highest percentile asked, as a fraction; ``None`` counts as the median.

    Returns:
        Seconds, or ``None`` while nothing is known of the target's rate.
    """
    rates = [
        point.figures["requests_per_s"].value
        for point in points
        if is_closed_loop(point) and "requests_per_s" in point.figures and point.load <= level
    ]
    rate = max(rates, default=0.0)
    if rate <= 0:
        return None
    return MARGIN * (level + needed_for_percentile(quantile or 0.5)) / rate


def _point(sample: LevelSample | OperatingPoint) -> OperatingPoint:
    return sample if isinstance(sample, OperatingPoint) else sample.point


def _levels(samples: Sequence[LevelSample | OperatingPoint]) -> dict[int, OperatingPoint]:
    """The points of a closed loop by their level; of two at one level the usable, later one."""
    levels: dict[int, OperatingPoint] = {}
    for point in map(_point, samples):
        level = round(point.load)
        if point.together:
            continue
        if is_closed_loop(point) and (point.usable or level not in levels):
            levels[level] = point
    return levels


def _is_impossible(levels: Mapping[int, OperatingPoint]) -> bool:
    return any(IMPOSSIBLE in problem for point in levels.values() for problem in point.problems)


def _verdict(point: OperatingPoint, slo: Sequence[Slo]) -> Verdict:
    if not point.usable:
        return "unsure"
    worst: Verdict = "met"
    for objective in slo:
        estimate = point.figures.get(objective.figure)
        if estimate is None:
            worst = "unsure"
            continue
        if estimate.value > HOPELESS * objective.bound > 0:
            return "hopeless"
        low = estimate.value if estimate.low is None else estimate.low
        high = estimate.value if estimate.high is None else estimate.high
        if not objective.met(low):
            worst = "missed"
        elif not objective.met(high) and worst == "met":
            worst = "unsure"
    return worst


def _reach(points: Mapping[int, OperatingPoint], slots: int | None, slo: Sequence[Slo]) -> int:
    """The highest level that can matter: above it the wait for a slot alone breaks an objective.

    With N in flight on S slots a request waits (N - S)/X(S) on average (Little's law).
    """
    full = None if slots is None else _measured_at(slots, points)
    point = None if full is None else points[full]
    rate = point.figures.get("requests_per_s") if point is not None else None
    bounds = [objective.bound for objective in slo if _counts_waits(objective)]
    if slots is None or rate is None or not bounds:
        return sys.maxsize
    return max(slots + 1, math.ceil(slots + REACH * min(bounds) * rate.value))


def _counts_waits(objective: Slo) -> bool:
    return metric_of(objective.figure) in WAITING


def _unfinished(
    levels: Mapping[int, OperatingPoint], samples: Sequence[LevelSample | OperatingPoint]
) -> int | None:
    """The lowest level whose figures are unusable, unless it was tried often enough."""
    tried = Counter[int]()
    for sample in samples:
        if is_closed_loop(point := _point(sample)) and not point.together:
            pooled = 0 if isinstance(sample, OperatingPoint) else len(sample.stages)
            tried[round(point.load)] += max(pooled, 1)
    open_ended = [n for n, point in levels.items() if not point.usable and tried[n] < ATTEMPTS]
    return min(open_ended, default=None)


def _ceiling(verdicts: Mapping[int, Verdict], top: int) -> int:
    """The end of the range worth measuring: the lowest hopeless level, or the top."""
    return min([level for level, verdict in verdicts.items() if verdict == "hopeless"] + [top])


def _next_of_skeleton(
    verdicts: Mapping[int, Verdict], slots: int | None, top: int, slo: Sequence[Slo]
) -> int | None:
    """The first unmeasured one of the levels without which nothing is known."""
    if 1 not in verdicts:
        return 1
    if verdicts[1] in ("missed", "hopeless"):
        return None  # not even one request at a time is served well enough: more is pointless
    ceiling = _ceiling(verdicts, top)
    if slots is not None:
        levels = [slots, ceiling]
        onset, full = math.ceil(ONSET * slots), _measured_at(slots, verdicts)
        served = full is not None and verdicts[full] in ("met", "unsure")
        if served and onset < ceiling and any(map(_counts_waits, slo)):
            levels.append(onset)
    else:
        levels = [CLIMB**i for i in range(1, 16) if 2 * CLIMB**i <= ceiling] + [ceiling]
    missing = (n for n in levels if n <= ceiling and _measured_at(n, verdicts) is None)
    return next(missing, None)


def _measured_at(level: int, levels: Iterable[int]) -> int | None:
    """The measured level that is this one, but for a few requests.

    Slots that are seen, not told, come out a request or two higher the longer one looks.
    """
    near = min(levels, key=lambda known: abs(level - known), default=None)
    return near if near is not None and abs(level - near) <= SAME * level else None


def _same_side(left: Verdict, right: Verdict) -> bool:
    sides = {"met": 0, "unsure": 1, "missed": 2, "hopeless": 2}
    return sides[left] == sides[right] != 1


def _middle_of_widest(gaps: Sequence[tuple[int, int]], ratio: float) -> int | None:
    """The geometric middle of the widest gap (by ratio) over a limit, if it holds an integer."""
    wide = [gap for gap in gaps if gap[1] > ratio * gap[0] and gap[1] - gap[0] > 1]
    if not wide:
        return None
    low, high = max(wide, key=lambda gap: gap[1] / gap[0])
    return min(max(round(math.sqrt(low * high)), low + 1), high - 1)


def _undecided(recommendation: Recommendation) -> list[str]:
    """Targets that may win and whose number of replicas is open, the best first."""
    best = recommendation.recommended
    prices = prices_of(recommendation.options)
    undecided = []
    for option in recommendation.options:
        sure, hope = _replicas_span(option, recommendation)
        if hope is None or (sure == hope and option.replicas is not None):
            continue
        if best is not None and option.replicas and option.target != best.target:
            cheapest = prices[option.target] * (hope + recommendation.spare) / option.replicas
            if cheapest > prices[best.target]:
                continue
        undecided.append(option.target)
    return undecided


def _replicas_span(option: Option, recommendation: Recommendation) -> tuple[int | None, int | None]:
    """Replicas (without spares) needed to be sure, and how few might do; ``None``: no number."""
    users, confidence = recommendation.demand.users, recommendation.confidence
    sure, hope = (
        option.users_per_replica.get(confidence_key(share))
        for share in (confidence, 1 - confidence)
    )
    if users is None:
        return None, None
    return math.ceil(users / sure) if sure else None, math.ceil(users / hope) if hope else None


def least_certain(points: Mapping[int, OperatingPoint], slo: Sequence[Slo]) -> int | None:
    """The usable level whose objectives are the least decided, unless all are known to 5 %."""
    doubts = {
        level: max((_doubt(point, objective) for objective in slo), default=0.0)
        for level, point in points.items()
        if point.usable
    }
    worst = max(doubts, key=lambda level: doubts[level], default=None)
    return worst if worst is not None and doubts[worst] > 0 else None


def _doubt(point: OperatingPoint, objective: Slo) -> float:
    """How open it is whether a level meets an objective: 0 when known, the more the wider."""
    estimate = point.figures.get(objective.figure)
    if estimate is None or estimate.value <= 0:
        return 0.0
    low = 0.0 if estimate.low is None else estimate.low
    high = 2 * estimate.value if estimate.high is None else estimate.high
    width = (high - low) / estimate.value
    distance = abs(estimate.value - objective.bound) / estimate.value
    return width / (width + distance) if width > WELL_KNOWN else 0.0
