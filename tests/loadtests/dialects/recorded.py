"""Streams recorded from real servers, and a shorthand to decode them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.dialects import dialect_of

if TYPE_CHECKING:
    from loadtests.dialects import Reply

LLAMACPP_CHAT = ("llamacpp", "openai")
LLAMACPP_NATIVE = ("llamacpp", "native")
OLLAMA_CHAT = ("ollama", "openai")
OLLAMA_NATIVE = ("ollama", "native")
VLLM_CHAT = ("vllm", "openai")

STREAMS = {
    "llamacpp_chat_stream": LLAMACPP_CHAT,
    "llamacpp_chat_cached": LLAMACPP_CHAT,
    "llamacpp_chat_timings_only": LLAMACPP_CHAT,
    "llamacpp_completion_stream": LLAMACPP_NATIVE,
    "ollama_chat_stream": OLLAMA_NATIVE,
    "vllm_chat_stream": VLLM_CHAT,
}
"""The transcripts of whole streams, and the dialect of each."""


def body_of(transcript: str) -> bytes:
    """The body of a recorded answer, without chunk framing."""
    path = Path(__file__).parent / "transcripts" / f"{transcript}.http"
    return path.read_bytes().partition(b"\r\n\r\n")[2]


def decode(dialect: tuple[str, str], *pieces: bytes) -> Reply:
    """Feed the pieces of a body to a fresh decoder."""
    decoder = dialect_of(*dialect).decoder()
    for piece in pieces:
        decoder.feed(piece)
    return decoder.finish()


def sse(*events: bytes, done: bool = True) -> bytes:
    """A body of server-sent events."""
    return b"".join(b"data: " + e + b"\n\n" for e in (*events, *([b"[DONE]"] if done else ())))
