"""An event simulation of engines that batch, behind a router, under any traffic.

What the closed forms leave out: lengths as they are measured, bursts and traces, a KV cache that
runs full, prompts that hold up decoding, conversations, several replicas. The engine is
``planner.simulation.replica`` (which says how it is fast), the traffic
``planner.simulation.traffic``, the routers ``planner.simulation.routing``. Everything random
comes from the generators that are passed in: the same seeds give the same requests to the bit.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.simulation.outcome import Outcome
from planner.simulation.replica import Replica
from planner.simulation.routing import make_route

if TYPE_CHECKING:
    import numpy as np

    from planner.simulation.engine import Engine
    from planner.simulation.traffic import Source

__all__ = ["simulate"]


def simulate(
    engine: Engine,
    source: Source,
    *,
    rng: np.random.Generator,
    replicas: int = 1,
    routing: str = "least-loaded",
) -> Outcome:
    """Run until the source is dry and every request has ended.

    Args:
        engine: of each replica.
        source: what sends requests; used up by it.
        rng: source of randomness for the router.
        replicas: how many.
        routing: ``random``, ``round-robin``, ``least-loaded`` or ``sticky``.

    Raises:
        InputError: no replica, or an unknown routing.
    """
    if replicas < 1:
        raise InputError(f"a simulation needs at least 1 replica, not {replicas}")
    route = make_route(routing, rng)
    requests = source.requests
    fleet = [Replica(engine, requests) for _ in range(replicas)]
    dues: list[tuple[float, int]] = []  # heap of (end of a jump, replica); stale where it was cut
    now = area = 0.0
    in_flight = 0
    while True:
        while dues and fleet[dues[0][1]].due != dues[0][0]:
            heappop(dues)
        due = dues[0][0] if dues else math.inf
        # An arrival at a step boundary takes part in the next step, so it comes first.
        moment = min(source.next_s, due)
        if moment == math.inf:
            break
        area += in_flight * (moment - now)
        now = moment
        if source.next_s <= due:
            request = source.take()
            number = route(fleet, requests.session[request])
            replica = fleet[number]
            before = replica.due
            if replica.offer(now, request):
                requests.replica[request] = number
                in_flight += 1
            else:
                source.ended(request, now)
        else:
            number = dues[0][1]
            replica = fleet[number]
            before = heappop(dues)[0]
            for request in replica.fire():
                in_flight -= 1
                source.ended(request, now)
        if replica.due not in {before, math.inf}:
            heappush(dues, (replica.due, number))
    return Outcome.of(requests, area / now if now > 0 else 0.0)
