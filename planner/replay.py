"""Step times from a recorded run: replay its arrivals until the simulated moments match.

Records of a server hold when each request came, got its first token and ended, but not its steps:
queueing, prompts read beside decoding and preemptions stand between them. The simulator knows how
these come about, so the four coefficients are those with which it gives the recorded moments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from planner.errors import InputError, Refused
from planner.simulate import simulate
from planner.simulation.traffic import OpenArrivals
from planner.steptime import StepFit, StepTime
from planner.traces import Trace

if TYPE_CHECKING:
    from planner.simulation.engine import Engine
    from planner.simulation.outcome import Outcome

__all__ = ["fit_replay", "rough_step"]

Array = npt.NDArray[np.float64]

LEAST_MOMENTS = 20
"""Recorded moments that a fit of four coefficients needs."""
USUAL = 0.05
"""Relative misfit beyond which a moment counts less (soft L1)."""
DIFFERENCES = (0.1, 0.03)
"""Relative steps of the derivatives, one search after the other: a step caught or missed, a
preemption more or less make the moments jump, and a wide difference looks past that."""
MOST_ROUNDS = 15
FASTEST = 0.05
"""Share of the requests that are fastest; the very fastest may be a fault of the clock."""
REACH = np.array([5.0, 50.0, 50.0, 5.0])
"""How far from the start each coefficient is looked for, as a factor. A run always shows a and d
well; without a bound the search may give one of them up and lose itself."""
DOUBLES_SEQUENCES, DOUBLES_CONTEXT = 200, 120_000
"""About so many sequences (or prompt tokens), or context tokens, double the step of a small
batch: where arithmetic, or the cache, weighs as much as the weights do. Only a place to start."""


def rough_step(first_token_s: Array, ended_s: Array, output_tokens: npt.ArrayLike) -> StepTime:
    """A step time to start from: that of the fastest requests, and usual proportions.

    Args:
        first_token_s: (n,) moments of the first tokens.
        ended_s: (n,) moments of the last ones.
        output_tokens: (n,) tokens generated.

    Raises:
        Refused: no request of two tokens or more that took time.
    """
    output = np.asarray(output_tokens, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = (ended_s - first_token_s) / (output - 1)
    usable = np.isfinite(tpot) & (tpot > 0)
    if not usable.any():
        raise Refused(
            "no request shows the time per token",
            ("measure outputs of at least 2 tokens",),
        )
    least = float(np.quantile(tpot[usable], FASTEST))
    return StepTime(
        base_s=least,
        per_sequence_s=least / DOUBLES_SEQUENCES,
        per_context_token_s=least / DOUBLES_CONTEXT,
        per_prompt_token_s=least / DOUBLES_SEQUENCES,
    )


def fit_replay(
    engine: Engine,
    trace: Trace,
    first_token_s: Array,
    ended_s: Array,
    *,
    until_s: float,
) -> StepFit:
    """Fit a step time to what one replica was seen to do before a moment.

    Robust least squares on the logarithms of TTFT, E2E and their difference. The coefficients
    share the work of explaining one run: b and c especially are less certain than what they
    predict together (see the covariance).

    Args:
        engine: the settings it ran with; its step time is where the search starts.
        trace: all arrivals and lengths.
        first_token_s: (n,) moments on the trace's clock; NaN where there was none.
        ended_s: (n,) moments of the last tokens.
        until_s: moments after this one are not looked at.

    Raises:
        InputError: as many moments as arrivals are needed.
        Refused: too few moments before ``until_s``.
    """
    if not first_token_s.shape == ended_s.shape == trace.arrival_s.shape:
        raise InputError("a replay needs a first and a last token's moment for each arrival")
    known = trace.arrival_s < until_s
    past = Trace(
        arrival_s=trace.arrival_s[known],
        prompt_tokens=trace.prompt_tokens[known],
        output_tokens=trace.output_tokens[known],
    )
    first, last = first_token_s[known], ended_s[known]
    began = (first < until_s) & (first > past.arrival_s)
    ended = (last < until_s) & (last > first)
    if began.sum() + ended.sum() < LEAST_MOMENTS:
        raise Refused(
            f"{began.sum()} first and {ended.sum()} last tokens before {until_s:g} s are too few "
            f"to learn a step time from: at least {LEAST_MOMENTS} together are needed",
            ("record for longer",),
        )

    def moments(begin: Array, end: Array) -> Array:
        return np.concatenate(
            [
                np.log((begin - past.arrival_s)[began]),
                np.log((end - past.arrival_s)[ended]),
                np.log(np.maximum(end - begin, _LEAST_S)[ended]),
            ]
        )

    recorded = moments(first, last)
    # Whether an arrival still catches a step moves its first token by one: it is known to a step.
    seconds = np.exp(recorded)
    jitter = float(np.median((last - first)[ended] / np.maximum(1, past.output_tokens[ended] - 1)))
    weights = 1 / (1 + jitter / (USUAL * seconds))
    weights[began.sum() + ended.sum() :] = 1

    def misfit(logs: Array) -> Array:
        outcome = _replay(engine, past, _step(logs))
        return weights * (moments(outcome.first_token_s, outcome.ended_s) - recorded)

    start = np.log(np.maximum(engine.step.coefficients, _LEAST_S**2))
    bounds = start - np.log(REACH), start + np.log(REACH)
    for difference in DIFFERENCES:
        best = least_squares(
            misfit,
            start,
            bounds=bounds,
            loss="soft_l1",
            f_scale=USUAL,
            diff_step=np.full(start.size, difference),
            max_nfev=MOST_ROUNDS,
        )
        start = best.x
    found = np.exp(best.x)
    rest, jacobian = np.asarray(best.fun), np.asarray(best.jac)
    scatter = float(rest @ rest) / max(1, rest.size - found.size)
    return StepFit(
        step=_step(best.x),
        covariance=scatter * np.linalg.pinv(jacobian.T @ jacobian) * np.outer(found, found),
        residuals=np.expm1(-rest),
        domain=_domain(past, first, last, engine),
    )


_LEAST_S = 1e-9


def _step(logs: Array) -> StepTime:
    a, b, c, d = (float(x) for x in np.exp(logs))
    return StepTime(base_s=a, per_sequence_s=b, per_context_token_s=c, per_prompt_token_s=d)


def _replay(engine: Engine, trace: Trace, step: StepTime) -> Outcome:
    # One replica: the router has nothing to draw.
    rng = np.random.default_rng(0)
    return simulate(replace(engine, step=step), OpenArrivals.replay(trace), rng=rng)


def _domain(trace: Trace, first: Array, last: Array, engine: Engine) -> tuple[float, float, float]:
    """The most that decoded at once, that they held, and that one step read."""
    seen = np.isfinite(first) & np.isfinite(last)
    order = np.argsort(np.concatenate([first[seen], last[seen]]), kind="stable")
    held = (trace.prompt_tokens + trace.output_tokens)[seen].astype(float)
    sequences = np.cumsum(np.repeat([1.0, -1.0], held.size)[order]).max()
    context = np.cumsum(np.concatenate([held, -held])[order]).max()
    read = min(engine.batch_tokens, int(trace.prompt_tokens.sum()))
    limit = np.inf if engine.kv_tokens is None else engine.kv_tokens
    return float(sequences), float(min(context, limit)), float(read)
