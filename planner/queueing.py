"""Queues whose answer is a formula: who waits, how long, and how many are in flight.

Open systems: Erlang B and C, M/M/c, M/G/1, M/M/1 processor sharing, the Allen-Cunneen correction
for traffic that is not Poisson, and square-root staffing. All rates are per second, loads in
erlangs (the mean number of busy servers if none ever refused).

Closed system: U users, each of whom thinks for Z seconds on average and then waits for the
server, whose throughput X(n) depends on the n requests it holds. With thinking users leaving at
rate (U - n)/Z and requests ending at rate X(n) this is a birth-death chain: the machine-repair
model with load-dependent service, which load-dependent mean value analysis solves too (Lazowska
et al., Quantitative System Performance, 1984, ch. 8; Kleinrock, Queueing Systems I, sec. 3.8).
Its solution holds for think times of any distribution with that mean (BCMP, 1975).
Networks of several stations are in ``planner.mva``, engines that batch in ``planner.batching``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr

from planner.errors import InputError

__all__ = [
    "Waiting",
    "allen_cunneen",
    "erlang_b",
    "erlang_c",
    "halfin_whitt",
    "in_flight",
    "in_flight_seen",
    "mg1_wait",
    "mmc",
    "ps_response",
    "servers_for_wait",
    "square_root_staffing",
    "throughput",
]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Time in a queue that is exponential once there is any: P(W > t) = P(W > 0)·e^(-r·t).

    Attributes:
        probability: P(W > 0), in [0, 1].
        drain_per_s: r, at which the queue empties; 0 where it never does (a load of 1 or more).
    """

    probability: float
    drain_per_s: float

    @property
    def mean_s(self) -> float:
        """E[W] over all requests, the ones that do not wait included."""
        if self.probability == 0:
            return 0.0
        return self.probability / self.drain_per_s if self.drain_per_s > 0 else math.inf

    def exceeds(self, seconds: float) -> float:
        """P(W > t)."""
        return self.probability * math.exp(-self.drain_per_s * seconds)

    def quantile_s(self, share: float) -> float:
        """The wait that this share of the requests does not exceed, 0 <= share < 1."""
        if 1 - share >= self.probability:
            return 0.0
        if self.drain_per_s == 0:
            return math.inf
        return math.log(self.probability / (1 - share)) / self.drain_per_s


def erlang_b(servers: int, offered: float) -> float:
    """Share of arrivals that find all servers busy and are lost (M/G/c/c).

    B(0) = 1, B(k) = a·B(k-1) / (k + a·B(k-1)): every term is positive, so that the recursion
    neither overflows nor cancels for any number of servers (Jagerman, Bell Syst. Tech. J. 53,
    1974; the factorial form overflows at 171 servers).

    Args:
        servers: c, at least 0.
        offered: a, the offered load in erlangs.
    """
    _require(servers >= 0, "servers", servers, "at least 0")
    _require(0 <= offered < math.inf, "offered load", offered, "finite and not negative")
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = offered * blocking / (k + offered * blocking)
    return blocking


def erlang_c(servers: int, offered: float) -> float:
    """Share of arrivals that have to wait in M/M/c; 1 at a load of ``servers`` and above.

    C = B / ((1 - rho) + rho·B) with rho = a/c (Cooper, Introduction to Queueing Theory, 1981,
    eq. 3.4.8, arranged so that nothing cancels as rho nears 1).
    """
    _require(servers >= 1, "servers", servers, "at least 1")
    return _delay(servers, offered, erlang_b(servers, offered))


def mmc(arrivals_per_s: float, service_s: float, servers: int) -> Waiting:
    """The wait in M/M/c: exponential at rate c/s - lambda for those who wait.

    Gross and Harris, Fundamentals of Queueing Theory, 1998, sec. 2.3 (eq. 2.34 ff.).

    Args:
        arrivals_per_s: lambda.
        service_s: s, the mean service time.
        servers: c.
    """
    _require(service_s > 0, "service time", service_s, "above 0 s")
    return Waiting(
        probability=erlang_c(servers, arrivals_per_s * service_s),
        drain_per_s=max(0.0, servers / service_s - arrivals_per_s),
    )


