"""Kernel receive timestamps: the moment at which a segment reached this machine.

``SO_TIMESTAMPNS`` works on TCP: ``recvmsg`` hands over the stamp of the *last* segment among the
bytes that it returns, taken by the network stack before any process was woken. However late a
process reads, the stamp is the arrival.

Stamps are CLOCK_REALTIME. Linux slews CLOCK_MONOTONIC together with it (adjtime(2), chrony and ntpd
between steps), so that the two differ by an offset that changes only when the wall clock is *set*.
The offset is therefore read per stream, and read again at its end to notice a step.
"""

from __future__ import annotations

import functools
import socket
import struct
import sys
import time

from gevent.monkey import get_original

__all__ = [
    "NOTE_BYTES",
    "STAMP",
    "available",
    "enable",
    "stamp_now",
    "wall_offset_ns",
]

STAMP = struct.Struct("@qq")
"""A ``struct timespec`` of a 64-bit system: seconds and nanoseconds."""

NOTE_BYTES = socket.CMSG_SPACE(STAMP.size) if hasattr(socket, "CMSG_SPACE") else 0
"""Room that ``recvmsg`` needs for one stamp."""

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python has no name for it before 3.14
_TRIES = 20
_TRY_S = 0.01


def enable(sock: socket.socket) -> None:
    """Ask for stamps on a socket.

    Raises:
        OSError: the system has none.
    """
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


@functools.cache
def available() -> bool:
    """Whether TCP receives are stamped here, found out by trying on the loopback interface."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return _try_on_loopback()
    except OSError:
        return False


def _try_on_loopback() -> bool:
    """Send bytes to ourselves until one is stamped: the kernel turns stamps on with a delay.

    With plain blocking sockets, whether or not Locust has patched them: a switch to another
    greenlet in the middle would make each of them try.
    """
    make: type[socket.socket] = get_original("socket", "socket")
    pause = get_original("time", "sleep")
    with make() as server, make() as reader:
        server.bind(("127.0.0.1", 0))
        server.listen()
        reader.settimeout(_TRY_S * _TRIES)
        reader.connect(server.getsockname())
        enable(reader)
        with server.accept()[0] as writer:
            for _ in range(_TRIES):
                writer.send(b"?")
                _, notes, _, _ = reader.recvmsg(1, NOTE_BYTES)
                if notes and len(notes[0][2]) == STAMP.size:
                    seconds, nanoseconds = STAMP.unpack(notes[0][2])
                    return bool(abs(seconds + nanoseconds * 1e-9 - time.time()) < 1)
                pause(_TRY_S)
    return False


def stamp_now() -> bytes:
    """A stamp of this moment, in place of one that is missing."""
    return STAMP.pack(*divmod(time.time_ns(), 10**9))


def wall_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, from the tightest of three readings."""
    tightest, offset = sys.maxsize, 0
    for _ in range(3):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if after - before < tightest:
            tightest, offset = after - before, wall - (before + after) // 2
    return offset
