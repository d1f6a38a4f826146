"""Levels as they would be with longer answers, where requests wait for slots: by simulation.

While every request has a slot, longer answers take more steps of the same length. Once requests
wait, the wait grows with the answers too, which no formula of means gives for percentiles. So
the step time is fitted to the levels that fit into the slots, each level is simulated with the
measured and with the longer answers, and what was measured is multiplied by their ratio. The same
random numbers drive both, and an error of the fitted step that is alike in both cancels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.errors import Refused
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths
from planner.steptime import fit_levels
from planner.summary import QUANTILE_LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from planner.simulation.outcome import Outcome
    from planner.steptime import StepTime
    from planner.summary import LevelSample

__all__ = ["longer_levels"]

ROUNDS, LEAST_REQUESTS, MOST_REQUESTS = 5, 500, 2000
"""Answers of each user that are simulated, within these numbers of requests in all."""
MOST_LEVELS = 6
"""Of more levels only so many are simulated, the ends among them: it is to show a direction."""
BATCH_TOKENS = 2048
"""Of a step: vLLM's default; it matters little, since both simulations have it."""


def longer_levels(
    curve: Sequence[LevelSample], factor: float, slots: int, rng: np.random.Generator
) -> tuple[LevelSample, ...]:
    """Levels of a closed loop with answers ``factor`` times as long, of many levels only some.

    Lengths of answers are drawn as exponential about the measured mean.

    Args:
        curve: usable levels, ascending; some of them up to the slots.
        factor: how many times as long, above 0.
        slots: sequences that the engine decodes at once.
        rng: source of randomness.

    Raises:
        Refused: too few levels up to the slots to learn a step time from, or a server that does not
            report tokens.
    """
    step, prompt, output = _step_of([s for s in curve if s.point.load <= slots])
    engine = Engine(step=step, slots=slots, batch_tokens=BATCH_TOKENS + slots)
    seed = int(rng.integers(2**32))
    kept = np.unique(np.linspace(0, len(curve) - 1, MOST_LEVELS).round().astype(int))
    return tuple(_longer(curve[i], factor, engine, (prompt, output), seed) for i in kept)


def _step_of(levels: Sequence[LevelSample]) -> tuple[StepTime, float, float]:
    """The step time, and the mean lengths of prompts and answers."""
    points = [sample.point for sample in levels]
    prompts = [point.prompt_tokens_mean for point in points if point.prompt_tokens_mean]
    outputs = [point.output_tokens_mean for point in points if point.output_tokens_mean]
    told = all("tpot" in sample.means and "ttft" in sample.means for sample in levels)
    if not levels or not told or min(len(prompts), len(outputs)) < len(levels):
        raise Refused("the levels up to the slots do not tell their tokens and times", ())
    fitted = fit_levels(
        [point.load for point in points],
        [float(sample.means["tpot"][0]) for sample in levels],
        [float(sample.means["ttft"][0]) for sample in levels],
        prompts,
        outputs,
    )
    return fitted.step, float(np.mean(prompts)), float(np.mean(outputs))


def _longer(
    sample: LevelSample, factor: float, engine: Engine, means: tuple[float, float], seed: int
) -> LevelSample:
    """One level, each figure times its simulated ratio."""
    users = round(sample.point.load)
    count = min(max(ROUNDS * users, LEAST_REQUESTS), MOST_REQUESTS)
    kept = slice(min(2 * users, count // 3), count - min(users, count // 3))
    before, after = (
        _simulated(engine, users, (means[0], means[1], times), count, seed) for times in (1, factor)
    )
    slower = _rate(before, kept) / _rate(after, kept)
    quantiles, mean = dict(sample.quantiles), dict(sample.means)
    for metric, measured in sample.quantiles.items():
        if metric == "itl":
            continue  # a step is a step
        old, new = (outcome.latency_s(metric)[kept] for outcome in (before, after))
        old, new = (values[np.isfinite(values)] for values in (old, new))
        ratio = np.quantile(new, QUANTILE_LEVELS) / np.quantile(old, QUANTILE_LEVELS)
        quantiles[metric] = np.maximum.accumulate(measured * ratio, axis=1)
        mean[metric] = mean[metric] * float(new.mean() / old.mean())
    tokens = sample.point.output_tokens_mean
    point = msgspec.structs.replace(
        sample.point, output_tokens_mean=None if tokens is None else factor * tokens
    )
    return dataclasses.replace(
        sample,
        point=point,
        requests_per_s=sample.requests_per_s / slower,
        output_tokens_per_s=sample.output_tokens_per_s * factor / slower,
        quantiles=quantiles,
        means=mean,
    )


def _simulated(
    engine: Engine, users: int, mean: tuple[float, float, float], count: int, seed: int
) -> Outcome:
    """A closed loop of users who do not think, of prompts of one length."""
    rng = np.random.default_rng(seed)
    prompt, output, times = mean
    drawn = np.maximum(2, np.round(times * output * rng.standard_exponential(count)))
    prompts = np.full(count, max(1, round(prompt)), dtype=np.int64)
    lengths = Lengths(prompt_tokens=prompts, output_tokens=drawn.astype(np.int64))
    source = ClosedUsers(users, 0.0, lengths, requests=count, rng=rng)
    return simulate(engine, source, rng=rng)


def _rate(outcome: Outcome, kept: slice) -> float:
    """Requests per second between the ends of the first and the last one kept."""
    ended: npt.NDArray[np.float64] = np.sort(outcome.ended_s)[kept]
    return (ended.size - 1) / float(ended[-1] - ended[0])
