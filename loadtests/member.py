"""Obeys the process that drives a run, in one Locust worker.

A worker learns how far its clock is from the run's by asking again and again, and hands over its
records with their moments on the run's clock. Each is journalled here before it is sent.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.event import Event

from loadtests.clocksync import Offset, better, measured, on_the_other_clock
from loadtests.measure.validity import ClientProbe, check_limits
from loadtests.orders import (
    CLOCK,
    END,
    GO,
    HELLO,
    KEPT,
    LEAVE,
    ORDERS,
    OVER,
    RECORDS,
    REPORT,
    Batch,
    Go,
    Greeting,
    Hello,
    Kept,
    Leave,
    Orders,
    Over,
    Ping,
    Pong,
    Report,
)
from loadtests.ownarrivals import OwnArrivals
from loadtests.ownjournal import OwnJournal
from loadtests.stream.clock import Clock
from loadtests.stream.memory import settle_memory
from loadtests.users import attach
from planner.errors import HeadroomError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from locust import User
    from locust.runners import WorkerRunner

    from loadtests.measure.session import Session
    from loadtests.orders import StageOrder
    from loadtests.users import ChatUser
    from planner.records import RequestRecord

__all__ = ["Member"]

_LOG = logging.getLogger("headroom")
_SEND_EVERY_S = 0.25
_BATCH = 200  # records of one message
_FIRST_PINGS, _FIRST_PINGS_EVERY_S = 8, 0.01
_PING_EVERY_S = 1.0
_NOTICE_S = 0.5  # the master looks for those who leave more often than that
_TIME_WITHIN_S = 5.0  # of the first answers


@dataclass(eq=False)
class _Sitting:
    """What is good for one run of one driving process."""

    orders: Orders
    worker: int
    clock: Clock
    ids: Iterator[int]
    journal: OwnJournal | None
    sessions: dict[type[User], Session] = field(default_factory=dict)
    offset: Offset | None = None
    answers: int = 0
    timed: Event = field(default_factory=Event)  # enough answers have come
    fresh: list[RequestRecord] = field(default_factory=list)
    handed_over: int = 0

    @classmethod
    def begin(cls, orders: Orders, worker: int) -> _Sitting:
        started_unix_s = orders.started_unix_s
        journal = OwnJournal(orders.folder, started_unix_s, worker) if orders.keep else None
        return cls(orders, worker, Clock(started_unix_s), orders.ids(worker), journal)

    def keep(self, record: RequestRecord) -> None:
        """Put a record on the run's clock and into the journal."""
        record = msgspec.structs.replace(record, worker=self.worker)
        if self.offset is not None:
            record = on_the_other_clock(record, self.offset)
        if self.journal is not None:
            self.journal.append(record)
        self.fresh.append(record)


