"""Step times learnt from the levels of a closed loop, with how far they may be off.

What is measured at the levels up to the slots is a line in the requests in flight, and the time to
read a prompt. How much of the line's slope is the number of requests and how much is the tokens
that they hold, no run of one mix of lengths can tell. It matters where lengths change, so the best
guess is half of each, and the draws share the slope out in every way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.errors import InputError, Refused
from planner.simulation.traffic import Lengths
from planner.steptime import StepTime, fit_levels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.summary import LevelSample

__all__ = ["LearntSteps", "learn_steps", "lengths_of"]

Array = npt.NDArray[np.float64]

USUAL_MISFIT, USUAL_WEIGHT = 0.05, 3.0
"""Relative standard deviation of TPOT about a line on published curves (a left-out level is 2.5 %
off in the median, 12 % in one case of ten: docs/accuracy.md), and so many levels it counts for."""
WORST_MISFIT = 0.5
NO_SUCH_SERVER = (
    "the times that were measured do not grow with load as those of a batching server do"
)
COEFFICIENTS = 3
"""That levels of one mix of lengths can tell."""
HALF = 0.5


@dataclass(frozen=True, eq=False, kw_only=True)
class LearntSteps:
    """Step times of one target, and its mean lengths.

    Attributes:
        step: the best guess.
        draws: others that the measurement allows: its noise, its misfit of a line, and the shares
            of requests and of tokens in the slope.
        prompt_tokens, output_tokens: means over the levels.
        spread: mean square of the answers' lengths over their squared mean; 1: not known.
    """

    step: StepTime
    draws: tuple[StepTime, ...]
    prompt_tokens: float
    output_tokens: float
    spread: float

    def mean_s(self, step: StepTime, in_flight: int, times: float = 1.0) -> float:
        """Mean time of a step with so many in flight and answers so many times as long."""
        output = times * self.output_tokens
        decoding = in_flight * (1 - 1 / output)
        held = _held(self.prompt_tokens, output, self.spread)
        read = in_flight * self.prompt_tokens / output
        return float(step.seconds(decoding, decoding * held, read))


def learn_steps(
    curve: Sequence[LevelSample], slots: int, *, draws: int, rng: np.random.Generator
) -> LearntSteps:
    """Learn step times from the levels up to the slots.

    Args:
        curve: usable closed-loop levels of one target, one for each load, ascending.
        slots: sequences that the engine decodes at once.
        draws: how many.
        rng: source of randomness.

    Raises:
        Refused: too few levels up to the slots, a server that does not report its tokens and times,
            or times of no batching server; in a user's words, with what to measure.
    """
    levels = [sample for sample in curve if sample.point.load <= slots]
    if len(levels) < min(2, slots):
        first = "no level" if not levels else "only one level"
        wanted = "1 in flight" if slots == 1 else f"1 and {slots} in flight"
        raise Refused(
            f"{first} was measured with no more requests in flight than the {slots} that the "
            f"server answers at once: measure {wanted} to learn how load slows it down"
        )
    prompt, output = (
        _mean([getattr(sample.point, f"{what}_tokens_mean") for sample in levels])
        for what in ("prompt", "output")
    )
    times = [_rows(levels, metric) for metric in ("tpot", "ttft")]
    if prompt is None or output is None or times[0] is None or times[1] is None:
        raise Refused("the server does not report its tokens, or when the first of them came")
    lengths = lengths_of(curve)
    spread = 1.0 if lengths is None else _spread(lengths.output_tokens)
    held = _held(prompt, output, spread)
    tpot_s, ttft_s = times[0], times[1]
    loads = np.array([sample.point.load for sample in levels])
    step, residuals = _fitted(loads, tpot_s[0], ttft_s[0], prompt, output)
    misfit = _misfit(residuals)
    if not misfit <= WORST_MISFIT:
        raise Refused(NO_SUCH_SERVER)
    others = []
    shares = (rng.permutation(draws) + HALF) / draws
    rows = rng.integers(min(1, len(tpot_s) - 1), len(tpot_s), draws)
    for row, share in zip(rows, shares, strict=True):
        off = np.exp(misfit * rng.standard_normal((2, loads.size)))
        try:
            found, _ = _fitted(loads, tpot_s[row] * off[0], ttft_s[row] * off[1], prompt, output)
        except Refused:
            found = step  # a draw that no engine can be says nothing
        others.append(_shared(found, float(share), held))
    return LearntSteps(
        step=_shared(step, HALF, held),
        draws=tuple(others),
        prompt_tokens=prompt,
        output_tokens=output,
        spread=spread,
    )


def lengths_of(curve: Sequence[LevelSample]) -> Lengths | None:
    """Lengths of single requests of all levels; ``None`` where one level has none."""
    known = [sample.lengths for sample in curve if sample.lengths is not None]
    if not known or len(known) < len(curve):
        return None
    return Lengths(
        prompt_tokens=np.concatenate([lengths.prompt_tokens for lengths in known]),
        output_tokens=np.concatenate([lengths.output_tokens for lengths in known]),
    )


def _spread(outputs: npt.NDArray[np.int64]) -> float:
    return float((outputs.astype(float) ** 2).mean() / outputs.mean() ** 2)


def _held(prompt: float, output: float, spread: float) -> float:
    """Tokens that a request holds at a moment: long answers are met more often than short ones."""
    return prompt + output * spread / 2


def _mean(reported: Sequence[float | None]) -> float | None:
    known = [value for value in reported if value]
    return float(np.mean(known)) if known and len(known) == len(reported) else None


def _rows(levels: Sequence[LevelSample], metric: str) -> Array | None:
    """Means of a metric, (1 + B, levels); ``None`` where a level does not tell it."""
    if any(metric not in sample.means for sample in levels):
        return None
    fewest = min(sample.means[metric].size for sample in levels)
    rows = np.stack([sample.means[metric][:fewest] for sample in levels], axis=-1)
    return rows if np.isfinite(rows).all() and (rows > 0).all() else None


def _fitted(
    loads: Array, tpot_s: Array, ttft_s: Array, prompt: float, output: float
) -> tuple[StepTime, Array]:
    """A step time without a share of tokens in its slope, and its relative residuals.

    Raises:
        Refused: the least squares make of it a step that takes no time.
    """
    if loads.size == 1:  # one slot: a step is always of one sequence
        reading_s = max(0.0, float(ttft_s[0] - tpot_s[0]))
        step = StepTime(base_s=float(tpot_s[0]), per_prompt_token_s=reading_s / prompt)
        return step, np.zeros(0)
    lengths = np.full_like(loads, prompt), np.full_like(loads, output)
    try:
        fit = fit_levels(loads, tpot_s, ttft_s, *lengths)
    except InputError as error:
        raise Refused(NO_SUCH_SERVER) from error
    return fit.step, fit.residuals


def _misfit(residuals: Array) -> float:
    """Relative standard deviation about a line: what these levels show, shrunk to the usual."""
    free = max(0, residuals.size - COEFFICIENTS)
    squares = USUAL_WEIGHT * USUAL_MISFIT**2 + float(residuals @ residuals)
    return float((squares / (USUAL_WEIGHT + free)) ** 0.5)


def _shared(step: StepTime, share: float, held: float) -> StepTime:
    """The same step time for requests that hold so many tokens, with a share by their tokens."""
    slope_s = step.per_sequence_s
    return replace(
        step, per_sequence_s=(1 - share) * slope_s, per_context_token_s=share * slope_s / held
    )
