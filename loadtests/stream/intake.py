"""One exchange under way: when it was sent, what has arrived of its answer, and when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from loadtests.stream import sources
from loadtests.stream.response import Response
from planner.errors import WireError

if TYPE_CHECKING:
    from loadtests.stream.clock import Clock
    from loadtests.stream.exchange import Timeouts

__all__ = ["Intake"]

_HEADERS_END = b"\r\n\r\n"
_TOO_LARGE, _MALFORMED = 1, 2  # problems that the extension's ChunkReader reports


class Intake:
    """What a reader fills, receive by receive.

    Attributes:
        response: the parser and the body.
        connect_began_s: moment at which connecting began; ``None`` on a reused connection.
        connect_s: its duration.
        resent: the request was sent before, on a connection that was being closed.
        sent_s: moment at which the request was sent; until then the moment of the start.
        receive_ends: length of the body after each receive that brought bytes of it.
        receive_s: moments of these receives.
        headers_s: moment of the receive that completed the headers.
        ended_s: moment of the receive that completed the message.
    """

    __slots__ = (
        "_begun", "_body_ns", "_chunks", "_clock", "_last_ns", "_sent_ns", "_timeouts",
        "connect_began_s", "connect_s", "ended_s", "headers_s", "receive_ends", "receive_s",
        "resent", "response", "sent_s",
    )  # fmt: skip

    def __init__(self, clock: Clock, timeouts: Timeouts, max_body_bytes: int) -> None:
        """Nothing is sent yet."""
        self._clock = clock
        self._timeouts = timeouts
        self._sent_ns = self._last_ns = 0
        self._body_ns = 0  # stamp of the last receive that brought bytes of the body
        self._chunks: Any = None  # reads plain chunks in C, between two of llhttp's
        self._begun = b""  # what it had read of a chunk that is not plain
        self.response = Response(max_body_bytes)
        self.connect_began_s: float | None = None
        self.connect_s: float | None = None
        self.resent = False
        self.sent_s = clock.now()
        self.receive_ends: list[int] = []
        self.receive_s: list[float] = []
        self.headers_s: float | None = None
        self.ended_s: float | None = None

    def start(self, sent_ns: int) -> None:
        """The request is being sent, at this reading of ``time.monotonic_ns()``."""
        self._sent_ns = self._last_ns = sent_ns
        self.sent_s = self._clock.at_ns(sent_ns)

    def take(self, data: bytes, ends: list[int], stamps_ns: list[int]) -> None:
        """Parse receives in their order; an empty one is the end of the stream.

        What comes after the message's end is not parsed: nobody asked for it, and the connection
        is not used again.

        Args:
            data: what the receives brought.
            ends: where in ``data`` each of them ends.
            stamps_ns: when each arrived, on the scale of ``time.monotonic_ns()``.

        Raises:
            WireError: the answer breaks the protocol or a bound. The receive that did so counts.
        """
        index = at = 0
        while index < len(ends):
            if self._chunks is not None:
                index, at = self._read_chunks(data, ends, stamps_ns, index, at)
                if index == len(ends):
                    return
            if self.ended_s is not None:
                self.response.reusable = False
                return
            start, end = ends[index - 1] if index else 0, ends[index]
            at = self._parse(data, max(at, start), end, stamps_ns[index], ended=start == end)
            index += at == end

    def _parse(self, data: bytes, at: int, end: int, stamp_ns: int, *, ended: bool) -> int:
        """Let llhttp read one receive, or only the headers in it; returns up to where."""
        response = self.response
        # A stamp is behind the one before it only by the noise of converting between clocks.
        self._last_ns = ns = max(stamp_ns, self._last_ns)
        try:
            if ended:
                response.end()
            elif response.status is None and sources.EXTENSION is not None:
                at = self._parse_head(data, at, end)
            else:
                response.feed(self._begun + data[at:end])
                self._begun = b""
                at = end
        finally:  # what arrived before a failure counts too
            if len(response.body) > (self.receive_ends[-1] if self.receive_ends else 0):
                self._body_ns = ns
                self.receive_ends.append(len(response.body))
                self.receive_s.append(self._clock.at_ns(ns))
            if self.headers_s is None and response.status is not None:
                self.headers_s = self._clock.at_ns(ns)
        if response.complete:
            self.ended_s = self._clock.at_ns(ns)
        return at

    def _parse_head(self, data: bytes, at: int, end: int) -> int:
        """Let llhttp read the headers; returns up to where.

        Where they end exactly there and chunks follow, these are the ChunkReader's.
        """
        response = self.response
        while (found := data.find(_HEADERS_END, at, end)) >= 0:
            last = found + len(_HEADERS_END) - 1
            if response.feed(data[at:last]):  # they ended before: their end was cut in two
                at = last
                break
            at = last + 1
            if not response.feed(data[last:at]):  # of a 1xx answer
                continue
            if response.chunked and not response.complete:
                self._chunks = sources.EXTENSION.ChunkReader(
                    response.body, self.receive_ends, self.receive_s,
                    self._clock.zero_ns, self._last_ns, response.limit,
                )  # fmt: skip
            return at
        response.feed(data[at:end])
        return end

    def _read_chunks(
        self, data: bytes, ends: list[int], stamps_ns: list[int], index: int, at: int
    ) -> tuple[int, int]:
        """Read plain chunks; returns the receive and the place at which llhttp must go on.

        llhttp stands between two chunks all the while, so it does not miss those that it is not
        shown.
        """
        chunks, response = self._chunks, self.response
        index, at, problem = chunks.read(data, ends, stamps_ns, index, at)
        self._last_ns = chunks.last_ns
        if chunks.body_ns:
            self._body_ns = chunks.body_ns
            response.overhead = 0
        if problem == _TOO_LARGE:
            raise response.too_large()
        if problem == _MALFORMED:
            raise WireError("bad_http", "not an HTTP response: a chunk without its end")
        if index < len(ends):
            self._begun, self._chunks = chunks.begun, None
        return index, at

    @property
    def untouched(self) -> bool:
        """Whether not a byte of an answer has come."""
        response = self.response
        return response.status is None and not response.overhead

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
