"""Cutting a body into events: lines of JSON, and server-sent events. Any cuts in, same events out.

A framing keeps the bytes that it was pushed until its owner asks for events, so that a push costs
one copy. It holds at most ``DRAIN_BYTES``, a line and an event, each of at most ``MAX_LINE_BYTES``,
beside the last push.
"""

from __future__ import annotations

from itertools import accumulate, chain, count, repeat
from operator import add
from typing import TYPE_CHECKING

from planner.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["DRAIN_BYTES", "MAX_LINE_BYTES", "Event", "JsonLines", "ServerSentEvents"]

MAX_LINE_BYTES = 4 * 2**20
"""The longest line, and the longest event of several lines."""

DRAIN_BYTES = 2**18
"""Pushed bytes after which the owner should take the events out."""

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
_BETWEEN = b"\n\ndata: "
_BLANK = frozenset({b"\n", b"\r\n", b"\r"})


Event = tuple[bytes, int, bool]
"""One event: its payload; the body offset just past the last line that carries it; and whether it
is whole, or the body ended before the event's own end mark. A plain tuple, as they are many."""


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
        if self._end == 0 and lines and lines[0].startswith(_BOM):
            lines[0] = lines[0].removeprefix(_BOM)
            self._end = len(_BOM)
        for line in lines:
            size = len(line)
            if size > MAX_LINE_BYTES:
                raise _too_large()
            self._end += size
            yield line, self._end
        if len(rest) > MAX_LINE_BYTES:
            raise _too_large()


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
                yield payload, end, line.endswith((b"\n", b"\r"))


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
        self._size = 0
        self._data_end = 0

    def events(self, *, final: bool) -> Iterable[Event]:
        """Take out the events that are complete; with ``final`` also the last, unended one.

        Raises:
            WireError: ``too_large``, when the events up to there have been taken.
        """
        plain = self._plain_events()
        if not (self._buffer or self._data):
            return plain
        return chain(plain, self._other_events(final=final))

    def _other_events(self, *, final: bool) -> Iterator[Event]:
        """Take out events line by line."""
        for line, end in self._take(final=final):
            if line.startswith(b"data:"):
                self._add(line, end)
            elif self._data and line in _BLANK:
                yield self._event(whole=True)
        if final and self._data:
            yield self._event(whole=False)

    def _plain_events(self) -> Iterable[Event]:
        """Take out the complete events if each of them is one ``data: `` line and a blank one.

        This is how LLM servers write them, and cutting at what stands between two events costs a
        third of reading lines. If anything looks otherwise, all is left to the reader of lines.
        """
        plain = bytes(self._buffer[: self._buffer.rfind(b"\n\n") + 2])
        if self._data or not plain.startswith(_DATA) or b"\r" in plain:
            return ()
        payloads = plain[len(_DATA) : -2].split(_BETWEEN)
        # As many line ends as stand between events: none is within one.
        if plain.count(b"\n") != 2 * len(payloads) or not all(payloads):
            return ()
        sizes = list(map(len, payloads))
        if max(sizes) >= MAX_LINE_BYTES - len(_BETWEEN):
            return ()
        # Past a payload's own line end; the next one's begins with the blank line and "data: ".
        first = self._end + len(_DATA) + 1
        ends = map(add, accumulate(sizes), count(first, len(_BETWEEN)))
        self._end += len(plain)
        del self._buffer[: len(plain)]
        self._due = len(self._buffer) + DRAIN_BYTES
        return zip(payloads, ends, repeat(True))

    def _add(self, line: bytes, end: int) -> None:
        """Keep the value of a data line: what follows the colon and one optional space.

        An empty value is a keep-alive, or a line break between the tokens of JSON: it says nothing.
        """
        value = line.removeprefix(b"data:").removeprefix(b" ").rstrip(b"\r\n")
        if not value:
            return
        self._data.append(value)
        self._data_end = end
        self._size += len(line)
        if self._size > MAX_LINE_BYTES:
            raise _too_large()

    def _event(self, *, whole: bool) -> Event:
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        return payload, self._data_end, whole


def _too_large() -> WireError:
    return WireError(
        "too_large", f"a line of the stream is longer than {MAX_LINE_BYTES // 2**20} MiB"
    )
