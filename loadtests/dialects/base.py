"""What every dialect speaks: a chat in, an HTTP call out; bytes in, a reply out. Pure.

A dialect is one wire format of one backend. It opens no socket and reads no clock: the caller
sends ``Dialect.encode(chat)``, hands the body of a 200 answer (without its HTTP framing, in any
cuts) to ``Dialect.decoder()``, and any other answer to ``Dialect.error()``. Nothing that a server
sends makes a decoder raise: what is wrong with it becomes ``Reply.error_kind``.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

from planner.errors import InputError
from planner.records import Record, TokenSource

__all__ = ["ERROR_KINDS", "Api", "Chat", "Decoder", "Dialect", "HttpCall", "Message", "Reply"]

Api = Literal["native", "openai"]
"""Which of a backend's two APIs a dialect speaks."""

ERROR_KINDS: dict[str, str] = {
    "truncated": "the stream ended before its protocol's end mark or without a finish reason",
    "server_error": "the engine failed: status 500, an error in a 200, an aborted generation",
    "overloaded": "refused for lack of capacity: status 503 or 529, a full queue, no free slot",
    "rate_limited": "refused by a quota: status 429",
    "not_ready": "the model is still loading",
    "context_exceeded": "prompt and output do not fit into the context",
    "model_not_found": "the server does not have this model",
    "unauthorized": "the API key is missing or refused: status 401 or 403",
    "bad_request": "the server refused the request itself: status 400 or 422",
    "bad_json": "an event of the stream is not JSON",
    "bad_event": "an event is JSON of the wrong shape: a type, a sign or a range",
    "too_large": "a line, the text or the number of events is beyond the bound",
    "http_1xx": "an interim status where an answer was due",
    "http_2xx": "a success other than 200, which carries no stream",
    "http_3xx": "a redirect, which is not followed",
    "http_4xx": "any other 4xx: the path or the method is not known there",
    "http_5xx": "any other 5xx: mostly a proxy in front of the engine",
    "http_other": "a status outside 100 to 599",
}
"""Every kind that a dialect reports, and what it means."""

_SEED_BOUND = 2**63


class Message(Record, frozen=True, kw_only=True):
    """One turn of a conversation, in the fields that all chat APIs have for it."""

    role: str  # system, user or assistant
    content: str


class Chat(Record, frozen=True, kw_only=True):
    """One request of a user: the conversation so far and how to go on with it.

    Raises:
        InputError: no message, ``max_tokens`` below 1, a temperature that is negative or not
            finite, or a seed beyond 64 bits.
    """

    messages: tuple[Message, ...]
    model: str | None  # None: the server's only or default model, where it has one
    max_tokens: int
    temperature: float = 0.8
    seed: int | None = None
    ignore_eos: bool = True  # generate exactly max_tokens, where Dialect.can_ignore_eos
    cache_prompt: bool = False  # may the server reuse its prefix cache, where it lets us choose

    def __post_init__(self) -> None:
        """Refuse what no server could answer."""
        if not self.messages:
            raise InputError("a chat needs at least one message")
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}: ask for at least 1 output token")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(
                f"temperature is {self.temperature}: it must be finite and not negative"
            )
        if self.seed is not None and not -_SEED_BOUND <= self.seed < _SEED_BOUND:
            raise InputError(f"seed is {self.seed}: it must fit into 64 bits")


class HttpCall(Record, frozen=True, kw_only=True):
    """One HTTP request, without the host. ``headers`` may hold the API key."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:
        """Without the headers: what is printed or logged must not show the key."""
        return f"HttpCall({self.method} {self.path}, {len(self.body)} bytes)"


class Reply(Record, frozen=True, kw_only=True):
    """What a whole stream said.

    A content event is one that carries output: visible text, reasoning ("thinking") text, a tool
    call or a refusal, because each is the first sign of life that its reader gets. A chunk with
    only a role, an empty string, usage, timings or a finish reason is not one. Several tokens may
    share one content event, so ``output_tokens`` comes from the server's figures where it gives
    them.
    """

    content_ends: tuple[
        int, ...
    ]  # body offset just past the line that completed each content event
    text: str  # the visible text alone: what the next turn of the conversation repeats
    finish_reason: str | None  # as the OpenAI API names it: stop, length, tool_calls, ...
    prompt_tokens: int | None  # all prompt tokens, the cached ones included
    output_tokens: int | None  # reasoning included
    cached_tokens: int | None  # prompt tokens that the server took from its cache
    token_source: TokenSource | None  # who counted output_tokens
    server_queue_s: float | None  # the server's own account of this request
    server_prompt_s: float | None
    server_decode_s: float | None
    error_kind: str | None  # a key of ERROR_KINDS; None: the stream ended as its protocol says
    error: str | None


class Decoder(Protocol):
    """Reads one stream. Neither method raises, whatever the bytes."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body. Cheap: parsing waits until many bytes are there."""

    def finish(self) -> Reply:
        """The body has ended: say what it said. Call it again for the same answer."""


class Dialect(Protocol):
    """One wire format of one backend."""

    @property
    def backend(self) -> str:
        """The engine: llamacpp, ollama, vllm or openai."""

    @property
    def api(self) -> Api:
        """Which of the engine's APIs."""

    @property
    def can_ignore_eos(self) -> bool:
        """Whether the API can be asked for exactly ``max_tokens`` output tokens."""

    def encode(self, chat: Chat, *, api_key: str | None = None) -> HttpCall:
        """The HTTP call that asks for the chat as a stream.

        Raises:
            InputError: the chat cannot be said in this dialect, or the key not in a header.
        """

    def decoder(self) -> Decoder:
        """A fresh decoder for the body of one 200 answer."""

    def error(self, status: int, body: bytes) -> tuple[str, str]:
        """The ``(error_kind, message)`` of an answer that is not a 200. Never raises."""
