"""Decoding whole streams: recorded ones exactly, in any cuts, and broken off anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects import Reply, framing
from tests.loadtests.dialects.recorded import (
    LLAMACPP_CHAT,
    LLAMACPP_NATIVE,
    OLLAMA_NATIVE,
    STREAMS,
    VLLM_CHAT,
    body_of,
    decode,
    sse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


def _whole(**figures: Any) -> Reply:
    """The reply of a whole stream that was cut at its declared length and reported its usage."""
    unsaid = ("cached_tokens", "server_queue_s", "server_prompt_s", "server_decode_s")
    fields: dict[str, Any] = dict.fromkeys(unsaid)
    fields |= {"finish_reason": "length", "token_source": "usage"} | figures
    return Reply(**fields, error_kind=None, error=None)


EXPECTED = {
    "llamacpp_chat_stream": _whole(
        content_ends=(490, 730, 961, 1194, 1426, 1658),
        text=" shortstring Comparisoniz Whidel ra",
        prompt_tokens=15,
        output_tokens=6,
        cached_tokens=0,
        server_prompt_s=0.002637,
        server_decode_s=0.001717,
    ),
    "llamacpp_completion_stream": _whole(
        content_ends=(120, 239, 362, 481),
        text="acing The destro Ad",
        prompt_tokens=3,
        output_tokens=4,
        cached_tokens=0,
        server_prompt_s=0.00074,
        server_decode_s=0.000949,
    ),
    "ollama_chat_stream": _whole(
        content_ends=(130, 258, 388, 511, 638, 761),
        text=" execution specify referenceust appearwhi",
        prompt_tokens=15,
        output_tokens=6,
        server_queue_s=(276260790 - 263436332 - 5899000 - 3725000) / 1e9,
        server_prompt_s=0.005899,
        server_decode_s=0.003725,
    ),
    "vllm_chat_stream": _whole(
        content_ends=(475, 690, 904, 1128, 1343, 1586),
        text=" caughtGETiz subpatternswhi specify",
        prompt_tokens=15,
        output_tokens=6,
    ),
}

streams = pytest.mark.parametrize(("name", "dialect"), STREAMS.items(), ids=STREAMS)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_stream_decodes_exactly(name: str) -> None:
    """Text, counts, times, finish reason and offsets of each recording are as the server sent."""
    assert decode(STREAMS[name], body_of(name)) == EXPECTED[name]


@streams
def test_content_ends_point_past_the_lines_that_carry_the_text(
    name: str, dialect: tuple[str, str]
) -> None:
    """The line before each offset holds the next piece of the text, read by the json module."""
    body = body_of(name)
    reply = decode(dialect, body)
    pieces = []
    for end in reply.content_ends:
        assert body[end - 1 : end] == b"\n"
        line = body[:end].rstrip(b"\n").rsplit(b"\n", 1)[-1].removeprefix(b"data: ")
        pieces.append(_content(json.loads(line)))
    assert all(pieces)
    assert "".join(pieces) == reply.text
    assert len(pieces) == reply.output_tokens


def _content(event: dict[str, object]) -> str:
    """The text of an event of any dialect."""
    match event:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"message": {"content": str(text)}} | {"content": str(text)}:
            return text
    raise AssertionError(event)


def test_cached_prompt_tokens_are_reported() -> None:
    """A repeated prompt's cached tokens are told apart and stay in the number of prompt tokens."""
    reply = decode(LLAMACPP_CHAT, body_of("llamacpp_chat_cached"))
    assert (reply.prompt_tokens, reply.cached_tokens, reply.output_tokens) == (15, 14, 4)


def test_cached_tokens_come_from_usage_or_timings() -> None:
    """VLLM tells cached tokens in its usage; timings count them apart from the new ones."""
    usage = b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":8}}}'
    timings = b'{"timings":{"cache_n":14,"prompt_n":2}}'
    by_usage = decode(VLLM_CHAT, sse(usage, done=False))
    by_timings = decode(LLAMACPP_CHAT, sse(timings, done=False))
    assert (by_usage.prompt_tokens, by_usage.cached_tokens) == (9, 8)
    assert (by_timings.prompt_tokens, by_timings.cached_tokens) == (16, 14)


