"""Curves, objectives and a demand to an answer: which backend, how many replicas, how sure."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations
from typing import TYPE_CHECKING

import msgspec

from planner.errors import InputError
from planner.next_steps import next_measurements
from planner.options import judge
from planner.phrases import figure_name, interval, whole_percent
from planner.question import Question
from planner.ranking import Contender, crossovers, prices_of
from planner.records import PairCrossovers, Recommendation
from planner.sensitivity import sensitivity_of
from planner.simulated import disagreements_of, is_bound, simulated_beside
from planner.slots import slots_warnings
from planner.units import format_declared, format_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from planner.hardware import Catalogue
    from planner.options import Judged
    from planner.records import (
        Crossover,
        Demand,
        Option,
        Sensitivity,
        Simulated,
        Slo,
        TargetInfo,
    )
    from planner.summary import LevelSample

__all__ = ["ROUTING", "recommend", "sentence", "sureness"]

ROUTING = {
    "session-sticky": "sticky: every user stays on one replica, and the users are spread evenly",
    "random": "random: each request goes to any replica; least-loaded routing needs no more",
    "round-robin": "round-robin: each request goes to the next replica (simulated)",
    "least-loaded": "least-loaded: each request goes to the replica with the fewest in flight "
    "(simulated)",
}
"""What each way is, for people. By default users stay where they are, and arrivals go to any."""
MOST_COMPARED, MOST_PAIRED = 200_000, 8
"""Users up to which targets are compared, and how many targets each with each."""


def recommend(
    samples: Sequence[LevelSample],
    targets: Sequence[TargetInfo],
    demand: Demand,
    slo: Sequence[Slo],
    *,
    rng: np.random.Generator,
    confidence: float = 0.9,
    spare: int | None = None,
    gpu_cost: Mapping[str, float] | None = None,
    catalogue: Catalogue | None = None,
    routing: str | None = None,
    simulated: bool = True,
) -> Recommendation:
    """Rank the targets by what serving the demand costs on them.

    Args:
        samples: measured levels of all targets, unusable ones included.
        targets: the targets, their names unique.
        demand: users, think time and, where they matter, the lengths.
        slo: objectives, all of which must hold at once; at least one.
        rng: source of randomness; each target draws from a stream of its own.
        confidence: P(every objective is met) that must be reached, above 0.5 and below 1.
        spare: replicas that may fail; ``None`` means one wherever more than one is needed.
        gpu_cost: price of one GPU hour by hardware or target name; for a target that is not a
            number of GPUs, of one replica.
        catalogue: of hardware, to warn of what does not fit into memory.
        routing: how requests are spread over replicas, a key of ``ROUTING``; ``None``: users stay
            on theirs, arrivals go to any.
        simulated: whether to simulate what is recommended too, which takes up to a second.

    Raises:
        InputError: no users, no objective, an unknown figure, a confidence out of range, a routing
            that the demand cannot have.
    """
    _check(demand, slo, targets, confidence, spare, gpu_cost or {})
    routing = _routing_of(demand, routing)
    question = Question(
        demand=demand,
        slo=tuple(slo),
        confidence=confidence,
        spare=spare,
        gpu_cost=dict(gpu_cost or {}),
        catalogue=catalogue,
        routing=routing,
    )
    by_name = sorted(targets, key=lambda target: target.name)
    streams = dict(zip((t.name for t in by_name), rng.spawn(len(by_name)), strict=True))
    judged = [
        judge(
            target,
            [sample for sample in samples if sample.point.target == target.name],
            question,
            rng=streams[target.name],
        )
        for target in by_name
    ]
    ranked = _marked(_rank(judged), targets)
    best = ranked[0].option if ranked and ranked[0].option.replicas is not None else None
    prices = prices_of([one.option for one in ranked])
    open_ended = [one for one in ranked if _may_win(one, best, prices)]
    what_ifs = _sensitivity(ranked, targets, question, rng)
    second, disagreements = _simulated(ranked, targets, question, rng) if simulated else (None, ())
    return Recommendation(
        demand=demand,
        slo=tuple(slo),
        confidence=confidence,
        spare=_spare_of(best, ranked, question),
        routing=ROUTING[routing],
        recommended=best,
        options=tuple(one.option for one in ranked),
        crossovers=_crossovers(ranked, prices, question),
        pairs=_pairs(ranked, prices, question),
        sensitivity=what_ifs,
        simulated=second,
        next_measurements=next_measurements(
            open_ended, {target.name: target for target in targets}, question
        ),
        warnings=(*disagreements, *_unpriced(ranked, question), *_warnings(ranked, targets)),
    )


def _marked(ranked: Sequence[Judged], targets: Sequence[TargetInfo]) -> list[Judged]:
    """The options with what their targets are: an emulator, of so many slots."""
    by_name = {target.name: target for target in targets}
    marked = []
    for one in ranked:
        target = by_name[one.option.target]
        option = msgspec.structs.replace(
            one.option, emulated=target.emulated, slots=target.slot_limit
        )
        marked.append(dataclasses.replace(one, option=option))
    return marked


def sentence(recommendation: Recommendation) -> str:
    """The answer in one plain sentence, which says so where emulators were asked."""
    emulated = [option.target for option in recommendation.options if option.emulated]
    if not emulated:
        return _sentence(recommendation)
    which = "" if len(emulated) == len(recommendation.options) else f" ({', '.join(emulated)})"
    return f"EMULATED{which}, not measured: {_sentence(recommendation)}"


def _sentence(recommendation: Recommendation) -> str:
    who = _who(recommendation.demand)
    best = recommendation.recommended
    if best is None:
        if recommendation.next_measurements:
            return f"For {who} the measurements at hand cannot carry an answer yet."
        return f"For {who} no measured option meets {_objectives(recommendation.slo)}."
    count = "at most " if best.binding is None else ""
    count += f"{best.replicas:,} replica{'s' if best.replicas != 1 else ''}"
    if best.gpus is not None:
        hardware = f"{best.hardware} " if best.hardware else ""
        count += f" ({best.gpus:,} {hardware}GPU{'s' if best.gpus != 1 else ''})"
    if recommendation.spare:
        count += f", {recommendation.spare} of them spare"
    figures = "; ".join(
        f"{figure_name(slo.figure)} {interval(slo.figure, best.predicted[slo.figure])} "
        f"against {format_declared(slo.figure, slo.bound)}"
        for slo in recommendation.slo
    )
    price = f", {best.cost_per_hour:,.2f} per hour" if best.cost_per_hour is not None else ""
    return f"For {who}, run {best.target} on {count}{price}: {figures} ({sureness(best)})."


def _who(demand: Demand) -> str:
    """The demand for people: ``50 users who think 10 s``, ``20 requests/s``."""
    if demand.arrivals is not None:
        stream = demand.arrivals
        source = f" as in {stream.source}" if stream.source else ""
        return f"{format_rate(stream.rate_per_s)} requests/s{source}"
    who, think = ("1 user", "thinks") if demand.users == 1 else (f"{demand.users:,} users", "think")
    if demand.think_time_s > 0:
        who += f" who {think} {format_declared('think_s', demand.think_time_s)}"
    return who


def sureness(option: Option) -> str:
    """How sure an option is, for people: ``92 % sure``, never rounded up."""
    if option.confidence is None:
        return "not known"
    if option.confidence > 0.99:  # noqa: PLR2004 - draws cannot tell more nines apart
        return "over 99 % sure"
    return f"{whole_percent(option.confidence)} sure"


def _check(
    demand: Demand,
    slo: Sequence[Slo],
    targets: Sequence[TargetInfo],
    confidence: float,
    spare: int | None,
    gpu_cost: Mapping[str, float],
) -> None:
    _check_demand(demand)
    if not slo:
        raise InputError("no objective given: give at least one, for example ttft_p95<=1s")
    if not 0.5 < confidence < 1:  # noqa: PLR2004 - below an even chance is no plan
        raise InputError(f"confidence {confidence:g} is out of range: give more than 0.5, below 1")
    if spare is not None and spare < 0:
        raise InputError(f"{spare} spare replicas: give 0 or more")
    for kind, price in gpu_cost.items():
        if not 0 <= price < math.inf:
            raise InputError(f"price {price:g} of {kind!r} is out of range: give 0 or more")
    names = [target.name for target in targets]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two targets are named {clash[0]!r}: give them different names")


def _routing_of(demand: Demand, asked: str | None) -> str:
    """The routing of a demand: people have a place to stay at, arrivals belong to nobody."""
    usual = "random" if demand.users is None else "session-sticky"
    if asked is None or asked == usual:
        return usual
    if asked not in ROUTING:
        raise InputError(f"routing {asked!r} is unknown: known are {', '.join(ROUTING)}")
    if demand.users is not None:
        raise InputError(
            f"routing {asked} is modelled for arrivals only: give --rate or --trace, or leave it "
            f"out; users then stay on their replica, which needs no fewer than least-loaded"
        )
    if asked == "session-sticky":
        raise InputError(
            "routing session-sticky needs sessions, of which a rate or a trace tells nothing: give "
            "--users, or random, which is the same where every request is a session of its own"
        )
    return asked


def _check_demand(demand: Demand) -> None:
    if (demand.users is None) == (demand.arrivals is None):
        raise InputError("the demand is either users or arrivals: give one of them")
    if demand.users is not None and demand.users < 1:
        raise InputError(f"{demand.users} users: give at least 1")
    for what, mean in (
        ("prompt", demand.prompt_tokens_mean),
        ("output", demand.output_tokens_mean),
    ):
        if mean is not None and not 0 < mean < math.inf:
            raise InputError(f"a mean of {mean} {what} tokens: give more than 0")
    if demand.arrivals is not None and not 0 < demand.arrivals.rate_per_s < math.inf:
        raise InputError(f"a rate of {demand.arrivals.rate_per_s}/s: give more than 0")
    for seconds, dispersion in demand.arrivals.dispersion if demand.arrivals else ():
        if not (0 < seconds < math.inf and 0 <= dispersion < math.inf):
            raise InputError(f"a dispersion of {dispersion} in {seconds} s: give 0 or more")
    if not 0 <= demand.think_time_s < math.inf:
        raise InputError(f"a think time of {demand.think_time_s} s: give 0 or more")


def _rank(judged: Sequence[Judged]) -> list[Judged]:
    """The cheapest first; of equals the one with the most headroom; the refused last."""
    prices = prices_of([one.option for one in judged])

    def key(one: Judged) -> tuple[float, float, str]:
        option = one.option
        if option.replicas is None:
            return (float("inf"), -(option.users_per_replica.get("0.5") or 0), option.target)
        return (round(prices[option.target], 9), -one.capacity, option.target)

    return sorted(judged, key=key)


def _may_win(one: Judged, best: Option | None, prices: Mapping[str, float]) -> bool:
    """Whether more measurement of a target could change the answer."""
    option = one.option
    if best is None or option.replicas is None or option.target == best.target:
        return True
    spare = option.replicas - one.needed
    cheapest = prices[option.target] * (one.hope + spare) / option.replicas
    return cheapest <= prices[best.target]


def _spare_of(best: Option | None, ranked: Sequence[Judged], question: Question) -> int:
    if best is None or best.replicas is None:
        return question.spare or 0
    return best.replicas - ranked[0].needed


def _crossovers(
    ranked: Sequence[Judged], prices: Mapping[str, float], question: Question
) -> tuple[Crossover, ...]:
    """Who is best from how many users on, up to four times what is asked or carried."""
    contenders = _contenders(ranked, prices)
    if question.demand.users is None:
        return ()
    return crossovers(contenders, question.spare, _compared_up_to(contenders, question))


def _pairs(
    ranked: Sequence[Judged], prices: Mapping[str, float], question: Question
) -> tuple[PairCrossovers, ...]:
    """The same between every two of the best ones."""
    contenders = _contenders(ranked, prices)[:MOST_PAIRED]
    if question.demand.users is None:
        return ()
    up_to = _compared_up_to(contenders, question)
    return tuple(
        PairCrossovers(a=a.target, b=b.target, crossovers=crossovers([a, b], question.spare, up_to))
        for a, b in combinations(contenders, 2)
    )


def _compared_up_to(contenders: Sequence[Contender], question: Question) -> int:
    most = max([question.demand.users or 0, *(c.capacity for c in contenders)])
    return min(4 * most, MOST_COMPARED)


def _contenders(ranked: Sequence[Judged], prices: Mapping[str, float]) -> list[Contender]:
    return [
        Contender(
            one.option.target,
            one.capacity,
            prices[one.option.target] / one.option.replicas,
            one.drawn,
        )
        for one in ranked
        if one.option.replicas
    ]


def _sensitivity(
    ranked: Sequence[Judged],
    targets: Sequence[TargetInfo],
    question: Question,
    rng: np.random.Generator,
) -> tuple[Sensitivity, ...]:
    """What the recommended target would need under other demands; nothing without one."""
    best = ranked[0] if ranked else None
    if best is None or best.evidence is None:
        return ()
    target = next(target for target in targets if target.name == best.option.target)
    return sensitivity_of(
        target, best.evidence, question, requests_per_s=best.requests_per_s, rng=rng
    )


def _simulated(
    ranked: Sequence[Judged],
    targets: Sequence[TargetInfo],
    question: Question,
    rng: np.random.Generator,
) -> tuple[Simulated | None, tuple[str, ...]]:
    """The recommended target's figures by simulation, and where these and the curves disagree."""
    best = ranked[0] if ranked else None
    if best is None or best.evidence is None or best.replica is None:
        return None, ()
    target = next(target for target in targets if target.name == best.option.target)
    found = simulated_beside(
        target, best.evidence, best.replica, question, best.needed, rng=rng.spawn(1)[0]
    )
    warnings = disagreements_of(
        target,
        best.option.predicted,
        found,
        question,
        question.load(best.needed),
        bound=is_bound(best.replica, question),
    )
    return found, warnings


