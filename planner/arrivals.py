"""Requests that wait for nobody: what one replica feels under a rate of arrivals, bursts included.

Bursts are batches: a Poisson stream of batches whose sizes are geometric with mean b has a variance
of 2b - 1 times the mean in the number of arrivals, whatever the window, so any dispersion I >= 1
has its b (b = 1 is plain Poisson; smoother traffic counts as Poisson, which can only overstate the
queue). Real traffic is more dispersed the longer one looks (Azure's code trace: 24 in two seconds,
160 in a minute), and what fills a server is what comes while it serves one request, so that I is
taken at the time that a request takes (Fendick & Whitt, *Proc. IEEE* 77, 1989). Split at random
over replicas, a share q of such a stream has 1 + q (I - 1): splitting calms bursts.

With X(n) requests per second finishing while n are in flight, the number in flight is a birth and
death chain with batch births. Geometric batches have no memory, so the balance of flow across the
cut between n and n + 1 closes (Kleinrock, *Queueing Systems I*, 1975, sec. 4.5 for constant X):
X(n+1) p(n+1) = (v + a X(n)) p(n), with v batches per second and a = 1 - 1/b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from planner.predict import EVERY, Replica

if TYPE_CHECKING:
    from planner.predict import Load
    from planner.records import Arrivals

__all__ = [
    "STEPS",
    "OpenReplica",
    "batches_of",
    "dispersion_at",
    "open_in_flight",
    "open_in_flight_seen",
    "split_dispersion",
]

Array = npt.NDArray[np.float64]

STEPS = 10_000
"""Into so many equal parts a demanded rate is cut, so that a load is a whole number of them."""


def split_dispersion(dispersion: float, share: float) -> float:
    """I of a share of a stream that is split at random: 1 + q (I - 1)."""
    return 1 + share * (max(dispersion, 1.0) - 1)


def dispersion_at(stream: Arrivals, seconds: float) -> float:
    """I of a stream in windows of a length, between the known ones in log-log, at least 1."""
    if not stream.dispersion:
        return 1.0
    windows, values = np.array(stream.dispersion, dtype=float).T
    logs = np.log(np.maximum(values, 1.0))
    return float(np.exp(np.interp(np.log(seconds), np.log(windows), logs)))


def open_in_flight(rate_per_s: float, dispersion: float, rates: npt.ArrayLike) -> Array:
    """Stationary distribution of the number of requests in flight.

    Args:
        rate_per_s: arrivals per second, above 0.
        dispersion: I, variance over mean of their number in a window; below 1 counts as 1.
        rates: (..., m) throughput with 1..m requests in flight, requests per second. The chain is
            cut at m: where the load is more than X(m) the mass stands there.

    Returns:
        (..., m + 1) probabilities of 0, 1, ... m.
    """
    rates = np.asarray(rates, dtype=float)
    batches, a = batches_of(rate_per_s, dispersion)
    before = np.concatenate([np.zeros((*rates.shape[:-1], 1)), rates[..., :-1]], axis=-1)
    weight = np.zeros((*rates.shape[:-1], rates.shape[-1] + 1))
    np.cumsum(np.log((batches + a * before) / rates), axis=-1, out=weight[..., 1:])
    weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def open_in_flight_seen(rate_per_s: float, dispersion: float, rates: npt.ArrayLike) -> Array:
    """What an arriving request finds, those of its own batch before it included.

    Batches see the stationary state (PASTA), and the place in its batch of a request is geometric
    like the batch: the sum of both is (1 - a)(1 + a X(n)/v) p(n).

    Args:
        rate_per_s: as for ``open_in_flight``.
        dispersion: as for ``open_in_flight``.
        rates: as for ``open_in_flight``.

    Returns:
        (..., m) probabilities of finding 0, 1, ... m - 1 requests; all beyond stands at m - 1.
    """
    rates = np.asarray(rates, dtype=float)
    batches, a = batches_of(rate_per_s, dispersion)
    found = (1 - a) * open_in_flight(rate_per_s, dispersion, rates)
    found[..., 1:] *= 1 + a * rates / batches
    seen = found[..., :-1].copy()
    seen[..., -1] += np.maximum(1 - seen.sum(axis=-1), 0)
    return np.asarray(seen)


def batches_of(rate_per_s: float, dispersion: float) -> tuple[float, float]:
    """Batches per second, and the chance that another request follows in a batch.

    Arguments as for ``open_in_flight``.
    """
    size = (max(dispersion, 1.0) + 1) / 2
    return rate_per_s / size, 1 - 1 / size


class OpenReplica(Replica):
    """One replica under a share of a stream of arrivals.

    ``Load.users`` counts parts of the demanded stream, of which it has ``STEPS``; ``Load``'s think
    time is infinite: nobody who was answered comes back.
    """

    def __init__(self, *levels: Any, rate_per_s: float, dispersion: float, **facts: Any) -> None:
        """Draw the curves.

        Args:
            levels: as for ``Replica``; levels of thinking users are no evidence here.
            rate_per_s: arrivals of the whole stream per second.
            dispersion: I of that stream.
            facts: as for ``Replica``.
        """
        super().__init__(*levels, **facts)
        self._rate_per_s, self._dispersion = rate_per_s, dispersion

    def rate_of(self, load: Load) -> float:
        """Arrivals per second of a load."""
        return self._rate_per_s * load.users / STEPS

    def concurrency(self, load: Load, rows: slice = EVERY) -> Array:
        """Distribution of the concurrency that a request is served at: (R, m) for 1..m."""
        return open_in_flight_seen(self.rate_of(load), self._burst(load), self.rates[rows])

    def in_flight(self, load: Load) -> Array:
        """Share of the time with 0, 1, ... requests in flight, (R, m + 1)."""
        return open_in_flight(self.rate_of(load), self._burst(load), self.rates)

    def _burst(self, load: Load) -> float:
        return split_dispersion(self._dispersion, load.users / STEPS)
