"""A scripted OpenAI-compatible server whose greedy answers are known."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.loadtests.servers import answer, chunked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.loadtests.servers import Step

__all__ = ["Speaker"]

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class Speaker:
    """Answers each chat with the words of a function of the prompt and the number of the chat.

    Attributes:
        says: prompt, count of chats so far -> words, each one token.
        strict: refuses fields that it does not know, log probabilities among them.
        fails: answers chats with a 500 from this count on.
        asked: the bodies of the chats.
    """

    says: Callable[[str, int], Sequence[str]]
    strict: bool = False
    fails: int = 1_000_000
    prompt_tokens: int = 9
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, request: bytes) -> Sequence[Step]:
        """The steps that answer one request."""
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].split(b" ")
        if (method, path) == (b"GET", b"/v1/models"):
            return [answer(b'{"data":[{"id":"m","owned_by":"us"}]}')]
        if (method, path) != (b"POST", b"/v1/chat/completions"):
            return [answer(b"{}", 404)]
        asked = json.loads(body)
        if self.strict and "logprobs" in asked:
            return [answer(b'{"error":{"message":"unknown field logprobs","code":400}}', 400)]
        self.asked.append(asked)
        if len(self.asked) > self.fails:
            return [answer(b'{"error":{"message":"EngineDead","code":500}}', 500)]
        words = self.says(asked["messages"][0]["content"], len(self.asked))
        return [_HEAD, self._stream(words, told="logprobs" in asked)]

    def _stream(self, words: Sequence[str], *, told: bool) -> bytes:
        events: list[dict[str, Any]] = []
        for word in words:
            token = {"token": word, "logprob": -1.0, "bytes": list(word.encode())}
            choice: dict[str, Any] = {"delta": {"content": word}, "finish_reason": None}
            events.append(
                {"choices": [choice | ({"logprobs": {"content": [token]}} if told else {})]}
            )
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": len(words)}
        events.append({"choices": [], "usage": usage})
        frames = [b"data: %s\n\n" % json.dumps(event).encode() for event in events]
        return chunked(b"".join(frames), b"data: [DONE]\n\n")
