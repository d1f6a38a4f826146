"""llama.cpp's server: headers when a slot starts, a queue without bound, a close after each stream.

Recorded: the streamed chat and completion, ``/props``, ``/slots``, ``/v1/models``, the names of
``/metrics``, the errors of a prompt that is too long, of embeddings, reranking and unknown paths.
By llama.cpp's documentation: whole answers, ``/v1/completions``, ``/tokenize``, ``/detokenize``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from loadtests.engines.emulator.speakers.common import (
    LAST_CHUNK,
    MARK,
    Answer,
    Ask,
    chunk,
    dumps,
    mark_metric,
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

__all__ = ["LlamaCppSpeaker"]

_TEMPLATE = 4  # tokens of the chat template a turn
_SSE, _JSON = "text/event-stream", "application/json; charset=utf-8"
_REASON = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 501: "Not Implemented",
    503: "Service Unavailable",
}  # fmt: skip
_APIS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "text",
    "/completion": "native",
    "/completions": "native",
}
_SWITCHED_OFF = {
    "/v1/embeddings": "embeddings", "/embeddings": "embeddings", "/embedding": "embeddings",
    "/v1/rerank": "reranking", "/rerank": "reranking",
    "/v1/reranking": "reranking", "/reranking": "reranking",
}  # fmt: skip


class LlamaCppSpeaker:
    """Speaks like ``llama-server``."""

    def __init__(self, settings: Settings, state: State) -> None:
        """For one server."""
        self.settings = settings
        self.state = state
        self.fingerprint = f"headroom-emulator-{settings.profile}"
        self._pages: dict[str, Callable[[], object]] = {
            "/health": lambda: {"status": "ok"},
            "/props": self._props,
            "/v1/models": self._models,
            "/models": self._models,
        }

    def head(
        self, status: int, content_type: str, *, length: int | None = None, close: bool = False
    ) -> bytes:
        """As cpp-httplib writes them."""
        end = "Connection: close" if close else "Keep-Alive: timeout=5, max=100"
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        streams = "X-Accel-Buffering: no\r\n" if length is None else ""
        return (
            f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}\r\nServer: llama.cpp\r\n"
            f"Access-Control-Allow-Origin: \r\n{streams}Content-Type: {content_type}\r\n"
            f"{framing}\r\n{end}\r\nX-Headroom-Emulator: {self.settings.profile}\r\n\r\n"
        ).encode("ascii")

    def read(self, request: Request) -> Answer | Ask:
        """A page, an error or a generation."""
        api = _APIS.get(request.path) if request.method == "POST" else None
        if api:
            return self._ask(request, api)
        if request.method == "POST" and request.path in {"/tokenize", "/detokenize"}:
            return self._tokenize(request)
        page = self._page(request) if request.method == "GET" else None
        if page is not None:
            return page
        if request.method == "POST" and (feature := _SWITCHED_OFF.get(request.path)):
            message = f"This server does not support {feature}. Start it with `--{feature}`"
            return self._error(501, "not_supported_error", message)
        return self._error(404, "not_found_error", "File Not Found")

    def refusal(self, status: int) -> Answer:
        """An error of that status."""
        return self._error(status, "server_error", "made by the emulator's fault rule")

    def busy(self) -> Answer:
        """Never so in llama.cpp, whose queue has no bound."""
        return self._error(503, "unavailable_error", "no slot is free")

    def _error(self, status: int, kind: str, message: str, **more: int) -> Answer:
        fields = {"code": status, "message": message, "type": kind, **more}
        return Answer(dumps({"error": fields}), status, _JSON, close=True)

    def _page(self, request: Request) -> Answer | None:
        if request.path == "/slots":
            slots = self._slots()
            if "fail_on_no_slot=1" in request.query and all(s["is_processing"] for s in slots):
                return self.busy()
            return Answer(dumps(slots), content_type=_JSON)
        if request.path == "/metrics":
            text = "".join(self._metrics())
            return Answer(text.encode(), content_type="text/plain; version=0.0.4")
        make = self._pages.get(request.path)
        return Answer(dumps(make()), content_type=_JSON) if make else None

    def _ask(self, request: Request, api: str) -> Answer | Ask:
        body = read_body(request)
        said: tuple[str, ...] = ()
        if body is not None and api == "chat":
            said = tuple(text_of(turn.content) for turn in body.messages or ())
        elif body is not None and body.prompt is not None:
            said = (text_of(body.prompt),)
        if body is None or not said:
            return self._error(400, "invalid_request_error", "the body is not a request")
        prompt = tokens_of(said, _TEMPLATE if api == "chat" else 0)
        most = self.settings.context_tokens
        if prompt >= most:
            message = (
                f"request ({prompt} tokens) exceeds the available context size ({most} tokens), "
                "try increasing it"
            )
            return self._error(
                400, "exceed_context_size_error", message, n_prompt_tokens=prompt, n_ctx=most
            )
        wanted = body.n_predict or body.max_tokens or body.max_completion_tokens
        if wanted is not None and wanted < 1:
            wanted = None  # -1: until the end of the answer
        output = min(wanted or self.settings.answer_tokens, most - prompt)
        finish = "length" if wanted or output < self.settings.answer_tokens else "stop"
        make = _Native if api == "native" else _OpenAi
        writer: Writer = make(self, body, said, finish, api)
        return Ask(
            said=said,
            prompt=prompt,
            output=output,
            finish=finish,
            stream=bool(body.stream),
            fixed=body.seed if body.temperature else 0,
            reuses=body.cache_prompt,
            writer=writer,
        )

    def _tokenize(self, request: Request) -> Answer:
        try:
            body = msgspec.json.decode(request.body)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return self._error(400, "invalid_request_error", "the body is not a request")
        if request.path == "/detokenize":
            return Answer(dumps({"content": ""}), content_type=_JSON)
        n = tokens_of((text_of(body.get("content", "")),), 0)
        return Answer(dumps({"tokens": list(range(n))}), content_type=_JSON)

    def _props(self) -> object:
        settings = self.settings
        page = recorded("llamacpp_props")
        page["default_generation_settings"]["n_ctx"] = settings.context_tokens
        page["total_slots"] = settings.engine.slots * settings.replicas
        page["model_alias"] = settings.model
        page["model_path"] = f"{MARK}/{settings.model}"
        page["build_info"] = MARK
        return page | {MARK: settings.profile}

    def _slots(self) -> list[dict[str, Any]]:
        settings = self.settings
        busy = recorded("llamacpp_slot")
        active = list(self.state.active)
        slots = []
        for number in range(settings.engine.slots * settings.replicas):
            slot = {"id": number, "n_ctx": settings.context_tokens, "speculative": False}
            if number < len(active):
                one = active[number]
                slot = busy | slot | {"is_processing": True, "id_task": one.number}
                slot["n_prompt_tokens"] = slot["n_prompt_tokens_processed"] = one.prompt
                left = one.output - one.made
                slot["next_token"] = [
                    busy["next_token"][0]
                    | {"has_next_token": True, "n_remain": left, "n_decoded": one.made}
                ]
            else:
                slot["is_processing"] = False
            slots.append(slot)
        return slots

    def _models(self) -> object:
        settings, page = self.settings, recorded("llamacpp_models")
        first, entry = page["models"][0], page["data"][0]
        first["name"] = first["model"] = entry["id"] = settings.model
        entry["aliases"] = [settings.model]
        entry["created"] = int(time.time())
        entry["meta"]["n_ctx"] = settings.context_tokens
        return page | {MARK: settings.profile}

    def _metrics(self) -> list[str]:
        state, fleet = self.state, self.state.fleet
        running = fleet.running
        new = state.prompt_tokens - state.cached_tokens
        values: dict[str, float] = {
            "prompt_tokens_total": new,
            "prompt_tokens_cached_total": state.cached_tokens,
            "prompt_seconds_total": state.prompt_s,
            "tokens_predicted_total": state.output_tokens,
            "tokens_predicted_seconds_total": state.decode_s,
            "n_decode_total": fleet.steps,
            "n_tokens_max": state.longest,
            "prompt_tokens_seconds": _rate(new, state.prompt_s),
            "predicted_tokens_seconds": _rate(state.output_tokens, state.decode_s),
            "requests_processing": running,
            "requests_deferred": fleet.in_flight - running,
            "n_busy_slots_per_decode": fleet.tokens / max(fleet.steps, 1),
        }
        lines = [
            f"# HELP llamacpp:{name} {words}\n# TYPE llamacpp:{name} {kind}\n"
            f"llamacpp:{name} {values.get(name, 0):.10g}\n"
            for name, kind, words in recorded("llamacpp_metrics")
        ]
        return [*lines, *mark_metric(self.settings.profile)]


def _rate(tokens: float, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def _timings(figures: Figures) -> dict[str, float]:
    new, prompt_ms, decode_ms = (
        figures.prompt - figures.cached, 1e3 * figures.prompt_s, 1e3 * figures.decode_s,
    )  # fmt: skip
    return {
        "cache_n": figures.cached,
        "prompt_n": new,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(new, 1),
        "prompt_per_second": _rate(new, figures.prompt_s),
        "predicted_n": figures.output,
        "predicted_ms": decode_ms,
        "predicted_per_token_ms": decode_ms / figures.output,
        "predicted_per_second": _rate(figures.output, figures.decode_s),
    }


class _Stream:
    """What both APIs have in common."""

    closes = True
    event = (b"data: ", b"\n\n")

    def __init__(
        self, speaker: LlamaCppSpeaker, body: Body, said: tuple[str, ...], finish: str, api: str
    ) -> None:
        self._speaker = speaker
        self._body = body
        self._said = said
        self._finish = finish
        self._api = api

    def accepted(self) -> bytes:
        """Nothing: who waits for a slot hears nothing."""
        return b""

    def started(self) -> bytes:
        """Headers, when the slot starts."""
        return self._speaker.head(200, _SSE)

    def error(self) -> bytes:
        """The engine's error, and the end."""
        fields = {"code": 500, "message": "made by the emulator's fault rule"}
        event = dumps({"error": fields | {"type": "server_error"}})
        return chunk(b"data: " + event + b"\n\n") + LAST_CHUNK


