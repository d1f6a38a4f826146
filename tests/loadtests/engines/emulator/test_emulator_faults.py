"""Faults by rule: each ends as the error kind that it should, and stands in the truth."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.dialects import dialect_of
from loadtests.dialects.base import Chat, Message
from loadtests.engines.emulator.faults import FAULTS, FaultRule, draw_fault, parse_fault
from loadtests.engines.emulator.truth import read_truth
from loadtests.measure.assemble import RequestLabel, assemble
from loadtests.stream import Clock, Endpoint, StreamClient, Timeouts
from planner.errors import InputError
from tests.loadtests.engines.emulator.emulating import ASKED, ask, emulating, kinds_settings

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.emulator.settings import Kind
    from planner.records import RequestRecord

TOKENS = 8
QUICK = Timeouts(connect_s=5, first_byte_s=1.5, idle_s=1.0, total_s=20)
BRIEF = Timeouts(connect_s=5, first_byte_s=1.5, idle_s=1.0, total_s=2)

# Fault -> the kinds of error that our client may make of it, and the content events before it.
ENDS = {
    "reset-before-headers": ({"reset"}, 0),
    "reset-in-headers": ({"reset"}, 0),
    "reset-mid-chunk": ({"reset"}, 3),
    "reset-after-last-token": ({"reset"}, 8),
    "stall": ({"timeout_idle", "timeout_first_byte"}, 3),
    "endless": ({"timeout_total"}, 8),
    "huge-line": ({"too_large"}, 3),
    "wrong-chunk-length": ({"bad_http"}, 4),
    "invalid-utf8": ({"bad_json", "bad_event"}, 3),
    "invalid-json": ({"bad_json"}, 3),
    "error-in-200": ({"server_error"}, 3),
    "slow-headers": ({"timeout_first_byte", "timeout_total"}, 0),
    "http-429": ({"rate_limited"}, 0),
    "http-503": ({"overloaded"}, 0),
    "http-500": ({"server_error"}, 0),
    "http-404": ({"http_4xx", "bad_request", "model_not_found"}, 0),
}
KINDS: tuple[Kind, ...] = ("vllm", "llamacpp", "ollama")


def request(port: int, kind: str, timeouts: Timeouts) -> RequestRecord:
    """One chat by the product's own client and dialect, as it is recorded."""
    dialect = dialect_of(kind, "native" if kind == "ollama" else "openai")
    message = Message(role="user", content="one two three")
    call = dialect.encode(Chat(messages=(message,), model="tiny", max_tokens=TOKENS))
    client = StreamClient(Endpoint.parse(f"http://127.0.0.1:{port}"), Clock(), timeouts)
    exchange = client.exchange(call)
    client.close()
    label = RequestLabel(
        id=0, stage=0, target="t", backend=kind, user=0, turn=0, scheduled_s=exchange.sent_s
    )
    return assemble(label, exchange, dialect)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ENDS)
def test_fault_ends_as_its_kind(fault: str, kind: Kind, tmp_path: Path) -> None:
    """A fault at rate 1 ends the product's own request as it should, half-way or whole."""
    truth = tmp_path / "truth.jsonl"
    settings = kinds_settings(kind, faults=(FaultRule(fault, 1.0),), truth=truth)
    with emulating(settings) as (app, port):
        record = request(port, kind, BRIEF if fault == "endless" else QUICK)
        deadline = time.monotonic() + 5
        while app.fleet.in_flight and time.monotonic() < deadline:
            time.sleep(0.01)
        assert app.fleet.in_flight == 0
    kinds, events = ENDS[fault]
    assert record.status != "ok"
    assert record.error_kind in kinds
    came = 0 if record.first_token_s is None else 1 + len(record.gaps_s) // 4
    if fault == "endless":
        assert came > events
    elif fault != "huge-line":  # whose line may swallow what came with it
        assert came == events
    (told,) = read_truth(truth)
    assert told.fault == fault
    assert told.outcome == ("refused" if fault.startswith("http-") else "fault")


def test_every_fault_is_tested() -> None:
    """No kind of fault is left out above."""
    tested = {"http-NNN" if fault.startswith("http-") else fault for fault in ENDS}
    assert tested == FAULTS.keys()


def test_ollamas_failure_on_the_openai_api_is_silent() -> None:
    """There it is an empty chunk and a clean end, and counts as truncated."""
    settings = kinds_settings("ollama", faults=(FaultRule("error-in-200", 1.0),))
    body = {"model": "tiny", "messages": [{"content": "hi"}], "stream": True, "max_tokens": 8}
    with emulating(settings) as (_, port):
        answer = ask(port, "/v1/chat/completions", body)
    assert answer.ended == "whole"
    assert b"error" not in answer.body
    assert b"[DONE]" not in answer.body
    decoder = dialect_of("ollama", "openai").decoder()
    decoder.feed(answer.body)
    assert decoder.finish().error_kind == "truncated"


def test_rates_and_seed(tmp_path: Path) -> None:
    """Faults come at their rates, the same ones again with the same seed."""
    rules = (FaultRule("http-503", 0.3), FaultRule("http-500", 0.2))
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        runs.append([draw_fault(rules, rng) for _ in range(4000)])
    assert runs[0] == runs[1]
    assert runs[0].count("http-503") / 4000 == pytest.approx(0.3, abs=0.03)
    assert runs[0].count("http-500") / 4000 == pytest.approx(0.2, abs=0.03)
    truth = tmp_path / "t.jsonl"
    settings = kinds_settings("vllm", faults=rules, truth=truth)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "stream": True}
    with emulating(settings) as (_, port):
        seen = [ask(port, ASKED["vllm"], body).status for _ in range(60)]
    assert {status: seen.count(status) for status in set(seen)}.keys() == {200, 500, 503}
    told = [int((one.fault or "http-200").removeprefix("http-")) for one in read_truth(truth)]
    assert told == seen


def test_whole_answers_meet_faults_as_500() -> None:
    """Faults of streams become a 500 where there is no stream."""
    settings = kinds_settings("vllm", faults=(FaultRule("stall", 1.0),))
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    with emulating(settings) as (_, port):
        answer = ask(port, ASKED["vllm"], body)
    assert answer.status == 500
    assert "fault rule" in json.loads(answer.body)["error"]["message"]


@given(kind=st.sampled_from([*(FAULTS.keys() - {"http-NNN"}), "http-418"]), rate=st.floats(0, 1))
def test_rules_are_read(kind: str, rate: float) -> None:
    """What a rule says is what is read."""
    assert parse_fault(f"{kind}={rate!r}") == FaultRule(kind, rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fire=0.1", "fault 'fire' is unknown: known are reset-before-headers"),
        ("http-200=0.1", "is unknown"),
        ("http-NNN=0.1", "is unknown"),
        ("stall", "write stall=RATE"),
        ("stall=2", "a share from 0 to 1"),
        ("stall=nan", "a share from 0 to 1"),
        ("stall=much", "a share from 0 to 1"),
    ],
)
def test_bad_rules(text: str, message: str) -> None:
    """A rule that cannot be is refused with what could."""
    with pytest.raises(InputError, match=message):
        parse_fault(text)


def test_rates_above_one_are_refused() -> None:
    """Rates are shares of requests, so their sum is at most 1."""
    with pytest.raises(InputError, match=r"sum to 1\.5"):
        kinds_settings("vllm", faults=(FaultRule("stall", 0.8), FaultRule("endless", 0.7)))
