"""The real user path against the reference server, compared with the truth that it stamps."""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import itertools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent
import numpy as np
from locust.env import Environment

from loadtests.dialects import dialect_of
from loadtests.measure.session import Session, Traffic
from loadtests.measure.truth import Errors, Observed, compare
from loadtests.measure.validity import MAX_CPU_SHARE, ClientProbe, ClientReadings
from loadtests.stream import Clock, Endpoint, settle_memory
from loadtests.traffic.lengths import parse_lengths
from loadtests.users import ChatUser, attach
from planner.records import TargetInfo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.dialects.base import Api, Chat, Decoder, Dialect, HttpCall, Reply
    from loadtests.refserver import ReferenceServer, ServerStats
    from planner.records import RequestRecord

__all__ = [
    "Level",
    "TruthDialect",
    "measure_level",
    "observed_of",
    "reference_session",
    "verdict_of",
]

# Run-queue wait above either means that others use the processors: of the time, and of the time
# that the client itself computed.
_BUSY_SHARE, _BUSY_PER_CPU = 0.05, 0.1
_ERROR_P50, _ERROR_P99 = 0.01, 0.05  # of a gap: below what servers' own gaps vary by
_TTFT_ERROR_P99_S = 0.005  # 1 % of half a second, about the tightest objective in use
_COALESCED = 0.01
_STARTS_PER_S = 500.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """What one number of streams showed."""

    streams: int
    itl_s: float
    failed: int
    chunks_per_s: float
    cpu_per_chunk_s: float
    errors: Errors
    client: ClientReadings
    server: ServerStats
    verdict: str  # trusted, busy, server, or what is wrong


class TruthDialect:
    """The generic OpenAI dialect, with the text of the last reply in sight."""

    backend = "openai"
    api: Api = "openai"
    can_ignore_eos = False

    def __init__(self) -> None:
        """No reply yet."""
        self._inner: Dialect = dialect_of("openai", "openai")
        self.text = ""

    def encode(self, chat: Chat, *, api_key: str | None = None) -> HttpCall:
        """As the dialect does."""
        return self._inner.encode(chat, api_key=api_key)

    def decoder(self) -> TruthDecoder:
        """A decoder that leaves its reply's text here."""
        return TruthDecoder(self, self._inner.decoder())

    def error(self, status: int, body: bytes) -> tuple[str, str]:
        """As the dialect does."""
        return self._inner.error(status, body)


class TruthDecoder:
    """The dialect's decoder, overheard."""

    def __init__(self, dialect: TruthDialect, inner: Decoder) -> None:
        """Listen in."""
        self._dialect = dialect
        self._inner = inner

    def feed(self, data: bytes) -> None:
        """As the decoder does."""
        self._inner.feed(data)

    def finish(self) -> Reply:
        """As the decoder does; the text is kept."""
        reply = self._inner.finish()
        self._dialect.text = reply.text
        return reply


def measure_level(server: ReferenceServer, *, streams: int, itl_s: float, seconds: float) -> Level:
    """Hold so many streams open for a while, and compare.

    Users begin five times as fast as ``headroom measure`` starts them. Their answers differ in
    length, so that ends and new beginnings are spread; streams that are cut off at the end are
    compared too.

    Args:
        server: made with the same ``itl_s``.
        streams: requests in flight.
        itl_s: gap between content events.
        seconds: how long to go on when all have begun.
    """
    dialect = TruthDialect()
    tokens = max(4, round(seconds / 2 / itl_s))
    outputs = f"uniform:{tokens * 3 // 4}-{tokens * 5 // 4}"
    session = reference_session(server.url, dialect, outputs=outputs)
    kept: list[tuple[RequestRecord, str]] = []
    settle_memory()
    server.stats()
    probe = ClientProbe()

    def sink(record: RequestRecord) -> None:
        kept.append((record, dialect.text))
        probe.see(record)

    session.sink = sink
    cpu_s = time.process_time()
    begun_ns, ended_ns = _load(session, streams, seconds)
    cpu_s = time.process_time() - cpu_s
    readings = probe.stop()
    seen = [observed_of(record, text, session.clock) for record, text in kept if _answered(record)]
    errors = compare(seen, ended_ns)
    steady = sum(int(np.count_nonzero((o.seen_ns > begun_ns) & (o.seen_ns <= ended_ns)))
                 for o in seen)  # fmt: skip
    failed = sum(record.status in ("error", "timeout") for record, _ in kept)
    stats = server.stats()
    return Level(
        streams=streams,
        itl_s=itl_s,
        failed=failed,
        chunks_per_s=steady / ((ended_ns - begun_ns) * 1e-9),
        cpu_per_chunk_s=cpu_s / max(errors.chunks, 1),
        errors=errors,
        client=readings,
        server=stats,
        verdict=verdict_of(itl_s, failed, errors, readings, stats),
    )


