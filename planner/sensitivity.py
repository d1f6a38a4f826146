"""What the answer becomes when the demand is another than stated, with the model behind each.

A plan is as good as its guess at the load. Three guesses are often wrong: how long answers are,
how long people think, how bursty requests come. Each is put to the recommended target again.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.errors import Refused
from planner.longer import longer_levels
from planner.predict import Load
from planner.ranking import spares_of
from planner.records import Arrivals, Sensitivity
from planner.staffing import Fleet, capacity_of, replica_of
from planner.units import format_rate

if TYPE_CHECKING:
    from planner.pooling import Evidence
    from planner.question import Question
    from planner.records import Label, TargetInfo
    from planner.summary import LevelSample

__all__ = ["AZURE_CODE_DISPERSION", "AZURE_CODE_SCV", "sensitivity_of"]

AZURE_CODE_SCV = 173.0
"""C² of the gaps between requests in Azure's code trace of 2023 (Patel et al., Splitwise, ISCA
2024; our computation). Of its conversation trace 1.2, of Mooncake's 9.2."""
AZURE_CODE_DISPERSION = (
    (0.5, 7.7), (1.0, 13.2), (2.0, 23.7), (5.0, 47.5), (10.0, 71.3), (30.0, 123.0), (60.0, 161.0),
)  # fmt: skip
"""Variance over mean of the number of requests in that trace, by window in seconds."""
DRAWS = 60
"""Bootstrap draws behind these figures: they show a direction, not a plan."""
EVENTS = 4_000
"""Of a simulated chain, for the same reason."""
_ORDER: tuple[Label, ...] = ("measured", "interpolated", "extrapolated", "refused")


def sensitivity_of(
    target: TargetInfo,
    evidence: Evidence,
    question: Question,
    *,
    requests_per_s: float,
    rng: np.random.Generator,
) -> tuple[Sensitivity, ...]:
    """The replicas that other demands need on a target.

    Args:
        target: the target.
        evidence: its usable levels.
        question: the demand as stated.
        requests_per_s: what it comes to on the target.
        rng: source of randomness.
    """
    evidence = dataclasses.replace(
        evidence,
        curve=tuple(map(_fewer_draws, evidence.curve)),
        thinking=tuple(map(_fewer_draws, evidence.thinking)),
    )
    found = [_longer_outputs(target, evidence, question, rng)]
    if question.demand.users is None:
        found.append(_twice_the_rate(target, evidence, question, rng))
    elif question.demand.think_time_s > 0:
        found.append(_half_the_think_time(target, evidence, question, rng))
    if question.demand.arrivals is None or not question.demand.arrivals.dispersion:
        found.append(_bursts(target, evidence, question, requests_per_s, rng))
    return tuple(found)


def _half_the_think_time(
    target: TargetInfo, evidence: Evidence, question: Question, rng: np.random.Generator
) -> Sensitivity:
    think_time_s = question.demand.think_time_s / 2
    demand = msgspec.structs.replace(question.demand, think_time_s=think_time_s)
    asked = dataclasses.replace(question, demand=demand)
    return _answered("think time halves", target, evidence, asked, rng)


def _twice_the_rate(
    target: TargetInfo, evidence: Evidence, question: Question, rng: np.random.Generator
) -> Sensitivity:
    stream = question.demand.arrivals
    assert stream is not None  # noqa: S101 - the caller looked
    twice = msgspec.structs.replace(stream, rate_per_s=2 * stream.rate_per_s)
    demand = msgspec.structs.replace(question.demand, arrivals=twice)
    asked = dataclasses.replace(question, demand=demand)
    return _answered("requests come twice as often", target, evidence, asked, rng)


def _bursts(
    target: TargetInfo,
    evidence: Evidence,
    question: Question,
    rate: float,
    rng: np.random.Generator,
) -> Sensitivity:
    """The same requests per second, in bursts, and nobody waits for an answer to ask again."""
    what = f"requests come in bursts as in Azure's code trace (C² of gaps {AZURE_CODE_SCV:.0f})"
    bursty = Arrivals(rate_per_s=rate, dispersion=AZURE_CODE_DISPERSION, gap_scv=AZURE_CODE_SCV)
    demand = msgspec.structs.replace(question.demand, users=None, think_time_s=0.0, arrivals=bursty)
    asked = dataclasses.replace(question, demand=demand, routing=None)
    return _answered(
        what,
        target,
        evidence,
        asked,
        rng,
        why=f"{format_rate(rate)} requests/s, as variable as there while one is served, split at "
        f"random",
        at_best="extrapolated",
    )


