"""One TCP (or TLS) connection on gevent: every wait has a deadline, every receive a stamp.

TLS runs over memory buffers that the same plain receives feed, so a stamp always belongs to the
receive that completed the data, whatever the transport.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import time
from typing import TYPE_CHECKING, Any

from gevent import monkey, socket

from loadtests.stream import kernel_stamps
from loadtests.stream.drainer import drainer
from planner.errors import WireError

if TYPE_CHECKING:
    import socket as plain

    from loadtests.stream.endpoint import Endpoint
    from loadtests.stream.proxies import Proxy
    from loadtests.stream.sources import Source

__all__ = ["Address", "Connection", "resolve"]

_RECEIVE_BYTES = 65536
_TUNNEL_BYTES = 16384  # of a proxy's answer to CONNECT
_TUNNEL_ANSWER = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r]")

_UNUSED = ssl.MemoryBIO()  # what connections without TLS have in place of buffers

Address = tuple[Any, ...]  # what getaddrinfo gives: family, type, protocol, name, socket address


def resolve(endpoint: Endpoint) -> list[Address]:
    """The addresses of a host, in the resolver's order.

    Raises:
        WireError: kind ``dns``.
    """
    flags = socket.AI_NUMERICHOST if endpoint.is_numeric else 0
    lookup = socket.getaddrinfo
    if endpoint.is_numeric:
        # At once: gevent would hand it to a thread, which costs more than a whole request.
        lookup = monkey.get_original("socket", "getaddrinfo")
    try:
        found = lookup(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        why = f"{endpoint.host}: {_reason(error)}"
        raise WireError("dns", why) from error
    return list(found)


class Connection:
    """An open connection.

    Attributes:
        plain_socket: the non-blocking socket beneath gevent's, for who waits in another way.
            gevent has no public name for it; a socket made anew of its descriptor would close it.
        encrypted: whether what is received must go through :meth:`decrypt`.
        ended: the peer has said goodbye over TLS.
        source: what the drainer receives of it; ``None`` where it has never done so.
        stamp_ns: ``time.monotonic_ns()`` right after the receive that brought the last data.
    """

    __slots__ = (
        "_incoming", "_outgoing", "_socket", "_tls", "encrypted", "ended", "plain_socket", "source",
        "stamp_ns",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        """Wrap a connected socket; :meth:`open` is the way to get one."""
        self._socket = sock
        self.plain_socket: plain.socket = sock._sock  # type: ignore[attr-defined]  # noqa: SLF001
        self._tls: ssl.SSLObject | None = None
        self.encrypted = False
        self._incoming = self._outgoing = _UNUSED
        self.ended = False
        self.source: Source | None = None
        self.stamp_ns = 0

    @classmethod
    def open(
        cls,
        endpoint: Endpoint,
        addresses: list[Address],
        *,
        tls: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        stamped: bool = False,
    ) -> Connection:
        """Connect to the first address that answers and shake hands. The caller bounds the time.

        Args:
            endpoint: the server.
            addresses: of the server, or of the proxy.
            tls: how to verify the server; ``None`` for plain HTTP.
            proxy: what is connected to; for an https server it is asked for a tunnel.
            stamped: ask the kernel for receive timestamps.

        Raises:
            WireError: kinds ``connect`` and ``tls``.
        """
        failure: OSError | None = None
        for address in addresses:
            try:
                return cls._open_one(endpoint, address, tls=tls, proxy=proxy, stamped=stamped)
            except OSError as error:
                failure = error
        place = proxy.endpoint.authority if proxy else endpoint.authority
        raise WireError("connect", f"{place}: {_reason(failure)}") from failure

    @classmethod
    def _open_one(
        cls,
        endpoint: Endpoint,
        address: Address,
        *,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None,
        stamped: bool,
    ) -> Connection:
        family, kind, protocol, _, place = address
        sock = socket.socket(family, kind, protocol)
        try:
            _connect(sock, place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if stamped:
                kernel_stamps.enable(sock)
            connection = cls(sock)
            if tls is not None:
                if proxy is not None:
                    connection._dig(endpoint, proxy)
                connection._shake_hands(tls, endpoint)
        except BaseException:
            sock.close()
            raise
        return connection

    def send(self, data: bytes, deadline_s: float) -> None:
        """Write everything.

        Args:
            data: what to write.
            deadline_s: reading of ``time.monotonic()`` at which to give up.

        Raises:
            OSError: the peer went away; ``TimeoutError`` at the deadline.
        """
        if self._tls is None:
            self._write(data, deadline_s)
            return
        rest = memoryview(data)
        while rest:  # OpenSSL may take one record at a time
            rest = rest[self._tls.write(rest) :]
        self._write(self._outgoing.read(), deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        """The next data, or ``b""`` when the peer has ended the stream; sets ``stamp_ns``.

        Raises:
            OSError: the connection broke; ``TimeoutError`` at the deadline.
            WireError: kind ``tls``, or ``closed`` for a TLS stream that was cut off.
        """
        while not self.ended:
            data = self._read(deadline_s)
            self.stamp_ns = time.monotonic_ns()
            if self._tls is None:
                return data
            clear = self.decrypt(data)
            if clear is not None:
                return clear
        return b""

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by the peer, or has data that nobody asked for."""
        if self.ended:
            return True
        if self.source is not None:
            self.source.drain()
            return self.source.closed or self.source.waiting > 0
        try:
            self.plain_socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close the socket. What the peer still sends is thrown away."""
        if self.source is not None:
            drainer().forget(self.source)
        self._socket.close()

    def _read(self, deadline_s: float) -> bytes:
        self._socket.settimeout(_remaining(deadline_s))
        return self._socket.recv(_RECEIVE_BYTES)

    def _write(self, data: bytes, deadline_s: float) -> None:
        try:
            sent = self.plain_socket.send(data)  # mostly all of it, and at once
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(data):
            self._socket.settimeout(_remaining(deadline_s))
            self._socket.sendall(memoryview(data)[sent:])

    def _shake_hands(self, context: ssl.SSLContext, endpoint: Endpoint) -> None:
        self.encrypted = True
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=endpoint.host)
        try:
            while not self._try_handshake():
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise WireError("tls", f"{endpoint.authority} closed during the TLS handshake")
                self._incoming.write(data)
        except ssl.SSLError as error:
            why = f"TLS with {endpoint.authority} failed: {_reason(error)}"
            raise WireError("tls", why) from error

    def _try_handshake(self) -> bool:
        """One step of the handshake; whether it is done. What it has to say is sent in any case."""
        assert self._tls is not None  # noqa: S101 - for the type checker
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            pending = self._outgoing.read()
            if pending:
                self._socket.sendall(pending)
        return True

    def _dig(self, endpoint: Endpoint, proxy: Proxy) -> None:
        """Ask the proxy for a tunnel to the server.

        Raises:
            WireError: kind ``connect``, it refuses.
        """
        place = endpoint.full_authority
        lines = (
            f"CONNECT {place} HTTP/1.1",
            f"Host: {place}",
            *(f"{name}: {value}" for name, value in proxy.headers),
        )
        self._socket.sendall("\r\n".join((*lines, "", "")).encode())
        answer = b""
        # Nothing can follow the answer: over TLS the client speaks first.
        while b"\r\n\r\n" not in answer and len(answer) <= _TUNNEL_BYTES:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                break
            answer += data
        status = _TUNNEL_ANSWER.match(answer)
        if status is None or not status[1].startswith(b"2") or b"\r\n\r\n" not in answer:
            said = f"HTTP {status[1].decode()}" if status else "no answer in HTTP"
            raise WireError(
                "connect", f"the proxy {proxy.endpoint.authority} gives no way to {place}: {said}"
            )

    def decrypt(self, data: bytes) -> bytes | None:
        """All plain bytes that the data completes; ``None`` if it completes no record.

        Sets ``ended`` at the peer's goodbye.

        Raises:
            WireError: kind ``tls``, or ``closed`` for a stream that was cut off.
        """
        assert self._tls is not None  # noqa: S101 - for the type checker
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(_RECEIVE_BYTES):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            return b"".join(pieces) or None
        except ssl.SSLEOFError as error:
            raise WireError("closed", "the TLS stream was cut off") from error
        except ssl.SSLError as error:
            raise WireError("tls", f"TLS failed: {_reason(error)}") from error
        self.ended = True  # an empty read: what came before the goodbye still counts
        return b"".join(pieces)


def _connect(sock: socket.socket, place: tuple[Any, ...]) -> None:
    """Connect to a numeric address; gevent's own method would look it up again, in a thread."""
    number = sock._sock.connect_ex(place)  # type: ignore[attr-defined]  # noqa: SLF001
    if number == errno.EINPROGRESS:
        socket.wait_write(sock.fileno())
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _remaining(deadline_s: float) -> float:
    """Seconds left, never the 0 that would mean "do not block" to a socket."""
    return max(deadline_s - time.monotonic(), 1e-3)


def _reason(error: Exception | None) -> str:
    """What an exception says, on one line and bounded."""
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
    return " ".join(str(text or error or type(error).__name__).split())[:200]