def _unpriced(ranked: Sequence[Judged], question: Question) -> tuple[str, ...]:
    """A warning where prices were given, but not for each option: then none of them decides."""
    options = [one.option for one in ranked if one.option.replicas is not None]
    without = [option for option in options if option.cost_per_hour is None]
    if not question.gpu_cost or not without:
        return ()
    unit = "GPUs" if all(option.gpus is not None for option in options) else "replicas"
    so = f"the options are ranked by their number of {unit}, not by cost"
    warning = (
        f"no price is known for {', '.join(map(_priced_by, without))} (prices are given for "
        f"{', '.join(question.gpu_cost)}), so {so if options[1:] else 'no cost is told'}: add "
        f"--gpu-cost {without[0].hardware or without[0].target}=PRICE"
    )
    return (warning,)


def _priced_by(option: Option) -> str:
    """An option with the names by which its price is looked up: ``vllm (H100)``."""
    return f"{option.target} ({option.hardware})" if option.hardware else option.target


def _warnings(ranked: Sequence[Judged], targets: Sequence[TargetInfo]) -> tuple[str, ...]:
    told = [f"{target.name}: {warning}" for target in targets for warning in target.warnings]
    told += [warning for target in targets for warning in slots_warnings(target)]
    told += [warning for one in ranked for warning in one.warnings]
    return tuple(dict.fromkeys(told))


def _objectives(slo: Sequence[Slo]) -> str:
    return " and ".join(objective.text for objective in slo)