def test_timings_count_where_usage_is_missing() -> None:
    """Without usage llama.cpp's timings count, and the source says so."""
    reply = decode(LLAMACPP_CHAT, body_of("llamacpp_chat_timings_only"))
    assert (reply.prompt_tokens, reply.output_tokens, reply.token_source) == (15, 4, "timings")


@streams
def test_every_cut_in_two_decodes_the_same(name: str, dialect: tuple[str, str]) -> None:
    """A stream cut at any one byte gives the reply of the uncut stream."""
    body = body_of(name)
    whole = decode(dialect, body)
    assert whole.error_kind is None
    for at in range(len(body) + 1):
        assert decode(dialect, body[:at], body[at:]) == whole


@streams
@pytest.mark.parametrize("drain_bytes", [1, 7, 500])
def test_every_byte_alone_decodes_the_same(
    name: str, dialect: tuple[str, str], drain_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, and with events taken out while the stream still runs: the same reply."""
    body = body_of(name)
    whole = decode(dialect, body)
    monkeypatch.setattr(framing, "DRAIN_BYTES", drain_bytes)
    assert decode(dialect, *(body[i : i + 1] for i in range(len(body)))) == whole


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_random_cuts_of_any_bytes_decode_the_same(data: st.DataObject) -> None:
    """However a body is cut and however early its events are taken out, the reply is the same."""
    name = data.draw(st.sampled_from(sorted(STREAMS)))
    body = data.draw(
        st.one_of(st.just(body_of(name)), st.builds(_vary, st.just(body_of(name)), st.randoms()))
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=30)))
    whole = decode(STREAMS[name], body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "DRAIN_BYTES", data.draw(st.integers(1, 600)))
        assert decode(STREAMS[name], *_pieces(body, cuts)) == whole


def _vary(body: bytes, random: Any) -> bytes:
    """The body with other line ends and a few broken bytes."""
    body = random.choice((body, body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r")))
    broken = bytearray(body)
    for _ in range(random.randrange(3)):
        broken[random.randrange(len(broken))] = random.randrange(256)
    return bytes(broken)


def _pieces(body: bytes, cuts: list[int]) -> Iterable[bytes]:
    return (body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True))


@streams
def test_a_stream_broken_off_anywhere_is_truncated(name: str, dialect: tuple[str, str]) -> None:
    """At every byte before the end mark is complete the stream counts as failed."""
    body = body_of(name)
    end = body.rindex(b"[DONE]") + 6 if b"[DONE]" in body else len(body.rstrip())
    for at in range(end):
        assert decode(dialect, body[:at]).error_kind == "truncated", body[:at]
    assert decode(dialect, body[:end]).error_kind is None


@streams
def test_what_came_before_the_break_is_kept(name: str, dialect: tuple[str, str]) -> None:
    """A broken stream still reports the events and the text that had arrived."""
    body = body_of(name)
    whole = decode(dialect, body)
    reply = decode(dialect, body[: whole.content_ends[1]])
    assert reply.content_ends == whole.content_ends[:2]
    assert reply.text
    assert whole.text.startswith(reply.text)
    assert reply.output_tokens == 2


@streams
def test_finish_may_be_asked_twice_and_later_bytes_are_ignored(
    name: str, dialect: tuple[str, str]
) -> None:
    """What follows the end mark changes nothing."""
    body = body_of(name)
    whole = decode(dialect, body)
    assert decode(dialect, body, b"\n\ndata: {]\n\n{]\n") == whole
    assert decode(dialect, body, body) == whole


def test_a_long_stream_is_taken_out_as_it_runs() -> None:
    """A stream beyond the drain bound keeps exact offsets and holds no more than the bound."""
    event = sse(b'{"choices":[{"delta":{"content":"ab"},"finish_reason":null}]}', done=False)
    tail = sse(b'{"choices":[{"delta":{},"finish_reason":"stop"}]}')
    count = 3 * framing.DRAIN_BYTES // len(event)
    reply = decode(VLLM_CHAT, *([event] * count), tail)
    assert reply.error is None
    assert reply.text == "ab" * count
    assert reply.content_ends == tuple(len(event) * (i + 1) - 1 for i in range(count))
    assert (reply.output_tokens, reply.token_source) == (count, "chunks")


def test_finish_reason_on_the_last_content_chunk_loses_no_text() -> None:
    """The last chunk of vLLM carries both the finish reason and the last text."""
    reply = decode(VLLM_CHAT, body_of("vllm_chat_stream"))
    assert reply.text.endswith(" specify")


def test_usage_on_every_chunk_keeps_the_last() -> None:
    """With continuous usage the last figures count, and also those of a broken stream."""
    chunk = (
        b'{"choices":[{"delta":{"content":"x"}}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":%d}}'
    )
    body = sse(chunk % 2, chunk % 4, done=False)
    reply = decode(VLLM_CHAT, body)
    assert (reply.prompt_tokens, reply.output_tokens, reply.token_source) == (9, 4, "usage")
    assert reply.error_kind == "truncated"


def test_usage_of_zero_beside_content_is_not_believed() -> None:
    """A server that reports no tokens although text came does not count: its events do."""
    reply = decode(
        ("openai", "openai"),
        sse(
            b'{"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":0,"completion_tokens":0}}'
        ),
    )
    assert (reply.output_tokens, reply.token_source) == (1, "chunks")


@pytest.mark.parametrize(
    "delta",
    [
        b'{"reasoning_content":"hm"}',
        b'{"reasoning":"hm"}',
        b'{"refusal":"no"}',
        b'{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}',
    ],
)
def test_output_other_than_text_is_a_content_event(delta: bytes) -> None:
    """Reasoning, refusals and tool calls are the first sign of life, but not visible text."""
    events = (
        b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
        b'{"choices":[{"delta":%s}]}' % delta,
        b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
    )
    reply = decode(VLLM_CHAT, sse(*events))
    assert reply.content_ends == (len(sse(*events[:2], done=False)) - 1,)
    assert reply.text == ""
    assert reply.error is None


def test_ollama_thinking_is_a_content_event() -> None:
    """Ollama's thinking text counts as output but not as visible text."""
    first = b'{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n'
    reply = decode(OLLAMA_NATIVE, first, b'{"message":{"content":""},"done":true}')
    assert (reply.content_ends, reply.text, reply.error) == ((len(first),), "", None)


@pytest.mark.parametrize(
    ("metrics", "queue_s"),
    [
        (
            b'"total_duration":100,"load_duration":10,"prompt_eval_duration":20,"eval_duration":30',
            40e-9,
        ),
        (
            b'"total_duration":50,"load_duration":10,"prompt_eval_duration":20,"eval_duration":30',
            0.0,
        ),
        (b'"total_duration":100,"load_duration":10,"eval_duration":30', None),
        (b'"eval_count":3', None),
    ],
)
def test_ollama_queue_is_what_the_other_times_leave(metrics: bytes, queue_s: float | None) -> None:
    """The wait is total minus the rest, never negative, unknown where a part is missing."""
    reply = decode(OLLAMA_NATIVE, b'{"done":true,"done_reason":"stop",%s}\n' % metrics)
    assert reply.error is None
    assert reply.server_queue_s == queue_s


def test_ollama_metrics_may_all_be_absent() -> None:
    """An end without metrics is an end; nothing is reported, and nothing is zero."""
    reply = decode(OLLAMA_NATIVE, b'{"message":{"content":"a"},"done":false}\n{"done":true}\n')
    assert (reply.error, reply.prompt_tokens, reply.server_prompt_s) == (None, None, None)
    assert (reply.output_tokens, reply.token_source) == (1, "chunks")


@pytest.mark.parametrize(
    ("stop_type", "reason"),
    [("eos", "stop"), ("word", "stop"), ("limit", "length"), ("new", "new")],
)
def test_llamacpp_stop_types_get_the_common_names(stop_type: str, reason: str) -> None:
    """The native API's stop types become the finish reasons of the OpenAI API."""
    event = b'{"content":"","stop":true,"stop_type":"%s"}' % stop_type.encode()
    assert decode(LLAMACPP_NATIVE, sse(event, done=False)).finish_reason == reason


def test_vllm_queue_time_is_read_where_given() -> None:
    """The per-request metrics of vLLM tell the wait in its queue."""
    reply = decode(
        VLLM_CHAT,
        sse(b'{"choices":[{"delta":{},"finish_reason":"stop"}],"metrics":{"queue_time_ms":2.5}}'),
    )
    assert reply.server_queue_s == 0.0025
