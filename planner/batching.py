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
    output_scv: float = 1.0,
) -> dict[str, float]:
    """Figures of one replica in an open loop, named as in ``OperatingPoint.figures``.

    The time to the first token is the wait for a slot, or the rest of the running step, and then
    the step that reads the prompt beside the batch found. Its quantiles are those of the mixture
    over what an arrival finds, never the sum of two quantiles. Latencies are infinite where the
    rate cannot be carried.

    Args:
        step: the step time.
        slots: sequences that the engine decodes at once.
        arrivals_per_s: requests per second.
        prompt_tokens_mean: tokens, taken as the same for all requests.
        output_tokens_mean: tokens.
        percentiles: of TTFT, as shares.
        arrival_scv: squared coefficient of variation of the gaps between arrivals (1: Poisson).
        output_scv: that of the output lengths (1: geometric). With it and ``arrival_scv`` the
            wait is stretched by Allen and Cunneen.
    """
    prompt, output = prompt_tokens_mean, output_tokens_mean
    rates = service_rates(step, slots, prompt_tokens_mean=prompt, output_tokens_mean=output)
    chain = open_batch(arrivals_per_s, rates)
    # Only decoding varies in length; reading prompts is the same work for all.
    reading = slots * prompt * step.per_prompt_token_s / output
    varies = 1 - reading / float(step.steady(slots, prompt, output))
    wait = allen_cunneen(chain.waiting, arrival_scv, output_scv * varies**2)
    start = _Start.of(step, slots, prompt, output)
    ttft = wait.mean_s + float(chain.found @ (start.residual_mean_s + start.reads_s))
    in_slot = chain.in_service_mean / arrivals_per_s if arrivals_per_s > 0 else 1 / float(rates[0])
    e2e = wait.mean_s + in_slot + float(chain.found @ start.residual_mean_s)
    completed = min(arrivals_per_s, float(rates[-1]))
    tokens = chain.found[1:] * rates if arrivals_per_s > 0 else np.eye(1, slots)[0]
    figures = {
        "requests_per_s": completed,
        "output_tokens_per_s": completed * output,
        "ttft_mean_s": ttft,
        "e2e_mean_s": e2e,
        "tpot_mean_s": float(
            tokens @ step.tpot(np.arange(1, slots + 1), prompt, output) / tokens.sum()
        ),
    }
    for share in percentiles:
        figures[f"ttft_p{share * 100:g}_s"] = _ttft_quantile(chain.found, start, wait, share)
    return figures


@dataclass(frozen=True, eq=False, kw_only=True)
class _Start:
    """What an arrival that finds 0..S in flight goes through once there is a slot; all (S + 1,).

    The step that runs when it comes must end first; most such steps are longer than the mean one,
    as a step that reads a prompt takes more of the time than of the steps. Who waited for a slot
    gets it at the end of a step.
    """

    reads_s: Array  # the step that reads its prompt
    plain_s: Array  # a running step that reads none
    reading_s: Array  # a running step that reads one
    in_reading: Array  # share of the time in steps that read one

    @classmethod
    def of(cls, step: StepTime, slots: int, prompt: float, output: float) -> _Start:
        n = np.minimum(np.arange(slots + 1), slots - 1)
        held = n * (prompt + output / 2)
        # An empty step may take no time at all, which nothing may be divided by.
        plain = np.maximum(step.seconds(n, held), _LEAST_S)
        reading = np.maximum(step.seconds(n, held, prompt), _LEAST_S)
        often = np.minimum(1.0, n / output)
        return cls(
            reads_s=reading,
            plain_s=plain,
            reading_s=reading,
            in_reading=often * reading / (often * reading + (1 - often) * plain),
        )

    @property
    def residual_mean_s(self) -> Array:
        """Mean rest of the running step."""
        mean = (self.in_reading * self.reading_s + (1 - self.in_reading) * self.plain_s) / 2
        mean[[0, -1]] = 0.0
        return np.asarray(mean)

    def exceeds(self, seconds: float) -> Array:
        """P(rest of the running step + reading step > t)."""
        late = seconds - self.reads_s
        over = self.in_reading * np.clip(1 - late / self.reading_s, 0, 1)
        over += (1 - self.in_reading) * np.clip(1 - late / self.plain_s, 0, 1)
        over[[0, -1]] = late[[0, -1]] < 0
        return np.asarray(over)


def _ttft_quantile(found: Array, start: _Start, wait: Waiting, share: float) -> float:
    """Where P(TTFT > t) falls to 1 - share."""
    if math.isinf(wait.quantile_s(share)):
        return math.inf

    def excess(seconds: float) -> float:
        waited = wait.exceeds(max(0.0, seconds - float(start.reads_s[-1])))
        return float(found[:-1] @ start.exceeds(seconds)[:-1]) + waited - (1 - share)

    if excess(0.0) <= 0:
        return 0.0
    high = float(start.reads_s.max())
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=_LEAST_S))


_LEAST_S = 1e-9
"""A shorter time than any that is measured."""
