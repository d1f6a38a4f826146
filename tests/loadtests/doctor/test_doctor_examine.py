"""Examining servers: recorded ones, odd ones, the real llama.cpp and the real vLLM."""

from __future__ import annotations

import json
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.doctor.asking import Asker
from loadtests.doctor.examine import examine
from loadtests.doctor.features import FEATURES, Patient
from loadtests.stream import Timeouts
from loadtests.targets import parse_target
from planner.diagnosis import Capability, Diagnosis
from planner.errors import TargetError
from tests.loadtests.doctor.replayed import CHAT, chat_answer, ollama, server, stream, vllm
from tests.loadtests.measure.test_inspect import OTHER, VLLM
from tests.loadtests.servers import answer, serving

if TYPE_CHECKING:
    from loadtests.engines.base import RunningEngine
    from tests.loadtests.servers import Script

QUICK = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=10)


def examined(script: Script, kind: str, **options: Any) -> Diagnosis:
    """The diagnosis of a scripted server."""
    with serving(script) as scripted:
        target = parse_target(f"{kind}={scripted.url}")
        return examine(target, timeouts=QUICK, **options)


def kinds(diagnosis: Diagnosis) -> set[str]:
    """The kinds of a diagnosis's cautions."""
    return {caution.kind for caution in diagnosis.cautions}


def table(diagnosis: Diagnosis) -> dict[str, bool | None]:
    """Capability -> supported."""
    return {c.name: c.supported for c in diagnosis.capabilities}


def test_vllm_as_seen() -> None:
    """A bare address is told to be vLLM, with what it can, cannot and does not tell."""
    found = examined(vllm(), "openai", bare=True, needed_tokens=4096)
    assert (found.target.backend, found.target.engine) == ("vllm", "vLLM")
    assert found.target.limits.context_tokens == 2048
    known = table(found)
    assert known == {
        "models": True, "chat": True, "streaming": True, "stream_usage": True, "tools": False,
        "json_mode": True, "json_schema": True, "logprobs": True, "cached_tokens": False,
        "completions": False, "responses": False, "embeddings": False, "native_chat": False,
        "tokenize": False, "metrics": True, "health": True, "authentication": False,
        "parallel": known["parallel"],
    }  # fmt: skip
    evidence = {c.name: (c.status, c.evidence) for c in found.capabilities}
    assert evidence["tools"] == (400, '"auto" tool choice requires x')
    assert evidence["embeddings"][0] == 404
    assert {"prefix_cache", "context_small", "shared_cores"} <= kinds(found)
    remedy = next(c.remedy for c in found.cautions if c.kind == "context_small")
    assert "--max-model-len 4096" in remedy
    assert "wrong_kind" not in kinds(found), "a bare address names no kind"


def test_ollama_as_recorded() -> None:
    """Ollama: fields that it ignores are no abilities, and its silent stream is no stream."""
    found = examined(ollama(), "ollama")
    known = table(found)
    assert found.target.engine == "Ollama"
    assert (known["native_chat"], known["embeddings"]) == (True, True)
    assert known["json_mode"] is known["logprobs"] is known["streaming"] is False
    ignored = next(c for c in found.capabilities if c.name == "json_mode")
    assert (ignored.status, ignored.evidence) == (
        200, "accepted and ignored: answers 'The sea is calm.'",
    )  # fmt: skip
    assert "not_loaded" not in kinds(found)
    assert "no_usage" not in kinds(found), "Ollama is measured by its native API"


def test_ollama_that_was_cold() -> None:
    """A model that was not in memory before the look is warned of; then its context is known."""
    found = examined(ollama(loaded=False), "ollama")
    assert "not_loaded" in kinds(found)
    assert found.target.limits.context_tokens == 4096


def test_server_of_another_kind_than_named() -> None:
    """A wrong name is no failure here: it is what the doctor is asked for."""
    found = examined(vllm(), "llamacpp")
    assert found.target.backend == "vllm"
    caution = next(c for c in found.cautions if c.kind == "wrong_kind")
    assert caution.message == "it was named llamacpp and is vllm"
    assert "vllm=http://127.0.0.1:" in caution.remedy


