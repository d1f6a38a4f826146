"""One request out, stamped bytes back.

The body is handed back whole, with the moment and the length reached at each receive; decoding
happens after the stream has ended, so that it disturbs no other stream's stamps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent

from loadtests.stream import kernel_stamps
from loadtests.stream.connection import Address, Connection, resolve
from loadtests.stream.exchange import Call, Exchange, Timeouts
from loadtests.stream.intake import Intake
from loadtests.stream.proxies import proxy_for
from loadtests.stream.readers import receive_drained, receive_here
from loadtests.stream.tls import tls_context as default_tls
from planner.errors import InputError, WireError

if TYPE_CHECKING:
    import ssl

    from loadtests.stream.clock import Clock
    from loadtests.stream.endpoint import Endpoint

__all__ = ["MAX_BODY_BYTES", "Call", "Exchange", "StreamClient", "Timeouts"]

MAX_BODY_BYTES = 64 * 2**20
"""Some 200,000 events of 300 bytes: no sane answer is longer."""

_ENDED = frozenset({"reset", "closed"})  # failures of a connection that is no more
_RACE_S = 1.0  # longer than any round trip; a server that closes later had read the request
_CLOSED_AT_ONCE_S = 1.0  # shorter than any server's patience with an idle connection


class StreamClient:
    """Sends requests to one server, one at a time; for use in one greenlet.

    By default every request has a connection of its own. With ``keep_alive`` a connection is used
    again unless it was closed meanwhile. A server may close it at the very moment at which the next
    request is sent; that request is sent once more on a new connection (RFC 9112, section 9.3.1).
    Only so: the connection was kept, it ended within ``_RACE_S`` of the send, and not a byte came
    back. Why that is safe although the requests are POSTs: docs/decisions/0013. A server that
    closes kept connections at once although it advertises otherwise (llama.cpp after a stream) is
    asked to close from then on.
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
        drained: bool | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            endpoint: the server.
            clock: stamps every moment.
            timeouts: how long to wait.
            max_body_bytes: a longer body is a failure of kind ``too_large``.
            tls_context: how to verify an https server; by default by the system's authorities
                and those in the file that ``HEADROOM_CA_FILE`` names.
            keep_alive: use a connection for several requests.
            drained: whether the drainer reads, with kernel timestamps; by default where it can.

        Raises:
            InputError: the environment names a proxy or a file of authorities that is no good.
        """
        self._endpoint = endpoint
        self._clock = clock
        self._timeouts = timeouts or Timeouts()
        self._max_body_bytes = max_body_bytes
        self._keep_alive = keep_alive
        self._drained = kernel_stamps.available() if drained is None else drained
        self._proxy = proxy_for(endpoint)
        self._tls: ssl.SSLContext | None = None
        if endpoint.scheme == "https":
            self._tls = tls_context or default_tls()
        self._addresses: list[Address] = []  # looked up once; anew after a failure to connect
        self._connection: Connection | None = None
        self._kept_s = 0.0  # time.monotonic() since when it is kept
        self._opening: tuple[float, float] | None = None  # its begin and duration, until it is used
        self._refusal: WireError | None = None  # why it could not be opened ahead
        self._intake: Intake | None = None
        self._head: tuple[Any, bytes, bytes] | None = None  # of the last call, as bytes

    def connect_ahead(self) -> None:
        """Open the connection that the next exchange will use, unless one is open.

        For who sends at an exact moment. Why it failed is that exchange's failure.
        """
        if self._is_open():
            return
        try:
            self._open(time.monotonic())
        except WireError as error:
            _forget_frames(error)
            self._refusal = error

    def exchange(self, call: Call) -> Exchange:
        """Send one request and wait for the end of its answer.

        What the server or the network does wrong is in ``Exchange.failure``. ``GreenletExit`` and
        ``gevent.Timeout`` pass through, with the socket closed; :meth:`partial` then gives what
        had arrived.

        Raises:
            InputError: the call itself cannot be written as HTTP.
        """
        request = self._encode(call)
        failure: tuple[str, str] | None = None
        reusable = False
        try:
            intake = self._run(request)
            reusable = intake.response.reusable
        except WireError as error:
            failure = (error.kind, str(error))
            _forget_frames(error)
        finally:
            if self._keep_alive and reusable:
                self._kept_s = time.monotonic()
            else:
                self.close()
        return self._finish(failure)

    def partial(self) -> Exchange | None:
        """What had arrived when an exception ended :meth:`exchange`; ``None`` if none did.

        Its failure is ``cancelled``. Call it in the handler: it stamps the end.
        """
        if self._intake is None:
            return None
        return self._finish(("cancelled", "ended by the client"))

    def close(self) -> None:
        """Close the connection, if one is open."""
        connection, self._connection, self._opening = self._connection, None, None
        if connection is not None:
            connection.close()

    def _encode(self, call: Call) -> bytes:
        like = (call.method, call.path, call.headers, self._keep_alive)
        if self._head is None or self._head[0] != like:
            self._head = (like, *self._encode_head(call))
        _, before, after = self._head
        return b"%b%d%b%b" % (before, len(call.body), after, call.body)

    def _encode_head(self, call: Call) -> tuple[bytes, bytes]:
        """What stands before and after the length of the body."""
        path = self._endpoint.base_path + call.path
        forwarded: tuple[tuple[str, str], ...] = ()
        if self._proxy is not None and self._tls is None:  # over TLS a tunnel hides the proxy
            path = f"http://{self._endpoint.authority}{path}"
            forwarded = self._proxy.headers
        pairs = (("Host", self._endpoint.authority), *forwarded, *call.headers)
        lines = (f"{call.method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs))
        if " " in path or not all(line.isascii() and line.isprintable() for line in lines):
            # The line itself may hold an API key: it is not shown.
            raise InputError("a request header or path has a space, a line break or non-ASCII text")
        connection = "keep-alive" if self._keep_alive else "close"
        return (
            "\r\n".join((*lines, "Content-Length: ")).encode(),
            f"\r\nConnection: {connection}\r\n\r\n".encode(),
        )

    def _run(self, request: bytes) -> Intake:
        """Send and receive to the end; once more, if the server closed a kept connection.

        Raises:
            WireError: whatever failed.
        """
        intake = self._new_intake()
        began = time.monotonic()
        try:
            self._run_once(request, intake)
        except WireError as error:
            raced = error.kind in _ENDED and time.monotonic() - began < _RACE_S
            if intake.connect_s is not None or not intake.untouched or not raced:
                raise
            _forget_frames(error)
        else:
            return intake
        self._give_up_keeping()
        self.close()
        intake = self._new_intake()
        intake.resent = True
        self._run_once(request, intake, began)
        return intake

    def _new_intake(self) -> Intake:
        self._intake = Intake(self._clock, self._timeouts, self._max_body_bytes)
        return self._intake

    def _run_once(self, request: bytes, intake: Intake, began: float | None = None) -> None:
        """Connect, send, receive to the end.

        Args:
            request: the request as bytes.
            intake: to fill.
            began: ``time.monotonic()`` since when a connection was looked for; by default now.

        Raises:
            WireError: whatever failed.
        """
        connection = self._connect(intake, time.monotonic() if began is None else began)
        intake.start(time.monotonic_ns())
        broken = self._send(connection, request, intake)
        try:
            if self._drained:
                receive_drained(connection, intake)
            else:
                receive_here(connection, intake)
        except WireError as error:
            if broken is not None and intake.response.status is None:
                raise WireError("reset", f"the server stopped reading: {broken}") from error
            raise

    def _give_up_keeping(self) -> None:
        """Keep no connection any more, if the server closed this one at once."""
        if time.monotonic() - self._kept_s < _CLOSED_AT_ONCE_S:
            self._keep_alive = False

    def _connect(self, intake: Intake, began: float) -> Connection:
        """The open connection if it is still good, or a new one.

        Raises:
            WireError: there is none, or none could be opened ahead.
        """
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal
        if not self._is_open():
            self._open(began)
        if self._opening is not None:
            began, intake.connect_s = self._opening
            intake.connect_began_s = self._clock.at_ns(round(began * 1e9))
            self._opening = None
        assert self._connection is not None  # noqa: S101 - for the types
        return self._connection

    def _is_open(self) -> bool:
        """Whether there is a connection that is still good; one that is not is closed."""
        if self._connection is None:
            return False
        if self._connection.is_stale():
            self._give_up_keeping()
            self.close()
            return False
        return True

    def _open(self, began: float) -> None:
        """Open a new connection, looked for since a reading of ``time.monotonic()``.

        Raises:
            WireError: kinds ``dns``, ``connect``, ``tls``, ``timeout_connect``.
        """
        bound = self._timeouts.connect_s
        expired = WireError(
            "timeout_connect", f"{self._endpoint.authority}: no connection in {bound} s"
        )
        try:
            with gevent.Timeout(bound, expired):
                place = self._proxy.endpoint if self._proxy else self._endpoint
                self._addresses = self._addresses or resolve(place)
                self._connection = Connection.open(
                    self._endpoint, self._addresses,
                    tls=self._tls, proxy=self._proxy, stamped=self._drained,
                )  # fmt: skip
        except WireError:
            self._addresses = []
            raise
        self._opening = (began, time.monotonic() - began)

    def _send(self, connection: Connection, request: bytes, intake: Intake) -> OSError | None:
        """Write the request.

        A server may answer (413, 401) and close without having read everything: a broken pipe is
        handed back, because the answer may still be there to be read.
        """
        kind, deadline = intake.deadline()
        try:
            connection.send(request, deadline)
        except TimeoutError as error:
            raise WireError(kind, "the server did not read the request in time") from error
        except OSError as error:
            return error
        return None

    def _finish(self, failure: tuple[str, str] | None) -> Exchange:
        """The exchange that has ended."""
        intake, self._intake = self._intake, None
        assert intake is not None  # noqa: S101 - who calls has begun one
        response = intake.response
        response.release()
        return Exchange(
            status=response.status,
            headers=response.headers,
            body=bytes(response.body),
            receive_ends=intake.receive_ends,
            receive_s=intake.receive_s,
            connect_began_s=intake.connect_began_s,
            connect_s=intake.connect_s,
            sent_s=intake.sent_s,
            headers_s=intake.headers_s,
            ended_s=self._clock.now() if intake.ended_s is None else intake.ended_s,
            resent=intake.resent,
            failure=failure,
        )


def _forget_frames(error: BaseException | None) -> None:
    """Cut an error off the frames that it came through.

    Some of them hold the error: the two would wait for the garbage collector, with all that a
    request held, and failures may come by the thousand.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