class _OpenAi(_Stream):
    """``/v1/chat/completions`` and ``/v1/completions``."""

    def __init__(
        self, speaker: LlamaCppSpeaker, body: Body, said: tuple[str, ...], finish: str, api: str
    ) -> None:
        super().__init__(speaker, body, said, finish, api)
        options = body.stream_options
        self._usage = bool(options and options.include_usage)
        self._chat = api == "chat"
        number, self._created = next(speaker.state.numbers), int(time.time())
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{number:032d}"
        self._object = "chat.completion" if self._chat else "text_completion"
        kind = "chat.completion.chunk" if self._chat else self._object
        self._tail = (
            f'],"created":{self._created},"id":"{self._id}","model":"{speaker.settings.model}",'
            f'"system_fingerprint":"{speaker.fingerprint}","object":"{kind}"'
        ).encode()

    def token(self, piece: str, *, last: bool, made: int) -> bytes:  # noqa: ARG002 - the protocol's
        """A chunk; before the first one that of the role."""
        if not self._chat:
            choice = (
                b'{"text":"' + piece.encode() + b'","index":0,"logprobs":null,"finish_reason":null}'
            )
            return self._chunk(choice)
        data = self._chunk(
            b'{"finish_reason":null,"index":0,"delta":{"content":"' + piece.encode() + b'"}}'
        )
        if made == 1:
            role = b'{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}'
            return self._chunk(role) + data
        return data

    def end(self, figures: Figures) -> bytes:
        """The finish chunk, usage with timings, the end mark."""
        timings = b',"timings":' + dumps(_timings(figures))
        choice = b'{"finish_reason":"%b","index":0,"delta":{}}' % self._finish.encode()
        if not self._chat:
            choice = (
                b'{"text":"","index":0,"logprobs":null,"finish_reason":"%b"}'
                % self._finish.encode()
            )
        data = self._chunk(choice, b"" if self._usage else timings)
        if self._usage:
            data += self._chunk(b"", b',"usage":' + dumps(self._usage_of(figures)) + timings)
        return data + chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""
        choice: dict[str, object] = {"finish_reason": self._finish, "index": 0}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice |= {"text": text, "logprobs": None}
        page = {
            "choices": [choice],
            "created": self._created,
            "model": self._speaker.settings.model,
            "system_fingerprint": self._speaker.fingerprint,
            "object": self._object,
            "usage": self._usage_of(figures),
            "id": self._id,
            "timings": _timings(figures),
        }
        return Answer(dumps(page), content_type=_JSON)

    def _chunk(self, choice: bytes, more: bytes = b"") -> bytes:
        return chunk(b'data: {"choices":[' + choice + self._tail + more + b"}\n\n")

    def _usage_of(self, figures: Figures) -> dict[str, object]:
        return {
            "completion_tokens": figures.output,
            "prompt_tokens": figures.prompt,
            "total_tokens": figures.prompt + figures.output,
            "prompt_tokens_details": {"cached_tokens": figures.cached},
        }


