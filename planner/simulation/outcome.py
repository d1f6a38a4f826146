"""What a simulation gave: the requests as columns, and their figures with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import special

from planner.errors import InputError
from planner.records import Estimate
from planner.units import metric_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.records import Slo
    from planner.simulation.requests import Requests

__all__ = ["Outcome"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BATCHES = 20
"""Of consecutive requests, whose figures are taken as independent (Law, Simulation Modeling and
Analysis, 2015, sec. 9.5.3)."""
CONFIDENCE = 0.9
METRICS = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """One simulation. All arrays are (n,), in order of arrival; moments in seconds.

    Attributes:
        arrival_s, scheduled_s, first_token_s, ended_s: moments; NaN where it did not come to that.
        prompt_tokens, output_tokens: lengths.
        replica: which served it; -1: refused.
        preemptions: how often it lost its place.
        in_flight_mean: mean number in flight until the last one ended, counted by the event loop
            and not from the moments above.
    """

    arrival_s: Array
    scheduled_s: Array
    first_token_s: Array
    ended_s: Array
    prompt_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    replica: npt.NDArray[np.int64]
    preemptions: npt.NDArray[np.int64]
    in_flight_mean: float

    @classmethod
    def of(cls, requests: Requests, in_flight_mean: float) -> Outcome:
        """From the lists of the event loop."""
        return cls(
            arrival_s=np.array(requests.arrival_s),
            scheduled_s=np.array(requests.scheduled_s),
            first_token_s=np.array(requests.first_token_s),
            ended_s=np.array(requests.ended_s),
            prompt_tokens=np.array(requests.prompt, dtype=np.int64),
            output_tokens=np.array(requests.output, dtype=np.int64),
            replica=np.array(requests.replica, dtype=np.int64),
            preemptions=np.array(requests.preemptions, dtype=np.int64),
            in_flight_mean=in_flight_mean,
        )

    @property
    def wait_s(self) -> Array:
        """(n,) from arrival to the batch."""
        return self.scheduled_s - self.arrival_s

    def latency_s(self, metric: str) -> Array:
        """(n,) ttft, tpot or e2e of each request; NaN where it has none."""
        if metric == "ttft":
            return self.first_token_s - self.arrival_s
        if metric == "e2e":
            return self.ended_s - self.arrival_s
        if metric != "tpot":
            raise InputError(f"a simulation has no {metric!r}: known are {', '.join(METRICS)}")
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1.0, np.nan)
        return (self.ended_s - self.first_token_s) / gaps

    def figures(
        self,
        percentiles: Iterable[float] = (0.5, 0.9, 0.95, 0.99),
        *,
        warm_up: float = 0.1,
        keep: Mask | None = None,
    ) -> dict[str, Estimate]:
        """Figures with their 90 % intervals, named as in ``OperatingPoint.figures``.

        The rates are over the time from the first counted arrival to the last end; leave the last
        requests of closed users out by ``keep``, since fewer and fewer are in flight then.

        Args:
            percentiles: as shares.
            warm_up: share of the first arrivals that is left out.
            keep: (n,) the requests to count, instead of those after the warm-up.

        Raises:
            InputError: nothing is left to count.
        """
        counted = np.arange(self.arrival_s.size) >= warm_up * self.arrival_s.size
        if keep is not None:
            counted = keep
        served = counted & np.isfinite(self.ended_s)
        if not served.any():
            raise InputError(f"none of {self.arrival_s.size} simulated requests can be counted")
        figures = {"error_rate": _mean((self.replica[counted] < 0).astype(np.float64))}
        span = float(self.ended_s[served].max() - self.arrival_s[counted].min())
        rates = {"requests_per_s": served.sum(), "output_tokens_per_s": self._tokens(served)}
        for name, total in rates.items():
            value = float(total) / span if span > 0 else math.inf
            figures[name] = Estimate(value=value, low=None, high=None, n=int(served.sum()))
        shares = tuple(percentiles)
        for metric in METRICS:
            values = self.latency_s(metric)[served]
            values = values[np.isfinite(values)]
            if values.size:
                figures[f"{metric}_mean_s"] = _mean(values)
                for share in shares:
                    figures[f"{metric}_p{share * 100:g}_s"] = _percentile(values, share)
        return figures

    def goodput_per_s(self, objectives: Iterable[Slo], *, warm_up: float = 0.1) -> float:
        """Requests per second that met every objective's bound, each by itself.

        Raises:
            InputError: an objective on something that a request does not have.
        """
        counted = np.arange(self.arrival_s.size) >= warm_up * self.arrival_s.size
        good = counted & np.isfinite(self.ended_s)
        span = float(self.ended_s[good].max() - self.arrival_s[counted].min()) if good.any() else 0
        for slo in objectives:
            if slo.figure == "error_rate":
                continue  # a refused request is not good already
            value = self.latency_s(metric_of(slo.figure))
            good &= (value <= slo.bound) | np.isnan(value)
        return float(good.sum()) / span if span > 0 else 0.0

    def _tokens(self, served: Mask) -> int:
        return int(self.output_tokens[served].sum())


def _mean(values: Array) -> Estimate:
    return _estimate(float(values.mean()), [float(b.mean()) for b in _batches(values)], values.size)


def _percentile(values: Array, share: float) -> Estimate:
    parts = [float(_quantile(batch, share)) for batch in _batches(values)]
    return _estimate(float(_quantile(values, share)), parts, values.size)


def _quantile(values: Array, share: float) -> float:
    """The smallest value that at least this share does not exceed."""
    rank = max(0, math.ceil(share * values.size - 1e-9) - 1)
    return float(np.partition(values, rank)[rank])


def _batches(values: Array) -> list[Array]:
    return list(np.array_split(values, BATCHES)) if values.size >= BATCHES else []


def _estimate(value: float, parts: list[float], n: int) -> Estimate:
    if not parts:
        return Estimate(value=value, low=None, high=None, n=n)
    half = float(special.stdtrit(len(parts) - 1, (1 + CONFIDENCE) / 2))
    half *= float(np.std(parts, ddof=1)) / math.sqrt(len(parts))
    return Estimate(value=value, low=value - half, high=value + half, n=n)
