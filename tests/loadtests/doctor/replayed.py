"""Servers that replay what the three engines were recorded to say, on a real socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.loadtests.dialects.recorded import body_of
from tests.loadtests.measure.test_inspect import OLLAMA, VLLM
from tests.loadtests.servers import answer, chunked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.loadtests.measure.test_inspect import Pages
    from tests.loadtests.servers import Script, Step

__all__ = ["CHAT", "chat_answer", "ollama", "server", "vllm"]

CHAT = "/v1/chat/completions"


def chat_answer(content: str | None = "The sea is calm.", **more: Any) -> bytes:
    """A whole chat answer that is not a stream."""
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more.pop("choice", {})}
    usage = {"prompt_tokens": 15, "completion_tokens": 4, **more.pop("usage", {})}
    return answer(json.dumps({"choices": [choice], "usage": usage, **more}).encode())


def server(
    pages: Pages, posts: dict[str, Callable[[dict[str, Any]], bytes]], key: str | None = None
) -> Script:
    """A script that serves pages to a GET and answers a POST by the function of its path."""

    def script(request: bytes) -> Sequence[Step]:
        head, _, body = request.partition(b"\r\n\r\n")
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        if key and f"Authorization: Bearer {key}".encode() not in head:
            return [answer(b'{"error":{"message":"Invalid API Key","code":401}}', 401)]
        if method == "POST" and path in posts:
            return [posts[path](json.loads(body))]
        page = pages.get(path, 404) if method == "GET" else 404
        return [answer(b"404 page not found", page) if isinstance(page, int) else answer(page)]

    return script


def stream(transcript: str) -> bytes:
    """A recorded stream with its framing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    return head + b"\r\n" + chunked(body_of(transcript))


def ollama(key: str | None = None, *, loaded: bool = True) -> Script:
    """Ollama as recorded; its OpenAI API answers a plain chat and ignores what it does not know."""
    empty_stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    state = {"loaded": loaded}

    def chat(asked: dict[str, Any]) -> bytes:
        state["loaded"] = True
        return empty_stream if asked.get("stream") else chat_answer()

    def native(_: dict[str, Any]) -> bytes:
        state["loaded"] = True
        return stream("ollama_chat_stream")

    posts = {
        CHAT: chat,
        "/api/chat": native,
        "/v1/embeddings": lambda _: answer(b'{"data":[{"embedding":[0.1,0.2]}]}'),
    }

    def script(request: bytes) -> Sequence[Step]:
        pages = OLLAMA if state["loaded"] else {**OLLAMA, "/api/ps": b'{"models":null}'}
        found = server(pages, posts, key)
        assert callable(found)
        return found(request)

    return script


def vllm(key: str | None = None) -> Script:
    """A vLLM as recorded and seen: tools refused, embeddings not there, JSON and logprobs given."""

    def chat(asked: dict[str, Any]) -> bytes:
        if asked.get("stream"):
            return stream("vllm_chat_stream")
        if "tools" in asked:
            body = b'{"error":{"message":"\\"auto\\" tool choice requires x","code":400}}'
            return answer(body, 400)
        if "response_format" in asked:
            return chat_answer('{"calm": false}')
        if asked.get("logprobs"):
            token = {"token": " eas", "logprob": -2.5, "bytes": [32, 101, 97, 115]}
            return chat_answer(choice={"logprobs": {"content": [token]}})
        return chat_answer()

    return server({**VLLM, "/health": b""}, {CHAT: chat}, key)
