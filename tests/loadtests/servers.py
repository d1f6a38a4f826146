"""A server on 127.0.0.1 that sends exactly the scripted bytes, in threads, with plain sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

__all__ = ["Act", "Script", "ScriptedServer", "Step", "answer", "chunked", "serving"]


class Act(Enum):
    """What a script does beside sending and pausing."""

    READ = "read the next request of the connection"
    RESET = "close with a TCP reset"
    GOODBYE = "end TLS as one should, with a close_notify"
    HOLD = "keep the connection open until the client closes it"


Step = bytes | float | Act
"""Bytes are sent, a number is a pause in seconds. After the last step the server closes."""

Script = Sequence[Step] | Callable[[bytes], Sequence[Step]]
"""The steps that follow the request's arrival, or a function of the request."""


class ScriptedServer:
    """Plays one script for each connection, the last script for all further ones.

    Attributes:
        requests: the requests as they came, in order.
        sent_ns: ``time.monotonic_ns()`` before each send of the last connection.
    """

    def __init__(
        self, scripts: Sequence[Script], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen on a free port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self._scripts = scripts
        self._tls = tls
        self._count = 0
        self._open: list[socket.socket] = []
        self.requests: list[bytes] = []
        self.sent_ns: list[int] = []
        self.port = int(self._listener.getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http{'s' if tls else ''}://{shown}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """How many connections there were."""
        return self._count

    def close(self) -> None:
        """Stop listening and cut every connection."""
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self._count, len(self._scripts) - 1)]
            self._count += 1
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock, script), daemon=True).start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = self._read(sock)
            self.sent_ns = []
            for step in script(request) if callable(script) else script:
                self._play(sock, step)
        sock.close()

    def _play(self, sock: socket.socket, step: Step) -> None:
        if isinstance(step, bytes):
            self.sent_ns.append(time.monotonic_ns())
            sock.sendall(step)
        elif step is Act.READ:
            self._read(sock)
        elif step is Act.RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif step is Act.GOODBYE:
            assert isinstance(sock, ssl.SSLSocket)
            sock.unwrap()
        elif step is Act.HOLD:
            while sock.recv(65536):
                pass
        elif not isinstance(step, Act):
            time.sleep(step)

    def _read(self, sock: socket.socket) -> bytes:
        """One request with its body; an error where the client closes instead."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            body += _some(sock)
        request = head + b"\r\n\r\n" + body
        self.requests.append(request)
        return request


@contextlib.contextmanager
def serving(
    *scripts: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    """A running server."""
    server = ScriptedServer(scripts, host, tls)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes, status: int = 200, *headers: str) -> bytes:
    """A whole response with a Content-Length."""
    lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Pieces as chunks, with the terminating one."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n\r\n" if end else body


def _some(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionResetError
    return data
