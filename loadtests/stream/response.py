"""One HTTP response as it grows: llhttp parses, this keeps the body and judges."""

from __future__ import annotations

import httptools

from planner.errors import WireError

__all__ = ["Response"]

MAX_OVERHEAD_BYTES = 65536
"""Bytes without any body among them that are put up with: headers, 1xx answers, trailers."""

_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL = 200


class Response:
    """The state of one response; its ``on_*`` methods are called by httptools.

    Attributes:
        status: the final status (1xx answers are passed over); ``None`` until headers are complete.
        headers: lower-case names; repeated headers are joined by a comma; trailers are left out.
        body: the decoded body so far.
        limit: how many bytes it may have.
        overhead: bytes since the last ones of the body.
        chunked: the headers have said that the body comes in chunks.
        complete: the message has ended.
        reusable: the connection may carry another request.
    """

    __slots__ = (
        "_feed_data", "_parser", "_ready", "body", "chunked", "complete", "headers", "limit",
        "overhead", "reusable", "status",
    )  # fmt: skip

    def __init__(self, max_body_bytes: int) -> None:
        """Wait for a response whose body may have so many bytes."""
        self._parser = httptools.HttpResponseParser(self)
        self._feed_data = self._parser.feed_data
        self.limit = max_body_bytes
        self.overhead = 0
        self._ready = False  # the final headers are complete
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.chunked = False
        self.complete = False
        self.reusable = False

    def feed(self, data: bytes) -> bool:
        """Take in what one receive brought; whether the headers are complete.

        Raises:
            WireError: kinds ``bad_http`` and ``too_large``. What came before stays readable.
        """
        before = len(self.body)
        try:
            self._feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise WireError("bad_http", "the server switched protocols, unasked") from error
        except httptools.HttpParserError as error:
            if not self.complete and len(self.body) <= self.limit:
                raise WireError("bad_http", f"not an HTTP response: {error}") from error
            self.reusable = False  # bytes after the end harm nobody else
        size = len(self.body)
        if size > before:
            self.overhead = 0
            if size > self.limit:
                raise self.too_large()
            return self._ready
        self.overhead += len(data)
        if self.overhead > MAX_OVERHEAD_BYTES and not self.complete:
            raise WireError("too_large", f"over {MAX_OVERHEAD_BYTES} bytes of headers or trailers")
        return self._ready

    def too_large(self) -> WireError:
        """The failure of a body that is beyond the limit."""
        return WireError("too_large", f"the body is over {self.limit} bytes")

    def end(self) -> None:
        """The peer has ended the stream.

        Raises:
            WireError: kind ``closed``, if the message was not complete.
        """
        if self.complete:
            return
        if not self._ready:
            raise WireError("closed", "the server closed the connection before it answered")
        if self.chunked or "content-length" in self.headers:
            raise WireError("closed", "the server closed the connection in the middle of an answer")
        self.complete = True

    def release(self) -> None:
        """Let go of the parser: nothing more will be fed.

        The parser holds this object's methods; without this the body, and all else of a request,
        would wait for the garbage collector.
        """
        del self._parser, self._feed_data

    def on_message_begin(self) -> None:
        """Note that something follows the message, which nobody asked for."""
        if self.complete:
            self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        if self._ready:
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """Pass over a 1xx answer; otherwise the status is known."""
        if self._ready:
            return
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL:
            self.headers.clear()
            return
        self.status = status
        self._ready = True
        # Chunks are what the last coding says (RFC 9112, section 6.3), as llhttp judges too.
        last = self.headers.get("transfer-encoding", "").rpartition(",")[2]
        self.chunked = last.strip().lower() == "chunked"

    def on_body(self, piece: bytes) -> None:
        """Append to the body, and to nothing once the message has ended."""
        if not self.complete:
            self.body += piece

    def on_message_complete(self) -> None:
        """End the message, unless it was a 1xx answer."""
        if self._ready and not self.complete:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
