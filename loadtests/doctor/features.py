"""The questions that find out what a server's APIs can, one function each.

A question is a real request of at most ``MAX_TOKENS`` tokens, and its verdict rests on what came
back, not on the status alone: servers answer 200 to fields that they ignore. Where a constraint is
asked for (JSON), the prompt itself gives no reason to obey it, so that an answer which does shows
the constraint at work.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loadtests.dialects import DIALECTS, dialect_of
from loadtests.dialects.base import Chat, Message
from loadtests.targets import api_key
from planner.diagnosis import Capability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadtests.dialects.base import Reply
    from loadtests.doctor.asking import Answer, Asker, Verdict

__all__ = ["FEATURES", "MAX_TOKENS", "Feature", "Patient"]

MAX_TOKENS = 16
_OK = 200
_WANTS_KEY = frozenset({401, 403})
_CHAT = "/v1/chat/completions"
_PROMPT = "Look at the sea and tell me how it is."
_QUOTED = 32
_MOST_MODELS = 3  # how many names the evidence lists


@dataclass(kw_only=True)
class Patient:
    """The server that is looked at, and what is already known of it.

    Attributes:
        asker: asks it.
        model: the name by which its model is asked for.
        chat: the answer to a plain chat, which others are compared with.
        streamed: the answer to a streamed chat of the OpenAI API, and how to read it.
        cached_tokens: what the prefix cache gave for a repeated prompt; ``None``: not told.
    """

    asker: Asker
    model: str | None
    chat: Answer | None = field(default=None, init=False)
    cached_tokens: int | None = field(default=None, init=False)

    @functools.cached_property
    def streamed(self) -> tuple[Answer, Callable[[], Reply]]:
        """Asked once: two features rest on it."""
        return _stream(self, "openai")

    def ask_chat(self, *, with_key: bool = True, **more: Any) -> Answer:
        """The answer to a short greedy chat that is not streamed, with more fields."""
        plain: dict[str, Any] = {
            "messages": [{"role": "user", "content": _PROMPT}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
        }
        return self.asker.post(_CHAT, self.named(plain | more), with_key=with_key)

    def named(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a body with the model's name, where there is one."""
        return {**fields, "model": self.model} if self.model else dict(fields)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One row of the table of compatibility."""

    name: str
    title: str
    route: str
    probe: Callable[[Patient], Capability]


def _models(patient: Patient) -> Capability:
    answer = patient.asker.get("/v1/models")

    def judge() -> Verdict:
        listed = (answer.document or {}).get("data")
        if not isinstance(listed, list):
            return False, "the answer is no list of models"
        names = [str(m["id"]) for m in listed if isinstance(m, dict) and "id" in m]
        more = f" and {len(names) - _MOST_MODELS} more" if len(names) > _MOST_MODELS else ""
        return bool(names), ", ".join(names[:_MOST_MODELS]) + more or "the list is empty"

    return answer.capability("models", judge)


def _plain_chat(patient: Patient) -> Capability:
    patient.chat = answer = patient.ask_chat()

    def judge() -> Verdict:
        return _said(_content(answer))

    return answer.capability("chat", judge)


def _streaming(patient: Patient) -> Capability:
    answer, read = patient.streamed
    return answer.capability("streaming", lambda: _whole(read()))


def _whole(reply: Reply) -> Verdict:
    """Whether a stream came to its end as its protocol says."""
    if reply.error_kind is not None:
        return False, f"{reply.error_kind}: {reply.error}"
    return True, f"{len(reply.content_ends)} content events, ends with {reply.finish_reason}"


def _stream_usage(patient: Patient) -> Capability:
    answer, read = patient.streamed

    def judge() -> Verdict:
        reply = read()
        if reply.token_source == "usage":  # noqa: S105 - tokens of text
            return True, f"{reply.prompt_tokens} prompt and {reply.output_tokens} output tokens"
        return False, f"no usage in the stream; tokens are counted by {reply.token_source}"

    return answer.capability("stream_usage", judge)


def _native(patient: Patient) -> Capability:
    """The engine's own chat API, as a stream."""
    if (patient.asker.target.backend, "native") not in DIALECTS:
        return Capability(
            name="native_chat", supported=False, evidence="Headroom knows none for this kind"
        )
    answer, read = _stream(patient, "native")
    return answer.capability("native_chat", lambda: _whole(read()))


