"""One exchange under way: when it was sent, what has arrived of its answer, and when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadtests.stream.response import Response
from planner.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from loadtests.stream.clock import Clock
    from loadtests.stream.exchange import Timeouts

__all__ = ["Intake"]


class Intake:
    """What a reader fills, receive by receive.

    Attributes:
        response: the parser and the body.
        connect_s: duration of connecting; ``None`` on a reused connection.
        sent_s: moment at which the request was sent; until then the moment of the start.
        receive_ends: length of the body after each receive that brought bytes of it.
        receive_s: moments of these receives.
        headers_s: moment of the receive that completed the headers.
        ended_s: moment of the receive that completed the message.
    """

    __slots__ = (
        "_at_ns", "_body_ns", "_last_ns", "_sent_ns", "_timeouts", "connect_s", "ended_s",
        "headers_s", "receive_ends", "receive_s", "response", "sent_s",
    )  # fmt: skip

    def __init__(self, clock: Clock, timeouts: Timeouts, max_body_bytes: int) -> None:
        """Nothing is sent yet."""
        self._at_ns = clock.at_ns
        self._timeouts = timeouts
        self._sent_ns = self._last_ns = 0
        self._body_ns = 0  # stamp of the last receive that brought bytes of the body
        self.response = Response(max_body_bytes)
        self.connect_s: float | None = None
        self.sent_s = clock.now()
        self.receive_ends: list[int] = []
        self.receive_s: list[float] = []
        self.headers_s: float | None = None
        self.ended_s: float | None = None

    def start(self, sent_ns: int) -> None:
        """The request is being sent, at this reading of ``time.monotonic_ns()``."""
        self._sent_ns = self._last_ns = sent_ns
        self.sent_s = self._at_ns(sent_ns)

    def take(self, pieces: Iterable[bytes], stamps_ns: Iterable[int]) -> None:
        """Parse receives in their order; an empty piece is the end of the stream.

        What comes after the message's end is not parsed: nobody asked for it, and the connection
        is not used again.

        Args:
            pieces: what each receive brought.
            stamps_ns: when each arrived, on the scale of ``time.monotonic_ns()``.

        Raises:
            WireError: the answer breaks the protocol or a bound. The receive that did so counts.
        """
        response, at_ns = self.response, self._at_ns
        body, feed = response.body, response.feed
        length = len(body)
        for piece, stamp_ns in zip(pieces, stamps_ns, strict=True):
            if self.ended_s is not None:
                response.reusable = False
                return
            # A stamp is behind the one before it only by the noise of converting between clocks.
            self._last_ns = ns = max(stamp_ns, self._last_ns)
            try:
                if piece:
                    feed(piece)
                else:
                    response.end()
            finally:  # what arrived before a failure counts too
                if len(body) > length:
                    length = len(body)
                    self._body_ns = ns
                    self.receive_ends.append(length)
                    self.receive_s.append(at_ns(ns))
                if self.headers_s is None and response.status is not None:
                    self.headers_s = at_ns(ns)
            if response.complete:
                self.ended_s = self._at_ns(ns)

    def deadline(self) -> tuple[str, float]:
        """The nearest deadline: the kind of its failure, and its ``time.monotonic()``."""
        bounds, sent = self._timeouts, self._sent_ns * 1e-9
        if not self._body_ns:
            nearest = ("timeout_first_byte", sent + bounds.first_byte_s)
        else:
            nearest = ("timeout_idle", self._body_ns * 1e-9 + bounds.idle_s)
        if bounds.total_s is not None and sent + bounds.total_s < nearest[1]:
            return ("timeout_total", sent + bounds.total_s)
        return nearest

    def patience_s(self) -> float:
        """How long to sleep before the deadline must be asked for again.

        The first byte of the body, which may come any time, brings the deadline nearer: to
        ``idle_s`` after it.
        """
        return min(self.deadline()[1] - time.monotonic(), self._timeouts.idle_s)

    def silence(self) -> WireError:
        """The failure that the nearest deadline stands for."""
        kind, deadline = self.deadline()
        waited = deadline - (self._body_ns or self._sent_ns) * 1e-9
        return WireError(kind, f"no answer bytes for {waited:.3g} s")
