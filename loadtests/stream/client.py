"""One request out, stamped bytes back.

The body is handed back whole, with the moment and the length reached at each receive; decoding
happens after the stream has ended, so that it disturbs no other stream's stamps.
"""

from __future__ import annotations

import functools
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import gevent

from loadtests.stream.connection import Address, Connection, resolve
from loadtests.stream.response import Response
from planner.errors import InputError, WireError

if TYPE_CHECKING:
    from loadtests.stream.clock import Clock
    from loadtests.stream.endpoint import Endpoint

__all__ = ["MAX_BODY_BYTES", "Call", "Exchange", "StreamClient", "Timeouts"]

MAX_BODY_BYTES = 64 * 2**20
"""Some 200,000 events of 300 bytes: no sane answer is longer."""


class Call(Protocol):
    """What is to be sent. ``loadtests.dialects.base.HttpCall`` is one.

    ``Host``, ``Content-Length`` and ``Connection`` are the client's business and not in it.
    """

    @property
    def method(self) -> str:
        """``GET``, ``POST``."""

    @property
    def path(self) -> str:
        """Begins with a slash; stands behind the endpoint's base path."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Pairs of name and value."""

    @property
    def body(self) -> bytes:
        """May be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds."""

    connect_s: float = 10.0  # name look-up, TCP and TLS together
    first_byte_s: float = 600.0  # from sending to the first byte of the body: queueing counts here
    idle_s: float = 120.0  # between two receives of a body
    total_s: float | None = None  # from sending to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What came back. Moments are on the run's clock.

    ``failure`` is a kind and a message. The kinds: ``dns``, ``connect``, ``tls``,
    ``timeout_connect``, ``timeout_first_byte``, ``timeout_idle``, ``timeout_total``, ``reset``,
    ``closed`` (EOF before the message's end), ``bad_http``, ``too_large`` and, from
    :meth:`StreamClient.partial` only, ``cancelled``. What arrived before a failure is kept.
    """

    status: int | None  # None: no complete response headers
    headers: dict[str, str]  # names in lower case
    body: bytes
    receive_ends: list[int]  # length of the body after each receive that brought bytes of it
    receive_s: list[float]  # the moments of these receives
    connect_s: float | None  # duration of name look-up, TCP and TLS; None on a reused connection
    sent_s: float  # just before the first byte was written; the start where it never came to that
    headers_s: float | None  # the receive that completed the response headers
    ended_s: float  # the last receive, the failure or the cancellation
    failure: tuple[str, str] | None = None


@dataclass(slots=True)
class _Progress:
    """An exchange under way."""

    response: Response
    sent_s: float
    connect_s: float | None = None
    headers_s: float | None = None
    ended_s: float | None = None
    receive_ends: list[int] = field(default_factory=list)
    receive_s: list[float] = field(default_factory=list)


@functools.cache
def _default_tls() -> ssl.SSLContext:
    """The system's authorities, read once: that takes long and each client would repeat it."""
    return ssl.create_default_context()


class StreamClient:
    """Sends requests to one server, one at a time; for use in one greenlet.

    By default every request has a connection of its own: llama.cpp closes after a stream although
    it advertises keep-alive, and a request on a connection that is being closed is lost. With
    ``keep_alive`` a connection is used again unless it was closed meanwhile; a request is never
    sent twice.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        timeouts: Timeouts | None = None,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        tls_context: ssl.SSLContext | None = None,
        keep_alive: bool = False,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            endpoint: the server.
            clock: stamps every moment.
            timeouts: how long to wait.
            max_body_bytes: a longer body is a failure of kind ``too_large``.
            tls_context: how to verify an https server; the system's authorities by default.
            keep_alive: use a connection for several requests.
        """
        self._endpoint = endpoint
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._max_body_bytes = max_body_bytes
        self._keep_alive = keep_alive
        self._tls = tls_context
        if endpoint.scheme == "https" and tls_context is None:
            self._tls = _default_tls()
        self._addresses: list[Address] = []  # looked up once; anew after a failure to connect
        self._connection: Connection | None = None
        self._progress: _Progress | None = None

    def exchange(self, call: Call) -> Exchange:
        """Send one request and wait for the end of its answer.

        What the server or the network does wrong is in ``Exchange.failure``. ``GreenletExit`` and
        ``gevent.Timeout`` pass through, with the socket closed; :meth:`partial` then gives what
        had arrived.

        Raises:
            InputError: the call itself cannot be written as HTTP.
        """
        request = self._encode(call)
        self._progress = progress = _Progress(Response(self._max_body_bytes), self._clock.now())
        failure: tuple[str, str] | None = None
        try:
            self._run(request, progress)
        except WireError as error:
            failure = (error.kind, str(error))
        finally:
            if not (self._keep_alive and progress.response.reusable and failure is None):
                self.close()
        self._progress = None
        return self._result(progress, failure)

    def partial(self) -> Exchange | None:
        """What had arrived when an exception ended :meth:`exchange`; ``None`` if none did.

        Its failure is ``cancelled``. Call it in the handler: it stamps the end.
        """
        progress, self._progress = self._progress, None
        if progress is None:
            return None
        return self._result(progress, ("cancelled", "ended by the client"))

    def close(self) -> None:
        """Close the connection, if one is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _encode(self, call: Call) -> bytes:
        path = self._endpoint.base_path + call.path
        pairs = (
            ("Host", self._endpoint.authority),
            *call.headers,
            ("Content-Length", str(len(call.body))),
            ("Connection", "keep-alive" if self._keep_alive else "close"),
        )
        lines = (f"{call.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs))
        if " " in path or not all(line.isascii() and line.isprintable() for line in lines):
            # The line itself may hold an API key: it is not shown.
            raise InputError("a request header or path has a space, a line break or non-ASCII text")
        return "\r\n".join((*lines, "", "")).encode() + call.body

    def _run(self, request: bytes, progress: _Progress) -> None:
        """Connect, send, receive to the end.

        Raises:
            WireError: whatever failed.
        """
        connection = self._connect(progress)
        sent = time.monotonic()
        progress.sent_s = self._clock.now()
        broken = self._send(connection, request, sent)
        try:
            self._receive(connection, progress, sent)
        except WireError as error:
            if broken is not None and progress.response.status is None:
                raise WireError("reset", f"the server stopped reading: {broken}") from error
            raise

    def _connect(self, progress: _Progress) -> Connection:
        """The open connection if it is still good, or a new one."""
        if self._connection is not None and not self._connection.is_stale():
            return self._connection
        self.close()
        bound = self._timeouts.connect_s
        expired = WireError(
            "timeout_connect", f"{self._endpoint.authority}: no connection in {bound} s"
        )
        started = time.monotonic()
        try:
            with gevent.Timeout(bound, expired):
                self._addresses = self._addresses or resolve(self._endpoint)
                self._connection = Connection.open(self._endpoint, self._addresses, self._tls)
        except WireError:
            self._addresses = []
            raise
        progress.connect_s = time.monotonic() - started
        return self._connection

    def _send(self, connection: Connection, request: bytes, sent: float) -> OSError | None:
        """Write the request.

        A server may answer (413, 401) and close without having read everything: a broken pipe is
        handed back, because the answer may still be there to be read.
        """
        kind, deadline = self._deadline(sent, None)
        try:
            connection.send(request, deadline)
        except TimeoutError as error:
            raise WireError(kind, "the server did not read the request in time") from error
        except OSError as error:
            return error
        return None

    def _receive(self, connection: Connection, progress: _Progress, sent: float) -> None:
        """Feed the parser until the message ends, and stamp what brought bytes of the body."""
        response, at_ns = progress.response, self._clock.at_ns
        last: float | None = None
        length = 0
        while not response.complete:
            data = self._await(connection, sent, last)
            try:
                response.feed(data) if data else response.end()
            finally:  # what arrived before a failure counts too
                moment = at_ns(connection.stamp_ns)
                if progress.headers_s is None and response.status is not None:
                    progress.headers_s = moment
                if len(response.body) > length:
                    length = len(response.body)
                    last = connection.stamp_ns * 1e-9
                    progress.receive_ends.append(length)
                    progress.receive_s.append(moment)
        progress.ended_s = moment

    def _await(self, connection: Connection, sent: float, last: float | None) -> bytes:
        """One receive, within the nearest deadline."""
        kind, deadline = self._deadline(sent, last)
        try:
            return connection.receive(deadline)
        except TimeoutError as error:
            waited = deadline - (last or sent)
            raise WireError(kind, f"no answer bytes for {waited:.3g} s") from error
        except OSError as error:
            raise WireError("reset", f"the connection broke: {error}") from error

    def _deadline(self, sent: float, last: float | None) -> tuple[str, float]:
        """What the next deadline bounds, and its reading of ``time.monotonic()``."""
        bounds = self._timeouts
        if last is None:
            nearest = ("timeout_first_byte", sent + bounds.first_byte_s)
        else:
            nearest = ("timeout_idle", last + bounds.idle_s)
        if bounds.total_s is not None and sent + bounds.total_s < nearest[1]:
            return ("timeout_total", sent + bounds.total_s)
        return nearest

    def _result(self, progress: _Progress, failure: tuple[str, str] | None) -> Exchange:
        return Exchange(
            status=progress.response.status,
            headers=progress.response.headers,
            body=bytes(progress.response.body),
            receive_ends=progress.receive_ends,
            receive_s=progress.receive_s,
            connect_s=progress.connect_s,
            sent_s=progress.sent_s,
            headers_s=progress.headers_s,
            ended_s=self._clock.now() if progress.ended_s is None else progress.ended_s,
            failure=failure,
        )
