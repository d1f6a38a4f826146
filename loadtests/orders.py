"""What the process that drives a run and those that make its load tell each other.

The messages travel beside Locust's own, over its sockets, as MessagePack.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from loadtests.dialects import dialect_of
from loadtests.measure.session import Session, Traffic
from loadtests.stream.clock import Clock
from loadtests.targets import Target, api_key
from loadtests.traffic.lengths import parse_lengths
from loadtests.traffic.prompts import PromptScale  # noqa: TC001 - msgspec reads it
from planner.records import Record, RequestRecord, StageInfo, TargetInfo, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "END",
    "HELLO",
    "RECORDS",
    "REPORT",
    "STAGE",
    "Batch",
    "Greeting",
    "Hello",
    "Report",
    "StageOrder",
]

HELLO = "headroom_hello"
"""From a worker that is ready for orders."""

STAGE = "headroom_stage"
"""To a worker: an order for each user class. It answers with a ``Greeting`` of the same type."""
RECORDS = "headroom_records"
"""From a worker, several times a second: what has ended."""
END = "headroom_end"
"""To a worker whose users have stopped: hand over the rest, and say how you fared ..."""
REPORT = "headroom_report"
"""... which it does with this."""

_USERS_PER_WORKER_BITS = 20


class StageOrder(Record, frozen=True, kw_only=True):
    """All that a worker must know to load one target. It takes API keys from its environment."""

    started_unix_s: float
    sent_s: float  # on the run's clock
    user_class: str
    stage: StageInfo
    target: Target
    info: TargetInfo
    scale: PromptScale
    workload: Workload
    seed: int

    @classmethod
    def of(cls, session: Session, stage: StageInfo, target: Target, user_class: str) -> StageOrder:
        """To load a target as the driving process has come to know it."""
        return cls(
            started_unix_s=session.clock.started_unix_s,
            sent_s=session.clock.now(),
            user_class=user_class,
            stage=stage,
            target=target,
            info=session.info,
            scale=session.scale,
            workload=session.traffic.workload,
            seed=session.traffic.seed,
        )

    def session(self, worker: int, sink: Callable[[RequestRecord], None]) -> Session:
        """The session of one worker: its users' numbers are nobody else's.

        Raises:
            InputError: a file of lengths is not there, or no key where one must be.
        """
        first = worker << _USERS_PER_WORKER_BITS
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
            clock=Clock(self.started_unix_s),
            api_key=api_key(self.target),
            scale=self.scale,
            sink=sink,
            stage=self.stage.index,
            think_time_s=self.stage.think_time_s,
            users=itertools.count(first),
        )


class Hello(Record, frozen=True, kw_only=True):
    """Which process a worker is."""

    pid: int


class Greeting(Record, frozen=True, kw_only=True):
    """A worker's answer to an order."""

    sent_s: float  # as in the order
    now_s: float  # on the worker's clock
    problem: str | None = None  # why it cannot obey


class Batch(Record, frozen=True, kw_only=True):
    """Requests that have ended."""

    records: list[RequestRecord]


class Report(Record, frozen=True, kw_only=True):
    """How a worker fared over the stages that it had orders for."""

    stages: list[int]
    problem: str | None  # why its part must not be used
