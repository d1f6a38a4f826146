"""An engine that batches, under arrivals that wait for nobody: a birth-death chain in closed form.

n requests in flight finish at rate mu(n) = min(n, S) / (L·tau(min(n, S))), where S is the number
of slots, L the mean output length and tau the step time. With Poisson arrivals and outputs of
geometric length (every token may be the last) this is a Markov chain with
p(n) = p(0)·prod(lambda / mu(i)); beyond S the rate stays, so the tail is geometric and those who
wait do so exponentially at rate mu(S) - lambda. It generalises Erlang C (tau constant) and
processor sharing (tau proportional to n, S large); Kleinrock, Queueing Systems I, 1975, sec. 3.2.

What it leaves out (lengths that are not geometric, a KV cache that runs full, prompts read in
steps of their own) is what ``planner.simulate`` is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from planner.errors import InputError
from planner.queueing import Waiting, allen_cunneen

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.steptime import StepTime

__all__ = ["OpenBatch", "open_batch", "predict_open", "service_rates"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenBatch:
    """The stationary chain.

    Attributes:
        arrivals_per_s: lambda.
        rates: (S,) mu(1)..mu(S).
        found: (S + 1,) probability that an arrival finds 0..S - 1 in flight, and S or more. Zero
            but for the last where the load cannot be carried.
        waiting: the wait for a slot.
    """

    arrivals_per_s: float
    rates: Array
    found: Array
    waiting: Waiting

    @property
    def in_service_mean(self) -> float:
        """Mean number of busy slots."""
        return float(self.found @ np.arange(self.found.size))

    @property
    def in_flight_mean(self) -> float:
        """Mean number of requests in flight, the waiting ones included (Little)."""
        return self.in_service_mean + self.arrivals_per_s * self.waiting.mean_s

    @property
    def response_s(self) -> float:
        """Mean time from arrival to the last token; infinite beyond the capacity."""
        if self.arrivals_per_s == 0:
            return 1 / float(self.rates[0])
        return self.in_flight_mean / self.arrivals_per_s


def service_rates(
    step: StepTime, slots: int, *, prompt_tokens_mean: float, output_tokens_mean: float
) -> Array:
    """mu(1)..mu(S) in requests per second, from the steady step of each batch size.

    Args:
        step: the step time.
        slots: S, at least 1.
        prompt_tokens_mean: mean prompt length, tokens.
        output_tokens_mean: L, at least 1.
    """
    if slots < 1 or not output_tokens_mean >= 1 or not prompt_tokens_mean >= 0:
        raise InputError(
            f"an engine needs at least 1 slot and requests of at least 1 output token: got "
            f"{slots} slots, {prompt_tokens_mean} prompt and {output_tokens_mean} output tokens"
        )
    n = np.arange(1, slots + 1)
    return np.asarray(
        n / (output_tokens_mean * step.steady(n, prompt_tokens_mean, output_tokens_mean))
    )


def open_batch(arrivals_per_s: float, rates: npt.ArrayLike) -> OpenBatch:
    """Solve the chain.

    Args:
        arrivals_per_s: lambda, Poisson.
        rates: (S,) mu(1)..mu(S), requests per second; mu(S) holds beyond S.

    Raises:
        InputError: a negative arrival rate, or a service rate that is not positive.
    """
    mu = np.asarray(rates, dtype=float)
    if mu.size == 0 or not (np.isfinite(mu) & (mu > 0)).all():
        raise InputError("service rates must be positive and finite, one for each batch size")
    if not 0 <= arrivals_per_s < math.inf:
        raise InputError(f"an arrival rate of {arrivals_per_s} per second cannot be used")
    found = np.zeros(mu.size + 1)
    drain = float(mu[-1]) - arrivals_per_s
    if drain <= 0:
        found[-1] = 1.0
    elif arrivals_per_s == 0:
        found[0] = 1.0
    else:
        weight = np.concatenate([[0.0], np.cumsum(math.log(arrivals_per_s) - np.log(mu))])
        weight[-1] += math.log(mu[-1]) - math.log(drain)  # S and all beyond: a geometric sum
        found = np.exp(weight - weight.max())
        found /= found.sum()
    waiting = Waiting(probability=float(found[-1]), drain_per_s=max(0.0, drain))
    return OpenBatch(arrivals_per_s=arrivals_per_s, rates=mu, found=found, waiting=waiting)


def predict_open(
    step: StepTime,
    slots: int,
    arrivals_per_s: float,
    *,
    prompt_tokens_mean: float,
    output_tokens_mean: float,
    percentiles: Iterable[float] = (0.5, 0.9, 0.95, 0.99),
    arrival_scv: float = 1.0,
) -> dict[str, float]:
    """Figures of one replica in an open loop, named as in ``OperatingPoint.figures``.

    The time to the first token is the wait and then the step that reads the prompt beside the
    batch found: quantiles are those of the mixture over what an arrival finds, never the sum of
    two quantiles. Infinite where the rate cannot be carried.

    Args:
        step: the step time.
        slots: sequences that the engine decodes at once.
        arrivals_per_s: requests per second.
        prompt_tokens_mean: tokens, taken as the same for all requests.
        output_tokens_mean: tokens; their distribution is taken as geometric.
        percentiles: of TTFT, as shares.
        arrival_scv: squared coefficient of variation of the gaps between arrivals; other than 1
            the wait is stretched by Allen and Cunneen.
    """
    rates = service_rates(
        step, slots, prompt_tokens_mean=prompt_tokens_mean, output_tokens_mean=output_tokens_mean
    )
    chain = open_batch(arrivals_per_s, rates)
    wait = allen_cunneen(chain.waiting, arrival_scv, 1.0)
    beside = np.minimum(np.arange(slots + 1), slots - 1)
    held = beside * (prompt_tokens_mean + output_tokens_mean / 2)
    prefill = step.seconds(beside, held, prompt_tokens_mean)
    ttft = float(chain.found @ prefill) + wait.mean_s
    e2e = chain.response_s - chain.waiting.mean_s if math.isfinite(wait.mean_s) else math.inf
    e2e += wait.mean_s
    busy = np.minimum(np.arange(slots + 1), slots)
    tokens = chain.found * np.concatenate([[0.0], rates])  # of all tokens, made in each state
    steps = step.steady(np.maximum(busy, 1), prompt_tokens_mean, output_tokens_mean)
    figures = {
        "requests_per_s": min(arrivals_per_s, float(rates[-1])),
        "output_tokens_per_s": min(arrivals_per_s, float(rates[-1])) * output_tokens_mean,
        "ttft_mean_s": ttft,
        "e2e_mean_s": e2e,
        "tpot_mean_s": float(tokens @ steps / tokens.sum()) if tokens.any() else float(steps[0]),
    }
    for share in percentiles:
        figures[f"ttft_p{share * 100:g}_s"] = _ttft_quantile(chain.found, prefill, wait, share)
    return figures


def _ttft_quantile(found: Array, prefill: Array, wait: Waiting, share: float) -> float:
    """Where P(TTFT > t) falls to 1 - share."""

    def excess(seconds: float) -> float:
        at_once = float(found[:-1] @ (prefill[:-1] > seconds))
        late = seconds - float(prefill[-1])
        waited = wait.exceeds(late) if late >= 0 else float(found[-1])
        return at_once + waited - (1 - share)

    # Nobody who waits t gets the first token later than t and the longest step.
    high = float(prefill.max()) + wait.quantile_s(share)
    if math.isinf(high) or excess(0.0) <= 0:
        return high if math.isinf(high) else 0.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))
