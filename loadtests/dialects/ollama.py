"""Ollama's native ``/api/chat``: newline-delimited JSON that ends with ``"done": true``.

Times are integer nanoseconds and every metric may be absent. The API has no ``ignore_eos``: an
answer may end before ``num_predict`` tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from loadtests.dialects.calls import post, required_model
from loadtests.dialects.decoding import Count, Counts, Reason, StreamDecoder, Tally, read_json
from loadtests.dialects.failures import http_error, stream_error
from loadtests.dialects.framing import JsonLines
from planner.records import Record

if TYPE_CHECKING:
    from loadtests.dialects.base import Api, Chat, HttpCall

__all__ = ["OllamaNative"]


class OllamaNative(Record, frozen=True, kw_only=True):
    """The dialect of ``/api/chat``.

    The options hold nothing that the model is loaded with (``num_ctx`` and the like): another
    value than the loaded one makes Ollama load the model anew. ``truncate: false`` makes a prompt
    that does not fit an error; by default Ollama would silently cut it, and the measurement would
    be of a shorter prompt than was asked for.
    """

    backend: Literal["ollama"] = "ollama"
    can_ignore_eos: bool = False

    @property
    def api(self) -> Api:
        """The native API."""
        return "native"

    def encode(self, chat: Chat, *, api_key: str | None = None) -> HttpCall:
        """The HTTP call that asks for the chat as a stream."""
        options = {
            "num_predict": chat.max_tokens,
            "temperature": chat.temperature,
            "seed": chat.seed,
        }
        return post(
            "/api/chat",
            {
                "model": required_model(chat, self.backend),
                "messages": chat.messages,
                "stream": True,
                "truncate": False,
                "options": {k: v for k, v in options.items() if v is not None},
            },
            accept="application/x-ndjson",
            api_key=api_key,
        )

    def decoder(self) -> StreamDecoder:
        """A fresh decoder."""
        return StreamDecoder(JsonLines(), _read)

    def error(self, status: int, body: bytes) -> tuple[str, str]:
        """The ``(error_kind, message)`` of an answer that is not a 200."""
        return http_error(status, body)


_Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, gc=False):
    message: _Message | None = None
    done: bool = False
    done_reason: Reason | None = None
    total_duration: _Nanoseconds | None = None
    load_duration: _Nanoseconds | None = None
    prompt_eval_count: Count | None = None  # the cached ones included
    prompt_eval_duration: _Nanoseconds | None = None  # without the cached ones
    eval_count: Count | None = None
    eval_duration: _Nanoseconds | None = None
    error: Any = None


_LINE = msgspec.json.Decoder(_Line)


def _read(payload: bytes, end: int, tally: Tally) -> bool:
    """Read one line; True at the one that says ``done``."""
    line = read_json(_LINE, payload)
    if line.error:
        raise stream_error(line.error)
    message = line.message
    if message is not None and (message.content or message.thinking or message.tool_calls):
        tally.content(end, message.content)
    if not line.done:
        return False
    tally.usage = Counts(line.prompt_eval_count, line.eval_count)
    tally.server_queue_s = _queue_s(line)
    tally.server_prompt_s = _seconds(line.prompt_eval_duration)
    tally.server_decode_s = _seconds(line.eval_duration)
    tally.finish_reason = line.done_reason
    return True


def _queue_s(line: _Line) -> float | None:
    """The wait for a parallel slot, which no field reports: what the other durations leave over."""
    total = line.total_duration
    load, prompt, decode = line.load_duration, line.prompt_eval_duration, line.eval_duration
    if total is None or load is None or prompt is None or decode is None:
        return None
    return max(0, total - load - prompt - decode) / 1e9


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9