class _Native(_Stream):
    """``/completion``: no end mark, but a last event that says ``stop``."""

    def __init__(
        self, speaker: LlamaCppSpeaker, body: Body, said: tuple[str, ...], finish: str, api: str
    ) -> None:
        super().__init__(speaker, body, said, finish, api)
        self._prompt = tokens_of(said, 0)

    def token(self, piece: str, *, last: bool, made: int) -> bytes:  # noqa: ARG002 - the protocol's
        """A chunk."""
        return chunk(
            b'data: {"index":0,"content":"%b","tokens":[%d],"stop":false,"id_slot":-1,'
            b'"tokens_predicted":%d,"tokens_evaluated":%d}\n\n'
            % (piece.encode(), made, made, self._prompt)
        )

    def end(self, figures: Figures) -> bytes:
        """The event that says ``stop``."""
        return chunk(b"data: " + dumps(self._last("", [], figures)) + b"\n\n") + LAST_CHUNK

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""
        return Answer(dumps(self._last(text, [], figures)), content_type=_JSON)

    def _last(self, text: str, tokens: list[int], figures: Figures) -> dict[str, object]:
        settings = recorded("llamacpp_generation_settings")
        settings["max_tokens"] = settings["n_predict"] = figures.output
        settings["stream"] = bool(self._body.stream)
        return {
            "index": 0,
            "content": text,
            "tokens": tokens,
            "id_slot": 0,
            "stop": True,
            "model": self._speaker.settings.model,
            "tokens_predicted": figures.output,
            "tokens_evaluated": figures.prompt,
            "generation_settings": settings,
            "prompt": self._said[0],
            "has_new_line": False,
            "truncated": False,
            "stop_type": "limit" if self._finish == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": figures.prompt + figures.output - 1,
            "timings": _timings(figures),
            MARK: self._speaker.settings.profile,
        }
