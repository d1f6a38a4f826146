"""Every way in which a server can fail a request ends as a record with its kind; nothing hangs."""

from __future__ import annotations

import gc
import json
import logging
import resource
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from loadtests.dialects import dialect_of
from loadtests.measure.session import Session, Traffic
from loadtests.stream import Clock, Endpoint, Timeouts
from loadtests.traffic.lengths import parse_lengths
from planner.records import RequestRecord, TargetInfo, Workload
from tests.loadtests.readers import READERS, reading_by
from tests.loadtests.servers import Act, Step, answer, chunked, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.loadtests.servers import Script

CERTIFICATE = Path(__file__).parents[1] / "stream" / "localhost.pem"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
QUICK = Timeouts(connect_s=5, first_byte_s=0.5, idle_s=0.3, total_s=20)
PATIENT = Timeouts(connect_s=10, first_byte_s=10, idle_s=10, total_s=30)
"""For faults that are no stall: this machine may be busy."""


def event(text: str, finish: str | None = None) -> bytes:
    """One content event."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
WHOLE = [event("a"), event("b", "stop"), DONE]


@pytest.fixture(scope="module", params=READERS, autouse=True)
def reader(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this file runs with each reader."""
    with reading_by(request.param) as reader:
        yield reader


def session(url: str, timeouts: Timeouts = QUICK) -> Session:
    """A session as a stage uses it."""
    return Session(
        info=TargetInfo(name="t", backend="openai", url=url, model="m"),
        endpoint=Endpoint.parse(url),
        dialect=dialect_of("openai", "openai"),
        traffic=Traffic(
            workload=Workload(prompt_tokens="8", output_tokens="4"),
            prompt_tokens=parse_lengths("8"),
            output_tokens=parse_lengths("4"),
            seed=1,
        ),
        clock=Clock(),
        timeouts=timeouts,
    )


def ask(url: str, times: int = 1, timeouts: Timeouts = QUICK) -> list[RequestRecord]:
    """So many requests, one after another; every one must leave one record."""
    kept: list[RequestRecord] = []
    asked = session(url, timeouts)
    asked.sink = kept.append
    chatter = asked.chatter()
    for _ in range(times):
        chatter.ask()
    chatter.close()
    assert [record.id for record in kept] == list(range(times))
    return kept


def megabytes(count: int) -> Iterator[bytes]:
    """One endless line, as chunks."""
    for _ in range(count):
        yield chunked(b"x" * 2**20, end=False)


