"""Taking bytes and kernel stamps off many sockets: in C where that was compiled, else in Python.

Both do the same behind :class:`Source` and :class:`Poller`. The extension (``_drain.c``) makes no
Python object per chunk, which saves about half of what a chunk costs.
"""

from __future__ import annotations

import os
import select
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from gevent.monkey import get_original

from loadtests.stream import kernel_stamps
from loadtests.stream.kernel_stamps import NOTE_BYTES, STAMP, stamp_now

if TYPE_CHECKING:
    import socket
    from types import ModuleType

__all__ = [
    "BATCH",
    "EXTENSION",
    "READER_VARIABLE",
    "Poller",
    "Source",
    "clock_name",
    "new_poller",
    "new_source",
    "wall_offset_ns",
]

READER_VARIABLE = "HEADROOM_READER"
"""Set to ``python`` in the environment, the extension is not used."""

BATCH = 256
"""Sockets drained before others have their turn: under a millisecond."""

_RECEIVE_BYTES = 65536
_CHUNKED_END = b"\r\n\r\n"  # ends a chunked message, with or without trailers


def _extension() -> ModuleType | None:
    if os.environ.get(READER_VARIABLE) == "python":
        return None
    try:
        from loadtests.stream import _drain
    except ImportError:  # not compiled: no compiler, or not Linux
        return None
    return _drain


EXTENSION: Any = _extension()
"""The compiled module, or ``None``."""


class Source(Protocol):
    """One socket: what it received and nobody has looked at. It lives as long as its connection.

    Attributes:
        eager: there is reason to look after every receive; otherwise only where a chunked message
            may have ended, or the bound is reached.
    """

    eager: bool

    @property
    def fileno(self) -> int:
        """The socket's descriptor."""

    @property
    def waiting(self) -> int:
        """How many receives nobody has looked at."""

    @property
    def closed(self) -> bool:
        """Whether nothing more can be received."""

    @property
    def broken(self) -> OSError | None:
        """The error that ended the stream."""

    def drain(self) -> bool:
        """Receive what is there, never waiting; whether there is reason to look."""

    def take(self, offset_ns: int, /) -> tuple[bytes, list[int], list[int]]:
        """Hand over what was received, and begin anew.

        Args:
            offset_ns: CLOCK_REALTIME minus CLOCK_MONOTONIC.

        Returns:
            The bytes; the end in them of each receive, where one that is no longer than the one
            before is the end of the stream; and the moment of each on CLOCK_MONOTONIC.
        """


class Poller(Protocol):
    """Finds the sockets that have something, and drains them."""

    def add(self, source: Any, /) -> None:
        """Watch a source; harmless when repeated."""

    def remove(self, source: Any, /) -> None:
        """Watch it no longer. To be called before its socket is closed; harmless when repeated."""

    def drain(self) -> tuple[int, list[int]]:
        """Drain up to ``BATCH`` sources.

        Returns:
            How many had something, and the descriptors of those with reason to look.
        """


def new_source(sock: socket.socket, bound: int) -> Source:
    """A source for a connected, non-blocking socket whose methods switch no greenlets.

    Args:
        sock: the socket.
        bound: bytes after which there is reason to look.
    """
    if EXTENSION is None:
        return _PythonSource(sock, bound)
    source: Source = EXTENSION.Source(sock.fileno(), bound)
    return source


def new_poller() -> Poller:
    """A poller of sources that :func:`new_source` makes."""
    return _PythonPoller() if EXTENSION is None else EXTENSION.Poller()


def wall_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, as ``kernel_stamps.wall_offset_ns`` finds it."""
    offset_ns = kernel_stamps.wall_offset_ns if EXTENSION is None else EXTENSION.wall_offset_ns
    return int(offset_ns())


def clock_name() -> str:
    """Which clock stamps arrivals in this process and what reads it, for the manifest."""
    if kernel_stamps.available():
        reader = "Python" if EXTENSION is None else "C"
        return f"kernel receive timestamps (SO_TIMESTAMPNS), drained in {reader}"
    return "CLOCK_MONOTONIC, read when a receive returns"


class _PythonSource:
    """A source whose bytes and stamps are objects that the garbage collector does not track."""

    __slots__ = ("_bound", "_pieces", "_receive", "_room", "_stamps", "broken", "closed", "eager",
                 "fileno")  # fmt: skip

    def __init__(self, sock: socket.socket, bound: int) -> None:
        self.fileno = sock.fileno()
        self.eager = True
        self.closed = False
        self.broken: OSError | None = None
        self._receive = sock.recvmsg
        self._bound = self._room = bound
        self._pieces: list[bytes] = []
        self._stamps: list[bytes] = []

    @property
    def waiting(self) -> int:
        return len(self._pieces)

    def drain(self) -> bool:
        if self._room <= 0:
            return True
        try:
            data, notes, _, _ = self._receive(_RECEIVE_BYTES, NOTE_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self.broken = error
            self.closed = True
            return True
        self._pieces.append(data)
        self._stamps.append(notes[0][2] if notes else stamp_now())
        self._room -= len(data)
        # The last four bytes may be spread over receives: then the last of them is a short one.
        if self.eager or data[-4:] == _CHUNKED_END or len(data) < 4 or self._room <= 0:  # noqa: PLR2004
            self.closed = not data
            return True
        return False

    def take(self, offset_ns: int, /) -> tuple[bytes, list[int], list[int]]:
        pieces, stamps = self._pieces, self._stamps
        self._pieces, self._stamps, self._room = [], [], self._bound
        moments = [s * 1_000_000_000 + ns - offset_ns for s, ns in map(STAMP.unpack, stamps)]
        return b"".join(pieces), list(accumulate(map(len, pieces))), moments


class _PythonPoller:
    """An epoll of its own, level-triggered: one receive per socket and turn is enough."""

    def __init__(self) -> None:
        # gevent's patching hides epoll, because it may block. This one is only ever polled.
        self._epoll = get_original("select", "epoll")()
        self._sources: dict[int, Source] = {}

    def add(self, source: Source, /) -> None:
        if self._sources.get(source.fileno) is not source:
            self._epoll.register(source.fileno, select.EPOLLIN)
            self._sources[source.fileno] = source

    def remove(self, source: Source, /) -> None:
        if self._sources.get(source.fileno) is source:
            del self._sources[source.fileno]
            self._epoll.unregister(source.fileno)

    def drain(self) -> tuple[int, list[int]]:
        ready = self._epoll.poll(0, BATCH)
        due: list[int] = []
        for fileno, _ in ready:
            source = self._sources[fileno]
            if source.drain():
                due.append(fileno)
                if source.closed:  # or epoll would tell it again and again
                    self.remove(source)
        return len(ready), due
