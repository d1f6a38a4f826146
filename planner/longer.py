"""Levels as they would be with longer answers, where requests wait for slots: by simulation.

While every request has a slot, longer answers take more steps of the same length. Once requests
wait, the wait grows with the answers too, which no formula of means gives for percentiles. So
the step time is learnt from the levels that fit into the slots, each level is simulated with the
measured and with the longer answers, and what was measured is multiplied by their ratio. The same
random numbers drive both, and an error of the step time that is alike in both cancels. What does
not cancel, above all how much of a step is due to the tokens that it holds, is in the replicates:
each has the ratio of another step time that the measurement allows. That of the means is a formula,
so that only the best guess need be simulated.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.level_steps import learn_steps, lengths_of
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths
from planner.summary import QUANTILE_LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from planner.level_steps import LearntSteps
    from planner.simulation.outcome import Outcome
    from planner.steptime import StepTime
    from planner.summary import LevelSample

    Array = npt.NDArray[np.float64]

__all__ = ["longer_levels"]

ROUNDS, LEAST_REQUESTS, MOST_REQUESTS = 5, 1000, 2000
"""Answers of each user that are simulated, within these numbers of requests in all."""
MOST_LEVELS = 6
"""Of more levels only so many are simulated, the ends among them: it is to show a direction."""
BATCH_TOKENS = 2048
"""Of a step: vLLM's default; it matters little, since both simulations have it."""
DRAWS = 60
"""Step times that the replicates share out among them."""
POPULATION = 1000
"""Lengths that are made up where those of single requests are not known."""


def longer_levels(
    curve: Sequence[LevelSample], factor: float, slots: int, rng: np.random.Generator
) -> tuple[LevelSample, ...]:
    """Levels of a closed loop with answers ``factor`` times as long, of many levels only some.

    Lengths are drawn from those measured, or as exponential about the mean where only that is
    known.

    Args:
        curve: usable levels, ascending; some of them up to the slots.
        factor: how many times as long, above 0.
        slots: sequences that the engine decodes at once.
        rng: source of randomness.

    Raises:
        Refused: too few levels up to the slots to learn a step time from, or a server that does not
            report tokens.
    """
    steps = learn_steps(curve, slots, draws=DRAWS, rng=rng)
    lengths = lengths_of(curve) or _made_up(steps, rng)
    ratios = _Ratios(steps, lengths, factor, slots, int(rng.integers(2**32)))
    kept = np.unique(np.linspace(0, len(curve) - 1, MOST_LEVELS).round().astype(int))
    return tuple(ratios.longer(curve[i]) for i in kept)


def _made_up(steps: LearntSteps, rng: np.random.Generator) -> Lengths:
    outputs = np.maximum(2, np.round(steps.output_tokens * rng.standard_exponential(POPULATION)))
    prompts = np.full(POPULATION, max(1, round(steps.prompt_tokens)), dtype=np.int64)
    return Lengths(prompt_tokens=prompts, output_tokens=outputs.astype(np.int64))


class _Ratios:
    """What answers of another length change, level by level."""

    def __init__(
        self, steps: LearntSteps, lengths: Lengths, factor: float, slots: int, seed: int
    ) -> None:
        self._steps, self._factor, self._slots, self._seed = steps, factor, slots, seed
        self._engine = Engine(step=steps.step, slots=slots, batch_tokens=BATCH_TOKENS + slots)
        outputs = np.maximum(2, np.round(factor * lengths.output_tokens)).astype(np.int64)
        self._before = lengths
        self._after = dataclasses.replace(lengths, output_tokens=outputs)

    def longer(self, sample: LevelSample) -> LevelSample:
        """One level, each figure times its simulated ratio, of each replicate its own."""
        users = round(sample.point.load)
        count = min(max(ROUNDS * users, LEAST_REQUESTS), MOST_REQUESTS)
        kept = slice(min(2 * users, count // 3), count - min(users, count // 3))
        before, after = (self._simulated(users, of, count) for of in (self._before, self._after))
        rows = sample.requests_per_s.size
        others = self._others(users, rows)
        slower = _rate(before, kept) / _rate(after, kept) * others
        quantiles, mean = dict(sample.quantiles), dict(sample.means)
        for metric, measured in sample.quantiles.items():
            if metric == "itl":
                continue  # a step is a step
            old, new = (outcome.latency_s(metric)[kept] for outcome in (before, after))
            old, new = (values[np.isfinite(values)] for values in (old, new))
            ratio = np.quantile(new, QUANTILE_LEVELS) / np.quantile(old, QUANTILE_LEVELS)
            slow = np.maximum.accumulate(measured * ratio, axis=1)
            own = np.ones(rows) if metric == "ttft" and users <= self._slots else others
            quantiles[metric] = slow * own[:, np.newaxis]
            mean[metric] = mean[metric] * float(new.mean() / old.mean()) * own
        tokens = sample.point.output_tokens_mean
        point = msgspec.structs.replace(
            sample.point, output_tokens_mean=None if tokens is None else self._factor * tokens
        )
        return dataclasses.replace(
            sample,
            point=point,
            requests_per_s=sample.requests_per_s / slower,
            output_tokens_per_s=sample.output_tokens_per_s * self._factor / slower,
            quantiles=quantiles,
            means=mean,
            lengths=None,
        )

    def _others(self, users: int, rows: int) -> Array:
        """By replicate, what longer answers do to its mean step over what they do to the best one.

        (rows,), 1 in row 0, the sample itself. TPOT follows it, how long a slot is held too, and
        with it all that waits for slots.
        """
        served = min(users, self._slots)
        best = self._of_means(self._steps.step, served)
        drawn = np.array([self._of_means(step, served) for step in self._steps.draws]) / best
        return np.concatenate([np.ones(1), drawn[np.arange(rows - 1) % len(drawn)]])

    def _of_means(self, step: StepTime, served: int) -> float:
        return self._steps.mean_s(step, served, self._factor) / self._steps.mean_s(step, served)

    def _simulated(self, users: int, lengths: Lengths, count: int) -> Outcome:
        """A closed loop of users who do not think."""
        rng = np.random.default_rng(self._seed)
        source = ClosedUsers(users, 0.0, lengths, requests=count, rng=rng)
        return simulate(self._engine, source, rng=rng)


def _rate(outcome: Outcome, kept: slice) -> float:
    """Requests per second between the ends of the first and the last one kept."""
    ended: npt.NDArray[np.float64] = np.sort(outcome.ended_s)[kept]
    return (ended.size - 1) / float(ended[-1] - ended[0])
