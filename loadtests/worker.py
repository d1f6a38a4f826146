"""One of several processes that make load: ``python -m loadtests.worker PORT``.

It is a Locust worker. It ends when its parent does, which it sees by the end of its standard input.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import os
import sys
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from gevent.os import tp_read
from locust.env import Environment

from loadtests.measure.validity import ClientProbe, check_limits
from loadtests.orders import (
    END,
    HELLO,
    RECORDS,
    REPORT,
    STAGE,
    Batch,
    Greeting,
    Hello,
    Report,
    StageOrder,
)
from loadtests.stream.memory import settle_memory
from loadtests.users import ChatUser, attach
from planner.errors import HeadroomError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from locust import User
    from locust.runners import WorkerRunner

    from loadtests.measure.session import Session
    from planner.records import RequestRecord

__all__ = ["HeadroomUser", "Member", "main"]

_SEND_EVERY_S = 0.25
_BATCH = 200  # records of one message


class HeadroomUser(ChatUser):
    """The user class that the driving process and its workers both know by name."""


class Member:
    """Obeys the orders of the driving process in one Locust worker."""

    def __init__(self, runner: WorkerRunner, classes: Sequence[type[ChatUser]]) -> None:
        """Listen."""
        self._runner = runner
        self._classes = {user_class.__name__: user_class for user_class in classes}
        self._sessions: dict[type[User], Session] = {}
        self._orders: list[StageOrder] = []
        self._fresh: list[RequestRecord] = []
        self._probe: ClientProbe | None = None
        runner.register_message(STAGE, self._begin)
        runner.register_message(END, self._end)
        self._send(HELLO, Hello(pid=os.getpid()))
        gevent.spawn(self._send_often)

    def _begin(self, msg: Any, **_: Any) -> None:
        self._report()  # on the stage before, where the users go on
        self._orders = msgspec.msgpack.decode(msg.data, type=list[StageOrder])
        problem, now_s = None, 0.0
        try:
            now_s = max(self._obey(order) for order in self._orders)
        except HeadroomError as error:
            problem = str(error)
        greeting = Greeting(sent_s=self._orders[0].sent_s, now_s=now_s, problem=problem)
        self._send(STAGE, greeting)
        settle_memory()
        self._probe = ClientProbe()

    def _obey(self, order: StageOrder) -> float:
        """Make the session of a user class, or move it on; returns its clock's reading."""
        user_class = self._classes[order.user_class]
        session = self._sessions.get(user_class)
        if (
            session is None
            or session.info != order.info
            or session.clock.started_unix_s != order.started_unix_s
        ):
            check_limits(int(order.stage.load))  # of all workers: they may share a machine's ports
            session = order.session(self._runner.worker_index, self._see)
            self._sessions[user_class] = session
            attach(self._runner.environment, dict(self._sessions))
        session.stage, session.think_time_s = order.stage.index, order.stage.think_time_s
        return session.clock.now()

    def _see(self, record: RequestRecord) -> None:
        self._fresh.append(record)
        if self._probe is not None:
            self._probe.see(record)

    def _end(self, **_: Any) -> None:
        self._report()

    def _report(self) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        self._send_records()
        stages = [order.stage.index for order in self._orders]
        self._send(REPORT, Report(stages=stages, problem=probe.problem()))

    def _send_often(self) -> None:
        while True:
            gevent.sleep(_SEND_EVERY_S)
            self._send_records()

    def _send_records(self) -> None:
        fresh, self._fresh = self._fresh, []
        for start in range(0, len(fresh), _BATCH):
            self._send(RECORDS, Batch(records=fresh[start : start + _BATCH]))

    def _send(self, kind: str, message: msgspec.Struct) -> None:
        self._runner.send_message(kind, msgspec.msgpack.encode(message))  # type: ignore[arg-type]


def main(port: int) -> None:
    """Work until the driving process says quit, or is no more."""
    gevent.spawn(_end_with_parent)
    runner = Environment(user_classes=[HeadroomUser]).create_worker_runner("127.0.0.1", port)
    Member(runner, [HeadroomUser])
    runner.greenlet.join()


def _end_with_parent() -> None:
    while tp_read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
