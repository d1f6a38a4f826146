"""One reader for all streams of a process: it drains their sockets on a tick and looks later.

Kernel timestamps make arrival times exact however late a socket is read, so nothing has to happen
per chunk but to take it off its socket: no greenlet is woken and nothing is parsed. Bytes and
stamps are kept flat, as objects that the garbage collector does not track. A stream is looked into
(parsed) only when its last receive may have ended its message, when it has grown by
``_UNPARSED_BYTES``, or at every receive where nothing cheaper can tell (headers, TLS, bodies
without chunks).

Several segments that wait in one socket share the last one's stamp. The tick is therefore kept
below half of the fastest stream's gap, and what shares a stamp nevertheless is counted as
coalesced.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import deque
from typing import Any, cast

from gevent.hub import Hub, Waiter, get_hub
from gevent.monkey import get_original

from loadtests.stream.kernel_stamps import enable
from loadtests.stream.sources import BATCH, Source, new_poller, new_source

__all__ = ["Drainer", "Inlet", "drainer", "open_source"]

_UNPARSED_BYTES = 65536  # what a stream may hold unparsed
_LOOK_S = 0.004  # what looking may take of a tick

_SHORTEST_TICK_S = 0.0005
_LONGEST_TICK_S = 0.005
_FIRST_TICK_S = 0.001
_WINDOW_S = 0.1  # over which the fastest stream is looked for
_TICKS_PER_GAP = 2.5
_TICKS_PER_EXCHANGE = 100  # an answer's end is noticed within 1 % of its duration


class Inlet:
    """One answer under the drainer.

    Attributes:
        source: what its socket received and nobody has looked at.
        due: it waits to be looked into.
        over: nothing more is to be received.
        counted: receives up to the last window, less those that were taken away.
        since: ``time.monotonic()`` of its beginning.
        waiter: of who waits for it to be over.
        until: ``time.monotonic()`` up to which it waits.
    """

    __slots__ = ("counted", "due", "over", "since", "source", "until", "waiter")

    def __init__(self, source: Source) -> None:
        """Prepare for what comes from a source next."""
        self.source = source
        self.due = self.over = False
        self.waiter: Waiter[None] | None = None
        self.until = 0.0
        self.counted = 0
        self.since = time.monotonic()

    def look(self) -> bool:
        """Take what was received and look into it; whether the stream is over.

        Implementations must not raise, and not switch greenlets.
        """
        raise NotImplementedError

    def take(self, offset_ns: int) -> tuple[bytes, list[int], list[int]]:
        """Hand over what was received, as ``Source.take`` does, and begin anew."""
        taken = self.source.take(offset_ns)
        self.counted -= len(taken[1])
        return taken


class Drainer:
    """Drains every inlet of one hub, in a callback of its loop while there are any.

    A callback, because a greenlet that sleeps from tick to tick costs half as much again. A tick
    also ends waiting that was bounded in time: a timer for each request costs more than a look at
    the clock for all.
    """

    def __init__(self, hub: Hub) -> None:
        """Open the drainer's poller."""
        self.foreign = False  # an epoll is shared over a fork: the child needs its own
        self._hub = hub
        self._poller = new_poller()
        self._inlets: dict[int, Inlet] = {}
        self._due: deque[Inlet] = deque()
        self._patient_until = math.inf  # before it, nobody's waiting ends
        self._clear_from = self._clear_until = -math.inf
        self._postponed = False  # the last tick fell into a time to be kept clear
        self._window_ends = 0.0
        self._shortest_s = _TICKS_PER_EXCHANGE * _LONGEST_TICK_S
        self.tick_s = _FIRST_TICK_S
        self._timer = hub.loop.timer(0.0, repeat=self.tick_s)
        # The kernel stamps segments only while some socket asks for it, and begins with a delay:
        # an idle socket that asks for ever keeps the first segment of a stream from being missed.
        self._keeper = cast("Any", get_original("socket", "socket"))(
            socket.AF_INET, socket.SOCK_DGRAM
        )
        enable(self._keeper)

    def join(self, inlet: Inlet) -> None:
        """Begin to look at what comes from a source."""
        source = inlet.source
        self._poller.add(source)
        if not self._inlets:
            self._window_ends = inlet.since + _WINDOW_S
            self._timer.again(self._tick)
        self._inlets[source.fileno] = inlet
        if source.waiting or source.closed:  # it came before: no event will tell of it
            inlet.due = True
            self._due.append(inlet)
        if self._postponed:  # something was just sent: what had to wait for it has its turn
            self._hub.loop.run_callback(self._tick)

    def leave(self, inlet: Inlet) -> None:
        """Look at it no longer; harmless when repeated. The source stays watched: see `forget`."""
        if self._inlets.pop(inlet.source.fileno, None) is not None:
            self._shortest_s = min(self._shortest_s, time.monotonic() - inlet.since)

    def forget(self, source: Source) -> None:
        """Stop draining a socket, which is about to be closed. Harmless when repeated."""
        self._poller.remove(source)

    def wait(self, inlet: Inlet, timeout_s: float) -> None:
        """Wait until the inlet is over, or so long and up to a tick longer."""
        if inlet.over:
            return
        inlet.waiter = Waiter(self._hub)
        inlet.until = time.monotonic() + timeout_s
        self._patient_until = min(self._patient_until, inlet.until)
        try:
            inlet.waiter.get()
        finally:
            inlet.waiter = None

    def keep_clear(self, since: float, until: float) -> None:
        """Postpone a tick that would begin between two readings of ``time.monotonic()``.

        For who is about to send at an exact moment. The tick comes once something was sent, or
        in its next turn: two turns are still shorter than a gap, so that no stamps are shared.
        """
        self._clear_from, self._clear_until = since, until

    def _tick(self) -> None:
        """Drain, look, and come again."""
        if not self._inlets or self.foreign:
            # A fork's copy must not take what is the parent's off shared sockets.
            self._timer.stop()
            return
        if not self._postponed and self._clear_from <= time.monotonic() < self._clear_until:
            self._postponed = True
            self._timer.again(self._tick)
            return
        self._postponed = False
        if self._drain_some() == BATCH:  # there is more, but others have their turn first
            self._timer.stop()
            self._hub.loop.run_callback(self._tick)
            return
        now = time.monotonic()
        if self._due:
            self._look_at_some(now + _LOOK_S)
        if now >= self._patient_until:
            self._wake_impatient(now)
        if now >= self._window_ends:
            self._choose_tick(_WINDOW_S + now - self._window_ends)
            self._window_ends = now + _WINDOW_S
        self._timer.again(self._tick)

    def _drain_some(self) -> int:
        """Drain up to a batch of the sockets that have something; returns how many."""
        ready, due = self._poller.drain()
        for fileno in due:
            inlet = self._inlets.get(fileno)  # none: an idle connection, and now a stale one
            if inlet is not None and not inlet.due:
                inlet.due = True
                self._due.append(inlet)
        return ready

    def _look_at_some(self, until: float) -> None:
        """Look where there is reason to, for a while: draining must not wait for it.

        When many streams end at once, parsing them takes longer than a gap of the others; and each
        that is over wakes a user who decodes and records.
        """
        while self._due and time.monotonic() < until:
            inlet = self._due.popleft()
            inlet.due = False
            if self._inlets.get(inlet.source.fileno) is not inlet:
                continue  # it has left, and its descriptor may be another's by now
            inlet.over = inlet.look() or inlet.source.broken is not None
            if inlet.over:
                self.leave(inlet)
                self._wake(inlet)

    def _wake_impatient(self, now: float) -> None:
        """Wake those who have waited long enough."""
        waiting = [inlet for inlet in self._inlets.values() if inlet.waiter is not None]
        for inlet in waiting:
            if inlet.until <= now:
                self._wake(inlet)
        self._patient_until = min((i.until for i in waiting if i.until > now), default=math.inf)

    def _wake(self, inlet: Inlet) -> None:
        """Let who waits for it go on, once this callback has ended."""
        if inlet.waiter is not None:
            self._hub.loop.run_callback(inlet.waiter.switch, None)

    def _choose_tick(self, elapsed_s: float) -> None:
        """Below half the gap of the fastest stream, and a small part of the shortest exchange.

        The fastest stream counts, not the average one: most may be waiting in the server's queue.
        """
        most = 1
        for inlet in self._inlets.values():
            received = inlet.source.waiting
            most = max(most, received - inlet.counted)
            inlet.counted = received
        tick_s = min(elapsed_s / most / _TICKS_PER_GAP, self._shortest_s / _TICKS_PER_EXCHANGE)
        tick_s = min(max(tick_s, _SHORTEST_TICK_S), _LONGEST_TICK_S)
        self._shortest_s = min(self._shortest_s * 2, _TICKS_PER_EXCHANGE * _LONGEST_TICK_S)
        if tick_s != self.tick_s:
            self._timer.stop()
            self.tick_s = tick_s
            self._timer = self._hub.loop.timer(0.0, repeat=tick_s)


def open_source(sock: socket.socket) -> Source:
    """A source for a connected, non-blocking socket whose methods switch no greenlets."""
    return new_source(sock, _UNPARSED_BYTES)


_DRAINERS: dict[Hub, Drainer] = {}


def _disown() -> None:
    """In a fork's child: what there is belongs to the parent."""
    for copy in _DRAINERS.values():
        copy.foreign = True
    _DRAINERS.clear()


os.register_at_fork(after_in_child=_disown)


def drainer() -> Drainer:
    """The drainer of this process and thread."""
    hub = get_hub()
    found = _DRAINERS.get(hub)
    if found is None:
        found = _DRAINERS[hub] = Drainer(hub)
    return found