def _stream(patient: Patient, api: str) -> tuple[Answer, Callable[[], Reply]]:
    """The answer to a streamed chat, and how to read it."""
    target = patient.asker.target
    dialect = dialect_of(target.backend, api)
    message = Message(role="user", content=_PROMPT)
    chat = Chat(messages=(message,), model=patient.model, max_tokens=MAX_TOKENS, temperature=0)
    answer = patient.asker.send(dialect.encode(chat, api_key=api_key(target)))

    def read() -> Reply:
        decoder = dialect.decoder()
        decoder.feed(answer.body)
        return decoder.finish()

    return answer, read


def _completions(patient: Patient) -> Capability:
    fields = {"prompt": _PROMPT, "max_tokens": 1, "temperature": 0}
    answer = patient.asker.post("/v1/completions", patient.named(fields))

    def judge() -> Verdict:
        text = _choice(answer).get("text")
        return isinstance(
            text, str
        ), f"answers {_quoted(text)}" if text else "the answer has no text"

    return answer.capability("completions", judge)


def _responses(patient: Patient) -> Capability:
    fields = {"input": _PROMPT, "max_output_tokens": MAX_TOKENS}
    answer = patient.asker.post("/v1/responses", patient.named(fields))

    def judge() -> Verdict:
        output = (answer.document or {}).get("output")
        return isinstance(output, list), f"status {(answer.document or {}).get('status')}"

    return answer.capability("responses", judge)


def _embeddings(patient: Patient) -> Capability:
    answer = patient.asker.post("/v1/embeddings", patient.named({"input": "sea"}))

    def judge() -> Verdict:
        listed = (answer.document or {}).get("data")
        first = listed[0] if isinstance(listed, list) and listed else None
        vector = first.get("embedding") if isinstance(first, dict) else None
        if not isinstance(vector, list):
            return False, "the answer has no vector"
        return True, f"{len(vector)} dimensions"

    return answer.capability("embeddings", judge)


def _tools(patient: Patient) -> Capability:
    tool = {
        "type": "function",
        "function": {
            "name": "look_at_the_sea",
            "description": "Says how the sea is now.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
    answer = patient.ask_chat(tools=[tool], tool_choice="auto")

    def judge() -> Verdict:
        calls = _message(answer).get("tool_calls")
        if calls:
            return True, "the answer calls the tool"
        plain, given = _prompt_tokens(patient.chat), _prompt_tokens(answer)
        if plain is not None and plain == given:
            return False, f"accepted and dropped: the prompt has {plain} tokens with and without"
        if plain is not None and given is not None:
            grown = f"the tool takes {given - plain} tokens of the prompt"
            return True, f"{grown}; this answer makes no call"
        return None, "accepted; this answer makes no call"

    return answer.capability("tools", judge)


def _json_mode(patient: Patient) -> Capability:
    answer = patient.ask_chat(response_format={"type": "json_object"})
    return answer.capability("json_mode", lambda: _is_json(answer))


def _json_schema(patient: Patient) -> Capability:
    schema = {
        "type": "object",
        "properties": {"calm": {"type": "boolean"}},
        "required": ["calm"],
        "additionalProperties": False,
    }
    wanted = {"name": "sea", "strict": True, "schema": schema}
    answer = patient.ask_chat(response_format={"type": "json_schema", "json_schema": wanted})
    return answer.capability("json_schema", lambda: _is_json(answer, '"calm"'))


def _is_json(answer: Answer, key: str = "") -> Verdict:
    """Whether an answer to a prompt that says nothing of JSON begins as JSON (and has the key)."""
    text = _content(answer) or ""
    bare = text.lstrip()
    constrained = bare.startswith("{") and bare[1:].lstrip().startswith(key)
    return (
        constrained,
        f"{'answers' if constrained else 'accepted and ignored: answers'} {_quoted(text)}",
    )


def _logprobs(patient: Patient) -> Capability:
    answer = patient.ask_chat(logprobs=True, max_tokens=2)

    def judge() -> Verdict:
        found = _choice(answer).get("logprobs")
        tokens = found.get("content") if isinstance(found, dict) else None
        if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], dict):
            return False, "accepted and ignored"
        return True, f"first token {tokens[0].get('token')!r} at {tokens[0].get('logprob')}"

    return answer.capability("logprobs", judge)


def _cached_tokens(patient: Patient) -> Capability:
    """Whether usage tells what the prefix cache gave; the prompt was asked before."""
    answer = patient.ask_chat(max_tokens=1)

    def judge() -> Verdict:
        count = patient.cached_tokens = _cached(answer)
        if count is None:
            return False, "usage does not tell"
        return True, f"{count} of {_prompt_tokens(answer)} prompt tokens came from the cache"

    return answer.capability("cached_tokens", judge)


