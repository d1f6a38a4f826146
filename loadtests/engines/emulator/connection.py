"""One connection of the emulator: requests in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

import httptools

from loadtests.engines.emulator.speakers.common import Request

if TYPE_CHECKING:
    from loadtests.engines.emulator.generation import Generation
    from loadtests.engines.emulator.server import Emulator

__all__ = ["Connection"]

MAX_REQUEST_BYTES = 16 * 2**20
MAX_UNREAD_BYTES = 8 * 2**20
"""What a client may leave unread before it is cut off."""

_MAX_HEAD_BYTES = 2**16
_MAX_PENDING = 16
_PIECE = 2**16
_AT_ONCE = struct.pack("ii", 1, 0)  # linger for 0 s: closing resets


class Connection(asyncio.Protocol):
    """Reads requests by httptools, one at a time."""

    transport: asyncio.Transport

    def __init__(self, app: Emulator) -> None:
        """Not connected yet."""
        self.generation: Generation | None = None
        self.closed = False
        self._app = app
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = bytearray()
        self._head_bytes = 0
        self._pending: deque[Request] = deque()
        self._keep = True
        self._drained = asyncio.Event()
        self._drained.set()
        self._flooding = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the types
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_UNREAD_BYTES)
        self._app.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """The client has gone, or we have closed."""
        self.closed = True
        self._drained.set()
        self._app.connections.discard(self)
        if self.generation is not None:
            self.generation.gone()
        # The parser and its owner hold each other.
        self._parser = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            self.close()

    def pause_writing(self) -> None:
        """The client does not read: cut it off, unless it is being flooded on purpose."""
        self._drained.clear()
        if not self._flooding:
            self.reset()

    def resume_writing(self) -> None:
        """It reads again."""
        self._drained.set()

    def on_message_begin(self) -> None:
        """For httptools: a request begins."""
        self._url, self._body, self._head_bytes = b"", bytearray(), 0

    def on_url(self, url: bytes) -> None:
        """For httptools: a part of the path."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """For httptools: a header."""
        self._count_head(len(name) + len(value))
        if name.lower() == b"expect":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """For httptools: a part of the body."""
        self._body += body
        if len(self._body) > MAX_REQUEST_BYTES:
            raise httptools.HttpParserError("the body is too long")

    def on_message_complete(self) -> None:
        """For httptools: the request is whole."""
        arrival_s = monotonic()
        assert self._parser is not None  # noqa: S101 - for the types: it calls this
        self._keep = self._keep and self._parser.should_keep_alive()
        path, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        request = Request(method, path, query, bytes(self._body), arrival_s)
        self._body = bytearray()
        if self.generation is None and not self._pending:
            self._app.handle(self, request)
        elif len(self._pending) < _MAX_PENDING:
            self._pending.append(request)
        else:
            self.close()

    def write(self, data: bytes) -> None:
        """Send; harmless when closed."""
        if not self.closed:
            self.transport.write(data)

    def done(self, *, close: bool) -> None:
        """An answer has ended: close, or go on with the next request."""
        if close or not self._keep:
            self.close()
        elif self._pending:
            self._app.loop.call_soon(self._next)

    def close(self) -> None:
        """Close when all is sent."""
        if not self.closed:
            self.transport.close()

    def reset(self) -> None:
        """Close with a reset, at which the client learns that something is wrong."""
        if not self.closed:
            own = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    async def flood(self, front: bytes, size: int) -> None:
        """Send one chunk of so many bytes without a line end, as fast as it is read; then close."""
        self._flooding = True
        self.transport.set_write_buffer_limits(high=4 * _PIECE)
        self.write(b"%x\r\n" % (len(front) + size) + front)
        piece = b"a" * _PIECE
        while size > 0 and not self.closed:
            self.write(piece[:size])
            size -= len(piece)
            await self._drained.wait()
        self.write(b"\r\n")
        self.close()

    def _next(self) -> None:
        if self._pending and self.generation is None and not self.closed:
            self._app.handle(self, self._pending.popleft())

    def _count_head(self, n: int) -> None:
        self._head_bytes += n
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise httptools.HttpParserError("the headers are too long")
