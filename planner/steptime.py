"""How long one step of a batching engine takes, and how that is learnt from measurements.

A step generates one token for each of B sequences and may read prompt tokens beside it:
tau = a + b·B + c·K + d·P, where K counts the context tokens held for the B sequences and P the
prompt tokens read (Yu et al., Orca, OSDI 2022; Agrawal et al., Sarathi-Serve, OSDI 2024; Agrawal
et al., Vidur, MLSys 2024). a is the weights' way through the memory, c that of the KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from planner.errors import InputError, Refused

__all__ = ["NORMAL_MAD", "StepFit", "StepTime", "fit_levels", "fit_steps", "steps_from_gaps"]

Array = npt.NDArray[np.float64]

HUBER = 1.345
"""Residuals beyond this many robust standard deviations count less (95 % efficient, Huber 1964)."""
ROUNDS = 20
SAME_MIX = 0.05
"""Levels whose requests hold the same number of tokens to this share have one mix of lengths."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step. All four coefficients are at least 0, and not all of the first two."""

    base_s: float
    per_sequence_s: float = 0.0
    per_context_token_s: float = 0.0
    per_prompt_token_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no engine can do.

        Raises:
            InputError: a negative or infinite coefficient, or a step that takes no time.
        """
        values = np.array(self.coefficients)
        if not (np.isfinite(values) & (values >= 0)).all() or values[:2].sum() == 0:
            raise InputError(
                f"step times {self.coefficients} cannot be: each must be finite and at least 0, "
                f"and a step of one sequence must take some time"
            )

    @property
    def coefficients(self) -> tuple[float, float, float, float]:
        """(a, b, c, d) in seconds."""
        return (
            self.base_s,
            self.per_sequence_s,
            self.per_context_token_s,
            self.per_prompt_token_s,
        )

    def seconds(
        self, sequences: npt.ArrayLike, context: npt.ArrayLike = 0, prompt: npt.ArrayLike = 0
    ) -> Array:
        """Step times with these sequences, context tokens and prompt tokens (all one shape)."""
        a, b, c, d = self.coefficients
        batch, held, read = (np.asarray(x, dtype=float) for x in (sequences, context, prompt))
        return np.asarray(a + b * batch + c * held + d * read)

    def steady(self, in_flight: npt.ArrayLike, prompt: float, output: float) -> Array:
        """Mean over all steps with n requests of these mean lengths in flight, in steady state.

        Each request reads its prompt in one of its ``output`` steps and decodes in the others; it
        holds its prompt and, on average, half its output. n over this and ``output`` is the
        throughput.
        """
        n = np.asarray(in_flight, dtype=float)
        decoding = n * (1 - 1 / output)
        return self.seconds(decoding, decoding * (prompt + output / 2), n * prompt / output)

    def tpot(self, in_flight: npt.ArrayLike, prompt: float, output: float) -> Array:
        """Mean over the steps of a decoding request that has n - 1 others beside it.

        Its own prompt is read by then, so only those of the others are in its way.
        """
        others = np.asarray(in_flight, dtype=float) - 1
        decoding = 1 + others * (1 - 1 / output)
        return self.seconds(decoding, decoding * (prompt + output / 2), others * prompt / output)


@dataclass(frozen=True, eq=False, kw_only=True)
class StepFit:
    """A fitted step time.

    Attributes:
        step: the coefficients.
        covariance: (4, 4) of (a, b, c, d) in s²; NaN in the rows of coefficients held at 0.
        residuals: (n,) measured over fitted, less 1.
        domain: the most sequences, context tokens and prompt tokens of a step that it has seen.
    """

    step: StepTime
    covariance: Array
    residuals: Array
    domain: tuple[float, float, float]


def fit_steps(
    sequences: npt.ArrayLike,
    context: npt.ArrayLike,
    prompt: npt.ArrayLike,
    seconds: npt.ArrayLike,
) -> StepFit:
    """Fit a, b, c, d >= 0 to measured steps by robust relative least squares.

    Residuals are relative, since steps span orders of magnitude; Huber weights keep stalls of the
    client or the engine from bending the fit.

    Args:
        sequences: (n,) B of each step.
        context: (n,) K of each step, tokens.
        prompt: (n,) P of each step, tokens.
        seconds: (n,) measured duration of each step.

    Raises:
        InputError: shapes differ, or a value is not finite, negative, or a duration not above 0.
        Refused: fewer steps than coefficients that they can tell: of what no step had any nothing
            is asked, and its coefficient is 0.
    """
    columns = [np.asarray(x, dtype=float) for x in (sequences, context, prompt)]
    took = np.asarray(seconds, dtype=float)
    if any(x.shape != took.shape or x.ndim != 1 for x in columns):
        raise InputError("steps need as many sequences, context and prompt tokens as durations")
    if (
        not all((np.isfinite(x) & (x >= 0)).all() for x in columns)
        or not (np.isfinite(took) & (took > 0)).all()
    ):
        raise InputError("steps need finite counts of at least 0 and durations above 0 s")
    design = np.column_stack([np.ones_like(took), *columns])
    asked = np.count_nonzero(design.any(axis=0))
    if took.size < asked:
        few = f"{took.size} {'time was' if took.size == 1 else 'times were'} measured"
        raise Refused(
            f"only {few}, and at least {asked} are needed to learn how long the server takes for "
            f"more requests and for longer prompts",
            ("measure at 1, 2, 4 and 8 requests in flight",),
        )
    relative = design / took[:, None]
    weights = np.ones_like(took)
    for _ in range(ROUNDS):
        found = _non_negative(relative * weights[:, None], weights)
        misfit = np.abs(relative @ found - 1)
        spread = max(NORMAL_MAD * float(np.median(misfit)), 1e-9)
        weights = np.sqrt(np.minimum(1.0, HUBER * spread / np.maximum(misfit, 1e-300)))
    fitted = design @ found
    return StepFit(
        step=_step(found),
        covariance=_covariance(relative * weights[:, None], found, weights),
        residuals=took / fitted - 1,
        domain=tuple(float(x.max()) for x in columns),  # type: ignore[arg-type]
    )


def fit_levels(
    concurrency: npt.ArrayLike,
    tpot_s: npt.ArrayLike,
    ttft_s: npt.ArrayLike,
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
) -> StepFit:
    """Fit a step time to the means of closed-loop levels.

    A level's TPOT is what ``StepTime.tpot`` says of its concurrency. The TTFT of the least loaded
    level is the step that reads the prompt; at higher levels it holds queueing too, and is left
    out. With one mix of lengths b and c cannot be told apart, only their sum along that mix: then
    c is 0, b is the sum, and two levels are enough.

    Args:
        concurrency: (n,) requests in flight, at most the engine's slots.
        tpot_s: (n,) mean seconds per output token.
        ttft_s: (n,) mean seconds to the first token.
        prompt_tokens: (n,) mean prompt tokens.
        output_tokens: (n,) mean output tokens.

    Raises:
        InputError, Refused: as ``fit_steps``.
    """
    n, tpot, ttft, prompt, output = (
        np.asarray(x, dtype=float)
        for x in (concurrency, tpot_s, ttft_s, prompt_tokens, output_tokens)
    )
    if n.size == 0 or not (output > 0).all():
        raise InputError("levels need at least one measurement with output tokens")
    least = int(np.argmin(n))
    others = n - 1
    decoding = 1 + others * (1 - 1 / output)
    held = prompt + output / 2
    if np.ptp(held) <= SAME_MIX * held.max():
        held = np.zeros_like(held)
    return fit_steps(
        np.append(decoding, others[least]),
        np.append(decoding * held, others[least] * held[least]),
        np.append(others * prompt / output, prompt[least]),
        np.append(tpot, ttft[least]),
    )


def steps_from_gaps(
    first_token_s: npt.ArrayLike,
    gaps_s: npt.ArrayLike,
    gap_offsets: npt.ArrayLike,
    prompt_tokens: npt.ArrayLike,
) -> tuple[Array, Array, Array, Array]:
    """Steps of one server as its clients saw them: every gap between two tokens is a step.

    What was in the batch is counted over all requests at the moment the gap begins; prompts count
    in the gap in which their first token came. Reads the columns of ``planner.table``; requests
    without a first token take part only where they have one.

    Args:
        first_token_s: (n,) moments of the first tokens; NaN where there was none.
        gaps_s: (g,) gaps between tokens, request after request.
        gap_offsets: (n + 1,) request i owns ``gaps_s[gap_offsets[i]:gap_offsets[i + 1]]``.
        prompt_tokens: (n,) prompt tokens.

    Returns:
        (g',) sequences, context tokens, prompt tokens and seconds, for ``fit_steps``. Gaps of
        zero (tokens that came in one receive) are left out.
    """
    first, gaps = np.asarray(first_token_s, dtype=float), np.asarray(gaps_s, dtype=float)
    offsets = np.asarray(gap_offsets, dtype=np.int64)
    prompts = np.asarray(prompt_tokens, dtype=float)
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(counts.size), counts)
    elapsed = np.concatenate([[0.0], np.cumsum(gaps)])
    ends = first[owner] + elapsed[1:] - np.repeat(elapsed[offsets[:-1]], counts)
    starts = ends - gaps
    last = first + elapsed[offsets[1:]] - elapsed[offsets[:-1]]
    seen = np.isfinite(first) & np.isfinite(prompts)
    tokens = np.concatenate([first[seen], ends[seen[owner]]])
    first, last, prompts, made = first[seen], last[seen], prompts[seen], counts[seen] + 1.0
    use = seen[owner] & (gaps > 0)
    starts, ends = starts[use], ends[use]
    sequences = _sum_until(first, starts) - _sum_until(last, starts)
    context = (
        _sum_until(first, starts, prompts)
        - _sum_until(last, starts, prompts + made)
        + _sum_until(tokens, starts)
    )
    read = _sum_until(first, ends, prompts) - _sum_until(first, starts, prompts)
    return sequences, context, read, ends - starts


def _sum_until(moments: Array, until: Array, values: Array | None = None) -> Array:
    """Sum of the values (or count) of what happened at or before each moment."""
    order = np.argsort(moments)
    sums = np.arange(moments.size + 1.0)
    if values is not None:
        sums = np.concatenate([[0.0], np.cumsum(values[order])])
    return sums[np.searchsorted(moments[order], until + _TICK, side="right")]


_TICK = 1e-6
"""Stamps of one step agree to this many seconds."""


def _non_negative(design: Array, target: Array) -> Array:
    """Non-negative least squares with columns of one scale, as its tolerance is absolute."""
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1
    found, _ = nnls(design / scale, target)
    return np.asarray(found / scale)


def _covariance(design: Array, found: Array, target: Array) -> Array:
    """Of the coefficients above 0: s²·(A'A)^-1."""
    free = np.flatnonzero(found > 0)
    rest = design @ found - target
    scatter = float(rest @ rest) / max(1, target.size - free.size)
    out = np.full((found.size, found.size), np.nan)
    out[np.ix_(free, free)] = scatter * np.linalg.pinv(design[:, free].T @ design[:, free])
    return out


def _step(found: Array) -> StepTime:
    a, b, c, d = (float(x) for x in found)
    return StepTime(base_s=a, per_sequence_s=b, per_context_token_s=c, per_prompt_token_s=d)