def test_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that wants a key is told as such, and the key stands nowhere in the diagnosis."""
    monkeypatch.delenv("HEADROOM_API_KEY", raising=False)
    with pytest.raises(TargetError, match="wants an API key"):
        examined(vllm(key="s3cret"), "vllm")
    monkeypatch.setenv("HEADROOM_API_KEY", "s3cret")
    found = examined(vllm(key="s3cret"), "vllm")
    assert found.can("authentication") is True
    assert found.can("chat") is True
    assert b"s3cret" not in msgspec.json.encode(found)


def test_dropped_tools() -> None:
    """Tools that do not reach the prompt are no tools, those that lengthen it or are called are."""

    def told(reply: bytes) -> Capability:
        posts = {CHAT: lambda asked: reply if "tools" in asked else chat_answer()}
        with serving(server(OTHER, posts)) as scripted:
            target = parse_target(f"openai={scripted.url}#a/b")
            patient = Patient(asker=Asker(target, QUICK, 10), model="a/b")
            found = {f.name: f.probe(patient) for f in FEATURES if f.name in {"chat", "tools"}}
            return found["tools"]

    dropped = told(chat_answer())
    assert (dropped.supported, "15 tokens with and without" in dropped.evidence) == (False, True)
    assert told(chat_answer(usage={"prompt_tokens": 60})).supported is True
    assert told(chat_answer(None, message={"tool_calls": [{"id": "1"}]})).supported is True
    assert told(chat_answer(usage={"prompt_tokens": None})).supported is None
    assert told(answer(b'{"error":"busy"}', 503)).supported is None


def test_generation_that_fails() -> None:
    """A server whose chats fail is still described, with that as its first warning."""
    boom = answer(b'{"error":{"message":"EngineDead","code":500}}', 500)
    found = examined(server(VLLM, {CHAT: lambda _: boom}), "vllm")
    assert found.cautions[0].kind == "no_generation"
    assert "EngineDead" in found.cautions[0].message
    assert found.can("chat") is False
    assert found.can("models") is True


def test_questions_end_with_their_time() -> None:
    """When the time is used up the rest is not asked, and says so."""
    with serving(vllm()) as scripted:
        target = parse_target(f"vllm={scripted.url}")
        patient = Patient(asker=Asker(target, QUICK, within_s=0.0), model="tiny")
        found = [feature.probe(patient) for feature in FEATURES if feature.name != "native_chat"]
        assert scripted.connections == 0
    assert {c.supported for c in found} == {None}
    assert all("used up" in c.evidence for c in found)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "usage", "prompt_tokens", "data", "embedding",
             "logprobs", "tokens", "output", "tool_calls", "prompt_tokens_details", "text"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(JUNK)
def test_lying_server(junk: Any) -> None:
    """Whatever JSON a server answers, each question ends in a capability that can be kept."""
    body = answer(json.dumps(junk).encode())
    every = {"/v1/completions", "/v1/responses", "/v1/embeddings", "/tokenize", CHAT}
    pages = {p: json.dumps(junk).encode() for p in ("/v1/models", "/metrics", "/health")}
    with serving(server({**pages}, {path: lambda _: body for path in every})) as scripted:
        target = parse_target(f"openai={scripted.url}#m")
        patient = Patient(asker=Asker(target, QUICK, 20), model="m")
        for feature in FEATURES:
            found = feature.probe(patient)
            assert found.evidence.isprintable()
            kept = msgspec.json.encode(found)
            assert msgspec.json.decode(kept, type=Capability) == found


def test_recorded_stream_is_whole() -> None:
    """The replayed stream is the recorded one: what the tests above rest on."""
    assert b"[DONE]" in stream("vllm_chat_stream")


@pytest.mark.engine
def test_real_llamacpp(llamacpp: RunningEngine) -> None:
    """The real llama.cpp of four slots: its kind from a bare address, abilities, and cautions."""
    found = examine(parse_target(f"openai={llamacpp.url}"), bare=True, needed_tokens=10**6)
    assert found.target.engine == "llama.cpp"
    assert found.target.limits.slots == 4
    assert found.target.settings["threads"] == "1", "read from its command line"
    known = table(found)
    for name in ("chat", "streaming", "stream_usage", "json_mode", "json_schema", "logprobs",
                 "cached_tokens", "completions", "native_chat", "metrics", "tokenize"):  # fmt: skip
        assert known[name] is True, name
    assert known["embeddings"] is known["authentication"] is known["tools"] is False
    assert known["parallel"] is not False
    assert {"context_small", "prefix_cache", "shared_cores"} <= kinds(found)
    assert not {"one_slot", "no_release", "shared_context"} & kinds(found)
    if "LLAMA_SERVER" not in os.environ:
        assert found.target.engine_version == f"xllamacpp {metadata.version('xllamacpp')}"


@pytest.mark.engine
def test_real_llamacpp_of_one_slot(llamacpp_single: RunningEngine) -> None:
    """One slot is seen from outside: two chats never overlap."""
    found = examine(parse_target(f"llamacpp={llamacpp_single.url}"))
    assert found.can("parallel") is not True
    caution = next(c for c in found.cautions if c.kind == "one_slot")
    assert "-np" in caution.remedy


@pytest.mark.vllm
def test_real_vllm(vllm: RunningEngine) -> None:
    """The real vLLM: kind, version, and its sequence limit from the command line."""
    found = examine(parse_target(f"openai={vllm.url}"), bare=True)
    assert (found.target.engine, found.target.limits.slots) == ("vLLM", 2)
    known = table(found)
    for name in ("chat", "streaming", "stream_usage", "json_mode", "logprobs", "metrics"):
        assert known[name] is True, name
    assert {"prefix_cache", "eager"} <= kinds(found)
    assert "no_release" not in kinds(found)
