"""Ollama: lines of JSON, headers with the first token, nanoseconds, a model loaded on first use.

Recorded: the streamed chat, ``/api/tags``, ``/api/ps``, ``/v1/models``. By Ollama's source and
documentation: ``/api/generate``, ``/api/show``, the OpenAI API, errors. By reports of its users:
the refusal of tools.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loadtests.engines.emulator.speakers.common import (
    LAST_CHUNK,
    MARK,
    Answer,
    Ask,
    Options,
    chunk,
    dumps,
    http_date,
    read_body,
    recorded,
    text_of,
    tokens_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.engines.emulator.settings import Settings
    from loadtests.engines.emulator.speakers.common import Body, Figures, Request, Writer
    from loadtests.engines.emulator.state import State

__all__ = ["OllamaSpeaker"]

VERSION = "0.12.0"
_TEMPLATE = 4  # tokens of the chat template a turn
_APIS = {"/api/chat": "chat", "/api/generate": "generate", "/v1/chat/completions": "openai"}
_NDJSON, _JSON, _SSE = (
    "application/x-ndjson",
    "application/json; charset=utf-8",
    "text/event-stream",
)
_REASON = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}
_REGISTRY = "registry.ollama.ai/library"  # part of every model's full name
_MOST_CONTEXTS = 10  # an answer without a bound ends at this multiple of the context


class OllamaSpeaker:
    """Speaks like ``ollama serve``."""

    def __init__(self, settings: Settings, state: State) -> None:
        """For one server."""
        self.settings = settings
        self.state = state
        self._pages: dict[str, Callable[[], object]] = {
            "/api/version": self._version,
            "/api/tags": self._tags,
            "/api/ps": self._ps,
            "/v1/models": self._models,
        }
        self.name = settings.model if ":" in settings.model else f"{settings.model}:latest"

    def head(
        self, status: int, content_type: str, *, length: int | None = None, close: bool = False
    ) -> bytes:
        """As Go writes them."""
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        end = "Connection: close\r\n" if close else ""
        return (
            f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}\r\nContent-Type: {content_type}\r\n"
            f"Date: {http_date()}\r\n{framing}\r\n"
            f"X-Headroom-Emulator: {self.settings.profile}\r\n{end}\r\n"
        ).encode("ascii")

    def read(self, request: Request) -> Answer | Ask:
        """A page, an error or a generation."""
        if request.method == "POST" and request.path in _APIS:
            return self._ask(request, _APIS[request.path])
        if (request.method, request.path) == ("POST", "/api/show"):
            return self._show(request)
        page = self._pages.get(request.path) if request.method == "GET" else None
        if page is not None:
            return Answer(dumps(page()), content_type=_JSON)
        if request.path == "/":
            return Answer(b"Ollama is running", content_type="text/plain; charset=utf-8")
        return Answer(b"404 page not found", 404, "text/plain")

    def refusal(self, status: int) -> Answer:
        """An error of that status."""
        return self._error(status, "made by the emulator's fault rule")

    def busy(self) -> Answer:
        """The queue of requests that wait for the model to load is full."""
        return self._error(503, "server busy, please try again.  maximum pending requests exceeded")

    def _error(self, status: int, message: str, api: str = "") -> Answer:
        """An error; its OpenAI API calls every one an ``api_error``."""
        if api == "openai":
            fields = {"message": message, "type": "api_error", "param": None, "code": None}
            return Answer(dumps({"error": fields}), status, _JSON)
        return Answer(dumps({"error": message}), status, _JSON)

    def _ask(self, request: Request, api: str) -> Answer | Ask:
        body = read_body(request)
        if body is None or not body.model:
            missing = "missing request body" if body is None else "model is required"
            return self._error(400, missing, api)
        if body.model not in {self.settings.model, self.name}:
            return self._error(404, f"model '{body.model}' not found", api)
        if body.tools:
            return self._error(400, f"{_REGISTRY}/{self.name} does not support tools", api)
        said: tuple[str, ...] = ()
        if api == "generate":
            said = (text_of(body.prompt),) if body.prompt else said
        else:
            said = tuple(text_of(turn.content) for turn in body.messages or ())
        most = self.settings.context_tokens
        prompt = tokens_of(said, _TEMPLATE) if said else 1
        if prompt > most:
            if api != "openai" and not body.truncate:
                return self._error(400, "the input length exceeds the context length")
            prompt = most  # cut, and nobody told
        options = body.options or Options()
        if api == "openai":
            options = Options(body.max_tokens, body.seed, body.temperature)
        asked = options.num_predict
        wanted = asked if asked is not None and asked > 0 else None
        output = min(wanted or self.settings.answer_tokens, _MOST_CONTEXTS * most) if said else 1
        finish = "load" if not said else "length" if wanted else "stop"
        make = _OpenAi if api == "openai" else _Native
        writer: Writer = make(self, body, finish, api)
        return Ask(
            said=said,
            prompt=prompt,
            output=output,
            finish=finish,
            stream=bool(body.stream) if api == "openai" else body.stream is not False,
            fixed=options.seed if options.temperature else 0,
            reuses=True,
            writer=writer,
        )

    def _version(self) -> object:
        return {"version": f"{VERSION}+{MARK}", MARK: self.settings.profile}

    def _tags(self) -> object:
        page = recorded("ollama_tags")
        entry = page["models"][0]
        entry["name"] = entry["model"] = self.name
        return page | {MARK: self.settings.profile}

    def _ps(self) -> object:
        page, fleet = recorded("ollama_ps"), self.state.fleet
        if not fleet.loaded(self.state.now()):
            return {"models": [], MARK: self.settings.profile}
        entry = page["models"][0]
        entry["name"] = entry["model"] = self.name
        entry["context_length"] = self.settings.context_tokens
        kept = min(fleet.engine.keep_alive_s, 300.0 * 365 * 86400)
        entry["expires_at"] = _stamp(time.time_ns() + int(kept * 1e9))
        return page | {MARK: self.settings.profile}

    def _models(self) -> object:
        page = recorded("ollama_models")
        page["data"][0]["id"] = self.name
        return page | {MARK: self.settings.profile}

    def _show(self, request: Request) -> Answer:
        body = read_body(request)
        if body is None or body.model not in {None, self.settings.model, self.name}:
            return self._error(404, f"model '{body.model if body else ''}' not found")
        details = recorded("ollama_tags")["models"][0]["details"]
        page = {
            "details": details,
            "model_info": {
                "general.architecture": "llama",
                "llama.context_length": self.settings.context_tokens,
            },
            "capabilities": ["completion"],
            MARK: self.settings.profile,
        }
        return Answer(dumps(page), content_type=_JSON)


def _stamp(unix_ns: int) -> str:
    """A moment as Go writes it: nanoseconds without trailing zeros."""
    seconds, rest = divmod(unix_ns, 1_000_000_000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{whole}{fraction}Z"


class _Native:
    """``/api/chat`` and ``/api/generate``."""

    closes = False
    event = (b"", b"\n")

    def __init__(self, speaker: OllamaSpeaker, body: Body, finish: str, api: str) -> None:
        self._speaker = speaker
        self._finish = finish
        self._chat = api == "chat"
        self._model = body.model or ""

    def accepted(self) -> bytes:
        """Nothing while it waits."""
        return b""

    def started(self) -> bytes:
        """Nothing: headers come with the first token."""
        return b""

    def token(self, piece: str, *, last: bool, made: int) -> bytes:  # noqa: ARG002 - the protocol's
        """A line; headers before the first."""
        head = self._speaker.head(200, _NDJSON) if made == 1 else b""
        if self._finish == "load":
            return head
        return head + chunk(self._line(piece) + b',"done":false}\n')

    def end(self, figures: Figures) -> bytes:
        """The line that says ``done``."""
        return chunk(self._done("", figures) + b"\n") + LAST_CHUNK

    def error(self) -> bytes:
        """A last line with the error."""
        return chunk(dumps({"error": "made by the emulator's fault rule"}) + b"\n") + LAST_CHUNK

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""
        body = self._done("" if self._finish == "load" else text, figures)
        return Answer(body, content_type=_JSON)

    def _line(self, text: str) -> bytes:
        said = f'"response":"{text}"'
        if self._chat:
            said = f'"message":{{"role":"assistant","content":"{text}"}}'
        front = f'{{"model":"{self._model}","created_at":"{_stamp(time.time_ns())}",'
        return (front + said).encode()

    def _done(self, text: str, figures: Figures) -> bytes:
        more: dict[str, object] = {"done": True, "done_reason": self._finish}
        if self._finish != "load":
            more |= {
                "total_duration": round(figures.total_s * 1e9),
                "load_duration": round(figures.load_s * 1e9),
                "prompt_eval_count": figures.prompt,
                "prompt_eval_duration": round(figures.prompt_s * 1e9),
                "eval_count": figures.output,
                "eval_duration": round(figures.decode_s * 1e9),
            }
        return self._line(text) + b"," + dumps(more)[1:]


class _OpenAi:
    """``/v1/chat/completions``, where a failure is silent."""

    closes = False
    event = (b"data: ", b"\n\n")

    def __init__(self, speaker: OllamaSpeaker, body: Body, finish: str, api: str) -> None:  # noqa: ARG002 - as _Native
        self._speaker = speaker
        self._finish = finish
        self._created = int(time.time())
        self._model = body.model or ""
        self._id = f"chatcmpl-{next(speaker.state.numbers)}"
        self._mark = f"fp_ollama-headroom-emulator-{speaker.settings.profile}"
        options = body.stream_options
        self._usage = bool(options and options.include_usage)

    def accepted(self) -> bytes:
        """Nothing while it waits."""
        return b""

    def started(self) -> bytes:
        """Nothing: headers come with the first token."""
        return b""

    def token(self, piece: str, *, last: bool, made: int) -> bytes:  # noqa: ARG002 - the protocol's
        """A chunk; headers before the first."""
        head = self._speaker.head(200, _SSE) if made == 1 else b""
        return head + self._chunk(
            [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}]
        )

    def end(self, figures: Figures) -> bytes:
        """The finish chunk, usage where it was asked for, the end mark."""
        delta = {"role": "assistant", "content": ""}
        data = self._chunk([{"index": 0, "delta": delta, "finish_reason": self._finish}])
        if self._usage:
            data += self._chunk([], usage=_usage_of(figures))
        return data + chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    def error(self) -> bytes:
        """An empty chunk and a clean end: no error, no finish reason, no end mark."""
        delta = {"role": "assistant", "content": ""}
        silent = [{"index": 0, "delta": delta, "finish_reason": None}]
        return self._chunk(silent) + LAST_CHUNK

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": self._finish}]
        page = self._page("chat.completion", choices) | {"usage": _usage_of(figures)}
        return Answer(dumps(page))

    def _page(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": self._mark,
            "choices": choices,
        }

    def _chunk(self, choices: list[dict[str, object]], **more: object) -> bytes:
        page = self._page("chat.completion.chunk", choices) | more
        return chunk(b"data: " + dumps(page) + b"\n\n")


def _usage_of(figures: Figures) -> dict[str, int]:
    return {
        "prompt_tokens": figures.prompt,
        "completion_tokens": figures.output,
        "total_tokens": figures.prompt + figures.output,
    }
