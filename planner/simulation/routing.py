"""How requests are spread over replicas: each way is a function from their loads to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from planner.simulation.replica import Replica

    Route = Callable[[Sequence[Replica], int], int]
    """From the replicas and the session of a request to the number of the replica."""

__all__ = ["ROUTES", "make_route"]

_DRAWS = 4096
"""Random numbers drawn at once: one by one they cost a microsecond each."""


def make_route(name: str, rng: np.random.Generator) -> Route:
    """The way of that name.

    Raises:
        InputError: no such way.
    """
    if name not in ROUTES:
        raise InputError(f"routing {name!r} is unknown: known are {', '.join(sorted(ROUTES))}")
    return ROUTES[name](rng)


def _random(rng: np.random.Generator) -> Route:
    """Each request to any replica, whatever their loads."""
    draws: list[float] = []

    def route(replicas: Sequence[Replica], session: int) -> int:
        del session
        if not draws:
            draws.extend(rng.random(_DRAWS).tolist())
        return int(draws.pop() * len(replicas))

    return route


def _round_robin(rng: np.random.Generator) -> Route:
    """Each request to the next replica."""
    del rng
    turn = -1

    def route(replicas: Sequence[Replica], session: int) -> int:
        del session
        nonlocal turn
        turn = (turn + 1) % len(replicas)
        return turn

    return route


def _least_loaded(rng: np.random.Generator) -> Route:
    """Each request to the replica with the fewest in flight, the first of several."""
    del rng

    def route(replicas: Sequence[Replica], session: int) -> int:
        del session
        loads = [replica.in_flight for replica in replicas]
        return loads.index(min(loads))

    return route


def _sticky(rng: np.random.Generator) -> Route:
    """A session to any replica at first, then always to that one."""
    anywhere = _random(rng)
    homes: dict[int, int] = {}

    def route(replicas: Sequence[Replica], session: int) -> int:
        if session < 0:
            return anywhere(replicas, session)
        home = homes.get(session)
        if home is None:
            home = homes[session] = anywhere(replicas, session)
        return home

    return route


ROUTES: dict[str, Callable[[np.random.Generator], Route]] = {
    "random": _random,
    "round-robin": _round_robin,
    "least-loaded": _least_loaded,
    "sticky": _sticky,
}
"""Every way by its name; each takes the source of its randomness."""
