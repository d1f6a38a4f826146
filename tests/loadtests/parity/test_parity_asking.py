"""Asking greedily: what is sent, which tokens come back, and in which order prompts are asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.parity.collect import Plan, collect
from loadtests.parity.greedy import Greedy, tokens_of
from loadtests.parity.prompts import DEFAULT_PROMPTS, read_prompts
from loadtests.targets import parse_target
from planner.errors import InputError, TargetError
from planner.parity import Answer
from tests.loadtests.doctor.replayed import ollama
from tests.loadtests.parity.speakers import Speaker
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadtests.engines.base import RunningEngine


def greedy(url: str, kind: str = "openai", model: str = "m") -> Greedy:
    """A greedy asker of a server."""
    return Greedy(parse_target(f"{kind}={url}"), model, max_tokens=8, seed=3)


def test_tokens_and_counts_of_an_answer() -> None:
    """The text, its tokens as the server names them, and both counts."""
    speaker = Speaker(lambda _p, _n: (" the", " sea", "ü"))
    with serving(speaker) as server:
        found = greedy(server.url).ask("How is the sea?")
    assert found == Answer(" the seaü", (b" the", b" sea", "ü".encode()), 9, 3)
    (asked,) = speaker.asked
    assert (asked["temperature"], asked["seed"], asked["max_tokens"]) == (0.0, 3, 8)
    assert asked["logprobs"] is True


def test_server_that_refuses_what_we_add() -> None:
    """A server that knows no log probabilities is asked without, once and for all."""
    speaker = Speaker(lambda _p, _n: (" calm",), strict=True)
    with serving(speaker) as server:
        asker = greedy(server.url)
        first, second = asker.ask("a"), asker.ask("b")
        assert server.connections == 3
    assert first == second == Answer(" calm", None, 9, 1)


def test_failure_is_a_reason() -> None:
    """A chat that fails is told, not raised."""
    with serving(Speaker(lambda _p, _n: ("x",), fails=0)) as server:
        found = greedy(server.url).ask("a")
    assert isinstance(found, str)
    assert "EngineDead" in found


def test_ollama_as_recorded() -> None:
    """Ollama's own API: one text, no tokens told in this recording, the penalty switched off."""
    with serving(ollama()) as server:
        found = greedy(server.url, "ollama", "tiny").ask("a")
        sent = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert isinstance(found, Answer)
    assert found.text == " execution specify referenceust appearwhi"
    assert (found.tokens, found.prompt_tokens, found.output_tokens) == (None, 15, 6)
    assert sent["options"]["repeat_penalty"] == 1.0
    assert sent["options"]["temperature"] == 0.0
    assert sent["logprobs"] is True


def test_tokens_of_ollamas_lines() -> None:
    """Ollama names tokens on its lines, with bytes or without."""
    body = (
        b'{"message":{"content":"ab"},"logprobs":[{"token":"a","bytes":[97]},{"token":"b"}]}\n'
        b'{"done":true}\n'
    )
    assert tokens_of(body) == (b"a", b"b")


@given(st.binary(max_size=200))
def test_tokens_of_junk(body: bytes) -> None:
    """Whatever the bytes, tokens are read from what can be read."""
    assert isinstance(tokens_of(body), tuple)
    assert tokens_of(b'data: {"choices":[{"logprobs":{"content":[{"bytes":[999]}]}}]}\n\n') == ()


def plan(prompts: int = 3, repeat: int = 2, company: int = 0) -> Plan:
    """A small plan."""
    return Plan(prompts=tuple(map(str, range(prompts))), repeat=repeat, company=company)


def test_rounds() -> None:
    """Every prompt is asked once a round, alone and in company, and answers find their place."""
    asked: list[str] = []

    def ask(prompt: str) -> Answer:
        asked.append(prompt)
        return Answer(prompt, None, None, None)

    found = collect("t", ask, plan(4, 3, company=2), rng=np.random.default_rng(1))
    assert found.company is not None
    for kept in (found.alone, found.company):
        assert [[a.text for a in answers] for answers in kept] == [[str(i)] * 3 for i in range(4)]
    rounds = [asked[i : i + 4] for i in range(0, len(asked), 4)]
    assert all(sorted(some) == ["0", "1", "2", "3"] for some in rounds)
    assert len({tuple(some) for some in rounds}) > 1, "orders differ"


def test_failures_are_left_out_and_bounded() -> None:
    """A few failures are counted; a server that keeps failing ends it."""
    good = Answer("a", None, None, None)
    answers: Iterator[Answer | str] = iter(["boom", good, good, good, good, good])
    found = collect("t", lambda _: next(answers), plan(), rng=np.random.default_rng(1))
    assert (found.failures, sum(map(len, found.alone))) == (["boom"], 5)
    with pytest.raises(TargetError, match=r"'t' fails 6 chats \(boom\)"):
        collect("t", lambda _: "boom", plan(6), rng=np.random.default_rng(1))


def test_prompts_of_a_file(tmp_path: Path) -> None:
    """A line is a prompt; empty ones are passed over, and so is a byte order mark."""
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffWhy?\n\n  How is the sea?  \r\n".encode())
    assert read_prompts(file) == ("Why?", "How is the sea?")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\n \n", "holds none: write one prompt a line"),
        (b"a\xff", "no UTF-8 text: byte 1"),
        (b"a\n" * 1001, "holds 1001: at most 1000"),
        (b"a" * (2**20 + 1), "too large"),
        (None, "No such file"),
    ],
)
def test_prompts_that_cannot_be_asked(tmp_path: Path, data: bytes | None, message: str) -> None:
    """Each bad file is one line with the bound."""
    file = tmp_path / "p.txt"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_prompts(file)


def test_own_prompts() -> None:
    """The prompts of our own are enough, and each is another."""
    assert len(set(DEFAULT_PROMPTS)) == len(DEFAULT_PROMPTS) >= 12


@pytest.mark.engine
def test_tokens_of_the_real_llamacpp(llamacpp: RunningEngine) -> None:
    """The real llama.cpp names as many tokens as it counts, and they spell its text."""
    found = greedy(llamacpp.url, "llamacpp", llamacpp.model).ask("How is the sea?")
    assert isinstance(found, Answer)
    assert found.tokens is not None
    assert b"".join(found.tokens) == found.text.encode()
    assert found.output_tokens is not None
    assert 0 <= found.output_tokens - len(found.tokens) <= 1, "an end mark may be counted"
