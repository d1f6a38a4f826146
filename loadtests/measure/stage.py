"""One stage: hold one level of load until its figures are steady, or a bound is reached."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import gevent
import msgspec
from locust.env import Environment

from loadtests.histograms import StageHistograms
from loadtests.measure.validity import ClientProbe, check_limits
from loadtests.openloop import ArrivalUser, OpenLoop
from loadtests.stream.memory import settle_memory
from loadtests.users import ChatUser, attach
from planner.steady import stage_verdict
from planner.table import RequestTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.crew import Crew
    from loadtests.measure.neighbours import Neighbours
    from loadtests.measure.session import Session
    from loadtests.openloop import OpenLoad
    from planner.records import RequestRecord, StageInfo

__all__ = ["StageLimits", "StageProgress", "run_stage"]

_POLL_S = 0.25
_VERDICT_EVERY_S = 1.0
_VERDICT_SHARE = 0.01  # of the client's time at most: while it thinks it stamps no arrivals
_SPAWN_PER_S = 100.0  # Locust warns above it
_FAILURES_BEFORE_STOP = 20


@dataclass(frozen=True, kw_only=True)
class StageLimits:
    """When a stage ends.

    Attributes:
        max_s: at the latest after this many seconds.
        min_s: not before this many seconds.
        quantile: the highest percentile that the objectives ask for, as a fraction.
        half_width: relative half width of the throughput's interval that counts as steady.
        hold: run to ``max_s`` even if the figures are steady earlier.
    """

    max_s: float
    min_s: float = 3.0
    quantile: float | None = 0.95
    half_width: float = 0.10
    hold: bool = False


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Where a running stage stands, for a progress bar."""

    stage: StageInfo
    elapsed_s: float
    max_s: float
    figures: StageHistograms
    waiting_for: str


@dataclass
class _Seen:
    """What the sink has seen of the running stage."""

    fresh: list[RequestRecord] = field(default_factory=list)
    earlier: RequestTable = field(default_factory=lambda: RequestTable.from_records(()))
    figures: StageHistograms = field(default_factory=StageHistograms)

    def add(self, record: RequestRecord) -> None:
        # Without its gaps, by far the largest part, which no verdict looks at.
        self.fresh.append(msgspec.structs.replace(record, gaps_s=b""))
        self.figures.see(record)

    def table(self) -> RequestTable:
        """All of it; what was a table at the last call is not converted again."""
        fresh = RequestTable.from_records(self.fresh)
        self.fresh = []
        self.earlier = RequestTable.concat([self.earlier, fresh])
        return self.earlier


def run_stage(
    session: Session,
    stage: StageInfo,
    limits: StageLimits,
    *,
    open_load: OpenLoad | None = None,
    crew: Crew | None = None,
    neighbours: Neighbours | None = None,
    on_progress: Callable[[StageProgress], None] = lambda _: None,
) -> StageInfo:
    """Load one target at one level; returns the stage as it ended.

    Args:
        session: the target.
        stage: the level; of kind ``rate`` exactly when ``open_load`` is given.
        limits: when it ends.
        open_load: how requests arrive that wait for nobody.
        crew: the processes that make the load; by default this one does.
        neighbours: what stages of other targets that run at the same time have in common.
        on_progress: called some four times a second.

    The session's sink sees every record, those of requests that are cut off at the end included.
    ``KeyboardInterrupt`` stops the users and passes through; the records up to then are kept.

    Raises:
        InputError: this machine does not allow so many connections.
        HeadroomError: the crew is gone, or does not answer.
    """
    seen, keep = _Seen(), session.sink
    make = crew.load if crew else _OwnLoad
    load: StageLoad = make(session, stage, open_load)

    def sink(record: RequestRecord) -> None:
        seen.add(record)
        load.see(record)
        keep(record)

    session.sink = sink
    try:
        with session.watch.looking() if session.watch else nullcontext():
            load.start()
            reason = _wait(session, stage, limits, seen, load, neighbours, on_progress)
            if neighbours is not None:
                neighbours.end(stage.target, reason)
    finally:
        ended_s = session.clock.now()
        load.stop()
        session.sink = keep
    return load.judged(msgspec.structs.replace(stage, ended_s=ended_s, stop_reason=reason))


