"""What the process that drives a run and those that make its load tell each other.

The messages travel beside Locust's own, over its sockets, as MessagePack.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from loadtests.dialects import dialect_of
from loadtests.measure.session import Session, Traffic
from loadtests.targets import Target, api_key
from loadtests.traffic.arrivals import ArrivalPattern
from loadtests.traffic.lengths import parse_lengths
from loadtests.traffic.prompts import PromptScale  # noqa: TC001 - msgspec reads it
from planner.records import Name, Record, RequestRecord, StageInfo, TargetInfo, Workload
from planner.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadtests.stream.clock import Clock

__all__ = [
    "CLOCK",
    "END",
    "GO",
    "HELLO",
    "KEPT",
    "LEAVE",
    "ORDERS",
    "OVER",
    "RECORDS",
    "REPORT",
    "ArrivalOrder",
    "Batch",
    "Go",
    "Greeting",
    "Hello",
    "Kept",
    "Leave",
    "Orders",
    "Over",
    "Ping",
    "Pong",
    "Report",
    "StageOrder",
]

HELLO = "headroom_hello"
"""From a worker that is ready for orders."""
ORDERS = "headroom_orders"
"""To a worker: ``Orders``. It answers with a ``Greeting`` when it can obey and knows the time."""
CLOCK = "headroom_clock"
"""A worker's ``Ping``, and the ``Pong`` that answers it."""
GO = "headroom_go"
"""To a worker of an open loop: when the schedule begins, and whose arrivals are whose."""
OVER = "headroom_over"
"""From a worker of an open loop: no more arrivals come from it."""
RECORDS = "headroom_records"
"""From a worker, several times a second: what has ended."""
END = "headroom_end"
"""To a worker whose users have stopped: hand over the rest, and say how you fared ..."""
REPORT = "headroom_report"
"""... which it does with this."""
LEAVE = "headroom_leave"
"""From a worker that is about to stop its users and to go."""
KEPT = "headroom_kept"
"""To a worker: its records are kept in the run folder, so its own journal of them may go."""

_USERS_PER_WORKER_BITS = 20
_IDS_PER_WORKER_BITS = 48


class ArrivalOrder(Record, frozen=True, kw_only=True):
    """The schedule of an open loop, all of it: each worker takes its share of it."""

    spec: Name
    cv: float
    trace_s: bytes | None = None  # moments of a trace: float64 little-endian seconds
    max_in_flight: int  # of all workers together

    @classmethod
    def of(cls, pattern: ArrivalPattern, max_in_flight: int) -> ArrivalOrder:
        """To send a pattern's arrivals. The moments of a trace travel, its file does not."""
        moments = None if pattern.trace is None else pattern.trace.arrival_s.astype("<f8").tobytes()
        return cls(spec=pattern.spec, cv=pattern.cv, trace_s=moments, max_in_flight=max_in_flight)

    def pattern(self) -> ArrivalPattern:
        """The same pattern; a trace without its lengths, which arrivals do not use."""
        if self.trace_s is None:
            return ArrivalPattern(spec=self.spec, cv=self.cv)
        moments = np.frombuffer(self.trace_s, dtype="<f8").astype(np.float64)
        none = np.ones(moments.size, dtype=np.int64)
        trace = Trace(arrival_s=moments, prompt_tokens=none, output_tokens=none)
        return ArrivalPattern(spec=self.spec, cv=self.cv, trace=trace)