class Member:
    """One worker's side."""

    def __init__(self, runner: WorkerRunner, classes: Sequence[type[ChatUser]]) -> None:
        """Listen."""
        self._runner = runner
        self._classes = {user_class.__name__: user_class for user_class in classes}
        self._sitting: _Sitting | None = None
        self._probe: ClientProbe | None = None
        self._arrivals: OwnArrivals | None = None
        self._name = f"{socket.gethostname()[:200]}:{os.getpid()}"
        runner.register_message(ORDERS, self._begin)
        runner.register_message(CLOCK, self._set_clock)
        runner.register_message(GO, self._go)
        runner.register_message(END, self._end)
        runner.register_message(KEPT, self._forget)
        runner.environment.events.quitting.add_listener(self._leave)  # type: ignore[no-untyped-call]
        self._send(HELLO, Hello(pid=os.getpid()))
        gevent.spawn(self._send_often)

    def abandon(self) -> None:
        """The driving process is no more: keep what there is."""
        self._stop_load()
        if self._sitting is not None and self._sitting.journal is not None:
            self._sitting.journal.close()

    @property
    def _number(self) -> int:
        return self._runner.worker_index + 1

    def _begin(self, msg: Any, **_: Any) -> None:
        self._report()  # on the stage before, where the users go on
        try:
            orders = msgspec.msgpack.decode(msg.data, type=Orders)
        except msgspec.DecodeError as error:
            _LOG.error("orders of another version of Headroom: %s", error)
            return
        sitting, problem = self._sitting, None
        if sitting is None or sitting.orders.sitting != orders.sitting:
            if sitting is not None and sitting.journal is not None:
                sitting.journal.close()
            sitting = self._sitting = _Sitting.begin(orders, self._number)
            gevent.spawn(self._keep_time, sitting)
        sitting.orders = orders
        try:
            for order in orders.stages:
                self._obey(sitting, order)
        except HeadroomError as error:
            problem = str(error)
        settle_memory()
        self._probe = ClientProbe()
        gevent.spawn(self._greet, sitting, orders, problem)

    def _obey(self, sitting: _Sitting, order: StageOrder) -> None:
        """Make the session of a user class, or move it on."""
        user_class = self._classes[order.user_class]
        session = sitting.sessions.get(user_class)
        if session is None or session.info != order.info:
            # Of all workers together: they may share a machine's ports.
            arrivals = order.arrivals
            check_limits(arrivals.max_in_flight if arrivals else int(order.stage.load))
            session = order.session(self._number, sitting.clock, sitting.ids, self._see)
            sitting.sessions[user_class] = session
        session.stage, session.think_time_s = order.stage.index, order.stage.think_time_s

    def _greet(self, sitting: _Sitting, orders: Orders, problem: str | None) -> None:
        """Let users begin once the time is known, and say so."""
        if not sitting.timed.wait(_TIME_WITHIN_S):
            problem = f"the driving process did not tell the time in {_TIME_WITHIN_S:g} s"
        if problem is None:
            attach(self._runner.environment, dict(sitting.sessions))
        self._send(
            ORDERS,
            Greeting(sitting=orders.sitting, count=orders.count, name=self._name, problem=problem),
        )
        self._ping(sitting)

    def _keep_time(self, sitting: _Sitting) -> None:
        for count in itertools.count():
            if self._sitting is not sitting:
                return
            self._ping(sitting)
            gevent.sleep(_FIRST_PINGS_EVERY_S if count < _FIRST_PINGS else _PING_EVERY_S)

    def _ping(self, sitting: _Sitting) -> None:
        now_s, known = sitting.clock.now(), sitting.offset
        ping = Ping(
            sitting=sitting.orders.sitting,
            sent_s=now_s,
            offset_s=None if known is None else known.offset_s,
            bound_s=None if known is None else known.bound_at(now_s),
        )
        self._send(CLOCK, ping)

    def _set_clock(self, msg: Any, **_: Any) -> None:
        sitting = self._sitting
        if sitting is None:
            return
        received_s = sitting.clock.now()
        pong = msgspec.msgpack.decode(msg.data, type=Pong)
        if pong.sitting == sitting.orders.sitting:
            new = measured(sent_s=pong.sent_s, other_s=pong.now_s, received_s=received_s)
            sitting.offset = better(sitting.offset, new)
            sitting.answers += 1
            if sitting.answers >= _FIRST_PINGS:
                sitting.timed.set()

    def _go(self, msg: Any, **_: Any) -> None:
        go, sitting = msgspec.msgpack.decode(msg.data, type=Go), self._sitting
        if sitting is None or sitting.offset is None or self._number not in go.owners:
            return
        order = next((o for o in sitting.orders.stages if o.stage.index == go.stage), None)
        if order is None:
            return
        self._arrivals = OwnArrivals(
            sitting.sessions[self._classes[order.user_class]],
            order,
            place=go.owners.index(self._number),
            of=len(go.owners),
            starts_s=go.starts_s + sitting.offset.offset_s,
        )
        gevent.spawn(self._send_arrivals, self._arrivals)

    def _send_arrivals(self, arrivals: OwnArrivals) -> None:
        over: Over | None = arrivals.run(self._runner.environment)
        if over is not None:
            self._send(OVER, over)

    def _see(self, record: RequestRecord) -> None:
        if self._sitting is not None:
            self._sitting.keep(record)
        if self._probe is not None:
            self._probe.see(record)

    def _end(self, **_: Any) -> None:
        if self._arrivals is not None:
            self._arrivals.stop()
        self._report()

    def _report(self) -> None:
        probe, self._probe = self._probe, None
        if probe is None or self._sitting is None:
            return
        self._send_records()
        stages = [order.stage.index for order in self._sitting.orders.stages]
        report = Report(
            stages=stages,
            problem=probe.problem(),
            handed_over=self._sitting.handed_over,
            resent={s.info.name: s.told_resent() for s in self._sitting.sessions.values()},
        )
        self._send(REPORT, report)

    def _leave(self, **_: Any) -> None:
        """Somebody ends this worker: say so, then end its users, then hand over the rest."""
        if self._sitting is None:
            return
        self._send(LEAVE, Leave(sitting=self._sitting.orders.sitting))
        gevent.sleep(_NOTICE_S)  # the stage ends with all its users there
        self._stop_load()
        self._report()
        if self._sitting.journal is not None:
            self._sitting.journal.close()

    def _stop_load(self) -> None:
        if self._arrivals is not None:
            self._arrivals.stop()
        self._runner.stop()

    def _forget(self, msg: Any, **_: Any) -> None:
        kept, sitting = msgspec.msgpack.decode(msg.data, type=Kept), self._sitting
        if sitting is None or sitting.journal is None or kept.sitting != sitting.orders.sitting:
            return
        sitting.journal.remove()

    def _send_often(self) -> None:
        while True:
            gevent.sleep(_SEND_EVERY_S)
            self._send_records()

    def _send_records(self) -> None:
        sitting = self._sitting
        if sitting is None or not sitting.fresh:
            return
        fresh, sitting.fresh = sitting.fresh, []
        if sitting.journal is not None:
            sitting.journal.flush()  # before the other copy is on its way
        sitting.handed_over += len(fresh)
        for start in range(0, len(fresh), _BATCH):
            batch = Batch(sitting=sitting.orders.sitting, records=fresh[start : start + _BATCH])
            self._send(RECORDS, batch)

    def _send(self, kind: str, message: msgspec.Struct) -> None:
        self._runner.send_message(kind, msgspec.msgpack.encode(message))  # type: ignore[arg-type]
