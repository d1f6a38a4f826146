"""Closed networks of several stations: exact mean values with load-dependent service.

The quantities of exact mean value analysis (Reiser and Lavenberg, J. ACM 27, 1980; Lazowska et
al., Quantitative System Performance, 1984, ch. 6 and 8): throughput, queue lengths and residence
times of a product-form network. Load-dependent MVA obtains p(0 | n) by subtraction, which loses
all digits as a station saturates ("the MVA algorithm is known to be numerically unstable"). The
normalisation constants of the same product form (Buzen, Comm. ACM 16, 1973) are sums of positive
terms; taken in logarithms they stay exact for thousands of users at any load, so they are what is
computed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MeanValues", "exact_mva"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class MeanValues:
    """The solution of a closed network of N users and K stations.

    Attributes:
        throughput_per_s: (N,) system throughput with 1..N users.
        in_station: (K, N + 1) probabilities of 0..N requests in each station with N users.
    """

    throughput_per_s: Array
    in_station: Array

    @property
    def queue(self) -> Array:
        """(K,) mean requests in each station, waiting and in service, with N users."""
        return np.asarray(self.in_station @ np.arange(self.in_station.shape[1]))

    @property
    def residence_s(self) -> Array:
        """(K,) seconds that a request spends in each station over all its visits (Little)."""
        return np.asarray(self.queue / self.throughput_per_s[-1])

    @property
    def response_s(self) -> float:
        """Mean seconds from the end of thinking to the next."""
        return float(self.residence_s.sum())


def exact_mva(
    stations: Sequence[npt.ArrayLike], users: int, think_time_s: float = 0.0
) -> MeanValues:
    """Solve a closed single-class network.

    Args:
        stations: for each its rates with 1, 2, ... requests present, requests per second at which
            it finishes all visits of a request (min(n, servers)/demand); the last one holds for
            more. ``[1 / demand]`` is a single server.
        users: N, at least 1.
        think_time_s: Z, a delay of any distribution with that mean.

    Raises:
        InputError: no station, no users, a rate that is not positive, a negative think time.
    """
    if not stations or users < 1 or not think_time_s >= 0:
        raise InputError(
            f"a closed network needs a station, at least 1 user and a think time of 0 s or more: "
            f"got {len(stations)} stations, {users} users, {think_time_s} s"
        )
    factors = [_factor(np.atleast_1d(np.asarray(rates, dtype=float)), users) for rates in stations]
    n = np.arange(users + 1)
    delay = np.where(n == 0, 0.0, -np.inf)
    if think_time_s > 0:
        delay = n * np.log(think_time_s) - gammaln(n + 1)
    # before[k]: the delay and the stations before k; after[k]: those after it.
    before, after = [delay], [np.where(n == 0, 0.0, -np.inf)]
    for factor in factors:
        before.append(_convolve(before[-1], factor))
    for factor in reversed(factors):
        after.append(_convolve(after[-1], factor))
    constants = before[-1]
    marginals = [
        factor + _convolve(before[k], after[len(factors) - 1 - k])[::-1] - constants[-1]
        for k, factor in enumerate(factors)
    ]
    return MeanValues(
        throughput_per_s=np.exp(constants[:-1] - constants[1:]), in_station=np.exp(marginals)
    )


def _factor(rates: Array, users: int) -> Array:
    """Log of the product 1/(X(1)···X(n)) for n = 0..N."""
    if not ((rates > 0) & np.isfinite(rates)).all():
        raise InputError(f"service rates must be positive and finite: got {rates.min()} per second")
    rates = np.concatenate([rates[:users], np.full(max(0, users - rates.size), rates[-1])])
    return np.concatenate([[0.0], -np.cumsum(np.log(rates))])


def _convolve(a: Array, b: Array) -> Array:
    """Log of the convolution of exp(a) and exp(b), (N + 1,)."""
    out = np.empty_like(a)
    for n in range(a.size):
        terms = a[: n + 1] + b[n::-1]
        most = terms.max()
        out[n] = most if np.isneginf(most) else most + np.log(np.exp(terms - most).sum())
    return out
