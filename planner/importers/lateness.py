"""Requests that were to arrive at a rate and were sent late: latencies from the send hide the wait.

A server that cannot keep up, or a cap on the requests in flight, makes a client fall behind its
schedule. Its tool counts latencies from the moment of sending, so they look as if the server had
kept up (coordinated omission). Such a level is marked, and not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.imported import Latency
    from planner.records import LoadKind

__all__ = ["held_back"]

WAITED = 0.1
"""Share of the mean E2E that requests may be late before that is told as a fault."""
AT_CAP = 0.9
"""Share of the cap that is in flight on average where it holds requests back."""


def held_back(
    kind: LoadKind,
    e2e: Latency | None,
    *,
    late_s: float | None = None,
    cap: float | None = None,
    requests_per_s: float | None = None,
) -> tuple[str, ...]:
    """Why a level at a rate must not be used; nothing where its requests were sent on time.

    Args:
        kind: what the load counts: only a rate can be late.
        e2e: end-to-end latency, from the send.
        late_s: mean time between when a request was due and its send; ``None``: not told, so that
            a cap is judged by what was in flight.
        cap: most requests in flight.
        requests_per_s: answers per second.
    """
    if kind != "rate" or e2e is None or not e2e.mean_s:
        return ()
    if late_s is not None:
        late, how_long = late_s > WAITED * e2e.mean_s, f" for {late_s:.3g} s on average"
    else:
        late = bool(cap) and (requests_per_s or 0.0) * e2e.mean_s > AT_CAP * (cap or 0.0)
        how_long = ""
    if not late:
        return ()
    what = "the client" if not cap else f"at most {cap:g} in flight"
    return (
        f"{what} held requests back{how_long} before they were sent, which the latencies leave out",
    )
