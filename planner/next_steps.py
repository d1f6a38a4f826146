"""What to measure next, ranked by how much it is expected to narrow the answer.

First comes what decides the number of replicas, or lifts a refusal. Then what would narrow the
predicted figures: each measurement has an expected effect, the relative width that it takes off an
interval, and the largest come first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.conformal import typical_half_width
from planner.levels import least_certain, next_level
from planner.prior_table import PRIOR
from planner.refusals import measure_command, measure_users_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planner.options import Judged
    from planner.question import Question
    from planner.records import OperatingPoint, Predicted, TargetInfo

__all__ = ["next_measurements"]

ENOUGH = 3
"""So many measurements are named, where there are so many that would tell anything."""
REPEATED = 1 - math.sqrt(0.5)
"""What measuring a level for as long again takes off the width of its intervals."""
WELL_KNOWN = 0.05
"""Relative width that measuring anew would not narrow to any use."""


def next_measurements(
    judged: Sequence[Judged], targets: Mapping[str, TargetInfo], question: Question
) -> tuple[str, ...]:
    """One command for each, with its reason, the best first.

    Args:
        judged: the targets that may win, ranked.
        targets: by name.
        question: what is asked.
    """
    steps = list(dict.fromkeys(step for one in judged for step in one.steps))
    if any(one.option.replicas is None for one in judged[:1]):
        return tuple(steps)  # no answer yet: nothing to narrow
    found: dict[str, float] = {}
    for one in judged:
        if one.option.replicas is not None:
            for effect, command in _narrowing(one, targets[one.option.target], question):
                found.setdefault(command, effect)
    named = {_place(step) for step in steps}
    for command in sorted(found, key=lambda command: -found[command]):
        if len(steps) >= ENOUGH:
            break
        if _place(command) not in named:
            named.add(_place(command))
            steps.append(command)
    return tuple(steps)


def _narrowing(one: Judged, target: TargetInfo, question: Question) -> Iterator[tuple[float, str]]:
    """(effect, command) of what would narrow the figures of one target."""
    assert one.evidence is not None  # noqa: S101 - it has replicas
    points = {round(s.point.load): s.point for s in one.evidence.curve}
    users = question.demand.users
    predicted = one.option.predicted.values()
    if users is not None and any(figure.label != "measured" for figure in predicted):
        load = question.load(one.needed)
        effect = max((_width(figure) for figure in predicted), default=0.0) - WELL_KNOWN
        why = "the load that is recommended for one replica, itself"
        if effect > 0:
            yield effect, measure_users_command(target, load.users, load.think_time_s, why)
    level = None
    if not one.steps:  # they name the level at the crossing already
        level = next_level(
            list(points.values()), slots=target.slots, top=max(points), slo=question.slo
        )
    if level is not None and level not in points:
        yield (
            _gap_effect(sorted(points), level),
            measure_command(target, level, "between known levels"),
        )
    level = least_certain(points, question.slo)
    if level is not None:
        effect = REPEATED * max(_measured_width(points[level], s.figure) for s in question.slo)
        yield effect, measure_command(target, level, "longer: its figures decide")


def _gap_effect(levels: Sequence[int], level: int) -> float:
    """The 90 % error that published throughputs had over such a gap, or beyond the top."""
    below = max((known for known in levels if known < level), default=level)
    above = min((known for known in levels if known > level), default=level)
    prior = PRIOR["throughput"]["serving"]
    if not below < level < above:
        return typical_half_width(prior.beyond, octaves=1.0)
    return typical_half_width(prior.inside, octaves=math.log2(above / below))


def _width(figure: Predicted) -> float:
    if not figure.value or figure.low is None or figure.high is None:
        return 0.0
    return (figure.high - figure.low) / figure.value


def _measured_width(point: OperatingPoint, figure: str) -> float:
    estimate = point.figures.get(figure)
    if estimate is None or not estimate.value:
        return 0.0
    high = 2 * estimate.value if estimate.high is None else estimate.high
    return (high - (estimate.low or 0.0)) / estimate.value


def _place(command: str) -> str:
    """What a command measures, without the reason for it."""
    return command.partition("  (")[0]
