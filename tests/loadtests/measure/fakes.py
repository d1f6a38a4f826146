"""A scripted OpenAI-compatible server for what no real engine does on demand."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.loadtests.servers import answer, chunked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.loadtests.servers import Step

__all__ = ["Chat"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Chat:
    """Answers chats as ``vllm`` or another server would, until it is told not to.

    Attributes:
        key: the API key that it wants.
        model: the name of its model.
        healthy: chats that it answers; those after them meet ``then``.
        pause_s: from the headers to the tokens.
        gap_s: from one token to the next; 0 sends all at once.
        slow_after: chats that take this pause; those after them take ``slow_s``.
        then: what becomes of the others: a response's bytes, or nothing (the connection closes).
        answered_s: reading of ``time.monotonic()`` before each answered chat.
        refused: chats that were not answered.
        prompts: the text of each chat.
    """

    key: str | None = None
    model: str = "scripted"
    healthy: int = 1_000_000
    then: bytes = b""
    pause_s: float = 0.01
    gap_s: float = 0.0
    slow_after: int = 1_000_000
    slow_s: float = 0.0
    answered_s: list[float] = field(default_factory=list)
    refused: int = 0
    prompts: list[str] = field(default_factory=list)

    def __call__(self, request: bytes) -> Sequence[Step]:
        """The steps that answer one request."""
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        if self.key is not None and f"Authorization: Bearer {self.key}".encode() not in head:
            return [answer(b'{"error":{"message":"no key","code":401}}', 401)]
        if (method, path) == (b"GET", b"/v1/models"):
            entry = {"id": self.model, "owned_by": "us", "max_model_len": 4096}
            return [answer(json.dumps({"data": [entry]}).encode())]
        if (method, path) != (b"POST", b"/v1/chat/completions"):
            return [answer(b"{}", 404)]
        if len(self.answered_s) >= self.healthy:
            self.refused += 1
            return [self.then] if self.then else []
        asked = json.loads(body)
        self.prompts.append(asked["messages"][0]["content"])
        self.answered_s.append(time.monotonic())
        pause_s = self.pause_s if len(self.prompts) <= self.slow_after else self.slow_s
        frames = _frames(self.prompts[-1], asked["max_tokens"])
        if not self.gap_s:
            return [_HEAD, pause_s, chunked(b"".join(frames), b"data: [DONE]\n\n")]
        paced = (step for f in frames for step in (chunked(f, end=False), self.gap_s))
        return [_HEAD, pause_s, *paced, chunked(b"data: [DONE]\n\n")]


def _frames(prompt: str, tokens: int) -> list[bytes]:
    choice = {"index": 0, "delta": {"content": "a "}, "finish_reason": None}
    events: list[dict[str, object]] = [{"choices": [choice]}] * tokens
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens": len(prompt.split()) + 4, "completion_tokens": tokens}
    events.append({"choices": [], "usage": usage})
    return [b"data: %s\n\n" % json.dumps(event).encode() for event in events]
