"""One greedy answer, with its tokens where the server tells them.

The chat goes out as any other, with two things added: log probabilities, because they name each
token, and a repeat penalty of 1, because engines have different ones by default and a penalty
changes which token is the likeliest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from loadtests.dialects import dialect_of
from loadtests.dialects.base import Chat, Message
from loadtests.dialects.framing import JsonLines, ServerSentEvents
from loadtests.measure.inquiry import clean
from loadtests.stream import Clock, StreamClient, Timeouts
from loadtests.targets import api_key
from planner.errors import WireError
from planner.parity import Answer, token_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtests.dialects.base import HttpCall, Reply
    from loadtests.targets import Target

__all__ = ["ANSWER_TIMEOUTS", "Greedy", "tokens_of"]

ANSWER_TIMEOUTS = Timeouts(first_byte_s=300.0, idle_s=120.0, total_s=600.0)

_OK = 200
_PENALTY = {
    ("llamacpp", "openai"): "repeat_penalty",
    ("llamacpp", "native"): "repeat_penalty",
    ("vllm", "openai"): "repetition_penalty",
}


class Greedy:
    """Asks one server at temperature 0 with a fixed seed."""

    def __init__(
        self,
        target: Target,
        model: str | None,
        *,
        max_tokens: int,
        seed: int,
        timeouts: Timeouts = ANSWER_TIMEOUTS,
    ) -> None:
        """Prepare; nothing is asked yet."""
        self._target = target
        self._model = model
        self._max_tokens = max_tokens
        self._seed = seed
        self._timeouts = timeouts
        self._dialect = dialect_of(target.backend, target.api)
        self._plain = False  # the server refuses what we add

    def ask(self, prompt: str) -> Answer | str:
        """The answer, or why there is no whole one.

        Raises:
            InputError: the prompt cannot be sent.
        """
        found, kind = self._ask(prompt)
        if kind == "bad_request" and not self._plain:
            self._plain = True
            found, _ = self._ask(prompt)
        return found

    def _ask(self, prompt: str) -> tuple[Answer | str, str | None]:
        """The answer or the failure, and the failure's kind."""
        chat = Chat(
            messages=(Message(role="user", content=prompt),),
            model=self._model,
            max_tokens=self._max_tokens,
            temperature=0.0,
            seed=self._seed,
            ignore_eos=False,
        )
        call = self._dialect.encode(chat, api_key=api_key(self._target))
        if not self._plain:
            call = self._with_tokens(call)
        exchange = StreamClient(self._target.endpoint, Clock(), self._timeouts).exchange(call)
        if exchange.failure is not None:
            kind, message = exchange.failure
            return f"{kind}: {clean(message)}", kind
        if exchange.status != _OK:
            kind, message = self._dialect.error(exchange.status or 0, exchange.body)
            return f"{kind}: {clean(message)}", kind
        decoder = self._dialect.decoder()
        decoder.feed(exchange.body)
        reply = decoder.finish()
        if reply.error_kind is not None:
            return f"{reply.error_kind}: {clean(reply.error)}", reply.error_kind
        return _answer(reply, tokens_of(exchange.body)), None

    def _with_tokens(self, call: HttpCall) -> HttpCall:
        """The call with log probabilities and without a repeat penalty."""
        fields: dict[str, Any] = msgspec.json.decode(call.body)
        way = (self._target.backend, self._target.api)
        if way != ("llamacpp", "native"):  # that one names its tokens by number alone
            fields["logprobs"] = True
        if way in _PENALTY:
            fields[_PENALTY[way]] = 1.0
        if way == ("ollama", "native"):
            fields["options"]["repeat_penalty"] = 1.0
        return msgspec.structs.replace(call, body=msgspec.json.encode(fields))


def _answer(reply: Reply, tokens: tuple[bytes, ...]) -> Answer:
    return Answer(
        text=reply.text,
        tokens=token_texts(tokens, reply.text) if tokens or not reply.text else None,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.output_tokens,
    )


_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class _Token(msgspec.Struct):
    token: str = ""
    bytes: list[_Byte] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Choice(msgspec.Struct):
    logprobs: _Logprobs | None = None


class _Event(msgspec.Struct):
    """An event of the OpenAI API, or a line of Ollama's own."""

    choices: list[_Choice] | None = None
    logprobs: list[_Token] | None = None


_EVENT = msgspec.json.Decoder(_Event)


def tokens_of(body: bytes) -> tuple[bytes, ...]:
    """The tokens that a stream names in its log probabilities; empty if it names none."""
    named = (token for event in _events(body) for token in _named(event))
    return tuple(
        token.token.encode("utf-8", "surrogatepass") if token.bytes is None else bytes(token.bytes)
        for token in named
    )


def _named(event: _Event) -> Iterator[_Token]:
    yield from event.logprobs or ()
    for choice in event.choices or ():
        if choice.logprobs is not None:
            yield from choice.logprobs.content or ()


def _events(body: bytes) -> Iterator[_Event]:
    """The events that can be read; the dialect's decoder has judged the stream already."""
    framing = JsonLines() if body.lstrip().startswith(b"{") else ServerSentEvents()
    framing.push(body)
    try:
        for payload, _, _ in framing.events(final=True):
            try:
                yield _EVENT.decode(payload)
            except (ValueError, RecursionError):
                continue
    except WireError:
        return