def mg1_wait(arrivals_per_s: float, service_s: float, service_scv: float) -> float:
    """Mean wait in M/G/1, seconds: lambda·s²·(1 + C²) / (2·(1 - rho)); infinite at rho >= 1.

    Pollaczek-Khinchine (Kleinrock, Queueing Systems I, 1975, eq. 5.70).

    Args:
        arrivals_per_s: lambda.
        service_s: s, the mean service time.
        service_scv: C², the squared coefficient of variation of the service time.
    """
    _require(arrivals_per_s >= 0, "arrival rate", arrivals_per_s, "not negative")
    _require(service_scv >= 0, "squared coefficient of variation", service_scv, "not negative")
    rho = arrivals_per_s * service_s
    return rho * service_s * (1 + service_scv) / (2 * (1 - rho)) if rho < 1 else math.inf


def ps_response(arrivals_per_s: float, service_s: float, own_s: float | None = None) -> float:
    """Mean response time in M/G/1 with processor sharing, seconds; infinite at rho >= 1.

    A request of x seconds of work takes x/(1 - rho) whatever the distribution of the others
    (Kleinrock, Queueing Systems II, 1976, eq. 4.17).

    Args:
        arrivals_per_s: lambda.
        service_s: mean work of a request, alone on the server.
        own_s: x, the work of the request asked about; ``None``: of the mean one.
    """
    _require(arrivals_per_s >= 0, "arrival rate", arrivals_per_s, "not negative")
    rho = arrivals_per_s * service_s
    own = service_s if own_s is None else own_s
    return own / (1 - rho) if rho < 1 else math.inf


def allen_cunneen(poisson: Waiting, arrival_scv: float, service_scv: float) -> Waiting:
    """The wait in G/G/c from that in M/M/c: its mean times (Ca² + Cs²)/2.

    Allen, Probability, Statistics and Queueing Theory, 1990, sec. 5.4. An approximation: exact for
    M/M/c and M/G/1. P(W > 0) is kept, the time of those who wait is stretched.

    Args:
        poisson: the wait with Poisson arrivals and exponential service.
        arrival_scv: Ca², squared coefficient of variation of the gaps between arrivals.
        service_scv: Cs², that of the service times.
    """
    factor = (arrival_scv + service_scv) / 2
    _require(0 <= factor < math.inf, "variability", factor, "finite and not negative")
    if factor == 0:
        return Waiting(probability=0.0, drain_per_s=poisson.drain_per_s)
    return Waiting(probability=poisson.probability, drain_per_s=poisson.drain_per_s / factor)


def halfin_whitt(spare: float) -> float:
    """P(W > 0) of many servers with k = rho + beta·sqrt(rho): [1 + beta·Phi(beta)/phi(beta)]^-1.

    Halfin and Whitt, Operations Research 29, 1981, theorem 1. In logarithms, since phi vanishes.

    Args:
        spare: beta, the spare servers in units of sqrt(rho), above 0.
    """
    _require(spare > 0, "spare", spare, "above 0")
    odds = math.log(spare) + float(log_ndtr(spare)) + spare**2 / 2 + math.log(2 * math.pi) / 2
    return 1 / (1 + math.exp(odds)) if odds < _MOST_EXPONENT else 0.0


def square_root_staffing(offered: float, wait_probability: float) -> float:
    """Servers (not rounded) at which this share of the arrivals waits: rho + beta·sqrt(rho).

    The inverse of ``halfin_whitt``; see ``servers_for_wait`` for the exact number.
    """
    _require(0 < wait_probability < 1, "wait probability", wait_probability, "between 0 and 1")
    spare = brentq(lambda beta: halfin_whitt(beta) - wait_probability, _LEAST_SPARE, _MOST_SPARE)
    return offered + float(spare) * math.sqrt(offered)


def servers_for_wait(offered: float, wait_probability: float) -> int:
    """The fewest servers of M/M/c with which at most this share of the arrivals waits."""
    _require(0 <= offered < math.inf, "offered load", offered, "finite and not negative")
    _require(0 < wait_probability < 1, "wait probability", wait_probability, "between 0 and 1")
    servers, blocking = 1, offered / (1 + offered)
    while _delay(servers, offered, blocking) > wait_probability:
        servers += 1
        blocking = offered * blocking / (servers + offered * blocking)
    return servers


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


_MOST_EXPONENT = 700.0
"""e to this is still finite."""
_LEAST_SPARE, _MOST_SPARE = 1e-12, 40.0
"""Between these any probability from 1 - 1e-12 down to 1e-300 has its spare."""


def _delay(servers: int, offered: float, blocking: float) -> float:
    """Erlang C from Erlang B."""
    if offered >= servers:
        return 1.0
    return blocking / ((servers - offered + offered * blocking) / servers)


def _require(holds: bool, what: str, value: float, bound: str) -> None:
    if not holds:
        raise InputError(f"{what} {value} cannot be used: it must be {bound}")
