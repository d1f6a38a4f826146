"""vLLM 0.32: uvicorn's headers, the finish reason on the last content chunk, errors inside a 200.

Recorded: the streamed chat, ``/v1/models``, the names and buckets of ``/metrics``, the refusals of
tools and of paths that it does not have. By vLLM's documentation: ``/v1/completions``, whole
answers, other errors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from loadtests.engines.emulator.speakers.common import (
    LAST_CHUNK,
    MARK,
    Answer,
    Ask,
    Body,
    chunk,
    dumps,
    http_date,
    mark_metric,
    read_body,
    recorded,
    text_of,
    tokens_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.engines.emulator.settings import Settings
    from loadtests.engines.emulator.speakers.common import Figures, Request, Writer
    from loadtests.engines.emulator.state import State

__all__ = ["VllmSpeaker"]

VERSION = "0.32.0"
_TEMPLATE = 4  # tokens of the chat template a turn
_APIS = {"/v1/chat/completions": "chat", "/v1/completions": "text"}
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_SSE = "text/event-stream; charset=utf-8"
_REASON = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


class VllmSpeaker:
    """Speaks like ``vllm serve``."""

    def __init__(self, settings: Settings, state: State) -> None:
        """For one server."""
        self.settings = settings
        self.state = state
        self.started_s = int(time.time())
        self.fingerprint = f"headroom-emulator-{settings.profile}"
        version = {"version": f"{VERSION}+{MARK}", MARK: settings.profile}
        self._pages: dict[str, Callable[[], Answer]] = {
            "/v1/models": lambda: Answer(dumps(self._models())),
            "/version": lambda: Answer(dumps(version)),
            "/health": lambda: Answer(b"", content_type=""),
            "/load": lambda: Answer(dumps({"server_load": state.fleet.in_flight})),
            "/metrics": lambda: Answer("".join(self._metrics()).encode(), content_type=_PROMETHEUS),
        }

    def head(
        self, status: int, content_type: str, *, length: int | None = None, close: bool = False
    ) -> bytes:
        """As uvicorn writes them."""
        framing = "vary: Origin\r\ntransfer-encoding: chunked"
        kind = f"content-type: {content_type}\r\n" if content_type else ""
        if length is not None:
            framing = f"content-length: {length}"
        end = "connection: close\r\n" if close else ""
        return (
            f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}\r\ndate: {http_date()}\r\n"
            f"server: uvicorn\r\n{kind}{framing}\r\n"
            f"x-headroom-emulator: {self.settings.profile}\r\n{end}\r\n"
        ).encode("ascii")

    def read(self, request: Request) -> Answer | Ask:
        """A page, an error or a generation."""
        if request.method == "POST" and request.path in _APIS:
            return self._ask(request, chat=_APIS[request.path] == "chat")
        page = self._pages.get(request.path) if request.method == "GET" else None
        if page is not None:
            return page()
        return Answer(dumps({"detail": "Not Found"}), 404)

    def refusal(self, status: int) -> Answer:
        """An error of that status."""
        return self._error(status, "InternalServerError", "made by the emulator's fault rule", None)

    def busy(self) -> Answer:
        """The queue is full."""
        return self._error(
            503, "ServiceUnavailableError", "The server is overloaded: its queue is full.", None
        )

    def _error(self, status: int, kind: str, message: str, param: str | None) -> Answer:
        fields = {"message": message, "type": kind, "param": param, "code": status}
        return Answer(dumps({"error": fields}), status)

    def _ask(self, request: Request, *, chat: bool) -> Answer | Ask:
        body = read_body(request)
        said = _said(body, chat=chat) if body else None
        if body is None or said is None:
            return self._error(400, "BadRequestError", "the body is not a request", None)
        model, most = self.settings.model, self.settings.context_tokens
        if body.model not in {None, model}:
            message = f"The model `{body.model}` does not exist."
            return self._error(404, "NotFoundError", message, "model")
        if chat and body.tools and body.tool_choice != "none":
            return self._error(400, "BadRequestError", _no_tools(body.tool_choice), None)
        prompt = tokens_of(said, _TEMPLATE if chat else 0)
        wanted = body.max_completion_tokens or body.max_tokens
        output = wanted or min(self.settings.answer_tokens, most - prompt)
        if output < 1 or prompt + output > most:
            message = (
                f"This model's maximum context length is {most} tokens. However, you requested "
                f"{max(output, 0)} output tokens and your prompt contains {prompt} input tokens."
            )
            return self._error(400, "BadRequestError", message, "input_tokens")
        fixed = body.seed if body.temperature else 0
        writer: Writer = _Stream(
            self, body, prompt, chat=chat, finish="length" if wanted else "stop"
        )
        return Ask(
            said=said,
            prompt=prompt,
            output=output,
            finish="length" if wanted else "stop",
            stream=bool(body.stream),
            fixed=fixed,
            reuses=True,
            writer=writer,
        )

    def _models(self) -> object:
        page = recorded("vllm_models")
        entry = page["data"][0]
        entry["id"] = entry["root"] = self.settings.model
        entry["created"] = entry["permission"][0]["created"] = int(time.time())
        entry["max_model_len"] = self.settings.context_tokens
        return page | {MARK: self.settings.profile}

    def _metrics(self) -> list[str]:
        state, fleet = self.state, self.state.fleet
        labels = f'engine="0",model_name="{self.settings.model}"'
        running, lines = fleet.running, []
        samples = (
            ("num_requests_running", "gauge", running),
            ("num_requests_waiting", "gauge", fleet.in_flight - running),
            ("kv_cache_usage_perc", "gauge", fleet.kv_share),
            ("prefix_cache_queries_total", "counter", state.prompt_tokens),
            ("prefix_cache_hits_total", "counter", state.cached_tokens),
            ("num_preemptions_total", "counter", fleet.preemptions),
            ("prompt_tokens_total", "counter", state.prompt_tokens),
            ("generation_tokens_total", "counter", fleet.tokens),
        )
        for name, kind, value in samples:
            lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{{{labels}}} {float(value)}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, n in state.finished.items():
            where = labels.replace(",", f',finished_reason="{reason}",', 1)
            lines.append(f"vllm:request_success_total{{{where}}} {float(n)}")
        for name, histogram in (
            ("time_to_first_token_seconds", state.ttft),
            ("inter_token_latency_seconds", state.itl),
            ("e2e_request_latency_seconds", state.e2e),
            ("request_queue_time_seconds", state.queue),
            ("request_prefill_time_seconds", state.prefill),
            ("request_decode_time_seconds", state.decode),
        ):
            lines += histogram.lines(f"vllm:{name}", labels)
        own = [f"{line}\n" for line in (*lines, *self._cache_config())]
        return [*own, *mark_metric(self.settings.profile)]

    def _cache_config(self) -> list[str]:
        engine = self.settings.engine
        known = recorded("vllm_cache_config") | {
            "block_size": str(engine.kv_block_tokens),
            "enable_prefix_caching": str(engine.prefix_caching),
        }
        if engine.kv_tokens is not None:
            known["kv_cache_size_tokens"] = str(engine.kv_tokens)
            known["num_gpu_blocks"] = str(engine.kv_tokens // engine.kv_block_tokens)
        known["engine"] = "0"
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(known.items()))
        return [
            "# TYPE vllm:cache_config_info gauge",
            f"vllm:cache_config_info{{{labels}}} 1.0",
        ]


def _no_tools(choice: object) -> str:
    """What it says of tools without a parser for their calls."""
    if choice in {None, "auto"}:
        return (
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )
    shown = "required" if choice == "required" else "named"
    return f'tool_choice="{shown}" requires --tool-call-parser to be set'


def _said(body: Body, *, chat: bool) -> tuple[str, ...] | None:
    if chat:
        return tuple(text_of(turn.content) for turn in body.messages) if body.messages else None
    return (text_of(body.prompt),) if body.prompt else None


class _Stream:
    """One answer, as server-sent events or whole."""

    closes = False
    event = (b"data: ", b"\n\n")

    def __init__(
        self, speaker: VllmSpeaker, body: Body, prompt: int, *, chat: bool, finish: str
    ) -> None:
        self._speaker = speaker
        self._chat = chat
        self._finish = finish
        self._prompt = prompt
        options = body.stream_options
        self._usage = bool(options and options.include_usage)
        self._usage_always = self._usage and bool(options and options.continuous_usage_stats)
        number = next(speaker.state.numbers)
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{number:016x}"
        self._created = int(time.time())
        kind = "chat.completion.chunk" if chat else "text_completion"
        model = speaker.settings.model
        self._front = (
            f'data: {{"id":"{self._id}","object":"{kind}","created":{self._created},'
            f'"model":"{model}","choices":['
        ).encode()
        self._before = b'{"index":0,"delta":{"content":"' if chat else b'{"index":0,"text":"'
        end = b'"}' if chat else b'"'
        self._after = end + b',"logprobs":null,"finish_reason":null,"token_ids":null}]'
        self._final = (
            end
            + f',"logprobs":null,"finish_reason":"{finish}","stop_reason":null'.encode()
            + b',"token_ids":null}]'
        )

    def accepted(self) -> bytes:
        """Headers at once, even while it waits."""
        return self._speaker.head(200, _SSE)

    def started(self) -> bytes:
        """Nothing: the role comes with the first token."""
        return b""

    def token(self, piece: str, *, last: bool, made: int) -> bytes:
        """A chunk; before the first one that of the role."""
        after = self._final if last else self._after
        usage = self._usage_of(made) if self._usage_always else b""
        data = chunk(self._front + self._before + piece.encode() + after + usage + b"}\n\n")
        if made == 1 and self._chat:
            role = (
                b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
                b'"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null'
            )
            usage = self._usage_of(0) if self._usage_always else b""
            return chunk(self._front + role + usage + b"}\n\n") + data
        return data

    def end(self, figures: Figures) -> bytes:
        """Usage, where it was asked for, and the end mark."""
        usage = b""
        if self._usage:
            mark = f',"system_fingerprint":"{self._speaker.fingerprint}"}}\n\n'.encode()
            usage = chunk(self._front + b"]" + self._usage_of(figures.output) + mark)
        return usage + chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    def error(self) -> bytes:
        """As when the engine is killed: an error, and still the end mark."""
        fields = {
            "message": "EngineCore encountered an issue. (made by the emulator's fault rule)",
            "type": "InternalServerError",
            "param": None,
            "code": 500,
        }
        event = b"data: " + dumps({"error": fields}) + b"\n\n"
        return chunk(event) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""
        choice: dict[str, object] = {"index": 0}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        choice |= {"logprobs": None, "finish_reason": self._finish, "stop_reason": None}
        return Answer(
            dumps(
                {
                    "id": self._id,
                    "object": "chat.completion" if self._chat else "text_completion",
                    "created": self._created,
                    "model": self._speaker.settings.model,
                    "choices": [choice],
                    "usage": {
                        "prompt_tokens": figures.prompt,
                        "total_tokens": figures.prompt + figures.output,
                        "completion_tokens": figures.output,
                    },
                    "system_fingerprint": self._speaker.fingerprint,
                }
            )
        )

    def _usage_of(self, output: int) -> bytes:
        prompt = self._prompt
        return (
            f',"usage":{{"prompt_tokens":{prompt},"total_tokens":{prompt + output},'
            f'"completion_tokens":{output}}}'
        ).encode()
