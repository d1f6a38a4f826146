"""One target judged on its own: how many replicas the demand needs, how sure, or why not."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planner.capacity import Capacity
from planner.curves import cross_check
from planner.pooling import evidence_of
from planner.predict import Load, Replica
from planner.ranking import confidence_key, replicas_for
from planner.records import Option
from planner.summary import QUANTILE_LEVELS
from planner.units import format_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from planner.pooling import Evidence
    from planner.records import Demand, Predicted, Slo, TargetInfo
    from planner.summary import LevelSample

__all__ = ["Judged", "Question", "judge"]

SAME_LENGTH = 0.10
"""Mean prompt and output lengths may differ by this share from what was measured."""
SHARES = (0.5, 0.9, 0.95)
IRREGULAR = 0.25
"""Two curves that differ by more than this share warn of an irregular or a wrong measurement."""


@dataclass(frozen=True)
class Question:
    """What is asked of every target.

    Attributes:
        demand: users, think time, lengths.
        slo: objectives that must hold at once.
        confidence: probability that they hold, at least.
        spare: replicas that may fail; ``None`` means one wherever more than one is needed.
        gpu_cost: price per hour by hardware or target name.
    """

    demand: Demand
    slo: tuple[Slo, ...]
    confidence: float
    spare: int | None
    gpu_cost: Mapping[str, float]

    def needed(self, capacity: int) -> int:
        """Replicas without spares, if each carries ``capacity`` users."""
        return math.ceil(self.demand.users / capacity)

    def load(self, replicas: int) -> Load:
        """The most users that one of so many replicas gets."""
        return Load(math.ceil(self.demand.users / replicas), self.demand.think_time_s)


@dataclass(frozen=True)
class Judged:
    """An option with what ranking it needs.

    Attributes:
        option: the record.
        capacity: users that one replica carries at the asked confidence; 0: none or not known.
        needed: replicas without spares; 0: none or not known.
        hope: replicas without spares that might do, at 1 - confidence.
        steps: measurements that would settle what is open, best first.
        warnings: what else must be told.
    """

    option: Option
    capacity: int = 0
    needed: int = 0
    hope: int = 0
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def judge(
    target: TargetInfo,
    samples: Sequence[LevelSample],
    question: Question,
    *,
    rng: np.random.Generator,
) -> Judged:
    """Judge one target by its measured levels.

    Args:
        target: the target.
        samples: its levels, unusable ones included.
        question: what is asked.
        rng: source of randomness.
    """
    evidence = evidence_of(samples)
    warnings = tuple(
        f"{target.name} at {sample.point.load:g} {_load_word(sample)} is not used: {why}"
        for sample, why in evidence.rejected
    )
    refusal = _refusal(target, evidence, question)
    if refusal:
        reason, steps = refusal
        return Judged(_refused(target, reason), steps=steps, warnings=warnings)
    replica = Replica(
        evidence.curve,
        evidence.thinking,
        quantile_levels=QUANTILE_LEVELS,
        slots=target.limits.slots,
        rng=rng,
    )
    warnings += _irregular(target, evidence)
    capacity = Capacity(replica, question.slo, question.demand.think_time_s)
    shares = {*SHARES, question.confidence, 1 - question.confidence}
    carried = {confidence_key(share): capacity.at(share) for share in sorted(shares)}
    sure = carried[confidence_key(question.confidence)]
    hope = carried[confidence_key(1 - question.confidence)]
    if sure == 0:
        reason, steps = _why_none(target, replica, capacity, question)
        option = _refused(target, reason, dict(carried))
        return Judged(option, steps=steps, warnings=warnings)
    needed = question.needed(sure)
    if replica.levels.size == 1 and needed > 1:
        level = round(float(replica.levels[0]))
        reason = f"only {level} in flight was measured, which says nothing about higher loads"
        steps = (_measure(target, 2 * level, "a second level of the curve"),)
        return Judged(_refused(target, reason, dict(carried)), steps=steps, warnings=warnings)
    load = question.load(needed)
    for slo in question.slo:
        sample = replica.unbounded_at(load, slo.figure)
        if sample is not None:
            reason = (
                f"{slo.text}: {sample.point.completed} answers at {sample.point.load:g} "
                f"{_load_word(sample)} cannot bound this percentile from above"
            )
            steps = (_measure(target, round(sample.point.load), "longer, to bound it"),)
            option = _refused(target, reason, dict(carried))
            return Judged(option, steps=steps, warnings=warnings)
    spare = int(replicas_for(question.demand.users, sure, question.spare)) - needed
    option = _option(target, replica, capacity, question, needed, spare, dict(carried))
    return Judged(
        option,
        capacity=sure,
        needed=needed,
        hope=1 if sure == capacity.limit else question.needed(hope),
        steps=_open_steps(target, replica, capacity, question, (sure, hope)),
        warnings=warnings,
    )


def _refusal(
    target: TargetInfo, evidence: Evidence, question: Question
) -> tuple[str, tuple[str, ...]] | None:
    """Why nothing can be predicted at all, with what to measure."""
    if not evidence.curve:
        why = "no level was measured"
        if evidence.thinking:
            why = "only users with think time were measured, no level of fixed concurrency"
        if evidence.rejected:
            why = evidence.rejected[0][1]
        return f"no usable level: {why}", (_measure(target, 1, "the low end of the curve"),)
    demand = question.demand
    for what, asked in (
        ("prompt_tokens", demand.prompt_tokens_mean),
        ("output_tokens", demand.output_tokens_mean),
    ):
        for sample in (*evidence.curve, *evidence.thinking):
            had = getattr(sample.point, f"{what}_mean")
            if asked is not None and had is not None and abs(had / asked - 1) > SAME_LENGTH:
                flag = "--" + what.replace("_", "-")
                reason = (
                    f"measured with {had:.0f} {what.replace('_', ' ')} on average, the demand "
                    f"has {asked:.0f} (bound ±{SAME_LENGTH:.0%})"
                )
                return reason, (_measure(target, 1, f"and up, with {flag} {asked:.0f}"),)
    for slo in question.slo:
        metric = slo.figure.split("_", maxsplit=1)[0]
        if slo.figure != "error_rate" and any(metric not in s.quantiles for s in evidence.curve):
            return f"{slo.text}: this target does not report {metric.upper()}", ()
    return None


def _irregular(target: TargetInfo, evidence: Evidence) -> tuple[str, ...]:
    """A warning where the interpolation and a parametric curve disagree."""
    found = cross_check(
        [sample.point.load for sample in evidence.curve],
        [float(sample.requests_per_s[0]) for sample in evidence.curve],
    )
    if found is None or abs(found.ratio - 1) <= IRREGULAR:
        return ()
    warning = (
        f"{target.name}: the throughput at {found.n:.0f} in flight is {found.ratio:.0%} of what a "
        f"smooth curve through all levels gives: measure the levels around it again"
    )
    return (warning,)


def _why_none(
    target: TargetInfo, replica: Replica, capacity: Capacity, question: Question
) -> tuple[str, tuple[str, ...]]:
    """Why no number of replicas is enough, and what to measure unless that is certain."""
    lowest = round(float(replica.levels[0]))
    one = capacity.load(1)
    worst = min(question.slo, key=lambda slo: _probability(replica, one, slo))
    figure = replica.predict(one, worst.figure)
    value = "" if figure.value is None else f" ({_figure(worst, figure)})"
    if capacity.probability(1) > 1 - question.confidence:
        reason = f"not sure to meet {worst.text} even with one user{value}"
        return reason, (_measure(target, lowest, "longer: it is not sure for one user"),)
    if lowest > 1:
        reason = f"misses {worst.text} at {lowest} in flight, the lowest level measured{value}"
        return reason, (_measure(target, 1, "the low end of the curve"),)
    return f"misses {worst.text} even with one user{value}", ()


def _option(
    target: TargetInfo,
    replica: Replica,
    capacity: Capacity,
    question: Question,
    needed: int,
    spare: int,
    carried: dict[str, int | None],
) -> Option:
    replicas, load = needed + spare, question.load(needed)
    per_replica = target.gpus_per_replica
    gpus = replicas * per_replica if per_replica is not None else None
    price = _price(target, question.gpu_cost)
    units = gpus if gpus is not None else replicas
    who = f"{load.users} user{'s' if load.users > 1 else ''} on a replica"
    notes = [who + (f" with {spare} replica{'s' if spare > 1 else ''} down" if spare else "")]
    if gpus is None:
        notes.append("replicas of the machine it was measured on: no number of GPUs was declared")
    open_ended = carried[confidence_key(question.confidence)] == capacity.limit and needed > 1
    if open_ended:
        notes.append("the objectives hold up to the end of what is known: fewer replicas may do")
    return Option(
        target=target.name,
        backend=target.backend,
        hardware=target.hardware,
        replicas=replicas,
        gpus=gpus,
        cost_per_hour=units * price if price is not None else None,
        confidence=capacity.probability(load.users),
        predicted={slo.figure: replica.predict(load, slo.figure) for slo in question.slo},
        binding=None if open_ended else _binding(replica, capacity, question, needed),
        users_per_replica=carried,
        notes=tuple(notes),
    )


def _binding(replica: Replica, capacity: Capacity, question: Question, needed: int) -> str:
    """The objective that breaks first: at one replica less, or beyond what one replica carries."""
    users = question.load(needed - 1).users if needed > 1 else question.demand.users + 1
    beyond = max(capacity.at(0.5) + 1, users if needed > 1 else 0)
    load = capacity.load(min(beyond, max(capacity.limit, 1)))

    def strain(slo: Slo) -> tuple[float, float]:
        value = float(replica.figure(load, slo.figure)[0])
        return (_probability(replica, load, slo), -value / slo.bound if slo.bound else -value)

    return min(question.slo, key=strain).text


def _open_steps(
    target: TargetInfo,
    replica: Replica,
    capacity: Capacity,
    question: Question,
    span: tuple[int, int],
) -> tuple[str, ...]:
    """What would narrow the number of replicas, if it is open."""
    sure, hope = span
    if sure == capacity.limit and question.needed(sure) > 1:
        level = 2 * round(float(replica.levels[-1]))
        why = "the objective still holds at the end of what is known"
        return (_measure(target, level, why),)
    if question.needed(sure) == question.needed(hope):
        return ()
    # Where requests are served when one replica has as many users as it may or may not carry.
    users = round(math.sqrt(sure * max(hope, sure)))
    low, high = replica.span(capacity.load(users))
    level = max(1, round(math.sqrt(low * high)))
    nearest = min(replica.levels, key=lambda known: abs(math.log(known / level)))
    if abs(math.log(nearest / level)) < math.log(1.1):
        return (_measure(target, round(nearest), "longer: the objective is crossed near it"),)
    why = f"the objective is crossed between {sure} and {hope} users per replica"
    return (_measure(target, level, why),)


def _measure(target: TargetInfo, level: int, why: str) -> str:
    """One command for the user, with its reason."""
    model = f"#{target.model}" if target.model else ""
    spec = shlex.quote(f"{target.backend}={target.url}{model}")
    return f"headroom measure {spec} --concurrency {level} --out RUN  ({target.name}: {why})"


def _refused(
    target: TargetInfo, reason: str, carried: dict[str, int | None] | None = None
) -> Option:
    return Option(
        target=target.name,
        backend=target.backend,
        hardware=target.hardware,
        replicas=None,
        gpus=None,
        cost_per_hour=None,
        confidence=None,
        predicted={},
        binding=None,
        users_per_replica=carried or {},
        refused=reason,
    )


def _probability(replica: Replica, load: Load, slo: Slo) -> float:
    met = replica.met(load, slo)
    return float(met[1:].mean()) if met.size > 1 else float(met[0])


def _price(target: TargetInfo, gpu_cost: Mapping[str, float]) -> float | None:
    """Price per GPU hour (per replica hour without GPUs): by the target's name, else hardware."""
    prices = {name.casefold(): price for name, price in gpu_cost.items()}
    for name in (target.name, target.hardware):
        if name is not None and name.casefold() in prices:
            return prices[name.casefold()]
    return None


def _figure(slo: Slo, figure: Predicted) -> str:
    value = format_figure(slo.figure, figure.value or 0.0)
    if figure.low is None or figure.high is None:
        return value
    low, high = (format_figure(slo.figure, end) for end in (figure.low, figure.high))
    return f"{value}, between {low} and {high}"


def _load_word(sample: LevelSample) -> str:
    words = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}
    return words[sample.point.load_kind]
