"""Server-sent events and JSON lines as their standards say, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.dialects import decoding, framing
from loadtests.dialects.framing import JsonLines, ServerSentEvents
from planner.errors import WireError
from tests.loadtests.dialects.recorded import (
    LLAMACPP_CHAT,
    OLLAMA_NATIVE,
    VLLM_CHAT,
    body_of,
    decode,
)


def _payloads(body: bytes) -> list[bytes]:
    sse = ServerSentEvents()
    sse.push(body)
    return [payload for payload, _, _ in sse.events(final=True)]


@pytest.mark.parametrize(
    ("body", "payloads"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": keep-alive\n\ndata: a\n: ping\n\n", [b"a"]),
        (b"event: message\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data:\n\ndata\n\ndata: a\n\n", [b"a"]),
        (b"data:\ndata: a\ndata: \n\n", [b"a"]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"datax: a\n\nDATA: a\n\n", []),
        (b"data: a", [b"a"]),
        (b"", []),
    ],
)
def test_server_sent_events_follow_the_standard(body: bytes, payloads: list[bytes]) -> None:
    """Line ends, comments, other fields, several data lines and the optional space."""
    assert _payloads(body) == payloads


def test_the_end_of_an_event_is_its_last_data_line() -> None:
    """The offset does not wait for the blank line, and says whether the event was whole."""
    sse = ServerSentEvents()
    sse.push(b"data: a\ndata: b\nid: 1\n\ndata: c\n")
    assert list(sse.events(final=True)) == [(b"a\nb", 16, True), (b"c", 31, False)]


class _LineByLine(ServerSentEvents):
    """The framing without its short cut for plain events."""

    def _plain_events(self) -> tuple[()]:
        return ()


def _drained(sse: ServerSentEvents, pushes: list[bytes]) -> list[object]:
    """All events with the events taken out after each push, or the kind of the failure."""
    seen: list[object] = []
    try:
        for data in pushes:
            sse.push(data)
            seen += sse.events(final=False)
        seen += sse.events(final=True)
    except WireError as error:
        seen.append(error.kind)
    return seen


_PLAIN = st.binary(min_size=1, max_size=9).map(
    lambda b: b"data: %s\n\n" % b.translate(None, b"\r\n")
)
_PART = st.sampled_from(
    [
        *(b"data: ", b"data:", b"\n", b"\n\n", b"\r", b"a", b" ", b": x\n", b"\xef\xbb\xbf"),
        *(b"data: a\n", b"data: a\rb\n\n", b"data: a\r\n\r\n"),
    ]
)


@settings(max_examples=500, deadline=None)
@given(pushes=st.lists(st.lists(_PLAIN | _PART, max_size=8).map(b"".join), max_size=5))
def test_the_short_cut_reads_what_the_reader_of_lines_reads(pushes: list[bytes]) -> None:
    """Plain events taken out at once are the events, ends and flags that lines would give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "MAX_LINE_BYTES", 12)
        assert _drained(ServerSentEvents(), pushes) == _drained(_LineByLine(), pushes)


def test_the_short_cut_waits_for_an_event_under_way() -> None:
    """A plain event that comes after a first data line is that event's second line."""
    pushes = [b"data: a\n", b"data: b\n\n"]
    assert _drained(ServerSentEvents(), pushes) == [(b"a\nb", 16, True)]


def test_the_short_cut_is_taken() -> None:
    """A stream as vLLM sends it leaves nothing to the reader of lines but what follows it."""
    sse = ServerSentEvents()
    sse.push(b"data: {}\n\ndata: [DONE]\n\ndata: rest")
    assert list(sse._plain_events()) == [(b"{}", 9, True), (b"[DONE]", 23, True)]
    assert list(sse.events(final=True)) == [(b"rest", 34, False)]


def test_json_lines_skip_blank_lines() -> None:
    """Blank lines are no events; the last line may lack its end."""
    lines = JsonLines()
    lines.push(b'\n{"a":1}\r\n\n {} ')
    assert list(lines.events(final=True)) == [(b'{"a":1}', 10, True), (b"{}", 15, False)]


@settings(max_examples=300, deadline=None)
@given(
    body=st.lists(
        st.sampled_from(["data: a", "data:b", ": c", "\r", "\n", "\r\n"]), max_size=12
    ).map("".join),
    cut=st.integers(0, 60),
)
def test_a_line_end_across_a_cut_is_one_line_end(body: str, cut: int) -> None:
    """CR and LF that arrive apart are one line end, as when they arrive together."""
    data = body.encode()
    sse = ServerSentEvents()
    sse.push(data[:cut])
    events = list(sse.events(final=False))
    sse.push(data[cut:])
    events += sse.events(final=True)
    whole = ServerSentEvents()
    whole.push(data)
    assert events == list(whole.events(final=True))


@pytest.mark.parametrize("dialect", [VLLM_CHAT, OLLAMA_NATIVE])
@pytest.mark.parametrize("piece", [2**16, 2**23])
def test_an_endless_line_is_refused(dialect: tuple[str, str], piece: int) -> None:
    """A line beyond the bound ends as too_large, whether it comes in pieces or at once."""
    pieces = [b"data: " + b"x" * piece] * (2**23 // piece)
    assert decode(dialect, *pieces).error_kind == "too_large"


@pytest.mark.parametrize("dialect", [VLLM_CHAT, OLLAMA_NATIVE])
def test_a_long_line_is_refused_even_when_it_ends(dialect: tuple[str, str]) -> None:
    """A line beyond the bound that came whole is not parsed either."""
    event = b'data: {"x":"%s"}\n\n' if dialect is VLLM_CHAT else b'{"x":"%s"}\n'
    reply = decode(dialect, event % (b"x" * framing.MAX_LINE_BYTES))
    assert reply.error_kind == "too_large"
    assert decode(dialect, event % b"x").error_kind == "truncated"


def test_an_endless_line_is_not_kept() -> None:
    """After the verdict the decoder holds none of the bytes that still come."""
    lines = framing.ServerSentEvents()
    decoder = decoding.StreamDecoder(lines, lambda _payload, _end, _tally: False)
    for _ in range(200):
        decoder.feed(b"x" * 2**16)
    assert len(lines._buffer) == 0
    assert decoder.finish().error_kind == "too_large"


@pytest.mark.parametrize("line", [b"data: 0123456789\n", b"data:0\n"])
def test_an_endless_event_of_many_lines_is_refused(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event's lines are bounded together."""
    monkeypatch.setattr(framing, "MAX_LINE_BYTES", 100)
    sse = ServerSentEvents()
    sse.push(line * 20)
    with pytest.raises(WireError, match="longer than"):
        list(sse.events(final=False))


@pytest.mark.parametrize(("bound", "value"), [("MAX_EVENTS", 3), ("MAX_TEXT_CHARS", 20)])
def test_a_reply_beyond_its_bounds_is_refused(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events and text are bounded; what came before the bound is kept."""
    monkeypatch.setattr(decoding, bound, value)
    reply = decode(LLAMACPP_CHAT, body_of("llamacpp_chat_stream"))
    assert reply.error_kind == "too_large"
    assert reply.text.startswith(" shortstring")


def test_keep_alives_for_ever_cost_no_memory() -> None:
    """Comments are dropped as they come."""
    lines = ServerSentEvents()
    decoder = decoding.StreamDecoder(lines, lambda _payload, _end, _tally: False)
    for _ in range(4000):
        decoder.feed(b": keep-alive\n\n" * 100)
    assert len(lines._buffer) <= framing.DRAIN_BYTES
    assert decoder.finish().error_kind == "truncated"
