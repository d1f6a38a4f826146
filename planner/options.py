"""One target judged on its own: how many replicas the demand needs, how sure, or why not."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planner.crowding import WAITING
from planner.energy import JOULES_PER_KWH, tokens_mean, watts_at
from planner.fleet import SIMULATED
from planner.pooling import evidence_of
from planner.predict import share_met
from planner.ranking import confidence_key, spares_of
from planner.records import Option
from planner.refusals import (
    irregular,
    load_word,
    measure_command,
    not_carried,
    refusal_of,
    why_none,
)
from planner.roofline import more_than_fit
from planner.slots import slots_from, slots_text
from planner.staffing import Fleet, capacity_of, replica_of
from planner.units import metric_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from planner.capacity import Capacity
    from planner.pooling import Evidence
    from planner.predict import Load, Replica
    from planner.question import Question
    from planner.records import Slo, TargetInfo
    from planner.refusals import Refusal
    from planner.summary import LevelSample

__all__ = ["Judged", "judge"]

SHARES = (0.5, 0.9, 0.95)


@dataclass(frozen=True)
class Judged:
    """An option with what ranking it needs.

    Attributes:
        option: the record.
        capacity: of the demand, what one replica carries at the asked confidence; 0: none or not
            known.
        drawn: the same in each bootstrap draw; none for what is refused.
        evidence: the levels that it rests on.
        replica: the model of one of the needed replicas.
        requests_per_s: what the whole demand comes to on it.
        needed: replicas without spares; 0: none or not known.
        hope: replicas without spares that might do, at 1 - confidence.
        steps: measurements that would settle what is open, best first.
        warnings: what else must be told.
    """

    option: Option
    capacity: int = 0
    drawn: npt.NDArray[np.int64] | None = None
    evidence: Evidence | None = None
    replica: Replica | None = None
    requests_per_s: float = 0.0
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
        f"{target.name} at {sample.point.load:g} {load_word(sample)} is not used: {why}"
        for sample, why in evidence.rejected
        if not (sample.point.together and evidence.curve)
    )
    refusal = refusal_of(target, evidence, question)
    if refusal:
        return _no(target, refusal, question, warnings)
    replica = replica_of(target, evidence, question, rng=rng)
    warnings += irregular(target, evidence)
    capacity = capacity_of(replica, question)
    shares = {*SHARES, question.confidence, 1 - question.confidence}
    carried = {confidence_key(share): capacity.at(share) for share in sorted(shares)}
    sure = carried[confidence_key(question.confidence)]
    hope = carried[confidence_key(1 - question.confidence)]
    if sure == 0:
        return _no(
            target, why_none(target, replica, capacity, question), question, warnings, carried,
            capacity.limit,
        )  # fmt: skip
    fleet = Fleet(replica, question, rng=rng)
    needed = fleet.needed(question.needed(sure))
    refusal = not_carried(target, fleet.at(needed), question, needed)
    if refusal:
        return _no(target, refusal, question, warnings, carried, capacity.limit)
    load = question.load(needed)
    warnings += _memory(target, evidence, fleet.at(needed), question, load)
    warnings += _queue(target, replica, question, load)
    served_per_s = float(fleet.at(needed).requests_per_s(load)[0]) * question.amount / load.users
    return Judged(
        _option(target, evidence, served_per_s, fleet, capacity, question, needed, carried),
        capacity=sure,
        drawn=capacity.drawn(),
        evidence=evidence,
        replica=fleet.at(needed),
        requests_per_s=served_per_s,
        needed=needed,
        hope=1 if sure == capacity.limit else min(needed, question.needed(hope)),
        steps=_open_steps(target, replica, capacity, question, (sure, hope)),
        warnings=warnings,
    )


def _option(
    target: TargetInfo,
    evidence: Evidence,
    served_per_s: float,
    fleet: Fleet,
    capacity: Capacity,
    question: Question,
    needed: int,
    carried: Mapping[str, int],
) -> Option:
    sure, load = carried[confidence_key(question.confidence)], question.load(needed)
    replica, alone = fleet.at(needed), question.needed(sure)
    spare = spares_of(needed, question.spare)
    replicas = needed + spare
    per_replica = target.gpus_per_replica
    gpus = replicas * per_replica if per_replica is not None else None
    price = _price(target, question.gpu_cost)
    units = gpus if gpus is not None else replicas
    notes = [
        f"{question.told(load.users)} on a replica"
        + (f" with {spare} replica{'s' if spare > 1 else ''} down" if spare else "")
    ]
    limit = target.slot_limit
    if limit is not None and limit.source != "told":
        notes.append(f"{slots_text(limit.slots)}, {slots_from(limit)}")
    if gpus is None:
        notes.append("replicas of the machine it was measured on: no number of GPUs was declared")
    open_ended = sure == capacity.limit and needed > 1
    if open_ended:
        notes.append("the objectives hold up to the end of what is known: fewer replicas may do")
    if question.routing in SIMULATED and alone > 1:
        notes.append(
            f"{question.routing}: {needed} replicas simulated together, each finishing requests as "
            f"measured, a chain for each draw; at random {alone} would be needed"
            if needed < alone
            else f"{question.routing}: simulated, no fewer replicas are sure to do than at random; "
            f"the figures are those at random, a bound"
        )
    cost = units * price if price is not None else None
    return Option(
        target=target.name,
        backend=target.backend,
        hardware=target.hardware,
        replicas=replicas,
        users_on_replica=load.users if question.demand.users is not None else None,
        gpus=gpus,
        cost_per_hour=cost,
        cost_per_million_tokens=_per_million(cost, served_per_s, evidence),
        **_energy(evidence, fleet.at(replicas), question, replicas),
        confidence=fleet.probability(needed)
        if needed < alone
        else capacity.probability(load.users),
        predicted={slo.figure: replica.predict(load, slo.figure) for slo in question.slo},
        binding=None if open_ended else _binding(fleet, capacity, question, needed),
        **_carried(question, carried, capacity.limit),
        notes=tuple(notes),
    )


def _binding(fleet: Fleet, capacity: Capacity, question: Question, needed: int) -> str:
    """The objective that breaks first: at one replica less, or beyond what one replica carries."""
    users = question.load(needed - 1).users if needed > 1 else capacity.at(0.5) + 1
    replica = fleet.at(max(needed - 1, 1))
    load = capacity.load(min(users, capacity.limit))

    shares = [share_met(replica.met(load, slo)) for slo in question.slo]
    tied = [s for s, share in zip(question.slo, shares, strict=True) if share == min(shares)]
    if len(tied) == 1:
        return tied[0].text

    def use(slo: Slo) -> float:
        value = float(replica.figure(load, slo.figure)[0])
        return value / slo.bound if slo.bound else value

    return max(tied, key=use).text


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
        return (measure_command(target, level, why),)
    if question.needed(sure) == question.needed(hope):
        return ()
    # Where requests are served when one replica has as many users as it may or may not carry.
    users = round(math.sqrt(sure * max(hope, sure)))
    low, high = replica.span(capacity.load(users))
    level = max(1, round(math.sqrt(low * high)))
    nearest = min(replica.levels, key=lambda known: abs(math.log(known / level)))
    if abs(math.log(nearest / level)) < math.log(1.1):
        return (
            measure_command(target, round(nearest), "longer: the objective is crossed near it"),
        )
    why = f"the objective is crossed between {question.told(sure)} and {question.told(hope)}"
    return (measure_command(target, level, why),)


def _no(
    target: TargetInfo,
    refusal: Refusal,
    question: Question,
    warnings: tuple[str, ...],
    carried: Mapping[str, int] | None = None,
    known_to: int | None = None,
) -> Judged:
    reason, steps = refusal
    option = Option(
        target=target.name,
        backend=target.backend,
        hardware=target.hardware,
        replicas=None,
        gpus=None,
        cost_per_hour=None,
        confidence=None,
        predicted={},
        binding=None,
        **_carried(question, carried or {}, known_to),
        refused=reason,
    )
    return Judged(option, steps=steps, warnings=warnings)


def _queue(target: TargetInfo, replica: Replica, question: Question, load: Load) -> tuple[str, ...]:
    """A warning where an answer reaches beyond the levels of a server of unknown slots."""
    top = round(float(replica.levels[-1]))
    waits = any(metric_of(slo.figure) in WAITING for slo in question.slo)
    beyond = replica.label(load) == "extrapolated" and replica.span(load)[1] > top
    if target.slots is not None or not waits or not beyond:
        return ()
    warning = (
        f"{target.name}: it does not tell its slots, and where it has fewer than "
        f"{replica.span(load)[1]} requests wait for one, which {top} in flight need not show: "
        f"measure it with --concurrency {2 * top} before you rely on {question.told(load.users)} "
        f"on a replica"
    )
    return (warning,)


def _memory(
    target: TargetInfo, evidence: Evidence, replica: Replica, question: Question, load: Load
) -> tuple[str, ...]:
    """A warning where a load goes beyond the measured levels, and beyond the memory."""
    top = evidence.curve[-1].point
    in_flight = replica.span(load)[1]
    if question.catalogue is None or in_flight <= top.load:
        return ()  # at measured levels any wait for memory was measured too
    tokens = (top.prompt_tokens_mean or 0.0) + (top.output_tokens_mean or 0.0)
    found = more_than_fit(target, question.catalogue, in_flight=in_flight, context_tokens=tokens)
    return (found,) if found else ()


def _carried(
    question: Question, carried: Mapping[str, int], known_to: int | None
) -> dict[str, Any]:
    """What one replica carries by confidence, in the unit of the demand."""
    if question.demand.users is not None:
        return {"users_per_replica": dict(carried), "users_known_to": known_to}
    rates = {share: question.rate(amount) or 0.0 for share, amount in carried.items()}
    known_rate = None if known_to is None else question.rate(known_to)
    return {"rate_per_replica": rates, "rate_known_to": known_rate}


def _per_million(cost: float | None, requests_per_s: float, evidence: Evidence) -> float | None:
    """Cost of a million output tokens at the demanded load, by the mean length measured."""
    tokens = tokens_mean(evidence)
    if cost is None or tokens is None or not requests_per_s > 0:
        return None
    return cost / (requests_per_s * tokens * 3600) * 1e6


def _energy(
    evidence: Evidence, replica: Replica, question: Question, replicas: int
) -> dict[str, Any]:
    """Power and energy with every replica up, spares included; empty where none was measured."""
    load = question.load(replicas)
    watts, tokens = watts_at(evidence, replica, load), tokens_mean(evidence)
    if watts is None:
        return {}
    per_s = float(replica.requests_per_s(load)[0]) * (tokens or 0.0)
    if not per_s > 0:
        return {"watts_per_replica": watts}
    return {
        "watts_per_replica": watts,
        "joules_per_output_token": watts / per_s,
        "kwh_per_million_tokens": watts / per_s * 1e6 / JOULES_PER_KWH,
    }


def _price(target: TargetInfo, gpu_cost: Mapping[str, float]) -> float | None:
    """Price per GPU hour (per replica hour without GPUs): by the target's name, else hardware."""
    prices = {name.casefold(): price for name, price in gpu_cost.items()}
    for name in (target.name, target.hardware):
        if name is not None and name.casefold() in prices:
            return prices[name.casefold()]
    return None
