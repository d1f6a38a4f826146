"""The OpenAI chat API (``/v1/chat/completions``, server-sent events) and its speakers.

What they do differently (measured on llama.cpp, vLLM and Ollama): ``finish_reason`` rides on the
last content chunk (vLLM) or on a chunk of its own (llama.cpp); ``usage`` stands on a last chunk
without choices, or on every chunk; llama.cpp adds ``timings``, vLLM ``metrics`` where it was
started with ``--enable-per-request-metrics``; an error may come inside the stream, and vLLM then
still says ``[DONE]``; Ollama says nothing at all: its stream just ends without finish reason and
``[DONE]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from loadtests.dialects.calls import post, required_model
from loadtests.dialects.decoding import (
    Count,
    Counts,
    Milliseconds,
    Reason,
    StreamDecoder,
    Tally,
    read_json,
)
from loadtests.dialects.failures import http_error, stream_error
from loadtests.dialects.framing import ServerSentEvents
from planner.errors import WireError
from planner.records import Record

if TYPE_CHECKING:
    from loadtests.dialects.base import Api, Chat, HttpCall

__all__ = ["OpenAi", "Timings"]


class OpenAi(Record, frozen=True, kw_only=True):
    """The dialect of one engine's OpenAI API.

    Beyond the standard's fields a body has only what the engine knows: servers differ in whether
    they ignore or refuse a field that they do not know. The output length is asked for as
    ``max_tokens``, which every server understands; ``max_completion_tokens`` is not known to
    Ollama, which would then generate without limit.

    vLLM has no switch for its prefix cache in a request: there, ``cache_prompt`` has no effect and
    only varied prompts keep the cache cold.
    """

    backend: str
    can_ignore_eos: bool = False
    can_cache_prompt: bool = False
    needs_model: bool = True

    @property
    def api(self) -> Api:
        """The OpenAI API."""
        return "openai"

    def encode(self, chat: Chat, *, api_key: str | None = None) -> HttpCall:
        """The HTTP call that asks for the chat as a stream with usage at its end."""
        return post(
            "/v1/chat/completions",
            {
                "model": required_model(chat, self.backend) if self.needs_model else chat.model,
                "messages": chat.messages,
                "max_tokens": chat.max_tokens,
                "temperature": chat.temperature,
                "seed": chat.seed,
                "stream": True,
                "stream_options": {"include_usage": True},
                "ignore_eos": chat.ignore_eos if self.can_ignore_eos else None,
                "cache_prompt": chat.cache_prompt if self.can_cache_prompt else None,
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


class Timings(msgspec.Struct, gc=False):
    """llama.cpp's account of a request: ``prompt_n`` counts only what the cache did not have."""

    cache_n: Count | None = None
    prompt_n: Count | None = None
    prompt_ms: Milliseconds | None = None
    predicted_n: Count | None = None
    predicted_ms: Milliseconds | None = None

    def add_to(self, tally: Tally) -> None:
        """Put the counts and times into the tally."""
        prompt = None if self.prompt_n is None else self.prompt_n + (self.cache_n or 0)
        tally.timings = Counts(prompt, self.predicted_n, self.cache_n)
        tally.server_prompt_s = _seconds(self.prompt_ms)
        tally.server_decode_s = _seconds(self.predicted_ms)


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp, DeepSeek, older vLLM
    reasoning: str | None = None  # vLLM, Ollama
    refusal: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: Reason | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Metrics(msgspec.Struct, gc=False):
    queue_time_ms: Milliseconds | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], msgspec.Meta(max_length=16)] | None = None
    usage: _Usage | None = None
    timings: Timings | None = None
    metrics: _Metrics | None = None
    error: Any = None


_FAILED = frozenset({"error", "abort"})  # vLLM's and SGLang's finish reasons for a failure
_CHUNK = msgspec.json.Decoder(_Chunk)


def _read(payload: bytes, end: int, tally: Tally) -> bool:
    """Read one event; True at ``[DONE]``."""
    if payload == b"[DONE]":
        _check_finished(tally)
        return True
    chunk = read_json(_CHUNK, payload)
    if chunk.error:
        raise stream_error(chunk.error)
    for choice in chunk.choices or ():
        delta = choice.delta
        if delta is not None and (
            delta.content
            or delta.reasoning_content
            or delta.reasoning
            or delta.tool_calls
            or delta.refusal
        ):
            tally.content(end, delta.content)
        if choice.finish_reason is not None:
            tally.finish_reason = choice.finish_reason
    if chunk.usage is not None:
        details = chunk.usage.prompt_tokens_details
        tally.usage = Counts(
            chunk.usage.prompt_tokens,
            chunk.usage.completion_tokens,
            details.cached_tokens if details else None,
        )
    if chunk.timings is not None:
        chunk.timings.add_to(tally)
    if chunk.metrics is not None:
        tally.server_queue_s = _seconds(chunk.metrics.queue_time_ms)
    return False


def _check_finished(tally: Tally) -> None:
    """Check at ``[DONE]``, which servers send after a failure too, that the answer is whole."""
    if tally.finish_reason is None:
        raise WireError("truncated", "the stream ended without a finish reason")
    if tally.finish_reason in _FAILED:
        raise WireError("server_error", f"the server gave up: finish reason {tally.finish_reason}")


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
