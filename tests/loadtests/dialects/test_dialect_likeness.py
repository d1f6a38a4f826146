"""Events that are recognised by their bytes say what they would have said when read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtests.dialects import DIALECTS, decoding
from loadtests.dialects.decoding import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.dialects.base import Reply

DONE = b"[DONE]"


def _chunk(text: object, **more: object) -> bytes:
    """An OpenAI chunk with this content."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return json.dumps({"id": "i", "choices": [choice], **more}, ensure_ascii=False).encode()


TEXTS = st.sampled_from(["a", " a", "index", "delta", "é\u2028", '"', "\\", "\n", "", "ab", "id"])
EVENTS = st.one_of(
    TEXTS.map(_chunk),
    st.builds(
        lambda text, n: _chunk(text, usage={"completion_tokens": n}), TEXTS, st.integers(0, 2)
    ),
    st.builds(lambda text: _chunk(text).replace(b'"content"', b'"reasoning"'), TEXTS),
    st.builds(lambda text: json.dumps(json.loads(_chunk(text))).encode(), TEXTS),  # escaped
    st.sampled_from(
        [
            _chunk(None),
            _chunk("x").replace(b'"x"', b'"\x01"'),
            _chunk("x").replace(b'"x"', b'"\xff"'),
            _chunk("x").replace(b'"x"', b'"\\u0069d"'),
            _chunk("x")[:-1],
            b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
            b'{"choices":[],"usage":{}}',
            DONE,
        ]
    ),
)  # fmt: skip


def _reply(events: Sequence[bytes]) -> Reply:
    """What a stream of these events says."""
    decoder = DIALECTS["openai", "openai"].decoder()
    decoder.feed(b"".join(b"data: %b\n\n" % event for event in events))
    return decoder.finish()


KEY = _chunk("index")  # the text is also a key
HIDDEN = _chunk("X").replace(b'"X"', b'"\\u0069ndex"')  # the same, where only the key shows it


@given(st.lists(EVENTS, max_size=12))
@example([_chunk("b", usage={"completion_tokens": n}) for n in (1, 2, 1)])
@example([KEY, KEY.replace(b'"index": 0', b'"other": 0')])
@example([HIDDEN, HIDDEN.replace(b'"index": 0', b'"other": 0')])
@example([_chunk("b"), _chunk("b").replace(b'"b"', b'"x", "y": "z"')])
@example([_chunk("b"), _chunk("b").replace(b'"b"', b'"\\u0069d"')])
@example([_chunk("b"), _chunk("b").replace(b'"b"', b'"\x01"')])
@example([_chunk("b"), _chunk("")])
def test_same_reply_as_by_reading_each(events: list[bytes]) -> None:
    """Whatever the events, the reply is that of a decoder that reads each."""
    recognised = _reply(events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_LEARN_AT_MOST", 0)
        assert _reply(events) == recognised


def test_like_events_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of events that differ in their text alone, the first is read."""
    read: list[bytes] = []

    def spy(decoder: object, payload: bytes) -> object:
        read.append(payload)
        return read_json(decoder, payload)  # type: ignore[arg-type]

    monkeypatch.setattr("loadtests.dialects.openai.read_json", spy)
    reply = _reply([_chunk(f"word{i}") for i in range(50)])
    assert reply.text == "".join(f"word{i}" for i in range(50))
    assert len(reply.content_ends) == 50
    assert len(read) == 1


def test_learning_stops_where_it_never_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that hold a number of their own are soon no longer learnt from."""
    learnt: list[bytes] = []
    real = decoding._Likeness.learn

    def spy(self: decoding._Likeness, payload: bytes, text: str | None) -> None:
        real(self, payload, text)
        learnt.append(self.before)

    monkeypatch.setattr(decoding._Likeness, "learn", spy)
    _reply([_chunk("b", created=i) for i in range(50)])
    assert sum(before != decoding._NONE for before in learnt) == decoding._LEARN_AT_MOST
