"""How many requests are in flight when users think between requests: exact, closed form.

A closed network of U users, each of whom thinks for Z seconds on average and then waits for the
server, whose throughput X(n) depends on the n requests it holds. With thinking users leaving at
rate (U - n)/Z and requests ending at rate X(n) this is a birth-death chain: the machine-repair
model with load-dependent service, which load-dependent mean value analysis solves too (Lazowska
et al., Quantitative System Performance, 1984, ch. 8; Kleinrock, Queueing Systems I, sec. 3.8).
Its solution holds for think times of any distribution with that mean (BCMP, 1975).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

__all__ = ["in_flight", "in_flight_seen", "throughput"]

Array = npt.NDArray[np.float64]


def in_flight(users: int, think_time_s: float, rates: npt.ArrayLike) -> Array:
    """Stationary distribution of the number of requests in flight.

    p(n) is proportional to U!/(U - n)! · Z^-n / (X(1)···X(n)), taken in logarithms, so that
    thousands of users neither overflow nor underflow.

    Args:
        users: U, at least 0.
        think_time_s: Z, seconds; 0 keeps every user's request in flight.
        rates: (..., m) throughput with 1..m requests in flight, requests per second. With m < U
            the chain is cut at m: users beyond wait outside.

    Returns:
        (..., min(U, m) + 1) probabilities of 0, 1, ... requests in flight.
    """
    rates = np.asarray(rates, dtype=float)
    most = min(users, rates.shape[-1])
    n = np.arange(most + 1)
    if think_time_s == 0:
        return np.broadcast_to((n == most).astype(float), (*rates.shape[:-1], most + 1))
    ways = gammaln(users + 1) - gammaln(users - n + 1) - n * np.log(think_time_s)
    weight = np.broadcast_to(ways, (*rates.shape[:-1], most + 1)).copy()
    weight[..., 1:] -= np.cumsum(np.log(rates[..., :most]), axis=-1)
    weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


def in_flight_seen(users: int, think_time_s: float, rates: npt.ArrayLike) -> Array:
    """What a user who sends a request finds in flight: the network without that user.

    The arrival theorem (Lavenberg and Reiser, 1980; Sevcik and Mitrani, 1981).

    Args:
        users: U, at least 1.
        think_time_s: Z, seconds.
        rates: (..., m) as for ``in_flight``.

    Returns:
        (..., min(U - 1, m) + 1) probabilities of finding 0, 1, ... requests.
    """
    return in_flight(users - 1, think_time_s, rates)


def throughput(distribution: Array, rates: npt.ArrayLike) -> Array:
    """Requests per second: the mean of X(n) over the distribution of ``in_flight``, (...)."""
    rates = np.asarray(rates, dtype=float)[..., : distribution.shape[-1] - 1]
    return np.asarray((distribution[..., 1:] * rates).sum(axis=-1))
