"""Encoding a chat: what each engine is asked for, and where the key goes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects import DEFAULT_API, DIALECTS, Chat, Message, dialect_of
from planner.errors import InputError

MESSAGES = (
    Message(role="system", content="Be brief."),
    Message(role="user", content='Say "hé"\n'),
)
CHAT = Chat(messages=MESSAGES, model="tiny", max_tokens=64, temperature=0.5, seed=7)
WIRE_MESSAGES = [{"role": m.role, "content": m.content} for m in MESSAGES]
OPENAI = {
    "model": "tiny",
    "messages": WIRE_MESSAGES,
    "max_tokens": 64,
    "temperature": 0.5,
    "seed": 7,
    "stream": True,
    "stream_options": {"include_usage": True},
}
BODIES: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("llamacpp", "openai"): (
        "/v1/chat/completions",
        OPENAI | {"ignore_eos": True, "cache_prompt": False},
    ),
    ("llamacpp", "native"): (
        "/completion",
        {
            "model": "tiny",
            "prompt": "<|im_start|>system\nBe brief.<|im_end|>\n"
            '<|im_start|>user\nSay "hé"\n<|im_end|>\n<|im_start|>assistant\n',
            "n_predict": 64,
            "temperature": 0.5,
            "seed": 7,
            "stream": True,
            "ignore_eos": True,
            "cache_prompt": False,
        },
    ),
    ("ollama", "native"): (
        "/api/chat",
        {
            "model": "tiny",
            "messages": WIRE_MESSAGES,
            "stream": True,
            "truncate": False,
            "options": {"num_predict": 64, "temperature": 0.5, "seed": 7},
        },
    ),
    ("ollama", "openai"): ("/v1/chat/completions", OPENAI),
    ("vllm", "openai"): ("/v1/chat/completions", OPENAI | {"ignore_eos": True}),
    ("openai", "openai"): ("/v1/chat/completions", OPENAI),
}

every_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=str)


def test_every_dialect_is_listed_here() -> None:
    """A new dialect must say in this file what it sends."""
    assert set(BODIES) == set(DIALECTS)
    assert {(backend, api) for backend, api in DEFAULT_API.items()} <= set(DIALECTS)


@pytest.mark.parametrize("name", BODIES)
def test_the_body_has_exactly_the_expected_fields(name: tuple[str, str]) -> None:
    """No field is missing, and none is sent that the engine does not know."""
    path, fields = BODIES[name]
    call = dialect_of(*name).encode(CHAT)
    assert (call.method, call.path) == ("POST", path)
    assert json.loads(call.body) == fields


@every_dialect
def test_an_unset_seed_is_not_sent(dialect: Any) -> None:
    """None means not said, never null or zero."""
    call = dialect.encode(Chat(messages=MESSAGES, model="tiny", max_tokens=1))
    assert b"seed" not in call.body
    assert b"null" not in call.body


@every_dialect
def test_headers_refuse_compression_and_name_json(dialect: Any) -> None:
    """A compressed stream would hide when its tokens arrived."""
    headers = dict(dialect.encode(CHAT).headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    native_ollama = (dialect.backend, dialect.api) == ("ollama", "native")
    assert headers["Accept"] == ("application/x-ndjson" if native_ollama else "text/event-stream")
    assert "Authorization" not in headers


@every_dialect
def test_the_key_is_in_one_header_and_nowhere_else(dialect: Any) -> None:
    """The key goes into Authorization only, and what is printed does not show it."""
    call = dialect.encode(CHAT, api_key="sk-hush")
    with_key = [name for name, value in call.headers if "sk-hush" in value]
    assert with_key == ["Authorization"]
    assert dict(call.headers)["Authorization"] == "Bearer sk-hush"
    assert "sk-hush" not in repr(call)
    assert b"sk-hush" not in call.body
    assert "sk-hush" not in call.path


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX-Evil: 1", "ключ", "a\x00"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    """A key with a line break would smuggle a header; the message does not repeat the key."""
    with pytest.raises(InputError, match="API key") as caught:
        dialect_of("vllm", "openai").encode(CHAT, api_key=key)
    assert not key or key not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    contents=st.lists(st.text(), min_size=1, max_size=4),
    max_tokens=st.integers(1, 10**6),
    temperature=st.floats(0, 100),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    name=st.sampled_from(sorted(DIALECTS)),
)
def test_any_chat_survives_the_round_trip(
    contents: list[str],
    max_tokens: int,
    temperature: float,
    seed: int | None,
    name: tuple[str, str],
) -> None:
    """Every chat becomes valid JSON that says the same, or is refused with our own error."""
    messages = tuple(Message(role="user", content=content) for content in contents)
    chat = Chat(
        messages=messages, model="m", max_tokens=max_tokens, temperature=temperature, seed=seed
    )
    body = json.loads(dialect_of(*name).encode(chat).body)
    options = body.get("options", body)
    assert options["temperature"] == temperature
    assert options.get("seed") == seed
    assert max_tokens in options.values()
    if "messages" in body:
        assert [m["content"] for m in body["messages"]] == contents
    else:
        assert all(content in body["prompt"] for content in contents)


def test_text_that_utf8_cannot_carry_is_refused() -> None:
    """A lone surrogate is bad input, not a crash."""
    chat = Chat(messages=(Message(role="user", content="\ud800"),), model=None, max_tokens=1)
    with pytest.raises(InputError, match="UTF-8"):
        dialect_of("vllm", "openai").encode(chat)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": ()}, "at least one message"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"seed": 2**63}, "64 bits"),
    ],
)
def test_a_chat_that_no_server_could_answer_is_refused(fields: dict[str, Any], words: str) -> None:
    """The bound and the value are named."""
    with pytest.raises(InputError, match=words):
        Chat(**({"messages": MESSAGES, "model": None, "max_tokens": 1} | fields))


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_model_is_needed_where_the_server_has_no_default(name: tuple[str, str]) -> None:
    """Ollama and the generic API want a name; llama.cpp and vLLM serve the one they have."""
    chat = Chat(messages=MESSAGES, model=None, max_tokens=1)
    if name[0] in {"ollama", "openai"}:
        with pytest.raises(InputError, match="name one"):
            dialect_of(*name).encode(chat)
    else:
        assert "model" not in json.loads(dialect_of(*name).encode(chat).body)


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_the_eos_switch_is_declared_as_it_is_sent(name: tuple[str, str]) -> None:
    """Who says that a dialect can ignore EOS must be right, for output lengths depend on it."""
    dialect = dialect_of(*name)
    assert dialect.can_ignore_eos == (b"ignore_eos" in dialect.encode(CHAT).body)


@pytest.mark.parametrize(("backend", "api"), [("vllm", "native"), ("nope", "openai"), ("", "")])
def test_an_unknown_dialect_lists_the_known_ones(backend: str, api: str) -> None:
    """The message names every dialect that exists."""
    with pytest.raises(InputError, match=r"llamacpp \(native\).*vllm \(openai\)"):
        dialect_of(backend, api)
