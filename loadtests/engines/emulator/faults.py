"""What can go wrong with an answer, by rule: ``KIND=RATE``, drawn for each request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

__all__ = ["FAULTS", "HUGE_LINE_BYTES", "FaultRule", "draw_fault", "parse_fault", "status_of"]

FAULTS: dict[str, str] = {
    "reset-before-headers": "the connection is reset when the request has been read",
    "reset-in-headers": "it is reset in the middle of the response headers",
    "reset-mid-chunk": "it is reset in the middle of a chunk, half-way through the answer",
    "reset-after-last-token": "it is reset before the end mark, when all tokens have been sent",
    "stall": "half-way through the answer the server falls silent and holds the connection",
    "endless": "the answer never ends: after its tokens comes another every 50 ms",
    "huge-line": "half-way through comes a line of 100 MB",
    "wrong-chunk-length": "half-way through a chunk is longer than it says",
    "invalid-utf8": "half-way through an event holds bytes that are no UTF-8",
    "invalid-json": "half-way through an event is no JSON",
    "error-in-200": "half-way through the engine fails, and says so inside the 200",
    "slow-headers": "the response headers come byte by byte, ten a second",
    "http-NNN": "the request is refused with that status, from 400 to 599",
}
"""Kind of fault -> what happens. The engine does the work of the request until it happens."""

HUGE_LINE_BYTES = 100_000_000

_STATUS = re.compile(r"http-([45]\d\d)")


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One kind of fault, and the share of the requests that meet it."""

    kind: str
    rate: float


def parse_fault(text: str) -> FaultRule:
    """A rule from ``stall=0.01`` or ``http-503=0.1``.

    Raises:
        InputError: an unknown kind, or a rate that is no share.
    """
    kind, _, share = text.partition("=")
    if kind not in FAULTS.keys() - {"http-NNN"} and not _STATUS.fullmatch(kind):
        raise InputError(f"fault {kind!r} is unknown: known are {', '.join(FAULTS)}")
    try:
        rate = float(share)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise InputError(f"fault {text!r}: write {kind}=RATE, a share from 0 to 1")
    return FaultRule(kind, rate)


def draw_fault(rules: Sequence[FaultRule], rng: np.random.Generator) -> str | None:
    """What happens to the next request."""
    if not rules:
        return None
    drawn = float(rng.random())
    for rule in rules:
        drawn -= rule.rate
        if drawn < 0:
            return rule.kind
    return None


def status_of(fault: str | None) -> int | None:
    """The status of a fault that refuses a request."""
    found = _STATUS.fullmatch(fault or "")
    return int(found[1]) if found else None