def _longer_outputs(
    target: TargetInfo, evidence: Evidence, question: Question, rng: np.random.Generator
) -> Sensitivity:
    """Twice the tokens at the measured pace: a step costs the same, a request takes more of them.

    Left out: the larger KV cache slows each step and holds fewer sequences, so the truth is no
    better than this.
    """
    what = "answers are twice as long"
    slots, top = target.slots, evidence.curve[-1].point.load
    if slots is not None and top > slots:
        return _longer_waits(what, target, evidence, question, slots, rng)
    levels = [_stretched(sample) for sample in evidence.curve]
    stretched = tuple(sample for sample in levels if sample is not None)
    if len(stretched) < len(levels):
        return _refused(what, "the server does not count its tokens: measure such answers")
    return _answered(
        what,
        target,
        dataclasses.replace(evidence, curve=stretched, thinking=()),
        question,
        rng,
        why="at the measured TPOT and TTFT, at best; measure such answers to know",
        at_best="extrapolated",
    )


def _longer_waits(
    what: str,
    target: TargetInfo,
    evidence: Evidence,
    question: Question,
    slots: int,
    rng: np.random.Generator,
) -> Sensitivity:
    """The same where requests wait for slots, so that waits grow too: by simulation."""
    try:
        curve = longer_levels(evidence.curve, 2, slots, rng)
    except Refused as refusal:
        return _refused(what, f"the wait for a slot grows with the answers, and {refusal}")
    return _answered(
        what,
        target,
        dataclasses.replace(evidence, curve=curve, thinking=()),
        question,
        rng,
        why=f"simulated: step times fitted to the levels up to {slots} slots; measure such answers",
        at_best="extrapolated",
    )


def _stretched(sample: LevelSample) -> LevelSample | None:
    """A level as it would be with twice the output tokens; ``None`` where it cannot be told."""
    tokens, tpot = sample.point.output_tokens_mean, sample.means.get("tpot")
    if tokens is None or tokens < 2 or tpot is None or not np.isfinite(tpot).all():  # noqa: PLR2004
        return None
    before_s = sample.point.load / sample.requests_per_s  # Little's law
    factor = (before_s + tokens * tpot) / before_s
    quantiles, means = dict(sample.quantiles), dict(sample.means)
    if "e2e" in quantiles:
        quantiles["e2e"] = quantiles["e2e"] * factor[:, np.newaxis]
        means["e2e"] = means["e2e"] * factor
    point = msgspec.structs.replace(sample.point, output_tokens_mean=2 * tokens)
    return dataclasses.replace(
        sample,
        point=point,
        requests_per_s=sample.requests_per_s / factor,
        quantiles=quantiles,
        means=means,
    )


def _answered(
    what: str,
    target: TargetInfo,
    evidence: Evidence,
    question: Question,
    rng: np.random.Generator,
    *,
    why: str | None = None,
    at_best: Label = "measured",
) -> Sensitivity:
    """The replicas that a question needs, or that it cannot be told."""
    replica = replica_of(target, evidence, question, rng=rng)
    sure = capacity_of(replica, question).at(question.confidence)
    if sure == 0:
        return Sensitivity(
            what=what,
            replicas=None,
            gpus=None,
            label="refused",
            why=f"not sure to meet the objectives even with {question.least} on a replica"
            if replica.label(Load(1, question.think_time_s)) != "refused"
            else "further than the measured levels reach: measure higher ones",
        )
    fleet = Fleet(replica, question, rng=rng, events=EVENTS)
    needed = fleet.needed(question.needed(sure))
    replicas = needed + spares_of(needed, question.spare)
    label = max(at_best, fleet.at(needed).label(question.load(needed)), key=_ORDER.index)
    per_replica = target.gpus_per_replica
    return Sensitivity(
        what=what,
        replicas=replicas,
        gpus=None if per_replica is None else replicas * per_replica,
        label=label,
        why=why,
    )


def _refused(what: str, why: str) -> Sensitivity:
    return Sensitivity(what=what, replicas=None, gpus=None, label="refused", why=why)


def _fewer_draws(sample: LevelSample) -> LevelSample:
    rows = slice(None, DRAWS + 1)
    return dataclasses.replace(
        sample,
        requests_per_s=sample.requests_per_s[rows],
        output_tokens_per_s=sample.output_tokens_per_s[rows],
        quantiles={name: values[rows] for name, values in sample.quantiles.items()},
        means={name: values[rows] for name, values in sample.means.items()},
    )
