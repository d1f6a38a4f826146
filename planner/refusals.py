"""Why a target cannot be judged, or not yet, and the command that would change that."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from planner.arrivals import STEPS
from planner.curves import cross_check
from planner.predict import share_met
from planner.roofline import IMPOSSIBLE
from planner.units import format_figure, metric_of, percentile_of

if TYPE_CHECKING:
    from planner.capacity import Capacity
    from planner.pooling import Evidence
    from planner.predict import Replica
    from planner.question import Question
    from planner.records import OperatingPoint, Predicted, Slo, TargetInfo
    from planner.summary import LevelSample

__all__ = [
    "Refusal",
    "irregular",
    "load_word",
    "measure_command",
    "measure_rate_command",
    "measure_users_command",
    "not_carried",
    "refusal_of",
    "why_none",
]

Refusal = tuple[str, tuple[str, ...]]
"""The reason, and the measurements that would lift it, best first."""

SAME_LENGTH = 0.10
"""Mean prompt and output lengths may differ by this share from what was measured."""
TRICKLE = 0.05
"""Arrivals that keep a replica busy for less than this share of the time meet nobody."""
IRREGULAR = 0.25
"""Two curves that differ by more than this share warn of an irregular or a wrong measurement."""


def refusal_of(target: TargetInfo, evidence: Evidence, question: Question) -> Refusal | None:
    """Why nothing can be predicted at all, with what to measure."""
    checks = (_impossible, _nothing_usable, _other_size, _other_lengths, _not_reported)
    return next((found for check in checks if (found := check(target, evidence, question))), None)


def _impossible(target: TargetInfo, evidence: Evidence, _: Question) -> Refusal | None:
    """A level beyond what the hardware can do: then none was made by what is declared."""
    for sample, why in evidence.rejected:
        if IMPOSSIBLE in why:
            again = measure_command(target, round(sample.point.load), "as it really is")
            return f"at {sample.point.load:g} {load_word(sample)} {why}", (again,)
    return None


def _nothing_usable(target: TargetInfo, evidence: Evidence, _: Question) -> Refusal | None:
    if evidence.curve:
        return None
    why = "no level was measured"
    if evidence.thinking:
        why = "only users with think time were measured, no level of fixed concurrency"
    if evidence.rejected:
        why = evidence.rejected[0][1]
    return f"no usable level: {why}", (measure_command(target, 1, "the low end of the curve"),)


def _other_size(target: TargetInfo, _: Evidence, question: Question) -> Refusal | None:
    """Another number of GPUs per replica than was measured.

    Twice the GPUs gave from ×0.18 to ×1.61 of the throughput in published measurements (median
    ×1.61 from one to two with tensor parallelism, ×1.18 from four to eight, ×0.98 with layers
    split), so no gain can be assumed.
    """
    gpus, had = question.demand.gpus_per_replica, target.gpus_per_replica
    if gpus is None or gpus == had:
        return None
    hardware = target.hardware or "GPU"
    measured = f"{had} {hardware} per replica" if had is not None else "an unknown number of GPUs"
    reason = (
        f"measured with {measured}, {gpus} were asked for: what more GPUs give is never assumed, "
        f"only measured"
    )
    load = f"--hardware {shlex.quote(f'{target.name}={gpus}x{hardware}')}"
    return reason, (_command(target, load, f"served by {gpus} GPUs"),)


def _other_lengths(target: TargetInfo, evidence: Evidence, question: Question) -> Refusal | None:
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
                return reason, (measure_command(target, 1, f"and up, with {flag} {asked:.0f}"),)
    return None


def _not_reported(target: TargetInfo, evidence: Evidence, question: Question) -> Refusal | None:
    for slo in question.slo:
        for sample in (*evidence.curve, *evidence.thinking):
            point = sample.point
            if point.source != "measured" and slo.figure not in point.figures:
                reason = f"{slo.text}: {_missing(point, slo.figure)}"
                why = f"its {slo.figure.removesuffix('_s')}"
                return reason, (measure_command(target, round(point.load), why),)
        metric = metric_of(slo.figure)
        if slo.figure == "error_rate":
            continue
        of_mean = percentile_of(slo.figure) is None
        if any(metric not in (s.means if of_mean else s.quantiles) for s in evidence.curve):
            return f"{slo.text}: this target does not report {metric.upper()}", ()
    return None


def _missing(point: OperatingPoint, figure: str) -> str:
    """What an imported level has in place of a figure."""
    metric = metric_of(figure)
    others = [name.removesuffix("_s") for name in point.figures if name.startswith(f"{metric}_")]
    has = f"only {', '.join(others)}" if others else f"no {metric.upper().replace('_', ' ')}"
    wanted = figure.removesuffix("_s")
    return f"the file of {point.source} has {has} at {point.load:g}, not {wanted}"


def irregular(target: TargetInfo, evidence: Evidence) -> tuple[str, ...]:
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


def why_none(
    target: TargetInfo, replica: Replica, capacity: Capacity, question: Question
) -> Refusal:
    """Why no number of replicas is enough, and what to measure unless that is certain."""
    part = question.rate(1)
    if part is not None and part > TRICKLE * float(replica.rates[0, 0]):
        return f"it would take more than {STEPS:,} replicas, and no more are planned for", ()
    lowest = round(float(replica.levels[0]))
    one = capacity.load(1)
    worst = min(question.slo, key=lambda slo: share_met(replica.met(one, slo)))
    figure = replica.predict(one, worst.figure)
    value = "" if figure.value is None else f" ({_figure(worst, figure)})"
    if capacity.probability(1) > 1 - question.confidence:
        reason = f"not sure to meet {worst.text} even with {question.least}{value}"
        why = f"longer: it is not sure for {question.least}"
        return reason, (measure_command(target, lowest, why),)
    if lowest > 1:
        reason = f"misses {worst.text} at {lowest} in flight, the lowest level measured{value}"
        return reason, (measure_command(target, 1, "the low end of the curve"),)
    return f"misses {worst.text} even with {question.least}{value}", ()


def not_carried(
    target: TargetInfo, replica: Replica, question: Question, needed: int
) -> Refusal | None:
    """Why the evidence does not carry a number of replicas that its curves give."""
    if replica.levels.size == 1 and needed > 1:
        level = round(float(replica.levels[0]))
        reason = f"only {level} in flight was measured, which says nothing about higher loads"
        return reason, (measure_command(target, 2 * level, "a second level of the curve"),)
    for slo in question.slo:
        sample = replica.unbounded_at(question.load(needed), slo.figure)
        if sample is not None:
            reason = (
                f"{slo.text}: {sample.point.completed} answers at {sample.point.load:g} "
                f"{load_word(sample)} cannot bound this percentile from above"
            )
            level = round(sample.point.load)
            return reason, (measure_command(target, level, "longer, to bound it"),)
    return None


def measure_command(target: TargetInfo, level: int, why: str) -> str:
    """One command for the user, with its reason."""
    return _command(target, f"--concurrency {level}", why)


def measure_users_command(target: TargetInfo, users: int, think_time_s: float, why: str) -> str:
    """One command that measures people instead of requests in flight."""
    think = f" --think-time {think_time_s:g}s" if think_time_s else ""
    return _command(target, f"--users {users}{think}", why)


def measure_rate_command(target: TargetInfo, rate_per_s: float, why: str) -> str:
    """One command that measures requests that wait for nobody."""
    return _command(target, f"--rate {rate_per_s:.3g}/s", why)


def _command(target: TargetInfo, load: str, why: str) -> str:
    model = f"#{target.model}" if target.model else ""
    spec = shlex.quote(f"{target.backend}={target.url}{model}")
    return f"headroom measure {spec} {load} --out RUN  ({target.name}: {why})"


def load_word(sample: LevelSample) -> str:
    """What the number of a level counts."""
    words = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}
    return words[sample.point.load_kind]


def _figure(slo: Slo, figure: Predicted) -> str:
    value = format_figure(slo.figure, figure.value or 0.0)
    if figure.low is None or figure.high is None:
        return value
    low, high = (format_figure(slo.figure, end) for end in (figure.low, figure.high))
    return f"{value}, between {low} and {high}"
