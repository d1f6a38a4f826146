"""``users_at_slo``: how many users one replica of a target carries, judged by the planner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.gates.records import Rule, Verdict
from planner.gates.rules import END
from planner.pooling import evidence_of
from planner.question import Question
from planner.records import Demand
from planner.refusals import refusal_of
from planner.staffing import capacity_of, replica_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from planner.gates.records import Outcome
    from planner.records import TargetInfo
    from planner.summary import LevelSample

__all__ = ["judge_capacity"]


def judge_capacity(
    rule: Rule,
    target: TargetInfo,
    samples: Sequence[LevelSample],
    *,
    think_time_s: float,
    rng: np.random.Generator,
) -> Verdict:
    """The verdict on the users that one replica carries with every objective met.

    It passes where the probability that so many are carried is at least 95 %, and fails where it
    is at most 5 %.

    Args:
        rule: on ``users_at_slo``.
        target: the target.
        samples: its levels, unusable ones included.
        think_time_s: mean pause of a user, seconds.
        rng: source of randomness of the planner's model error.
    """
    asked = int(rule.check.bound or 0)
    question = Question(
        demand=Demand(users=asked, think_time_s=think_time_s),
        slo=rule.slo,
        confidence=END,
        spare=0,
        gpu_cost={},
    )
    evidence = evidence_of(samples)
    refusal = refusal_of(target, evidence, question)
    if refusal is not None:
        why, steps = refusal
        told = f"{why}: {steps[0]}" if steps else why
        return _verdict(rule, target, "inconclusive", told)
    capacity = capacity_of(replica_of(target, evidence, question, rng=rng), question)
    likely, low, high = (capacity.at(share) for share in (0.5, END, 1 - END))
    sure = capacity.probability(asked)
    stages = tuple(sorted({index for one in evidence.curve for index in one.stages}))
    told = f"{likely} users ({low} to {high}) who think {think_time_s:g} s"
    if sure >= END:
        outcome: Outcome = "pass"
        why = f"{told} are carried by one replica: at least {asked}"
    elif asked > capacity.limit and capacity.at(1 - END) >= capacity.limit:
        outcome = "inconclusive"
        why = f"{asked} users are beyond what was measured, which tells of up to {capacity.limit}"
        why += ": measure a higher concurrency"
    elif sure <= 1 - END:
        outcome = "fail"
        why = f"{told} are carried by one replica, not {asked}"
    else:
        outcome = "inconclusive"
        why = f"{told} are carried by one replica, {asked} with {sure:.0%}: measure for longer"
    n = sum(one.point.completed for one in evidence.curve)
    return _verdict(rule, target, outcome, why, (float(likely), float(low), float(high), n), stages)


def _verdict(
    rule: Rule,
    target: TargetInfo,
    outcome: Outcome,
    reason: str,
    found: tuple[float, float, float, int] | None = None,
    stages: tuple[int, ...] = (),
) -> Verdict:
    value, low, high, n = found or (None, None, None, None)
    return Verdict(
        rule=rule.name,
        check=rule.check.text,
        outcome=outcome,
        figure=rule.check.figure,
        target=target.name,
        stages=stages,
        op=rule.check.op,
        bound=rule.check.bound,
        value=value,
        low=low,
        high=high,
        n=n,
        confidence=rule.confidence,
        reason=reason[:4000],
    )
