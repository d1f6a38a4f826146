"""Failures: inside a 200, as an HTTP status, and as bytes that no server should send."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects import DIALECTS, ERROR_KINDS
from tests.loadtests.dialects.recorded import (
    LLAMACPP_CHAT,
    LLAMACPP_NATIVE,
    OLLAMA_CHAT,
    OLLAMA_NATIVE,
    VLLM_CHAT,
    body_of,
    decode,
    sse,
)

TOKEN = b'{"choices":[{"delta":{"content":"x"}}]}'
STOP = b'{"choices":[{"delta":{},"finish_reason":"stop"}]}'


def _error(**fields: Any) -> bytes:
    return json.dumps({"error": fields}).encode()


@pytest.mark.parametrize(
    ("dialect", "body", "kind", "words"),
    [
        (
            VLLM_CHAT,
            sse(_error(message="Server is overloaded", type="ServiceUnavailableError", code=503)),
            "overloaded",
            "Server is overloaded",
        ),
        (
            VLLM_CHAT,
            sse(TOKEN, _error(message="EngineCore died", type="InternalServerError", code=500)),
            "server_error",
            "EngineCore died",
        ),
        (
            LLAMACPP_CHAT,
            sse(
                TOKEN,
                _error(code=500, message="Context size has been exceeded.", type="server_error"),
                done=False,
            ),
            "context_exceeded",
            "Context size",
        ),
        (
            LLAMACPP_NATIVE,
            sse(
                b'{"content":"x","stop":false}',
                _error(code=500, message="decode failed", type="server_error"),
                done=False,
            ),
            "server_error",
            "decode failed",
        ),
        (
            OLLAMA_NATIVE,
            b'{"message":{"content":"x"},"done":false}\n{"error":"the runner died: CUDA error"}\n',
            "server_error",
            "CUDA error",
        ),
        (("openai", "openai"), sse(b'{"error":"boom"}'), "server_error", "boom"),
        (("openai", "openai"), sse(b'{"error":{"code":true}}'), "server_error", "no message"),
    ],
)
def test_an_error_inside_a_200_fails_the_stream(
    dialect: tuple[str, str], body: bytes, kind: str, words: str
) -> None:
    """Each engine's error in a stream is found, whatever follows it, and keeps what came before."""
    reply = decode(dialect, body)
    assert reply.error_kind == kind
    assert words in (reply.error or "")
    assert reply.text == ("x" if b"x" in body.split(b"error")[0] else "")


def test_ollama_openai_that_ends_in_silence_failed() -> None:
    """Ollama's OpenAI API hides a failure: an empty chunk and a clean end are a broken stream."""
    empty = b'{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
    assert decode(OLLAMA_CHAT, sse(TOKEN, empty, done=False)).error_kind == "truncated"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (sse(TOKEN), "truncated"),
        (sse(), "truncated"),
        (sse(TOKEN, STOP, done=False), "truncated"),
        (sse(TOKEN, STOP.replace(b"stop", b"abort")), "server_error"),
        (sse(TOKEN, STOP.replace(b"stop", b"error")), "server_error"),
        (sse(b"{]"), "bad_json"),
        (sse(b"\xff"), "bad_json"),
        (sse(b'{"x":NaN}'), "bad_json"),
        (sse(b"[" * 10_000), "bad_event"),
        (sse(b'{"x":' + b"[" * 10_000), "bad_json"),
        (sse(b'{"error":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), "bad_json"),
        (sse(b"[]"), "bad_event"),
        (sse(b"null"), "bad_event"),
        (sse(b'{"choices":{}}'), "bad_event"),
        (sse(b'{"choices":[{"delta":{"content":7}}]}'), "bad_event"),
        (sse(b'{"usage":{"completion_tokens":"6"}}'), "bad_event"),
        (sse(b'{"usage":{"completion_tokens":-1}}'), "bad_event"),
        (sse(b'{"usage":{"completion_tokens":1e300}}'), "bad_event"),
        (sse(b'{"usage":{"completion_tokens":' + b"9" * 400 + b"}}"), "bad_event"),
        (sse(b'{"timings":{"prompt_ms":-0.5}}'), "bad_event"),
        (sse(b'{"timings":{"prompt_ms":1e999}}'), "bad_event"),
    ],
)
def test_what_is_wrong_with_a_stream_becomes_its_kind(body: bytes, kind: str) -> None:
    """Missing end marks, broken JSON, wrong types, signs and ranges are told apart."""
    reply = decode(LLAMACPP_CHAT, body)
    assert reply.error_kind == kind
    assert reply.error
    assert "\n" not in reply.error


