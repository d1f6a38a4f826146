"""Queues, slots, loading and clients that leave, as each engine has them."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from loadtests.engines.emulator.truth import Truth, read_truth
from planner.steptime import StepTime
from tests.loadtests.engines.emulator.emulating import (
    ASKED,
    Raw,
    ask,
    emulating,
    kinds_settings,
    raw,
)

if TYPE_CHECKING:
    from pathlib import Path

SLOW = StepTime(base_s=0.05)


def chat(words: int = 3, tokens: int = 4) -> dict[str, object]:
    """A chat that all kinds understand."""
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": " ".join(["word"] * words)}],
        "stream": True,
        "max_tokens": tokens,
        "options": {"num_predict": tokens},
    }


def burst(port: int, path: str, count: int, tokens: int = 4) -> list[Raw]:
    """So many requests at once."""
    gate = threading.Barrier(count)

    def one(_: int) -> Raw:
        gate.wait()
        return ask(port, path, chat(tokens=tokens), wait_s=15)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def statuses(answers: list[Raw]) -> dict[int, int]:
    """How many of each status."""
    seen = [answer.status for answer in answers]
    return {status: seen.count(status) for status in set(seen)}


def test_ollama_refuses_only_while_it_loads() -> None:
    """Measured with MAX_QUEUE=2: cold, 3 of 12 get in; once loaded, all 12 do."""
    settings = kinds_settings("ollama", load_queue=2, engine={"load_s": 1.0, "slots": 1})
    with emulating(settings) as (_, port):
        cold = burst(port, "/api/chat", 12)
        warm = burst(port, "/api/chat", 12)
    assert statuses(cold) == {200: 3, 503: 9}
    refused = next(answer for answer in cold if answer.status == 503)
    words = "server busy, please try again.  maximum pending requests exceeded"
    assert json.loads(refused.body)["error"] == words
    assert statuses(warm) == {200: 12}


def test_ollamas_load_stands_in_its_durations() -> None:
    """The first answer has the load in its durations, the second a warm one."""
    settings = kinds_settings("ollama", engine={"load_s": 0.4})
    with emulating(settings) as (_, port):
        assert json.loads(ask(port, "/api/ps").body)["models"] == []
        loads = []
        for _ in range(2):
            last = json.loads(ask(port, "/api/chat", chat()).body.splitlines()[-1])
            parts = [last[f"{p}_duration"] for p in ("load", "prompt_eval", "eval")]
            assert last["total_duration"] >= sum(parts)
            loads.append(last["load_duration"] / 1e9)
        assert len(json.loads(ask(port, "/api/ps").body)["models"]) == 1
    assert loads == [pytest.approx(0.4, abs=0.05), 0]


def test_ollama_loads_on_an_empty_request() -> None:
    """An empty prompt loads the model and says so."""
    settings = kinds_settings("ollama", engine={"load_s": 0.2})
    with emulating(settings) as (_, port):
        answer = ask(port, "/api/generate", {"model": "tiny"})
        last = json.loads(answer.body.splitlines()[-1])
        assert (last["done"], last["done_reason"], last["response"]) == (True, "load", "")
        assert len(json.loads(ask(port, "/api/ps").body)["models"]) == 1


def test_vllm_refuses_beyond_its_queue() -> None:
    """With two slots and a queue of three, five of nine get in; the others get a real 503."""
    settings = kinds_settings("vllm", engine={"slots": 2, "queue_limit": 3, "step": SLOW})
    with emulating(settings) as (_, port):
        answers = burst(port, ASKED["vllm"], 9)
    assert statuses(answers) == {200: 5, 503: 4}


def test_llamacpp_queues_without_bound_and_headers_wait_for_the_slot() -> None:
    """Nobody is refused; the second of two gets its headers when the first has ended."""
    settings = kinds_settings("llamacpp", engine={"slots": 1, "step": SLOW})
    with emulating(settings) as (_, port):
        assert statuses(burst(port, ASKED["llamacpp"], 5)) == {200: 5}
        first = _send(port, chat(tokens=40))
        assert first.recv(12) == b"HTTP/1.1 200"
        second = _send(port, chat(tokens=1))
        slots = json.loads(ask(port, "/slots").body)
        assert [slot["is_processing"] for slot in slots] == [True]
        assert ask(port, "/slots?fail_on_no_slot=1").status == 503
        assert "llamacpp:requests_deferred 1\n" in ask(port, "/metrics").body.decode()
        second.settimeout(0.3)
        with pytest.raises(TimeoutError):
            second.recv(1)
        first.close()  # the slot is free at once
        second.settimeout(5)
        assert raw(second).ended == "whole"
        second.close()


def test_vllms_headers_come_at_once_even_while_queued() -> None:
    """Unlike llama.cpp's."""
    settings = kinds_settings("vllm", engine={"slots": 1, "step": SLOW})
    with emulating(settings) as (_, port):
        first, second = _send(port, chat(tokens=200)), _send(port, chat(tokens=200))
        assert second.recv(12) == b"HTTP/1.1 200"
        text = ask(port, "/metrics").body.decode()
        assert 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0' in text
        first.close()
        second.close()