class StageOrder(Record, frozen=True, kw_only=True):
    """All that a worker must know to load one target. It takes API keys from its environment."""

    user_class: str
    stage: StageInfo
    target: Target
    info: TargetInfo
    scale: PromptScale
    workload: Workload
    seed: int
    arrivals: ArrivalOrder | None = None  # of a stage of kind ``rate``

    @classmethod
    def of(
        cls,
        session: Session,
        stage: StageInfo,
        target: Target,
        user_class: str,
        arrivals: ArrivalOrder | None = None,
    ) -> StageOrder:
        """To load a target as the driving process has come to know it."""
        return cls(
            user_class=user_class,
            stage=stage,
            target=target,
            info=session.info,
            scale=session.scale,
            workload=session.traffic.workload,
            seed=session.traffic.seed,
            arrivals=arrivals,
        )

    def session(
        self, worker: int, clock: Clock, ids: Iterator[int], sink: Callable[[RequestRecord], None]
    ) -> Session:
        """The session of one worker: its users' numbers are nobody else's.

        Raises:
            InputError: a file of lengths is not there, or no key where one must be.
        """
        return Session(
            info=self.info,
            endpoint=self.target.endpoint,
            dialect=dialect_of(self.target.backend, self.target.api),
            traffic=Traffic(
                workload=self.workload,
                prompt_tokens=parse_lengths(self.workload.prompt_tokens),
                output_tokens=parse_lengths(self.workload.output_tokens),
                seed=self.seed,
            ),
            clock=clock,
            api_key=api_key(self.target),
            scale=self.scale,
            sink=sink,
            ids=ids,
            users=itertools.count(worker << _USERS_PER_WORKER_BITS),
        )


class Orders(Record, frozen=True, kw_only=True):
    """What all users of a worker do from now on.

    A sitting is the time during which one process drives one run. Its clock, its workers' numbers
    and the numbers of their requests are good for that time.
    """

    sitting: str
    count: int = 0  # of the orders of the sitting, so that an answer tells which it answers
    started_unix_s: float  # of the run
    first_id: int  # microseconds of the run at which the sitting began
    keep: bool  # whether there is a run folder, so that journals make sense
    folder: str | None = None  # the run folder, where it is this machine's
    stages: tuple[StageOrder, ...] = ()

    def ids(self, worker: int) -> Iterator[int]:
        """Numbers for a worker's requests that no other worker, and no other sitting, has.

        A later sitting begins at a later microsecond, and no worker sends a million requests a
        second, so that numbers never meet.
        """
        return itertools.count((worker << _IDS_PER_WORKER_BITS) + self.first_id)


class Hello(Record, frozen=True, kw_only=True):
    """Which process a worker is."""

    pid: int


class Greeting(Record, frozen=True, kw_only=True):
    """A worker's answer to orders."""

    sitting: str
    count: int
    name: Name  # its host and process
    problem: str | None = None  # why it cannot obey


class Ping(Record, frozen=True, kw_only=True):
    """What time is it? And what this worker knows of its clock so far."""

    sitting: str
    sent_s: float  # on the worker's clock
    offset_s: float | None = None  # the worker's clock less the run's
    bound_s: float | None = None


class Pong(Record, frozen=True, kw_only=True):
    """The answer."""

    sitting: str
    sent_s: float  # as in the question
    now_s: float  # on the run's clock


class Go(Record, frozen=True, kw_only=True):
    """The schedule of a stage begins: its i-th arrival is of ``owners[i % len(owners)]``."""

    stage: int
    starts_s: float  # on the run's clock
    owners: list[int]


class Over(Record, frozen=True, kw_only=True):
    """A worker's arrivals have ended."""

    stage: int
    reason: Name
    overflow: str | None = None  # why the stage must not be used


class Batch(Record, frozen=True, kw_only=True):
    """Requests that have ended, with moments on the run's clock."""

    sitting: str
    records: list[RequestRecord]


class Report(Record, frozen=True, kw_only=True):
    """How a worker fared over the stages that it had orders for."""

    stages: list[int]
    problem: str | None  # why its part must not be used
    handed_over: int  # its records of the sitting so far
    resent: dict[Name, int]  # by target, since its last report: see Session.resent


class Leave(Record, frozen=True, kw_only=True):
    """A worker goes, because it was told to."""

    sitting: str


class Kept(Record, frozen=True, kw_only=True):
    """The run folder has all of this worker's records of a sitting."""

    sitting: str
