"""Was the client itself the bottleneck? Readings of this process, and what they forbid.

Readings are plain values; :func:`client_problem` judges them and touches nothing.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gevent
import numpy as np

from loadtests.stream import kernel_stamps
from planner.errors import InputError
from planner.units import format_declared, format_duration

if TYPE_CHECKING:
    from planner.records import RequestRecord

__all__ = ["ClientProbe", "ClientReadings", "check_limits", "client_problem"]

_PROBE_EVERY_S = 0.05
_SCHEDSTAT = Path("/proc/self/schedstat")
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SPARE_FILES = 128  # what Locust, the run folder and name look-ups hold beside the streams
_PORTS_FREE = 0.8  # of the range: others use ports too, and closed connections keep theirs a while

MAX_CPU_SHARE = 0.9
"""Of one core. One process makes the load, so that above it requests queue in the client."""

MAX_RUN_QUEUE_SHARE = 0.5
"""Of the time, ready to run but without a processor. Kernel timestamps are taken even then, but a
client that stands still half of the time does not make the load that was asked for."""

MAX_LATE_SHARE = 0.05
"""Of the mean request's duration, spent between its due time and its sending. In a closed loop the
concurrency is below the requested one by this share, and so is the throughput that it gives."""

MAX_LAG_S = 0.010
"""99th percentile of the event loop's lag where receives are stamped by the loop itself: every
TTFT and gap is wrong by as much. With kernel timestamps the lag only delays sends and counts
there."""

MAX_COALESCED_SHARE = 0.10
"""Of the content events, with the stamp of another. Servers send several at once too; it is the
client's doing only if the loop's lag exceeds half of the gap between events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientReadings:
    """How this process fared. ``None``: this system does not tell, or no request was answered."""

    cpu_share: float  # of one core
    run_queue_share: float | None  # of the time, waiting for a processor
    loop_lag_p99_s: float  # how late the event loop came back to a sleeper
    kernel_stamps: bool  # arrivals are stamped whatever the loop does
    late_mean_s: float | None = None  # from a request's due time to its sending, less connecting
    late_p99_s: float | None = None
    request_mean_s: float | None = None  # mean duration of a request
    coalesced_share: float | None = None  # content events with the stamp of the one before
    gap_mean_s: float | None = None  # between content events


class ClientProbe:
    """Reads this process from its construction on; costs one short wake-up every 50 ms."""

    def __init__(self) -> None:
        """Begin."""
        self._started_s = time.monotonic()
        self._cpu_s = time.process_time()
        self._waited_s = _run_queue_s()
        self._lags = array("d")
        self._late = array("d")
        self._requests_s = self._streams_s = self._coalesced = 0.0
        self._events = self._gaps = 0
        self._greenlet = gevent.spawn(self._watch)

    def see(self, record: RequestRecord) -> None:
        """Note how a request that was made meanwhile was sent and received."""
        if record.status != "ok":
            return
        self._late.append(record.sent_s - record.due_s)
        self._requests_s += record.ended_s - record.scheduled_s
        if record.first_token_s is not None:
            gaps = len(record.gaps_s) // 4
            # Of distinct stamps: a server that writes a whole answer at once has no gaps to miss.
            self._gaps += gaps - round((record.coalesced_share or 0.0) * (gaps + 1))
            self._streams_s += record.ended_s - record.first_token_s
            self._events += gaps + 1
            self._coalesced += (record.coalesced_share or 0.0) * (gaps + 1)

    def stop(self) -> ClientReadings:
        """End, and say how it was."""
        self._greenlet.kill()
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        waited_s = _run_queue_s()
        share = None
        if waited_s is not None and self._waited_s is not None:
            share = (waited_s - self._waited_s) / elapsed_s
        requests = len(self._late)
        return ClientReadings(
            cpu_share=(time.process_time() - self._cpu_s) / elapsed_s,
            run_queue_share=share,
            loop_lag_p99_s=_p99(self._lags) or 0.0,
            kernel_stamps=kernel_stamps.available(),
            late_mean_s=sum(self._late) / requests if requests else None,
            late_p99_s=_p99(self._late),
            request_mean_s=self._requests_s / requests if requests else None,
            coalesced_share=self._coalesced / self._events if self._events else None,
            gap_mean_s=self._streams_s / self._gaps if self._gaps else None,
        )

    def problem(self) -> str | None:
        """End, and say why what was measured meanwhile must not be used, if so."""
        return client_problem(self.stop())

    def _watch(self) -> None:
        while True:
            due_s = time.monotonic() + _PROBE_EVERY_S
            gevent.sleep(_PROBE_EVERY_S)
            self._lags.append(max(time.monotonic() - due_s, 0.0))