HTTP_ERRORS = [
    (400, body_of("llamacpp_error_context"), "context_exceeded"),
    (
        400,
        _error(
            message="This model's maximum context length is 2048 tokens. However, your request has "
            "3000 input tokens.",
            type="BadRequestError",
            param="input_tokens",
            code=400,
        ),
        "context_exceeded",
    ),
    (400, _error(message="", type="BadRequestError", param="input_tokens"), "context_exceeded"),
    (400, b'{"error":"the input length exceeds the context length"}', "context_exceeded"),
    (400, _error(message="too long", code="context_length_exceeded"), "context_exceeded"),
    (400, _error(message="n must be 1", type="BadRequestError", param="n"), "bad_request"),
    (
        400,
        b'{"object":"error","message":"bad n","type":"BadRequestError","code":400}',
        "bad_request",
    ),
    (422, b'{"detail":[{"loc":["body"],"msg":"Field required"}]}', "bad_request"),
    (404, _error(message="The model `x` does not exist.", type="NotFoundError"), "model_not_found"),
    (404, b'{"error":"model \\"x\\" not found, try pulling it first"}', "model_not_found"),
    (404, b"404 page not found", "http_4xx"),
    (404, b'{"detail":"Not Found"}', "http_4xx"),
    (404, _error(message="File Not Found", type="not_found_error", code=404), "http_4xx"),
    (405, b"", "http_4xx"),
    (401, _error(message="Invalid API Key", type="authentication_error", code=401), "unauthorized"),
    (401, b'{"error":"Unauthorized"}', "unauthorized"),
    (403, b"", "unauthorized"),
    (403, b'{"error":"model \\"x\\" not found for this key"}', "unauthorized"),
    (429, _error(message="overloaded", type="overloaded_error"), "rate_limited"),
    (429, _error(message="slow down"), "rate_limited"),
    (
        503,
        b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
        "overloaded",
    ),
    (503, b"", "overloaded"),
    (503, _error(code=503, message="Loading model", type="unavailable_error"), "not_ready"),
    (500, b'{"error":"llama runner process has terminated: error loading model"}', "server_error"),
    (500, b"\xff\x00", "server_error"),
    (502, b"<html>bad gateway</html>", "http_5xx"),
    (302, b"", "http_3xx"),
    (204, b"", "http_2xx"),
    (100, b"", "http_1xx"),
    (0, b"", "http_other"),
    (99999, b"", "http_other"),
]


@pytest.mark.parametrize(("status", "body", "kind"), HTTP_ERRORS)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=str)
def test_an_http_error_gets_its_kind(dialect: Any, status: int, body: bytes, kind: str) -> None:
    """Each engine's refusal is known behind each dialect, for gateways mix them."""
    found, message = dialect.error(status, body)
    assert found == kind
    assert message.startswith(f"HTTP {status}: ")


@pytest.mark.parametrize(
    ("transcript", "dialect"),
    [("llamacpp_chat_full", LLAMACPP_CHAT), ("llamacpp_completion_full", LLAMACPP_NATIVE)],
)
def test_llamacpp_whose_slots_fill_their_shared_context(
    transcript: str, dialect: tuple[str, str]
) -> None:
    """llama.cpp fails all its requests at once, in the middle of streams that began with a 200."""
    reply = decode(dialect, body_of(transcript))
    assert reply.error_kind == "context_exceeded"
    assert reply.error == "error in the stream: Context size has been exceeded."
    assert len(reply.content_ends) >= 1