def reference_session(url: str, dialect: Dialect, *, outputs: str) -> Session:
    """A session with a reference server, for answers of this distribution of lengths."""
    prompts = "16"
    return Session(
        info=TargetInfo(name="reference", backend="openai", url=url, model="reference"),
        endpoint=Endpoint.parse(url),
        dialect=dialect,
        traffic=Traffic(
            workload=Workload(prompt_tokens=prompts, output_tokens=outputs),
            prompt_tokens=parse_lengths(prompts),
            output_tokens=parse_lengths(outputs),
            seed=1,
        ),
        clock=Clock(),
    )


class _ReferenceUser(ChatUser):
    """A user who begins when it is its turn, not when Locust makes it."""

    abstract = True
    turns: Iterator[int]

    def on_start(self) -> None:
        gevent.sleep(next(self.turns) / _STARTS_PER_S)
        super().on_start()


def _load(session: Session, streams: int, seconds: float) -> tuple[int, int]:
    """Run the users.

    Returns:
        ``time.monotonic_ns()`` at which all had begun, and at which they were told to stop.
    """
    logging.getLogger("locust.runners").setLevel(logging.ERROR)  # it warns of all at once
    members = {"host": session.info.url, "turns": itertools.count()}
    user_class = type("ReferenceUser", (_ReferenceUser,), members)
    environment = Environment(user_classes=[user_class])
    attach(environment, {user_class: session})
    runner = environment.create_local_runner()
    try:
        runner.start(streams, spawn_rate=streams)
        gevent.sleep(streams / _STARTS_PER_S)
        begun_ns = time.monotonic_ns()
        gevent.sleep(seconds)
        return begun_ns, time.monotonic_ns()
    finally:
        runner.quit()


def _answered(record: RequestRecord) -> bool:
    return record.first_token_s is not None


def observed_of(record: RequestRecord, text: str, clock: Clock) -> Observed:
    """A record on the scale of the server's clock."""
    zero_ns = -clock.at_ns(0) * 1e9
    gaps_s = np.frombuffer(record.gaps_s, dtype="<f4").astype(np.float64)
    seen_s = (record.first_token_s or 0.0) + np.concatenate([[0.0], np.cumsum(gaps_s)])
    return Observed(record.sent_s * 1e9 + zero_ns, seen_s * 1e9 + zero_ns, text)


def verdict_of(
    itl_s: float,
    failed: int,
    errors: Errors,
    client: ClientReadings,
    server: ServerStats,
) -> str:
    """``trusted``, or what was wrong; ``busy`` or ``server`` where it was not the client."""
    fault = _fault_of(itl_s, failed, errors, client)
    if fault is None:
        return "trusted"
    if server.late_mean_us * 1e-6 > itl_s / 2:
        return "server"
    return "busy" if _is_busy(client) else fault


def _is_busy(client: ClientReadings) -> bool:
    waited = client.run_queue_share
    if waited is None:
        return False
    return waited > min(_BUSY_SHARE, _BUSY_PER_CPU * client.cpu_share)


def _fault_of(itl_s: float, failed: int, errors: Errors, client: ClientReadings) -> str | None:
    """What is wrong with the client's figures, if anything is."""
    arrival, ttft = errors.arrival, errors.ttft
    if arrival.p50_s is None or arrival.p99_s is None or ttft.p99_s is None:
        return "no answers"
    faults = {
        f"{failed} failed, {errors.wrong} wrong": failed + errors.wrong > 0,
        "arrivals inexact": arrival.p50_s > _ERROR_P50 * itl_s
        or arrival.p99_s > _ERROR_P99 * itl_s,
        "TTFT inexact": ttft.p99_s > _TTFT_ERROR_P99_S,
        "coalesced": (errors.coalesced_share or 0.0) > _COALESCED,
        "no CPU left": client.cpu_share > MAX_CPU_SHARE,
    }
    return next((fault for fault, holds in faults.items() if holds), None)