class StageLoad(Protocol):
    """Who makes the load of one stage."""

    @property
    def over(self) -> str | None:
        """Why the stage cannot go on, once that is so."""

    def start(self) -> None:
        """Begin."""

    def see(self, record: RequestRecord) -> None:
        """Take note of a record on its way to the sink."""

    def stop(self) -> None:
        """End every user. The sink has seen every record when this returns."""

    def judged(self, stage: StageInfo) -> StageInfo:
        """The ended stage with what the load's making tells of it."""


class _OwnLoad:
    """This process makes the load, by Locust's local runner."""

    def __init__(self, session: Session, stage: StageInfo, open_load: OpenLoad | None) -> None:
        self._loop = OpenLoop(session, stage, open_load) if open_load else None
        self._users = 1 if self._loop else int(stage.load)
        check_limits(open_load.max_in_flight if open_load else self._users)
        settle_memory()
        self._client = ClientProbe()
        self._problem: str | None = None
        base, own = (ArrivalUser, {"loop": self._loop}) if self._loop else (ChatUser, {})
        name = f"{session.info.backend.title()}User"
        user_class = type(name, (base,), {"host": session.info.url, **own})
        environment = Environment(user_classes=[user_class])
        attach(environment, {user_class: session})
        self._runner = environment.create_local_runner()

    @property
    def over(self) -> str | None:
        return self._loop.over if self._loop else None

    def start(self) -> None:
        self._runner.start(self._users, spawn_rate=min(self._users, _SPAWN_PER_S))

    def see(self, record: RequestRecord) -> None:
        self._client.see(record)
        if self._loop:
            self._loop.see(record)

    def stop(self) -> None:
        self._runner.quit()
        if self._loop:
            self._loop.stop()
        self._problem = self._client.problem()

    def judged(self, stage: StageInfo) -> StageInfo:
        stage = msgspec.structs.replace(stage, invalid=self._problem)
        return self._loop.judged(stage) if self._loop else stage


def _wait(
    session: Session,
    stage: StageInfo,
    limits: StageLimits,
    seen: _Seen,
    load: StageLoad,
    neighbours: Neighbours | None,
    on_progress: Callable[[StageProgress], None],
) -> str:
    """Until the stage is done; returns why."""
    next_verdict_s, waiting_for = limits.min_s, "warm-up"
    while True:
        gevent.sleep(_POLL_S)
        if (over := load.over) is not None:
            return over
        if neighbours is not None and neighbours.over is not None:
            return neighbours.over
        elapsed_s = session.clock.now() - stage.started_s
        if elapsed_s >= next_verdict_s and not limits.hold:
            began_s = time.monotonic()
            verdict = stage_verdict(
                seen.table(),
                stage,
                now_s=session.clock.now(),
                quantile=limits.quantile,
                target_half_width=limits.half_width,
            )
            if verdict.done:
                if neighbours is None or neighbours.steady(stage.target):
                    return "steady"
                waiting_for = neighbours.waiting()
            else:
                waiting_for = verdict.reason
            took_s = time.monotonic() - began_s
            next_verdict_s = elapsed_s + max(_VERDICT_EVERY_S, took_s / _VERDICT_SHARE)
        on_progress(
            StageProgress(
                stage=stage,
                elapsed_s=elapsed_s,
                max_s=limits.max_s,
                figures=seen.figures,
                waiting_for=waiting_for,
            )
        )
        if seen.figures.failed >= max(_FAILURES_BEFORE_STOP, seen.figures.completed):
            return "error limit"
        if elapsed_s >= limits.max_s:
            return "time limit"
