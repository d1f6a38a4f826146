"""The processes of one machine that make load together: Locust's master, and its workers here.

Locust spreads the users over the workers and sees to it that their sum is what was asked. Records
come in batches, and each worker journals its own in the run folder.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent
from locust.env import Environment

from loadtests import hardening
from loadtests.crewload import CrewLoad
from loadtests.roster import Roster
from loadtests.worker import HeadroomUser
from planner.errors import HeadroomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from loadtests.measure.session import Session
    from loadtests.openloop import OpenLoad
    from loadtests.orders import Over, Report
    from loadtests.targets import Target
    from planner.records import RequestRecord, StageInfo, WorkerInfo

__all__ = ["Crew"]

_START_S = 60.0
_ANSWER_S = 20.0  # Locust calls a silent worker missing after four seconds
_POLL_S = 0.02


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    number: int | None = None  # which its records carry
    gone: bool = False


@dataclass(eq=False)
class Crew:
    """The workers of a run.

    Attributes:
        targets: by their names.
        out: the run folder, which the workers see too.
        notes: what the run's manifest must tell: how many they were, who died.
    """

    targets: dict[str, Target]
    out: Path
    notes: list[str] = field(default_factory=list)
    _workers: list[_Worker] = field(default_factory=list)
    _load: CrewLoad | None = None

    @classmethod
    @contextmanager
    def open(cls, processes: int, targets: Sequence[Target], out: Path) -> Iterator[Crew]:
        """Workers that live as long as the block.

        Raises:
            HeadroomError: they did not come up.
        """
        crew = cls({target.name: target for target in targets}, out.absolute())
        try:
            crew._begin(processes)
            yield crew
        finally:
            crew._close()

    def _begin(self, processes: int) -> None:
        hardening.install()
        self.environment = Environment(user_classes=[HeadroomUser])
        self.runner = self.environment.create_master_runner("127.0.0.1", 0)
        self.roster = Roster(self.runner, self)
        command = [sys.executable, "-m", "loadtests.worker", str(self.runner.server.port)]
        self._workers = [
            # In a session of its own: Ctrl-C is for this process, which then stops the others.
            _Worker(subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603 - our own module
            for _ in range(processes)
        ]
        self.wait_until(self._all_known, "the workers did not come up", _START_S)
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
        return self.all_here() and len(self.alive()) == sum(
            worker.number is not None for worker in self._workers if not worker.gone
        )

    def alive(self) -> set[int]:
        """Numbers of the workers that live; who has died since the last call is noted.

        Raises:
            HeadroomError: nobody lives.
        """
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is not None and not worker.gone:
                worker.gone = True
                number = worker.number or place + 1
                fate = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                self.roster.gone(number, fate)
                self.notes.append(
                    f"{self.roster.called(number)} {fate}: "
                    "what it had not written, its last second at most, is lost"
                )
        living = [worker for worker in self._workers if not worker.gone]
        if not living:
            raise HeadroomError(f"no process is left to make load: {'; '.join(self.notes)}")
        # One that has not said its number yet is counted all the same.
        return {worker.number or -place for place, worker in enumerate(living, start=1)}

    def wait_until(
        self, condition: Callable[[], bool], otherwise_not: str, within_s: float = _ANSWER_S
    ) -> None:
        """Let others run until a condition holds.

        Raises:
            HeadroomError: it does not in time.
        """
        with gevent.Timeout(within_s, HeadroomError(f"{otherwise_not} in {within_s:g} s")):
            while not condition():
                gevent.sleep(_POLL_S)

    def load(
        self, session: Session, stage: StageInfo, open_load: OpenLoad | None = None
    ) -> CrewLoad:
        """The load of one stage."""
        if self._load is None:  # the first stage: the run has begun
            self.roster.begin(session.clock, keep=True, folder=str(self.out))
        self._load = CrewLoad(self, session, stage, open_load)
        return self._load

    def infos(self) -> tuple[WorkerInfo, ...]:
        """The workers of the run, for its manifest."""
        return self.roster.infos()

    def hello(self, number: int, pid: int) -> None:
        """Learn which of our processes is which of Locust's workers."""
        for worker in self._workers:
            if worker.process.pid == pid:
                worker.number = number

    def greeted(self, number: int, problem: str | None) -> None:
        """The stage waits for all answers, then looks for problems."""

    def take(self, number: int, record: RequestRecord) -> None:
        """Pass a record on to the stage."""
        if self._load is not None:
            self._load.take(number, record)

    def drained(self, number: int, over: Over) -> None:
        """Pass on that arrivals have ended."""
        if self._load is not None:
            self._load.drained(number, over)

    def judge(self, number: int, report: Report) -> None:
        """Pass on how a worker fared."""
        if self._load is not None:
            self._load.judge(number, report)

    def leaving(self, number: int) -> None:
        """Somebody has sent SIGTERM to a worker: it is as good as dead, which is seen soon."""
