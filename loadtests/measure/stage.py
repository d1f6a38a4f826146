"""One stage: hold one level of load until its figures are steady, or a bound is reached."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
import msgspec
from locust.env import Environment

from loadtests.users import ChatUser, attach
from planner.steady import stage_verdict
from planner.table import RequestTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.measure.session import Session
    from planner.records import RequestRecord, StageInfo

__all__ = ["StageLimits", "StageProgress", "run_stage"]

_POLL_S = 0.25
_VERDICT_EVERY_S = 1.0
_SPAWN_PER_S = 100.0  # Locust warns above it
_MAX_CLIENT_CPU = 0.9  # share of one core: above it the client itself makes requests wait
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
    completed: int
    failed: int
    waiting_for: str


@dataclass
class _Seen:
    """What the sink has seen of the running stage."""

    records: list[RequestRecord]
    completed: int = 0
    failed: int = 0

    def add(self, record: RequestRecord) -> None:
        self.records.append(record)
        self.completed += record.status == "ok"
        self.failed += record.status in ("error", "timeout")


def run_stage(
    session: Session,
    stage: StageInfo,
    limits: StageLimits,
    *,
    on_progress: Callable[[StageProgress], None] = lambda _: None,
) -> StageInfo:
    """Load one target at one level; returns the stage as it ended.

    The session's sink sees every record, those of requests that are cut off at the end included.
    ``KeyboardInterrupt`` stops the users and passes through; the records up to then are kept.
    """
    logging.getLogger("locust.runners").setLevel(logging.WARNING)  # "All users spawned" is not news
    seen = _Seen([])
    keep = session.sink

    def sink(record: RequestRecord) -> None:
        seen.add(record)
        keep(record)

    session.sink = sink
    user_class = type(
        f"{session.info.backend.title()}User", (ChatUser,), {"host": session.info.url}
    )
    environment = Environment(user_classes=[user_class])
    attach(environment, {user_class: session})
    runner = environment.create_local_runner()
    cpu_s, wall_s = time.process_time(), time.monotonic()
    try:
        runner.start(int(stage.load), spawn_rate=min(stage.load, _SPAWN_PER_S))
        reason = _wait(session, stage, limits, seen, on_progress)
    finally:
        ended_s = session.clock.now()
        runner.quit()
        session.sink = keep
    share = (time.process_time() - cpu_s) / (time.monotonic() - wall_s)
    return msgspec.structs.replace(
        stage, ended_s=ended_s, stop_reason=reason, invalid=_client_limit(share)
    )


def _wait(
    session: Session,
    stage: StageInfo,
    limits: StageLimits,
    seen: _Seen,
    on_progress: Callable[[StageProgress], None],
) -> str:
    """Until the stage is done; returns why."""
    next_verdict_s, waiting_for = limits.min_s, "warm-up"
    while True:
        gevent.sleep(_POLL_S)
        elapsed_s = session.clock.now() - stage.started_s
        if elapsed_s >= next_verdict_s and not limits.hold:
            next_verdict_s = elapsed_s + _VERDICT_EVERY_S
            verdict = stage_verdict(
                RequestTable.from_records(seen.records),
                stage,
                now_s=session.clock.now(),
                quantile=limits.quantile,
                target_half_width=limits.half_width,
            )
            if verdict.done:
                return "steady"
            waiting_for = verdict.reason
        on_progress(
            StageProgress(
                stage=stage,
                elapsed_s=elapsed_s,
                max_s=limits.max_s,
                completed=seen.completed,
                failed=seen.failed,
                waiting_for=waiting_for,
            )
        )
        if seen.failed >= max(_FAILURES_BEFORE_STOP, seen.completed):
            return "error limit"
        if elapsed_s >= limits.max_s:
            return "time limit"


def _client_limit(cpu_share: float) -> str | None:
    if cpu_share <= _MAX_CLIENT_CPU:
        return None
    return (
        f"the client used {cpu_share:.0%} of its one core (bound {_MAX_CLIENT_CPU:.0%}): it was "
        "the limit, not the server; make the load from a larger or a quieter machine"
    )
