"""Load made by several processes: Locust's master, and its workers on this machine.

Locust spreads the users over the workers and sees to it that their sum is what was asked. Records
come in batches; what a worker that is killed has not sent, a quarter of a second, is lost.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from locust.env import Environment

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
from loadtests.worker import HeadroomUser
from planner.errors import HeadroomError, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from loadtests.measure.session import Session
    from loadtests.targets import Target
    from planner.records import RequestRecord, StageInfo

__all__ = ["Crew", "CrewLoad"]

_START_S = 60.0
_ANSWER_S = 20.0  # Locust calls a silent worker missing after four seconds
_POLL_S = 0.02
_SPAWN_PER_S = 100.0  # of each worker; Locust warns above it


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    number: int | None = None  # Locust's index, which its records carry
    gone: bool = False


@dataclass(eq=False)
class Crew:
    """The workers of a run.

    Attributes:
        notes: what the run's manifest must tell: how many they were, their clocks, who died.
    """

    targets: dict[str, Target]
    notes: list[str] = field(default_factory=list)
    _workers: list[_Worker] = field(default_factory=list)
    _met: set[int] = field(default_factory=set)

    @classmethod
    @contextmanager
    def open(cls, processes: int, targets: Sequence[Target]) -> Iterator[Crew]:
        """Workers that live as long as the block.

        Raises:
            HeadroomError: they did not come up.
        """
        crew = cls({target.name: target for target in targets})
        try:
            crew._begin(processes)
            yield crew
        finally:
            crew._close()

    def _begin(self, processes: int) -> None:
        environment = Environment(user_classes=[HeadroomUser])
        self.runner = environment.create_master_runner("127.0.0.1", 0)
        self.runner.register_message(HELLO, self._welcome)
        self.runner.register_message(STAGE, self._greet)
        self.runner.register_message(RECORDS, self._take)
        self.runner.register_message(REPORT, self._judge)
        self._load: CrewLoad | None = None
        command = [sys.executable, "-m", "loadtests.worker", str(self.runner.server.port)]
        self._workers = [
            # In a session of its own: Ctrl-C is for this process, which then stops the others.
            _Worker(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603 - our own module
            for _ in range(processes)
        ]
        self.wait_until(self._all_known, _START_S, "the workers did not come up")
        self.notes.append(f"load made by {processes} processes")

    def _close(self) -> None:
        for worker in self._workers:
            assert worker.process.stdin is not None  # noqa: S101 - for the types: it is a pipe
            worker.process.stdin.close()  # which ends it
        for worker in self._workers:
            try:
                worker.process.wait(_ANSWER_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self.runner.greenlet.kill(block=False)

    def all_here(self) -> bool:
        """Whether Locust counts exactly the workers that live."""
        return len(self.alive()) == self.runner.worker_count == len(self.runner.clients.ready)

    def _all_known(self) -> bool:
        return self.all_here() and all(w.number is not None for w in self.alive())

    def alive(self) -> list[_Worker]:
        """The workers that live; who has died since the last call is noted.

        Raises:
            HeadroomError: nobody lives.
        """
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is not None and not worker.gone:
                worker.gone = True
                name = place if worker.number is None else worker.number
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                self.notes.append(f"worker {name} {how}: at most its last second is lost")
        living = [worker for worker in self._workers if not worker.gone]
        if not living:
            raise HeadroomError(f"no process is left to make load: {'; '.join(self.notes)}")
        return living

    def wait_until(self, condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
        """Let others run until a condition holds.

        Raises:
            HeadroomError: it does not in time.
        """
        with gevent.Timeout(within_s, HeadroomError(f"{otherwise} in {within_s:g} s")):
            while not condition():
                gevent.sleep(_POLL_S)

    def load(self, session: Session, stage: StageInfo) -> CrewLoad:
        """The load of one stage."""
        self._load = CrewLoad(self, session, stage)
        return self._load

    def _number(self, msg: Any) -> int:
        return int(self.runner.worker_indexes[msg.node_id])

    def _welcome(self, msg: Any, **_: Any) -> None:
        pid = msgspec.msgpack.decode(msg.data, type=Hello).pid
        for worker in self._workers:
            if worker.process.pid == pid:
                worker.number = self._number(msg)

    def _greet(self, msg: Any, **_: Any) -> None:
        greeting = msgspec.msgpack.decode(msg.data, type=Greeting)
        if self._load is not None:
            self._load.greeted(self._number(msg), greeting)

    def _take(self, msg: Any, **_: Any) -> None:
        batch = msgspec.msgpack.decode(msg.data, type=Batch)
        if self._load is not None:
            self._load.take(self._number(msg), batch.records)

    def _judge(self, msg: Any, **_: Any) -> None:
        report = msgspec.msgpack.decode(msg.data, type=Report)
        if self._load is not None:
            self._load.reports[self._number(msg)] = report

    def met(self, number: int, greeting: Greeting, received_s: float) -> None:
        """Learn how a worker's clock differs (Cristian, Distributed Computing 3, 1989)."""
        if number in self._met:
            return
        self._met.add(number)
        offset_s = greeting.now_s - (greeting.sent_s + received_s) / 2
        bound_s = (received_s - greeting.sent_s) / 2
        self.notes.append(
            f"worker {number}: clock {offset_s * 1e3:+.3f} ms ± {bound_s * 1e3:.3f} ms"
        )