FAULTS: dict[str, tuple[Callable[[], list[Step]], str, str, int]] = {
    "reset before the headers": (lambda: [Act.RESET], "error", "reset", 0),
    "reset in the headers": (lambda: [HEAD[:30], 0.05, Act.RESET], "error", "reset", 0),
    "reset in the middle of a chunk": (
        lambda: [HEAD + chunked(event("a"), end=False) + b"ff\r\ndata: {", 0.05, Act.RESET],
        "error", "reset", 1,
    ),
    "reset after the last token": (
        lambda: [HEAD + chunked(*WHOLE[:2], end=False), 0.05, Act.RESET], "error", "reset", 2,
    ),
    "closed before the headers": (list, "error", "closed", 0),
    "closed after the last token": (
        lambda: [HEAD + chunked(*WHOLE[:2], end=False)], "error", "closed", 2,
    ),
    "stall before the headers": (lambda: [Act.HOLD], "timeout", "timeout_first_byte", 0),
    "stall in the stream": (
        lambda: [HEAD + chunked(event("a"), end=False), Act.HOLD], "timeout", "timeout_idle", 1,
    ),
    "slow headers": (
        lambda: [step for byte in HEAD for step in (bytes([byte]), 0.02)],
        "timeout", "timeout_first_byte", 0,
    ),
    "a line of 100 MB": (
        lambda: [HEAD + chunked(b"data: ", end=False), *megabytes(100), Act.HOLD],
        "error", "too_large", 0,
    ),
    "wrong chunk length": (
        lambda: [HEAD + b"5\r\n" + event("a") + b"\r\n", Act.HOLD], "error", "bad_http", 0,
    ),
    "chunk longer than what comes": (
        lambda: [HEAD + b"fff\r\n" + event("a"), Act.HOLD], "timeout", "timeout_idle", 1,
    ),
    "chunk length that is no number": (
        lambda: [HEAD + b"zz\r\n" + event("a") + b"\r\n", Act.HOLD], "error", "bad_http", 0,
    ),
    "invalid UTF-8": (
        lambda: [HEAD + chunked(event("a"), event("\u00e9").replace(b"\\u00e9", b"\xe9"), DONE)],
        "error", "bad_json", 1,
    ),
    "invalid JSON": (lambda: [HEAD + chunked(event("a"), b"data: {]\n\n", DONE)],
                     "error", "bad_json", 1),
    "an error inside a 200": (
        lambda: [HEAD + chunked(event("a"), b'data: {"error": {"message": "no"}}\n\n', DONE)],
        "error", "server_error", 1,
    ),
    "an error status": (lambda: [answer(b'{"error": "busy"}', 503)], "error", "overloaded", 0),
    "no end mark": (lambda: [HEAD + chunked(*WHOLE[:1])], "error", "truncated", 1),
    "not HTTP": (lambda: [b"220 smtp ready\r\n", Act.HOLD], "error", "bad_http", 0),
    "nothing wrong": (lambda: [HEAD + chunked(*WHOLE)], "ok", "", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_a_record_of_its_kind(name: str) -> None:
    """The record has the status and the kind of what happened, and the tokens that came before."""
    script, status, kind, tokens = FAULTS[name]
    with serving(lambda _: script()) as server:
        (record,) = ask(server.url, timeouts=QUICK if status == "timeout" else PATIENT)
    assert (record.status, record.error_kind or "") == (status, kind)
    assert (record.error is None) == (status == "ok")
    assert (record.first_token_s is None) == (tokens == 0)
    assert len(record.gaps_s) // 4 == max(tokens - 1, 0)
    assert record.scheduled_s <= record.sent_s <= record.ended_s


def test_a_body_that_never_ends() -> None:
    """A server that goes on for ever is cut off by the bound on the whole request."""

    def script(_: bytes) -> Iterator[Step]:
        yield HEAD
        while True:
            yield chunked(event("a"), end=False)
            yield 0.002

    with serving(cast("Script", script)) as server:  # any iterable will do
        (record,) = ask(server.url, timeouts=Timeouts(total_s=0.4))
    assert (record.status, record.error_kind) == ("timeout", "timeout_total")
    assert len(record.gaps_s) > 0


def test_the_counts_add_up_over_a_mixture() -> None:
    """Among failures of every kind each request has one record, and the good ones are good."""
    names = [n for n in FAULTS if FAULTS[n][1] != "timeout" and "100 MB" not in n]
    with serving(*[FAULTS[name][0]() for name in names]) as server:
        records = ask(server.url, times=len(names), timeouts=PATIENT)
    assert [(r.status, r.error_kind or "") for r in records] == [FAULTS[n][1:3] for n in names]


def test_a_certificate_that_does_not_fit() -> None:
    """A server with a certificate that nobody vouches for is never sent the request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with serving([answer(b"")], tls=context) as server:
        (record,) = ask(server.url)
        assert server.requests == []
    assert (record.status, record.error_kind) == ("error", "tls")


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is no address of this system")
def test_a_certificate_of_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate of a trusted authority is refused from an address that it does not name."""
    monkeypatch.setenv("HEADROOM_CA_FILE", str(CERTIFICATE))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    steps: list[Step] = [HEAD + chunked(*WHOLE), Act.GOODBYE]
    with serving(steps, host="127.0.0.2", tls=context) as other, serving(steps, tls=context) as own:
        (refused,), (good,) = ask(other.url), ask(own.url)
        assert other.requests == []
    assert (refused.status, refused.error_kind) == ("error", "tls")
    assert "mismatch" in (refused.error or "")
    assert good.status == "ok", good.error


def test_a_name_that_does_not_exist() -> None:
    """A failed name look-up has its own kind."""
    (record,) = ask("http://no.invalid")
    assert (record.status, record.error_kind) == ("error", "dns")


def test_ten_thousand_failures_cost_nothing_lasting(caplog: pytest.LogCaptureFixture) -> None:
    """10,000 refused connections leave 10,000 records, and no memory, no file and no log line."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    count = 0

    def see(record: RequestRecord) -> None:
        nonlocal count
        assert (record.status, record.error_kind) == ("error", "connect")
        count += 1

    asked = session(f"http://127.0.0.1:{port}")
    asked.sink = see
    chatter = asked.chatter()
    caplog.set_level(logging.DEBUG)

    def fail(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            chatter.ask()
        gc.collect()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir())), peak

    before, after = fail(1000), fail(9000)
    assert count == 10_000
    assert after[0] < before[0] + 200
    assert after[1] == before[1]
    assert after[2] < before[2] + 4096  # KiB
    assert caplog.records == []
