"""How far one clock is ahead of another, from round trips between them.

Cristian, Probabilistic clock synchronization, Distributed Computing 3 (1989): the other clock was
read somewhere within the round trip, so half of its duration bounds the error, however the network
is loaded. As in NTP (RFC 5905, section 10) the shortest round trip is kept, and its bound grows
with its age, since no two oscillators run alike. Pure: times are arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from planner.records import RequestRecord

__all__ = ["DRIFT", "Offset", "better", "measured", "on_the_other_clock"]

DRIFT = 15e-6
"""Seconds by which two clocks part in a second, at most: PHI of RFC 5905."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offset:
    """This clock less the other one.

    Attributes:
        offset_s: as estimated.
        bound_s: how far the estimate may be off, at the moment at which it was taken.
        taken_s: that moment, on this clock.
    """

    offset_s: float
    bound_s: float
    taken_s: float

    def bound_at(self, now_s: float) -> float:
        """How far the estimate may be off by now, in seconds."""
        return self.bound_s + DRIFT * max(now_s - self.taken_s, 0.0)


def measured(*, sent_s: float, other_s: float, received_s: float) -> Offset:
    """The estimate of one round trip.

    Args:
        sent_s: when the question left, on this clock.
        other_s: the other clock's answer.
        received_s: when the answer was here, on this clock.
    """
    return Offset(
        offset_s=(sent_s + received_s) / 2 - other_s,
        bound_s=(received_s - sent_s) / 2,
        taken_s=received_s,
    )


def better(known: Offset | None, new: Offset) -> Offset:
    """Whichever estimate has the smaller bound by now."""
    if known is None or new.bound_s <= known.bound_at(new.taken_s):
        return new
    return known


def on_the_other_clock(record: RequestRecord, offset: Offset) -> RequestRecord:
    """The record with its moments on the other clock; its durations stay what they are."""
    by_s = offset.offset_s
    return msgspec.structs.replace(
        record,
        scheduled_s=record.scheduled_s - by_s,
        sent_s=record.sent_s - by_s,
        headers_s=None if record.headers_s is None else record.headers_s - by_s,
        first_token_s=None if record.first_token_s is None else record.first_token_s - by_s,
        ended_s=record.ended_s - by_s,
    )
