"""llama.cpp's native ``/completion``: server-sent events, the last with ``"stop": true``.

The endpoint takes a prompt, not messages, and applies no chat template. The conversation is
written as ChatML, which is what llama.cpp itself falls back on for a model without a template. A
model trained on another template gets a prompt that is a few tokens longer or shorter than its own
would be: use the OpenAI API where that matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from loadtests.dialects.calls import post
from loadtests.dialects.decoding import Count, Counts, Reason, StreamDecoder, Tally, read_json
from loadtests.dialects.failures import http_error, stream_error
from loadtests.dialects.framing import ServerSentEvents
from loadtests.dialects.openai import Timings  # noqa: TC001 - msgspec reads the type of a field
from planner.records import Record

if TYPE_CHECKING:
    from loadtests.dialects.base import Api, Chat, HttpCall

__all__ = ["LlamaCppNative"]


class LlamaCppNative(Record, frozen=True, kw_only=True):
    """The dialect of ``/completion``."""

    backend: Literal["llamacpp"] = "llamacpp"
    can_ignore_eos: bool = True

    @property
    def api(self) -> Api:
        """The native API."""
        return "native"

    def encode(self, chat: Chat, *, api_key: str | None = None) -> HttpCall:
        """The HTTP call that asks for the chat as a stream."""
        return post(
            "/completion",
            {
                "model": chat.model,
                "prompt": _chatml(chat),
                "n_predict": chat.max_tokens,
                "temperature": chat.temperature,
                "seed": chat.seed,
                "stream": True,
                "ignore_eos": chat.ignore_eos,
                "cache_prompt": chat.cache_prompt,
            },
            accept="text/event-stream",
            api_key=api_key,
        )

    def decoder(self) -> StreamDecoder:
        """A fresh decoder."""
        return StreamDecoder(ServerSentEvents(), _read)

    def error(self, status: int, body: bytes) -> tuple[str, str]:
        """The ``(error_kind, message)`` of an answer that is not a 200."""
        return http_error(status, body)


class _Event(msgspec.Struct, gc=False):
    content: str | None = None
    stop: bool = False
    stop_type: Reason | None = None
    tokens_predicted: Count | None = None
    tokens_evaluated: Count | None = None  # all prompt tokens, the cached ones included
    timings: Timings | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_FINISH_REASON = {"eos": "stop", "word": "stop", "limit": "length", "none": None}


def _read(payload: bytes, end: int, tally: Tally) -> bool:
    """Read one event; True at the one that says ``stop``."""
    event = read_json(_EVENT, payload)
    if event.error:
        raise stream_error(event.error)
    if event.content:
        tally.content(end, event.content)
    if event.tokens_predicted is not None:
        tally.usage = Counts(event.tokens_evaluated, event.tokens_predicted)
    if event.timings is not None:
        event.timings.add_to(tally)
    if event.stop_type is not None:
        tally.finish_reason = _FINISH_REASON.get(event.stop_type, event.stop_type)
    return event.stop


def _chatml(chat: Chat) -> str:
    turns = [f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in chat.messages]
    return "".join(turns) + "<|im_start|>assistant\n"