@dataclass(eq=False)
class CrewLoad:
    """One stage of a crew."""

    crew: Crew
    session: Session
    stage: StageInfo
    reports: dict[int, Report] = field(default_factory=dict)
    _greetings: dict[int, Greeting] = field(default_factory=dict)
    _crew_size: int = 0
    _starting: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        """Give every worker its orders, then let Locust start the users.

        Raises:
            HeadroomError: a worker does not answer, or cannot obey.
        """
        crew, session = self.crew, self.session
        crew.wait_until(crew.all_here, _ANSWER_S, "a worker did not come back")
        self._crew_size = len(crew.alive())
        target = crew.targets[session.info.name]
        orders = [StageOrder.of(session, self.stage, target, HeadroomUser.__name__)]
        crew.runner.send_message(STAGE, msgspec.msgpack.encode(orders))  # type: ignore[arg-type]
        crew.wait_until(
            lambda: len(self._greetings) >= len(crew.alive()), _ANSWER_S, "a worker did not answer"
        )
        for number, greeting in self._greetings.items():
            if greeting.problem is not None:
                raise TargetError(f"worker {number}: {greeting.problem}")
        users = int(self.stage.load)
        rate = min(users, _SPAWN_PER_S * self._crew_size)
        # Its start waits for the users, and takes a Ctrl-C for itself where it runs.
        self._starting = gevent.spawn(crew.runner.start, users, rate)

    @property
    def over(self) -> str | None:
        """Why the stage cannot go on."""
        return "worker died" if len(self.crew.alive()) < self._crew_size else None

    def see(self, record: RequestRecord) -> None:
        """Nothing: the worker has seen it."""

    def stop(self) -> None:
        """Stop the users, and wait until all their records are here."""
        crew = self.crew
        if self._starting is not None:
            self._starting.kill()
        crew.runner.stop()
        crew.wait_until(crew.all_here, _ANSWER_S, "a worker did not stop")
        crew.runner.send_message(END)
        crew.wait_until(
            lambda: len(self.reports) >= len(crew.alive()), _ANSWER_S, "a worker did not report"
        )

    def judged(self, stage: StageInfo) -> StageInfo:
        """The stage with what forbids its use."""
        found = [f"worker {n}: {r.problem}" for n, r in sorted(self.reports.items()) if r.problem]
        if self.over:
            found.insert(0, f"a worker died, and its users with it ({self.crew.notes[-1]})")
        return msgspec.structs.replace(stage, invalid=found[0]) if found else stage

    def greeted(self, number: int, greeting: Greeting) -> None:
        """Note an answer."""
        self._greetings[number] = greeting
        if greeting.problem is None:
            self.crew.met(number, greeting, self.session.clock.now())

    def take(self, number: int, records: Sequence[RequestRecord]) -> None:
        """Number what came, and pass it on."""
        for record in records:
            own = msgspec.structs.replace(record, id=next(self.session.ids), worker=number)
            self.session.sink(own)
