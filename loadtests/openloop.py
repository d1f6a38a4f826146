"""Load that waits for nobody: one dispatcher sends each request at its intended moment.

Locust's own pacing is per user and a closed loop: a user who still waits for an answer skips its
turn, so a slow server is asked less (coordinated omission). Here the schedule is absolute, and an
arrival never waits for an earlier one. It runs as a Locust user, so that Locust counts and ends it.

Each request is made ready a little ahead, its connection included, by a greenlet of its own, and
let go a moment before it is due: that moment, which a wake-up takes, it spends on the processor
looking at the clock. While a request is about to be sent, no other is made ready, no answer is
decoded, and the drainer postpones its tick.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gevent
import msgspec
import numpy as np
from gevent.event import Event
from gevent.pool import Group
from locust import User, task
from locust.exception import StopUser

from loadtests.alarm import Alarm, alarm
from loadtests.stream.drainer import drainer
from loadtests.users import report

if TYPE_CHECKING:
    from locust.env import Environment

    from loadtests.measure.session import Chatter, Session
    from loadtests.traffic.arrivals import ArrivalPattern
    from planner.records import RequestRecord, StageInfo

__all__ = ["ArrivalUser", "Lateness", "OpenLoad", "OpenLoop"]

_NS = 1e9
_AHEAD_S = 0.25  # a request is made ready so long before it is due: connecting is part of it ...
_LEAD_S = 0.05  # ... and those of a stage's begin at least so long
_EARLY_S = 250e-6  # and let go so long before: waking up takes 60 µs, a tick of the drainer 200 ...
_EARLY_SHARE = 0.05  # ... but at high rates this share of the time at most
_WORK_S = 0.0006  # which making a request ready, or decoding and recording an answer, may take ...
_WORK_SHARE = 0.25  # ... unless that is more than this share of the mean gap: then nothing waits
_REST_S = 0.02  # which decoding waits for at most
_SCHEDULE, _LENGTHS = 1, 2  # streams of random numbers that must not depend on each other

MAX_LATE_P99_S = 0.010
"""99th percentile of the send's lateness. TTFT counts from the intended start, so that it holds the
lateness: 10 ms are 1 % of a second, about the loosest objective of TTFT in use ..."""

MAX_LATE_TTFT_SHARE = 0.05
"""... and where answers begin later than after 200 ms, this share of their mean TTFT."""


@dataclass(frozen=True, kw_only=True)
class OpenLoad:
    """How requests arrive.

    Attributes:
        pattern: the shape; the rate is the stage's load.
        max_in_flight: requests at once. More would need more connections than were checked for, so
            the stage ends there and is invalid: to make arrivals wait would close the loop.
    """

    pattern: ArrivalPattern
    max_in_flight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lateness:
    """How late requests left, less connecting: of the client, not of the server."""

    p50_s: float
    p99_s: float
    ttft_mean_s: float | None  # from the send; None: nothing was answered

    def problem(self) -> str | None:
        """Why what was measured must not be used, or ``None``. Pure."""
        bound_s = max(MAX_LATE_P99_S, MAX_LATE_TTFT_SHARE * (self.ttft_mean_s or 0.0))
        if self.p99_s <= bound_s:
            return None
        return (
            f"the client sent requests {self.p99_s * 1e3:.3g} ms late at the 99th percentile "
            f"(bound {bound_s * 1e3:.3g} ms), and TTFT counts from the intended start: "
            "make the load from a larger or a quieter machine"
        )


@dataclass(eq=False)
class OpenLoop:
    """One stage of arrivals on one target, or one process's share of them.

    Attributes:
        place: this process sends the arrivals whose index leaves this remainder ...
        of: ... on division by the number of processes, so that each has exactly one owner.
        starts_s: when the schedule begins, on the session's clock; by default when it is run.
        over: why no more arrivals come, once that is so.
        overflow: why the stage must not be used, where arrivals outgrew the bound in flight.
    """

    session: Session
    stage: StageInfo
    load: OpenLoad
    place: int = 0
    of: int = 1
    starts_s: float | None = None
    over: str | None = None
    overflow: str | None = None
    _late_s: list[float] = field(default_factory=list)
    _ttft_s: list[float] = field(default_factory=list)
    _drawn: int = 0  # arrivals whose lengths have been drawn
    _idle: list[Chatter] = field(default_factory=list)
    _ready: deque[tuple[float, Event]] = field(default_factory=deque)  # due, and what lets it go
    _flying: Group = field(default_factory=Group)  # and those that are ready
    _leaving: int = 0  # requests that were let go and are not sent yet
    _resting: list[Event] = field(default_factory=list)  # answers to be decoded

    def __post_init__(self) -> None:
        """Seed the schedule and the lengths, apart from each other."""
        seeds = [self.session.traffic.seed, self.stage.index]
        mean_gap_s = self.of / self.stage.load
        self._early_s = min(_EARLY_S, _EARLY_SHARE * mean_gap_s)
        self._work_s = _WORK_S if _WORK_SHARE * mean_gap_s > _WORK_S else 0.0
        self._lengths = np.random.default_rng([*seeds, _LENGTHS])
        self._schedule = self.load.pattern.moments(
            self.stage.load, np.random.default_rng([*seeds, _SCHEDULE])
        )

    def run(self, environment: Environment) -> None:
        """Send until the schedule ends, or a request is due that would be too many in flight."""
        began_s = self.starts_s
        if began_s is None:
            began_s = self.session.clock.now() + _LEAD_S
        mine = itertools.islice(enumerate(self._schedule), self.place, None, self.of)
        with alarm() as bell:
            for index, moment_s in mine:
                due_s = began_s + moment_s
                if not self._let_go(bell, due_s - _AHEAD_S):
                    return
                while self._leaving or self._is_sending():
                    if self._leaving:
                        gevent.sleep(0)
                    elif not self._let_go(bell, self._ready[0][0]):
                        return
                go = Event()
                self._ready.append((due_s, go))
                self._flying.spawn(self._one, index, due_s, go, environment)
            if self._ready and not self._let_go(bell, self._ready[-1][0]):
                return
        self._wake_resting()
        self.over = "end of the trace"

    def _let_go(self, bell: Alarm, until_s: float) -> bool:
        """Let go what is due until then, and wait for then; whether more may follow."""
        while self._ready and self._ready[0][0] <= until_s:
            due_s, go = self._ready[0]
            self._keep_clear(due_s)
            bell.wait_until(self._mono_ns(due_s - self._early_s))
            if len(self._flying) - len(self._ready) >= self.load.max_in_flight:
                self.over = "in-flight limit"
                self.overflow = (
                    f"{self.load.max_in_flight} requests were in flight when another was due: "
                    "the server fell behind the arrivals; lower --rate, or raise "
                    "--max-in-flight where so many are meant"
                )
                self._ready.clear()
                self._wake_resting()
                return False
            self._ready.popleft()
            self._leaving += 1
            go.set()
            self._wake_resting()
        bell.wait_until(self._mono_ns(until_s))
        return True

    def _rest(self) -> None:
        """Wait, not for long, until decoding makes no request late."""
        if not self._work_s:
            return
        clock = self.session.clock
        tired_s = clock.now() + _REST_S
        while (self._leaving or self._is_sending()) and clock.now() < tired_s:
            turn = Event()
            self._resting.append(turn)
            turn.wait(_REST_S)

    def _is_sending(self) -> bool:
        """Whether a request is about to be sent, and other work would make it late."""
        if not self._ready:
            return False
        return self._ready[0][0] < self.session.clock.now() + self._work_s

    def _wake_resting(self) -> None:
        for turn in self._resting:
            turn.set()
        self._resting.clear()

    def _keep_clear(self, due_s: float) -> None:
        """Have the drainer keep out of the way of a request that is about to be sent."""
        if self._work_s:
            since_ns = self._mono_ns(due_s - self._early_s - self._work_s)
            drainer().keep_clear(since_ns / _NS, self._mono_ns(due_s + self._work_s) / _NS)

    def _mono_ns(self, at_s: float) -> int:
        """The reading of ``time.monotonic_ns()`` at a moment of the run."""
        return self.session.clock.zero_ns + round(at_s * _NS)

    def stop(self) -> None:
        """Cut off what is in flight; each is recorded as cancelled."""
        self._flying.kill()
        for lane in self._idle:
            lane.close()

    def judged(self, stage: StageInfo) -> StageInfo:
        """The stage with its lateness, and with what forbids its use."""
        late = self.lateness()
        return msgspec.structs.replace(
            stage,
            send_late_p50_s=late and late.p50_s,
            send_late_p99_s=late and late.p99_s,
            invalid=stage.invalid or self.overflow or (late and late.problem()),
        )

    def lateness(self) -> Lateness | None:
        """Of what was sent so far; ``None`` if nothing was."""
        if not self._late_s:
            return None
        p50_s, p99_s = (float(q) for q in np.quantile(self._late_s, (0.5, 0.99)))
        ttft_mean_s = float(np.mean(self._ttft_s)) if self._ttft_s else None
        return Lateness(p50_s=p50_s, p99_s=p99_s, ttft_mean_s=ttft_mean_s)

    def see(self, record: RequestRecord) -> None:
        """Note when a finished request was sent. One that never connected tells nothing."""
        if record.headers_s is None and record.status != "cancelled":
            return
        self._late_s.append(record.sent_s - record.due_s)
        if record.first_token_s is not None:
            self._ttft_s.append(record.first_token_s - record.sent_s)

    def _one(self, index: int, due_s: float, go: Event, environment: Environment) -> None:
        """One request, by a lane that has none.

        Lengths are drawn in the order of arrivals, those of other processes' too: each arrival has
        the same ones however many processes there are.
        """
        lane = self._idle.pop() if self._idle else self.session.chatter(self._lengths)
        traffic = self.session.traffic
        for _ in range(self._drawn, index):
            traffic.prompt_tokens.draw(self._lengths)
            traffic.output_tokens.draw(self._lengths)
        self._drawn = index + 1
        due_ns = self._mono_ns(due_s)

        def hold() -> None:
            go.wait()
            self._leaving -= 1
            while time.monotonic_ns() < due_ns:
                pass

        record = lane.ask(scheduled_s=due_s, hold=hold, rest=self._rest)
        self._idle.append(lane)
        report(environment, record)


class ArrivalUser(User):
    """The one Locust user of an open loop: it stands for all who arrive."""

    abstract = True
    loop: OpenLoop

    @task
    def dispatch(self) -> None:
        """The whole schedule."""
        self.loop.run(self.environment)
        raise StopUser
