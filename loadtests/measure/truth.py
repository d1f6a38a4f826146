"""What a client saw beside the truth that the reference server stamped.

The server writes into each content event when it sent it, and into a stream's first one when the
request arrived. Errors are a client's figure minus the server's, in seconds; both read the
CLOCK_MONOTONIC of one machine. Pure.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Errors", "Observed", "Spread", "compare"]

_RECEIVED = re.compile(r" R(\d{16})")
_SENT = re.compile(r" T(\d{16})")


@dataclass(frozen=True, slots=True)
class Observed:
    """One request as a client saw it.

    Attributes:
        sent_ns: ``time.monotonic_ns()`` at which the client says that it sent the request.
        seen_ns: the moments of the content events, on the same scale.
        text: the text of the content events, in which the truth stands.
    """

    sent_ns: float
    seen_ns: NDArray[np.float64]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Quantiles of an error's absolute value, in seconds. ``None``: there was none."""

    p50_s: float | None
    p99_s: float | None
    max_s: float | None

    @classmethod
    def of(cls, errors_ns: NDArray[np.float64]) -> Spread:
        """Of errors in nanoseconds; a negative one is as wrong as a positive one."""
        if not errors_ns.size:
            return cls(p50_s=None, p99_s=None, max_s=None)
        p50, p99, top = np.quantile(np.abs(errors_ns) * 1e-9, [0.5, 0.99, 1.0])
        return cls(p50_s=float(p50), p99_s=float(p99), max_s=float(top))


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How far a client was off.

    Attributes:
        requests: those that were compared.
        chunks: content events that were compared.
        wrong: requests whose events are not those that the server sent.
        ttft: of the time to first token: from the client's stamp of sending to its stamp of the
            first content event, against the request's arrival at and the event's departure from
            the server.
        arrival: of a content event's moment, against its departure.
        itl: of the gap between two content events.
        coalesced_share: content events that the client saw at the same moment as the one before.
    """

    requests: int
    chunks: int
    wrong: int
    ttft: Spread
    arrival: Spread
    itl: Spread
    coalesced_share: float | None


def compare(observed: Sequence[Observed], until_ns: float = math.inf) -> Errors:
    """Compare what was seen with what the server says in it.

    Args:
        observed: the requests.
        until_ns: leave out what was seen later: in the middle of stopping, clients do not read.
    """
    ttft: list[float] = []
    arrival: list[NDArray[np.float64]] = [np.empty(0)]
    itl: list[NDArray[np.float64]] = [np.empty(0)]
    coalesced = wrong = 0
    for request in observed:
        received = _RECEIVED.search(request.text)
        true_ns = np.array([int(ns) for ns in _SENT.findall(request.text)], dtype=np.float64)
        seen_ns = request.seen_ns
        if received is None or seen_ns.size != true_ns.size:
            wrong += 1
            continue
        kept = seen_ns <= until_ns
        seen_ns, true_ns = seen_ns[kept], true_ns[kept]
        if not seen_ns.size:
            continue
        true_ttft_ns = true_ns[0] - int(received[1])
        ttft.append(float(seen_ns[0] - request.sent_ns - true_ttft_ns))
        arrival.append(seen_ns - true_ns)
        itl.append(np.diff(seen_ns) - np.diff(true_ns))
        coalesced += int(np.count_nonzero(np.diff(seen_ns) <= 0))
    chunks = sum(errors.size for errors in arrival)
    return Errors(
        requests=len(ttft),
        chunks=chunks,
        wrong=wrong,
        ttft=Spread.of(np.array(ttft)),
        arrival=Spread.of(np.concatenate(arrival)),
        itl=Spread.of(np.concatenate(itl)),
        coalesced_share=coalesced / chunks if chunks else None,
    )