def _p99(values: array[float]) -> float | None:
    return float(np.quantile(np.array(values), 0.99)) if values else None


def client_problem(readings: ClientReadings) -> str | None:
    """Why what was measured meanwhile must not be used, or ``None``. Pure."""
    found = (
        _busy(readings)
        or _late(readings)
        or (None if readings.kernel_stamps else _lagging(readings))
        or _coalescing(readings)
    )
    if found is None:
        return None
    return (
        f"{found}: it was the limit, not the server; "
        "make the load from a larger or a quieter machine"
    )


def _busy(readings: ClientReadings) -> str | None:
    if readings.cpu_share > MAX_CPU_SHARE:
        return (
            f"the client used {readings.cpu_share:.0%} of its one core (bound {MAX_CPU_SHARE:.0%})"
        )
    waited = readings.run_queue_share
    if waited is not None and waited > MAX_RUN_QUEUE_SHARE:
        return (
            f"the client waited {waited:.0%} of the time for a processor "
            f"(bound {MAX_RUN_QUEUE_SHARE:.0%})"
        )
    return None


def _late(readings: ClientReadings) -> str | None:
    late_s, request_s = readings.late_mean_s, readings.request_mean_s
    if late_s is None or not request_s or late_s <= MAX_LATE_SHARE * request_s:
        return None
    return (
        f"the client sent requests {format_duration(late_s)} late in the mean, "
        f"{late_s / request_s:.0%} of a request's duration (bound {MAX_LATE_SHARE:.0%})"
    )


def _lagging(readings: ClientReadings) -> str | None:
    if readings.loop_lag_p99_s <= MAX_LAG_S:
        return None
    return (
        "the client's event loop, which stamps arrivals here, was "
        f"{format_duration(readings.loop_lag_p99_s)} late at its 99th percentile "
        f"(bound {format_declared('', MAX_LAG_S)})"
    )


def _coalescing(readings: ClientReadings) -> str | None:
    share, gap_s = readings.coalesced_share, readings.gap_mean_s
    if share is None or gap_s is None or share <= MAX_COALESCED_SHARE:
        return None
    if readings.loop_lag_p99_s <= gap_s / 2:
        return None
    return (
        f"{share:.0%} of the content events were read together with another "
        f"(bound {MAX_COALESCED_SHARE:.0%}) by an event loop "
        f"{format_duration(readings.loop_lag_p99_s)} late"
    )


def check_limits(streams: int) -> None:
    """See to it that so many connections can be open at once; raise the soft limit if need be.

    Raises:
        InputError: the hard limit on open files or the range of ports is too small.
    """
    _check_files(streams + _SPARE_FILES)
    try:
        low, high = (int(word) for word in _PORT_RANGE.read_text().split())
    except (OSError, ValueError):
        return  # not Linux, or not told: the system's default is large enough for most
    ports = int((high - low + 1) * _PORTS_FREE)
    if streams > ports:
        raise InputError(
            f"{streams} connections to one server need as many ports; this machine has {ports} to "
            f"spare ({low}-{high}): widen net.ipv4.ip_local_port_range or use several machines"
        )


def _check_files(needed: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"this load needs {needed} open files at once and the limit is {hard}: "
            f"raise it (ulimit -Hn {needed}) or use several machines"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _run_queue_s() -> float | None:
    """Seconds that this process's main thread was ready to run and did not."""
    try:
        return int(_SCHEDSTAT.read_text().split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return None
