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
    from locust.runners import WorkerRunner

    from planner.records import RequestRecord

__all__ = ["HeadroomUser", "Member", "main"]

_SEND_EVERY_S = 0.25
_BATCH = 200  # records of one message


class HeadroomUser(ChatUser):
    """The user class that the driving process and its workers both know by name."""


class Member:
    """Obeys the orders of the driving process in one Locust worker."""

    def __init__(self, runner: WorkerRunner) -> None:
        """Listen."""
        self._runner = runner
        self._fresh: list[RequestRecord] = []
        self._probe: ClientProbe | None = None
        self._stage = 0
        runner.register_message(STAGE, self._begin)
        runner.register_message(END, self._end)
        self._send(HELLO, Hello(pid=os.getpid()))
        gevent.spawn(self._send_often)

    def _begin(self, msg: Any, **_: Any) -> None:
        order = msgspec.msgpack.decode(msg.data, type=StageOrder)
        problem, now_s = None, 0.0
        try:
            check_limits(int(order.stage.load))  # of all workers: they share the machine's ports
            session = order.session(self._runner.worker_index, self._see)
            now_s = session.clock.now()
            attach(self._runner.environment, {HeadroomUser: session})
        except HeadroomError as error:
            problem = str(error)
        self._stage = order.stage.index
        greeting = Greeting(sent_s=order.sent_s, now_s=now_s, problem=problem)
        self._send(STAGE, greeting)
        settle_memory()
        self._probe = ClientProbe()

    def _see(self, record: RequestRecord) -> None:
        self._fresh.append(record)
        if self._probe is not None:
            self._probe.see(record)

    def _end(self, **_: Any) -> None:
        probe, self._probe = self._probe, None
        self._send_records()
        self._send(REPORT, Report(stage=self._stage, problem=probe.problem() if probe else None))

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
    Member(runner)
    runner.greenlet.join()


def _end_with_parent() -> None:
    while tp_read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