def _tokenize(patient: Patient) -> Capability:
    # llama.cpp reads content, vLLM prompt.
    fields = patient.named({"content": _PROMPT, "prompt": _PROMPT})
    answer = patient.asker.post("/tokenize", fields)

    def judge() -> Verdict:
        tokens = (answer.document or {}).get("tokens")
        if not isinstance(tokens, list):
            return False, "the answer has no tokens"
        return True, f"{len(tokens)} tokens"

    return answer.capability("tokenize", judge)


def _metrics(patient: Patient) -> Capability:
    answer = patient.asker.get("/metrics")

    def judge() -> Verdict:
        names = re.findall(r"^# TYPE (\S+)", answer.body.decode("utf-8", "replace"), re.MULTILINE)
        own = sum(name.startswith(("vllm:", "llamacpp:")) for name in names)
        return bool(names), f"{len(names)} metrics, {own} of them the engine's own"

    return answer.capability("metrics", judge)


def _health(patient: Patient) -> Capability:
    answer = patient.asker.get("/health")
    return answer.capability("health", lambda: (True, "answers"))


def _authentication(patient: Patient) -> Capability:
    """Whether a chat without a key is refused."""
    answer = patient.ask_chat(with_key=False, max_tokens=1)
    found = answer.capability("authentication", lambda: (False, "answers without a key"))
    if answer.status in _WANTS_KEY:
        evidence = "refuses a chat without a key"
        return msgspec.structs.replace(found, supported=True, evidence=evidence)
    # Another refusal says nothing of keys.
    return found if answer.status == _OK else msgspec.structs.replace(found, supported=None)


def _choice(answer: Answer) -> dict[str, Any]:
    choices = (answer.document or {}).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _message(answer: Answer) -> dict[str, Any]:
    found = _choice(answer).get("message")
    return found if isinstance(found, dict) else {}


def _content(answer: Answer) -> str | None:
    """The visible text, or the reasoning of a model that had not come to its answer."""
    message = _message(answer)
    for name in ("content", "reasoning_content", "reasoning"):
        if isinstance(text := message.get(name), str) and text:
            return text
    return "" if message else None


def _said(text: str | None) -> Verdict:
    return bool(text), f"answers {_quoted(text)}" if text else "the answer has no text"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def _usage(answer: Answer) -> dict[str, Any]:
    found = (answer.document or {}).get("usage")
    return found if isinstance(found, dict) else {}


def _prompt_tokens(answer: Answer | None) -> int | None:
    found = _usage(answer).get("prompt_tokens") if answer is not None else None
    return found if isinstance(found, int) else None


def _cached(answer: Answer) -> int | None:
    """Prompt tokens that came from the server's prefix cache, where its usage tells."""
    details = _usage(answer).get("prompt_tokens_details")
    found = details.get("cached_tokens") if isinstance(details, dict) else None
    return found if isinstance(found, int) else None


FEATURES: tuple[Feature, ...] = (
    Feature(name="models", title="list of models", route="/v1/models", probe=_models),
    Feature(name="chat", title="chat", route=_CHAT, probe=_plain_chat),
    Feature(name="streaming", title="chat, streamed", route=_CHAT, probe=_streaming),
    Feature(name="stream_usage", title="usage in the stream", route=_CHAT, probe=_stream_usage),
    Feature(name="tools", title="tool calls", route=_CHAT, probe=_tools),
    Feature(name="json_mode", title="JSON mode", route=_CHAT, probe=_json_mode),
    Feature(name="json_schema", title="JSON by a schema", route=_CHAT, probe=_json_schema),
    Feature(name="logprobs", title="log probabilities", route=_CHAT, probe=_logprobs),
    Feature(name="cached_tokens", title="cached tokens told", route=_CHAT, probe=_cached_tokens),
    Feature(name="completions", title="text completion", route="/v1/completions",
            probe=_completions),
    Feature(name="responses", title="responses", route="/v1/responses", probe=_responses),
    Feature(name="embeddings", title="embeddings", route="/v1/embeddings", probe=_embeddings),
    Feature(name="native_chat", title="the engine's own chat", route="", probe=_native),
    Feature(name="tokenize", title="tokenizer", route="/tokenize", probe=_tokenize),
    Feature(name="metrics", title="metrics (Prometheus)", route="/metrics", probe=_metrics),
    Feature(name="health", title="health", route="/health", probe=_health),
    Feature(name="authentication", title="wants an API key", route=_CHAT, probe=_authentication),
)  # fmt: skip
"""Every question, in the order in which it is asked: the plain chat before what it is compared
with. A new one is one function and one entry."""