def test_the_servers_own_words_reach_the_message() -> None:
    """The message repeats what the server said, on one line, without control characters."""
    error = next(iter(DIALECTS.values())).error
    assert "1613 tokens" in error(400, body_of("llamacpp_error_context"))[1]
    assert error(422, b'{"detail":[{"msg":"Field required"}]}')[1] == "HTTP 422: Field required"
    assert error(500, b"a\r\n\x1b[31mb\x00\xe2\x80\xa8c")[1] == "HTTP 500: a [31mb c"
    assert len(error(500, b"x" * 10**6)[1]) < 600


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_a_key_that_the_server_repeats_is_not_shown(status: int) -> None:
    """A server that echoes the key in its refusal does not get it into our records."""
    body = _error(message="Incorrect API key provided: sk-secret123; Authorization: Bearer sk2-abc")
    message = next(iter(DIALECTS.values())).error(status, body)[1]
    assert "secret123" not in message
    assert "sk2-abc" not in message


FIELDS = st.sampled_from(
    re.findall(
        r"\w+",
        """
        choices delta content reasoning tool_calls finish_reason usage prompt_tokens
        completion_tokens prompt_tokens_details cached_tokens timings cache_n prompt_n prompt_ms
        predicted_n error message code type param stop stop_type tokens_predicted done done_reason
        total_duration eval_count detail msg thinking metrics queue_time_ms
        """,
    )
)


def test_a_refused_key_of_any_form_is_not_repeated() -> None:
    """A key that looks like nothing known stays out too: a 401 is told in our words."""
    kind, message = next(iter(DIALECTS.values())).error(401, b'{"error":"no such key: hunter2"}')
    assert kind == "unauthorized"
    assert "hunter2" not in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)
lines = st.one_of(
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, json_values, max_size=4).map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"[DONE]", b"", TOKEN, STOP]),
)
bodies = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.builds(
            lambda prefix, line, end: prefix + line + end,
            st.sampled_from([b"data: ", b"data:", b"", b": "]),
            lines,
            st.sampled_from([b"\n", b"\n\n", b"\r\n\r\n", b"\r", b""]),
        ),
        max_size=6,
    ).map(b"".join),
)


@settings(max_examples=300, deadline=None)
@given(body=bodies, dialect=st.sampled_from(sorted(DIALECTS)))
def test_no_bytes_make_a_decoder_raise(body: bytes, dialect: tuple[str, str]) -> None:
    """Whatever a server sends, the reply is well-formed and its kind is a documented one."""
    reply = decode(dialect, body)
    assert (reply.error_kind is None) == (reply.error is None)
    assert reply.error_kind is None or reply.error_kind in ERROR_KINDS
    assert list(reply.content_ends) == sorted(set(reply.content_ends))
    assert all(0 < end <= len(body) for end in reply.content_ends)
    for figure in (
        reply.prompt_tokens,
        reply.output_tokens,
        reply.server_queue_s,
        reply.server_prompt_s,
        reply.server_decode_s,
    ):
        assert figure is None or 0 <= figure < float("inf")
    assert (reply.output_tokens is None) == (reply.token_source is None)


@settings(max_examples=300, deadline=None)
@given(body=st.one_of(bodies, lines), status=st.integers(-1, 1000))
def test_no_answer_makes_error_raise(body: bytes, status: int) -> None:
    """Whatever an answer's body, it gets a documented kind and a bounded printable line."""
    kind, message = next(iter(DIALECTS.values())).error(status, body)
    assert kind in ERROR_KINDS
    assert len(message) < 600
    assert message.isprintable() or not message.isascii()
    assert "\n" not in message


@pytest.mark.parametrize("deep", [b"[", b'{"error":', b'{"detail":[', b'{"a":'])
def test_deep_nesting_makes_nothing_raise(deep: bytes) -> None:
    """Ten thousand levels are refused like any other junk, by error and by every decoder."""
    for dialect in DIALECTS.values():
        assert dialect.error(500, deep * 10_000)[0] == "server_error"
        decoder = dialect.decoder()
        decoder.feed(b"data: " + deep * 10_000 + b"\n\n")
        assert decoder.finish().error_kind is not None
