"""How exact and how cheap the client is on this machine: ``headroom selftest``.

The real user path (Locust users, sessions, dialect, records) is driven against the reference
server, and its records are compared with the truth that the server wrote into every event.
"""

from __future__ import annotations

import locust  # isort: skip  # noqa: F401 - first of all: it patches what the others import
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
import gevent
import numpy as np
from locust.env import Environment
from rich.box import SIMPLE_HEAD
from rich.table import Table

from loadtests.dialects import dialect_of
from loadtests.measure.session import Session, Traffic
from loadtests.measure.truth import Errors, Observed, Spread, compare
from loadtests.measure.validity import (
    MAX_CPU_SHARE,
    ClientProbe,
    ClientReadings,
    check_limits,
)
from loadtests.refserver import reference_server
from loadtests.stream import Clock, Endpoint, clock_name, settle_memory
from loadtests.traffic.lengths import parse_lengths
from loadtests.users import ChatUser, attach
from planner.cli import (
    DURATION,
    EXIT_DONE,
    EXIT_INCONCLUSIVE,
    EXIT_NO,
    Command,
    console,
    print_json,
)
from planner.errors import InputError
from planner.records import TargetInfo, Workload
from planner.units import format_duration

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
    "selftest",
    "verdict_of",
]

_RAMP = (64, 256, 1024, 2048)
_LEVEL_S = 2.5
_TOTAL_S = 30.0
_TTFT_S = 0.2
_SHORTEST_ITL_S = 0.001
# Run-queue wait above either means that others use the processors: of the time, and of the time
# that the client itself computed.
_BUSY_SHARE, _BUSY_PER_CPU = 0.05, 0.1
_ERROR_P50, _ERROR_P99 = 0.01, 0.05  # of a gap: below what servers' own gaps vary by
_TTFT_ERROR_P99_S = 0.005  # 1 % of half a second, about the tightest objective in use
_COALESCED = 0.01
_MILLISECOND = 1e-3
_TWO_DIGITS = 9.95


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

    All users begin in the same second. Their answers differ in length, so that ends and new
    beginnings are spread; streams that are cut off at the end are compared too.

    Args:
        server: made with the same ``itl_s``.
        streams: requests in flight.
        itl_s: gap between content events.
        seconds: how long to go on.
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
    cpu_s, started_s = time.process_time(), time.monotonic()
    ended_ns = _load(session, streams, seconds)
    elapsed_s, cpu_s = time.monotonic() - started_s, time.process_time() - cpu_s
    readings = probe.stop()
    seen = [observed_of(record, text, session.clock) for record, text in kept if _answered(record)]
    errors = compare(seen, ended_ns)
    failed = sum(record.status in ("error", "timeout") for record, _ in kept)
    stats = server.stats()
    return Level(
        streams=streams,
        itl_s=itl_s,
        failed=failed,
        chunks_per_s=errors.chunks / elapsed_s,
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


def _load(session: Session, streams: int, seconds: float) -> int:
    """Run the users; returns ``time.monotonic_ns()`` at which they were told to stop."""
    logging.getLogger("locust.runners").setLevel(logging.ERROR)  # a burst is what we want here
    user_class = type("ReferenceUser", (ChatUser,), {"host": session.info.url})
    environment = Environment(user_classes=[user_class])
    attach(environment, {user_class: session})
    runner = environment.create_local_runner()
    try:
        runner.start(streams, spawn_rate=streams)
        gevent.sleep(seconds)
        return time.monotonic_ns()
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


def _levels(asked: int, itl_s: float, seconds: float, compiled: bool | None) -> Iterator[Level]:
    """The asked level and those of the ramp, upwards until one above it cannot be trusted."""
    ends_s = time.monotonic() + _TOTAL_S
    with reference_server(itl_s=itl_s, ttft_s=_TTFT_S, compiled=compiled) as server:
        for streams in sorted({asked, *_RAMP}):
            if streams > asked:
                if time.monotonic() + _LEVEL_S > ends_s:
                    return
                try:
                    check_limits(streams)
                except InputError:
                    return
            length_s = seconds if streams == asked else min(seconds, _LEVEL_S)
            level = measure_level(server, streams=streams, itl_s=itl_s, seconds=length_s)
            yield level
            if streams >= asked and level.verdict != "trusted":
                return


@click.command(cls=Command, epilog="Example: headroom selftest --streams 256 --itl 20ms")
@click.option("--streams", type=click.IntRange(1, 20_000), default=256, show_default=True,
              help="Requests in flight to judge; others are tried beside it.")  # fmt: skip
@click.option("--itl", type=DURATION, default="20ms", show_default=True,
              help="Gap between the tokens of a stream.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1.0, 60.0), default=5.0, show_default=True,
              help="How long to measure at --streams.")  # fmt: skip
@click.option("--python-server", is_flag=True, help="Use the slow reference server in Python.")
@click.option("--json", "as_json", is_flag=True, help="All figures as JSON.")
def selftest(streams: int, itl: float, seconds: float, python_server: bool, as_json: bool) -> None:
    """Measure the client itself, against a server that stamps the truth.

    Exit codes: 0 this machine can be trusted at --streams, 1 it cannot, 3 it was too busy (or the
    reference server too slow) to tell.
    """
    if itl < _SHORTEST_ITL_S:
        raise InputError(f"--itl {itl} s is too short: at least {format_duration(_SHORTEST_ITL_S)}")
    check_limits(streams)
    levels: list[Level] = []
    say = console(stderr=True).print
    for level in _levels(streams, itl, seconds, False if python_server else None):
        say(f"  {level.streams} streams: {level.verdict}", markup=False)
        levels.append(level)
    asked = next(level for level in levels if level.streams == streams)
    trusted = [level for level in levels if level.verdict == "trusted"]
    best = trusted[-1] if trusted else None
    if as_json:
        print_json(
            {
                "schema": 1,
                "clock": clock_name(),
                "asked": asked,
                "trusted_streams": best.streams if best else 0,
                "trusted_chunks_per_s": best.chunks_per_s if best else 0.0,
                "levels": levels,
            }
        )
    else:
        _print_tables(levels, asked, best)
    click.get_current_context().exit(_exit_code(asked))


def _exit_code(asked: Level) -> int:
    if asked.verdict == "trusted":
        return EXIT_DONE
    return EXIT_INCONCLUSIVE if asked.verdict in {"busy", "server"} else EXIT_NO


def _print_tables(levels: list[Level], asked: Level, best: Level | None) -> None:
    out = console()
    table = Table(
        title="measured minus true, p50/p99",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("streams", "TTFT", "arrival", "ITL", "shared", "CPU/chunk", "chunks/s",
                 "waited", "verdict"):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        errors, waited = level.errors, level.client.run_queue_share
        table.add_row(
            str(level.streams),
            _spread(errors.ttft),
            _spread(errors.arrival),
            _spread(errors.itl),
            f"{errors.coalesced_share or 0:.2%}",
            _microseconds(level.cpu_per_chunk_s),
            f"{level.chunks_per_s:,.0f}",
            "?" if waited is None else f"{waited:.1%}",
            level.verdict,
        )
    out.print(table)
    out.print(f"clock    {clock_name()}", markup=False)
    if best is None:
        out.print("verdict  no load tried here can be trusted on this machine", markup=False)
    else:
        out.print(
            f"verdict  trusted up to {best.streams} streams and {best.chunks_per_s:,.0f} chunks/s"
            f" at gaps of {format_duration(best.itl_s)}", markup=False,
        )  # fmt: skip
    if asked.verdict == "busy":
        out.print("others use this machine's processors now: run it again when it is quiet")
    elif asked.verdict == "server":
        out.print("the reference server could not keep its own pace: nothing can be said")


def _spread(spread: Spread) -> str:
    return "/".join(_microseconds(s) for s in (spread.p50_s, spread.p99_s))


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    value, unit = (seconds * 1e6, "µs") if seconds < _MILLISECOND else (seconds * 1e3, "ms")
    return f"{value:.0f}{unit}" if value >= _TWO_DIGITS else f"{value:.1f}{unit}"
