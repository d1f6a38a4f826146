"""Replicas that share one stream of arrivals: what a request finds on the one it is routed to.

Split at random, each replica is a queue of its own and has a closed form (``planner.arrivals``).
Routing that looks at the replicas, or takes them in turn, ties them together and has none, so the
same model is simulated: batches of arrivals as in the closed form, and X(n) requests per second
finishing on a replica with n in flight. It is a Markov chain, so no clock is needed: made uniform
(Jensen, 1953), each event is an arrival, or a chance for one replica to finish a request. One chain
runs for each bootstrap draw, with that draw's own X, all of them at once: the noise of the
measurement, the error of the curves and the noise of the simulation all are in the draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.arrivals import STEPS, OpenReplica, batches_of, split_dispersion
from planner.predict import EVERY

if TYPE_CHECKING:
    from planner.predict import Load

__all__ = ["SIMULATED", "FleetReplica", "seen_in_fleet"]

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIMULATED = ("round-robin", "least-loaded")
"""Ways to route that are simulated."""
EVENTS, WARM_UP = 16_000, 5
MOST_REPLICAS = 32
"""More are taken as so many: each of a larger pool finds no more in flight."""
COPIES = 24
"""Chains of the sample itself, whose mean it gets: a point estimate without noise of its own."""
_CHUNK = 512


def seen_in_fleet(
    rates: Array,
    rate_per_s: float,
    dispersion: float,
    *,
    replicas: int,
    routing: str,
    rng: np.random.Generator,
    events: int = EVENTS,
) -> Array:
    """What a request finds in flight on the replica that it is routed to.

    Args:
        rates: (R, m) throughput of one replica with 1..m in flight; a chain for each row. Who
            would be one more than m is turned away.
        rate_per_s: arrivals per second at all replicas together.
        dispersion: I of that stream, as for ``planner.arrivals.open_in_flight``.
        replicas: how many.
        routing: ``round-robin`` or ``least-loaded`` (the first of several).
        rng: source of randomness.
        events: of each chain, of which one in ``WARM_UP`` passes before anything is counted.

    Returns:
        (R, m) shares of requests that find 0, 1, ... m - 1; all beyond stands at m - 1.
    """
    count, most = rates.shape
    batches, follows = batches_of(rate_per_s, dispersion)
    fastest = rates.max(axis=1)
    # Chance that a replica with n in flight finishes one when it gets the chance.
    finishes = np.concatenate([np.zeros((count, 1)), rates / fastest[:, None]], axis=1).ravel()
    chances = replicas * fastest / batches  # for one replica to finish, per batch
    arrives = 1 / (1 + chances)
    row = np.arange(count)
    start = np.minimum((rates < rate_per_s / replicas).sum(axis=1), most)  # where it is in balance
    flying = np.repeat(start[:, None], replicas, axis=1)
    first, seen = row * replicas, np.zeros((count, most + 1), dtype=np.int64)
    flat, counted = flying.ravel(), seen.ravel()
    in_batch = np.zeros(count, dtype=bool)
    turn = np.zeros(count, dtype=np.int64)
    for event in range(events):
        if event % _CHUNK == 0:
            drawn = rng.random((_CHUNK, 3, count))
        kind, which, chance = drawn[event % _CHUNK]
        arrival = in_batch | (kind < arrives)
        if routing == "least-loaded":
            to = flying.argmin(axis=1)
        else:
            to = turn
            turn = (turn + arrival) % replicas
        place = first + np.where(arrival, to, (which * replicas).astype(np.int64))
        found = flat[place]
        if event * WARM_UP >= events:
            counted[row * (most + 1) + found] += arrival
        leaves = ~arrival & (chance < finishes[row * (most + 1) + found])
        flat[place] = found + (arrival & (found < most)) - leaves
        in_batch = arrival & (chance < follows)
    seen[:, -2] += seen[:, -1]
    return np.asarray(seen[:, :-1] / np.maximum(seen.sum(axis=1, keepdims=True) - seen[:, -1:], 1))


class FleetReplica(OpenReplica):
    """One of several replicas that get a stream of arrivals between them."""

    def __init__(
        self,
        one: OpenReplica,
        replicas: int,
        routing: str,
        rng: np.random.Generator,
        events: int = EVENTS,
    ) -> None:
        """Take over the curves of a replica on its own.

        Args:
            one: the replica.
            replicas: how many like it.
            routing: one of ``SIMULATED``.
            rng: source of randomness; each load draws from the same start.
            events: as for ``seen_in_fleet``.
        """
        self.__dict__.update(one.__dict__)  # drawing the curves again would give others
        self._last = None
        self._replicas, self._routing, self._events = replicas, routing, events
        self._seed = int(rng.integers(2**32))
        self._found: dict[Load, Array] = {}

    def concurrency(self, load: Load, rows: slice = EVERY) -> Array:
        """Distribution of the concurrency that a request is served at: (R, m) for 1..m."""
        if load not in self._found:
            share = min(self._replicas * load.users / STEPS, 1.0)
            dispersion = split_dispersion(self._dispersion, share)
            replicas = min(self._replicas, MOST_REPLICAS)
            seen = seen_in_fleet(
                np.concatenate([np.repeat(self.rates[:1], COPIES, axis=0), self.rates[1:]]),
                self.rate_of(load) * replicas,
                dispersion,
                replicas=replicas,
                routing=self._routing,
                rng=np.random.default_rng(self._seed),
                events=self._events,
            )
            self._found[load] = np.concatenate([seen[:COPIES].mean(axis=0)[None], seen[COPIES:]])
        return self._found[load][rows]

    def in_flight(self, load: Load) -> Array:
        """Share of the time with 0, 1, ... requests in flight, (R, m + 1).

        The flow from n to n + 1 in flight is that back, whatever the arrivals: rate · P(an arrival
        finds n) = X(n + 1) p(n + 1).
        """
        busy = self.rate_of(load) * self.concurrency(load) / self.rates
        idle = np.maximum(1 - busy.sum(axis=-1, keepdims=True), 0.0)
        shares = np.concatenate([idle, busy], axis=-1)
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
