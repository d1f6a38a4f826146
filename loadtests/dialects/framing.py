"""Cutting a body into events: lines of JSON, and server-sent events. Any cuts in, same events out.

A framing keeps the bytes that it was pushed until its owner asks for events, so that a push costs
one copy. Its memory is bounded by ``DRAIN_BYTES + MAX_LINE_BYTES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from planner.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DRAIN_BYTES", "MAX_LINE_BYTES", "Event", "JsonLines", "ServerSentEvents"]

MAX_LINE_BYTES = 4 * 2**20
"""The longest line, and the longest event of several lines."""

DRAIN_BYTES = 2**18
"""Pushed bytes after which the owner should take the events out."""

_BOM = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event of a stream."""

    payload: bytes
    end: int  # body offset just past the last line that carries the payload
    whole: bool  # False: the body ended before the event's own end mark


class _Lines:
    """Lines ended by LF, CRLF or CR, with the body offset just past each."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._due = DRAIN_BYTES
        self._end = 0

    def push(self, data: bytes) -> bool:
        """Keep the bytes. True when so many are kept that they should be taken out."""
        self._buffer += data
        return len(self._buffer) >= self._due

    def clear(self) -> None:
        """Forget the bytes that were kept."""
        self._buffer = bytearray()

    def _take(self, *, final: bool) -> Iterator[tuple[bytes, int]]:
        """The complete lines, with their ends; at the end of the body also the unended one.

        Raises:
            WireError: ``too_large``, a line is longer than MAX_LINE_BYTES.
        """
        lines = bytes(self._buffer).splitlines(keepends=True)
        rest = b""
        # A CR at the end stays behind too: it may be the first half of a CRLF.
        if not final and lines and not lines[-1].endswith(b"\n"):
            rest = lines.pop()
        self._buffer = bytearray(rest)
        self._due = len(rest) + DRAIN_BYTES
        for line in lines:
            _bound(len(line))
            self._end += len(line)
            yield line, self._end
        _bound(len(rest))


class JsonLines(_Lines):
    """Newline-delimited JSON (``application/x-ndjson``): a line that is not blank is an event."""

    def events(self, *, final: bool) -> Iterator[Event]:
        """Take out the events that are complete; with ``final`` also the last, unended one.

        Raises:
            WireError: ``too_large``.
        """
        for line, end in self._take(final=final):
            payload = line.strip()
            if payload:
                yield Event(payload, end, line.endswith((b"\n", b"\r")))


class ServerSentEvents(_Lines):
    """Server-sent events as the WHATWG HTML standard, section 9.2.6, interprets them.

    Comments, ``event:``, ``id:`` and ``retry:`` lines are passed over: no dialect needs them.
    Unlike the standard, the last event of a body counts when its blank line is missing, because
    an LLM server's last event proves itself complete.
    """

    def __init__(self) -> None:
        """No bytes yet."""
        super().__init__()
        self._data: list[bytes] = []
        self._data_end = 0

    def events(self, *, final: bool) -> Iterator[Event]:
        """Take out the events that are complete; with ``final`` also the last, unended one.

        Raises:
            WireError: ``too_large``.
        """
        for line, end in self._take(final=final):
            field = line.rstrip(b"\r\n")
            if end == len(line):
                field = field.removeprefix(_BOM)
            if field.startswith(b"data:"):
                self._data.append(field[6:] if field[5:6] == b" " else field[5:])
                self._data_end = end
                if len(self._data) > 1:
                    _bound(sum(map(len, self._data)))
            elif not field and self._data:
                yield from self._dispatch(whole=True)
        if final and self._data:
            yield from self._dispatch(whole=False)

    def _dispatch(self, *, whole: bool) -> Iterator[Event]:
        payload = b"\n".join(self._data)
        self._data.clear()
        if payload:
            yield Event(payload, self._data_end, whole)


def _bound(size: int) -> None:
    if size > MAX_LINE_BYTES:
        raise WireError(
            "too_large", f"a line of the stream is longer than {MAX_LINE_BYTES // 2**20} MiB"
        )