def _send(port: int, body: dict[str, object]) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    text = msgspec.json.encode(body)
    call = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(text)}\r\n\r\n"
    connection.sendall(call.encode() + text)
    return connection


def served(path: Path, count: int) -> list[Truth]:
    """The truth about that many requests, in order of arrival."""
    found = sorted(read_truth(path), key=lambda one: one.arrival_unix_s)
    assert len(found) == count
    return found


def test_clients_that_leave_are_in_the_truth(tmp_path: Path) -> None:
    """A client that resets is ``gone``, its place is given away, and nothing stays in flight."""
    truth = tmp_path / "t.jsonl"
    settings = kinds_settings("vllm", truth=truth, engine={"slots": 1, "step": SLOW})
    with emulating(settings) as (app, port):
        connection = _send(port, chat(tokens=1000))
        assert connection.recv(12) == b"HTTP/1.1 200"
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
        assert ask(port, ASKED["vllm"], chat(tokens=2)).ended == "whole"
        assert app.fleet.in_flight == 0
    gone, whole = served(truth, 2)
    assert (gone.outcome, whole.outcome) == ("gone", "finished")
    assert len(gone.due_s) < 1000


def test_truth_is_the_models(tmp_path: Path) -> None:
    """Steps are due where the step time says, whatever the sends, and sends are never early."""
    truth = tmp_path / "t.jsonl"
    step = StepTime(base_s=0.02, per_sequence_s=0.001, per_prompt_token_s=0.0005)
    settings = kinds_settings("vllm", truth=truth, engine={"slots": 2, "step": step})
    began = time.time()
    with emulating(settings) as (_, port):
        ask(port, ASKED["vllm"], chat(words=16, tokens=5))
    (one,) = served(truth, 1)
    assert began < one.arrival_unix_s < time.time()
    assert (one.prompt_tokens, one.output_tokens, len(one.sent_s)) == (20, 5, 5)
    assert one.scheduled_s is not None
    assert one.due_s[0] - one.scheduled_s == pytest.approx(0.02 + 20 * 0.0005, abs=1e-6)
    assert np.diff(one.due_s) == pytest.approx(0.021, abs=1e-6)
    assert all(sent >= due - 1e-6 for sent, due in zip(one.sent_s, one.due_s, strict=True))


def test_prefix_cache_knows_repeats_and_next_turns(tmp_path: Path) -> None:
    """A repeated prompt and the next turn of a conversation read only what is new."""
    truth = tmp_path / "t.jsonl"
    settings = kinds_settings("llamacpp", truth=truth)
    first = [{"role": "user", "content": "word " * 100}]
    with emulating(settings) as (_, port):

        def talk(turns: list[dict[str, str]], **more: object) -> str:
            body = {"messages": turns, "max_tokens": 3, **more}
            page = json.loads(ask(port, ASKED["llamacpp"], body).body)
            return str(page["choices"][0]["message"]["content"])

        said = talk(first)
        again = [*first, {"role": "assistant", "content": said}, {"role": "user", "content": "so"}]
        talk(again)
        talk(again)
        talk(first, cache_prompt=False)
    cached = [one.cached_tokens for one in served(truth, 4)]
    assert cached[0] == cached[3] == 0
    assert 90 <= cached[1] <= 105  # whole blocks of the first turn
    assert cached[1] <= cached[2] <= 120


def test_preemption_delays_but_loses_nothing(tmp_path: Path) -> None:
    """Two answers that outgrow the shared cache: one is preempted, both get all their tokens."""
    truth = tmp_path / "t.jsonl"
    step = StepTime(base_s=0.01)  # a second each: they meet on a busy machine too
    engine = {"step": step, "slots": 2, "kv_tokens": 160, "kv_block_tokens": 16}
    settings = kinds_settings("vllm", truth=truth, engine=engine)
    with emulating(settings) as (app, port):
        answers = burst(port, ASKED["vllm"], 2, tokens=100)
        assert app.fleet.preemptions >= 1
        assert "vllm:num_preemptions_total" in ask(port, "/metrics").body.decode()
    assert statuses(answers) == {200: 2}
    assert [len(one.due_s) for one in served(truth, 2)] == [100, 100]
