"""What the speakers share: a request as it was read, an answer, framing, the mark."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from email.utils import formatdate
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from loadtests.engines.emulator.settings import Settings
    from loadtests.engines.emulator.state import State

__all__ = [
    "LAST_CHUNK",
    "MARK",
    "PIECES",
    "Answer",
    "Ask",
    "Body",
    "Figures",
    "Options",
    "Request",
    "Speaker",
    "Writer",
    "chunk",
    "dumps",
    "http_date",
    "mark_metric",
    "read_body",
    "recorded",
    "text_of",
    "tokens_of",
]

MARK = "headroom_emulator"
"""The key that says so in JSON answers; as a header ``X-Headroom-Emulator``."""

LAST_CHUNK = b"0\r\n\r\n"

PIECES: tuple[str, ...] = tuple(
    f" {word}" for word in (files("loadtests.traffic") / "words.txt").read_text("ascii").split()
)
"""What tokens read like: a word each, and no two the same for a long time, because Ollama and
others cut off an answer that repeats itself."""

_RECORDED: dict[str, Any] = msgspec.json.decode(
    (files("loadtests.engines.emulator") / "recorded.json").read_bytes()
)

dumps = msgspec.json.encode


@dataclass(slots=True)
class Request:
    """One HTTP request, read whole."""

    method: str
    path: str
    query: str
    body: bytes
    arrival_s: float  # when its last byte was read


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    close: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the end of an answer tells of it. Times in seconds."""

    prompt: int
    cached: int
    output: int
    queue_s: float
    prompt_s: float
    decode_s: float
    load_s: float

    @property
    def total_s(self) -> float:
        """From arrival to the last token."""
        return self.queue_s + self.prompt_s + self.decode_s + self.load_s


class Options(msgspec.Struct):
    """Ollama's options."""

    num_predict: int | None = None
    seed: int | None = None
    temperature: float | None = None


class StreamOptions(msgspec.Struct):
    """OpenAI's options of a stream."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Turn(msgspec.Struct):
    """One message."""

    role: str = "user"
    content: Any = None


class Body(msgspec.Struct):
    """The fields of a generation request that all servers together know; others are ignored."""

    model: str | None = None
    messages: list[Turn] | None = None
    prompt: Any = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n_predict: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    options: Options | None = None
    temperature: float | None = None
    seed: int | None = None
    truncate: bool = True
    cache_prompt: bool = True
    keep_alive: Any = None
    tools: list[Any] | None = None
    tool_choice: Any = None


@dataclass(slots=True, kw_only=True)
class Ask:
    """A generation that was asked for.

    Attributes:
        said: what was said so far, for the prefix cache: one text a turn.
        prompt: prompt tokens.
        output: tokens to generate.
        finish: why it will end there: ``stop`` or ``length``.
        stream: whether the answer streams.
        fixed: whether the same request gets the same words (temperature 0, or a seed).
        reuses: whether the prefix cache may be used.
        writer: writes the answer.
    """

    said: tuple[str, ...]
    prompt: int
    output: int
    finish: str
    stream: bool
    fixed: int | None
    reuses: bool
    writer: Writer


class Writer(Protocol):
    """Writes one answer. All bytes are framed for the wire."""

    closes: bool
    """Whether the server closes the connection after a stream."""
    event: tuple[bytes, bytes]
    """What stands before and after the JSON of an event."""

    def accepted(self) -> bytes:
        """What is sent when the request is queued."""

    def started(self) -> bytes:
        """What is sent when it gets its slot."""

    def token(self, piece: str, *, last: bool, made: int) -> bytes:
        """What is sent for a token; ``made`` counts it."""

    def end(self, figures: Figures) -> bytes:
        """What is sent after the last token."""

    def error(self) -> bytes:
        """What is sent when the engine fails half-way."""

    def whole(self, text: str, figures: Figures) -> Answer:
        """The answer that does not stream."""


class Speaker(Protocol):
    """One kind of server."""

    def read(self, request: Request) -> Answer | Ask:
        """A page, an error, or the generation that the request asks for."""

    def head(
        self, status: int, content_type: str, *, length: int | None = None, close: bool = False
    ) -> bytes:
        """Response headers; without a length the body comes in chunks."""

    def refusal(self, status: int) -> Answer:
        """An error of that status, in this server's words."""

    def busy(self) -> Answer:
        """The answer to a request that the queue has no room for."""


class SpeakerMaker(Protocol):
    """Makes the speaker of one kind."""

    def __call__(self, settings: Settings, state: State) -> Speaker:
        """For one server."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def recorded(name: str) -> Any:
    """A copy of a recorded document."""
    return copy.deepcopy(_RECORDED[name])


_date: tuple[int, str] = (0, "")


def http_date() -> str:
    """The Date header of now."""
    global _date  # noqa: PLW0603 - once a second is enough
    second = int(time.time())
    if second != _date[0]:
        _date = (second, formatdate(second, usegmt=True))
    return _date[1]


def mark_metric(profile: str) -> tuple[str, ...]:
    """The mark on a page of metrics."""
    return (f"# TYPE {MARK}_info gauge\n", f'{MARK}_info{{profile="{profile}"}} 1.0\n')


def read_body(request: Request) -> Body | None:
    """The request's JSON; None if it is none, or of another shape."""
    try:
        return msgspec.json.decode(request.body, type=Body, strict=False)
    except (ValueError, RecursionError):
        return None


def text_of(content: Any) -> str:
    """The text of a message or prompt, whose parts may stand in a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(text_of(part) for part in content)
    if isinstance(content, dict):
        return text_of(content.get("text", ""))
    return ""


def tokens_of(said: tuple[str, ...], template: int) -> int:
    """Tokens of a conversation: a token a word, or a token for 12 characters, whichever is more.

    Args:
        said: one text a turn.
        template: tokens that the chat template adds to each.
    """
    return sum(max(text.count(" ") + 1, len(text) // 12) + template for text in said)
