"""One stage of load that several processes make: users that Locust spreads, or shares of arrivals.

Of an open loop there is one schedule, of the run's seed. Each worker computes all of it and sends
its share, counted from one moment of the run's clock that is told to all beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent
import msgspec

from loadtests.openloop import OpenLoop
from loadtests.orders import END, ArrivalOrder, StageOrder
from loadtests.worker import HeadroomUser

if TYPE_CHECKING:
    from loadtests.crew import Crew
    from loadtests.measure.session import Session
    from loadtests.openloop import OpenLoad
    from loadtests.orders import Over, Report
    from planner.records import RequestRecord, StageInfo

__all__ = ["WORKER_DIED", "CrewLoad"]

WORKER_DIED = "worker died"
"""Why a stage ended that can be measured again with those who are left."""

_SPAWN_PER_S = 100.0  # of each worker; Locust warns above it
_LEAD_S = 0.25  # from telling the workers when arrivals begin to that moment


@dataclass(eq=False)
class CrewLoad:
    """One stage of a crew.

    Attributes:
        reports: what the workers said at its end.
    """

    crew: Crew
    session: Session
    stage: StageInfo
    open_load: OpenLoad | None = None
    reports: dict[int, Report] = field(default_factory=dict)
    _crew_size: int = 0
    _starting: gevent.Greenlet[..., None] | None = None
    _drained: dict[int, Over] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Of an open loop, judge the lateness of all sends together."""
        self._loop = None
        if self.open_load is not None:
            self._loop = OpenLoop(self.session, self.stage, self.open_load)

    def start(self) -> None:
        """Give every worker its orders, then let the load begin.

        Raises:
            HeadroomError: a worker does not answer, or cannot obey.
        """
        crew = self.crew
        crew.wait_until(crew.all_here, "a worker did not come back")
        self._crew_size = len(crew.alive())
        crew.roster.order([self._order()])
        crew.wait_until(lambda: crew.alive() <= crew.roster.greeted, "a worker did not answer")
        crew.roster.check()
        if self._loop is not None:
            starts_s = self.session.clock.now() + _LEAD_S
            crew.roster.go(self.stage.index, starts_s, sorted(crew.alive()))
            return
        users = int(self.stage.load)
        rate = min(users, _SPAWN_PER_S * self._crew_size)
        # Its start waits for the users, and takes a Ctrl-C for itself where it runs.
        self._starting = gevent.spawn(crew.runner.start, users, rate)

    def _order(self) -> StageOrder:
        arrivals = None
        if self.open_load is not None:
            arrivals = ArrivalOrder.of(self.open_load.pattern, self.open_load.max_in_flight)
        target = self.crew.targets[self.session.info.name]
        return StageOrder.of(self.session, self.stage, target, HeadroomUser.__name__, arrivals)

    @property
    def over(self) -> str | None:
        """Why the stage cannot go on."""
        living = self.crew.alive()
        if len(living) < self._crew_size:
            return WORKER_DIED
        overflows = [over for over in self._drained.values() if over.overflow]
        if overflows or (self._drained and living <= self._drained.keys()):
            return (overflows or list(self._drained.values()))[0].reason
        return None

    def judge(self, number: int, report: Report) -> None:
        """Take what a worker says at the stage's end, and count with it what it sent twice."""
        self.reports[number] = report
        self.session.resent += max(report.resent.get(self.session.info.name, 0), 0)

    def see(self, record: RequestRecord) -> None:
        """Note how late a request was sent; the rest the worker has seen."""
        if self._loop is not None:
            self._loop.see(record)

    def stop(self) -> None:
        """Stop the users, and wait until all their records are here."""
        crew = self.crew
        if self._starting is not None:
            self._starting.kill()
        crew.runner.stop()
        crew.wait_until(crew.all_here, "a worker did not stop")
        crew.roster.send(END)
        crew.wait_until(lambda: crew.alive() <= self.reports.keys(), "a worker did not report")

    def judged(self, stage: StageInfo) -> StageInfo:
        """The stage with what forbids its use."""
        found = [f"worker {n}: {r.problem}" for n, r in sorted(self.reports.items()) if r.problem]
        found += [over.overflow for over in self._drained.values() if over.overflow]
        if len(self.crew.alive()) < self._crew_size:
            found.insert(0, f"a worker died, and its load with it ({self.crew.notes[-1]})")
        stage = msgspec.structs.replace(stage, invalid=found[0]) if found else stage
        return self._loop.judged(stage) if self._loop is not None else stage

    def take(self, number: int, record: RequestRecord) -> None:
        """Pass on what came."""
        del number  # the record has it
        if record.target == self.session.info.name:
            self.session.sink(record)

    def drained(self, number: int, over: Over) -> None:
        """Note that a worker has no more arrivals to send."""
        if over.stage == self.stage.index:
            self._drained[number] = over
