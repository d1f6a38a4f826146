"""From events to a reply: the part of decoding that every dialect shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import msgspec

from loadtests.dialects.base import Reply
from planner.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.dialects.framing import JsonLines, ServerSentEvents
    from planner.records import TokenSource

__all__ = [
    "MAX_EVENTS",
    "MAX_TEXT_CHARS",
    "Count",
    "Counts",
    "Milliseconds",
    "Reason",
    "StreamDecoder",
    "Tally",
    "read_json",
]

MAX_EVENTS = 2**20
"""Content events that one reply may have."""

MAX_TEXT_CHARS = 16 * 2**20
"""Characters that one reply may have."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number of tokens in an event."""

Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
"""A duration in an event."""

Reason = Annotated[str, msgspec.Meta(max_length=300)]
"""A finish reason in an event."""

T = TypeVar("T")

_LEARN_AT_MOST = 8  # where it never helps: each event may hold a time or a number of its own
_NONE = b"\0"  # how no JSON begins

_BROKEN = frozenset({"bad_json", "bad_event"})  # what half an event looks like


class Counts(NamedTuple):
    """Token counts by one of the server's accounts."""

    prompt: int | None = None
    output: int | None = None
    cached: int | None = None


_UNCOUNTED = Counts()


class Tally:
    """What a stream has said so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.ends: list[int] = []
        self.finish_reason: str | None = None
        self.usage = self.timings = _UNCOUNTED
        self.server_queue_s: float | None = None
        self.server_prompt_s: float | None = None
        self.server_decode_s: float | None = None
        self.failure: tuple[str, str] | None = None
        self._text: list[str] = []
        self._chars = 0
        self._text_ends = 0  # content events up to the last one with text

    def content(self, end: int, text: str | None) -> None:
        """Add a content event and its visible text, if any.

        Raises:
            WireError: ``too_large``.
        """
        if len(self.ends) >= MAX_EVENTS:
            raise WireError("too_large", f"the reply has more than {MAX_EVENTS} content events")
        self.ends.append(end)
        if text:
            self._chars += len(text)
            if self._chars > MAX_TEXT_CHARS:
                raise WireError("too_large", f"the reply has more than {MAX_TEXT_CHARS} characters")
            self._text.append(text)
            self._text_ends = len(self.ends)

    def only_text_since(self, events: int) -> str | None:
        """The visible text of the one content event that came after so many, if it has one."""
        if len(self.ends) != events + 1 or self._text_ends != len(self.ends):
            return None
        return self._text[-1]

    def reply(self) -> Reply:
        """All of it, with the most trusted account of each count."""
        output, source = self._output()
        kind, message = self.failure or (None, None)
        return Reply(
            content_ends=tuple(self.ends),
            text="".join(self._text),
            finish_reason=self.finish_reason,
            prompt_tokens=_either(self.usage.prompt, self.timings.prompt),
            output_tokens=output,
            cached_tokens=_either(self.usage.cached, self.timings.cached),
            token_source=source,
            server_queue_s=self.server_queue_s,
            server_prompt_s=self.server_prompt_s,
            server_decode_s=self.server_decode_s,
            error_kind=kind,
            error=message,
        )

    def _output(self) -> tuple[int | None, TokenSource | None]:
        accounts: tuple[tuple[int | None, TokenSource], ...] = (
            (self.usage.output, "usage"),
            (self.timings.output, "timings"),
        )
        for count, source in accounts:
            # Zero tokens beside content that arrived is a server that does not count.
            if count is not None and (count > 0 or not self.ends):
                return count, source
        return (len(self.ends), "chunks") if self.ends else (None, None)


class StreamDecoder:
    """A framing, and a function that reads one event into the tally.

    The function gets the event's payload, its end and the tally; it returns True at the
    protocol's end mark, after which nothing is read any more, and raises WireError.
    """

    def __init__(
        self,
        framing: JsonLines | ServerSentEvents,
        read: Callable[[bytes, int, Tally], bool],
    ) -> None:
        """A decoder of one stream."""
        self._framing = framing
        self._read = read
        self._tally = Tally()
        self._like = _Likeness()
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if not self._over and self._framing.push(data):
            self._drain(final=False)

    def finish(self) -> Reply:
        """Say what the stream said."""
        if not self._over:
            self._drain(final=True)
        return self._tally.reply()

    def _drain(self, *, final: bool) -> None:
        try:
            self._over = self._read_events(final=final)
        except WireError as error:
            self._tally.failure = (error.kind, str(error))
            self._over = True
        if self._over:
            self._framing.clear()

    def _read_events(self, *, final: bool) -> bool:
        like, tally = self._like, self._tally
        for payload, end, whole in self._framing.events(final=final):
            if payload.startswith(like.before) and (text := like.text_of(payload)) is not None:
                tally.content(end, text)
                continue
            events = len(tally.ends)
            try:
                if self._read(payload, end, tally):
                    return True
            except WireError as error:
                if error.kind in _BROKEN and not whole:
                    raise WireError("truncated", "the stream broke off inside an event") from error
                raise
            if len(tally.ends) > events:
                like.learn(payload, tally.only_text_since(events))
            else:
                like.before = _NONE
        if final:
            raise WireError("truncated", "the stream broke off before its end mark")
        return False


class _Likeness:
    """Recognises events that differ from the one before in nothing but their text.

    Most events of a stream do, and comparing bytes costs a third of reading JSON. An event is
    learnt from when reading it gave one content event with text, and that text stands in it, in
    quotes, once: then it is the string that the text was read from, as long as no backslash could
    have written it otherwise. Another event with the same bytes around another plain string says
    the same with another text. It is forgotten at the next event that is read, so nothing that
    events set beside their text can come in between.

    Attributes:
        before: how an event begins that is like the one that was learnt.
    """

    __slots__ = ("_after", "_budget", "_start", "_stop", "before")

    def __init__(self) -> None:
        self.before = self._after = _NONE
        self._start = self._stop = 0
        self._budget = _LEARN_AT_MOST

    def text_of(self, payload: bytes) -> str | None:
        """The text of an event that is like the last one that was learnt; or ``None``."""
        if not (payload.startswith(self.before) and payload.endswith(self._after)):
            return None
        try:
            text = payload[self._start : self._stop].decode()
        except UnicodeDecodeError:
            return None
        # JSON wants control characters escaped.
        if not text or '"' in text or "\\" in text or not text.isprintable():
            return None
        self._budget += 1
        return text

    def learn(self, payload: bytes, text: str | None) -> None:
        """Learn from an event that was read, and whose only content was this text, if any."""
        self.before = _NONE
        if text is None or self._budget <= 0 or b"\\" in payload:
            return
        self._budget -= 1
        quoted = b'"%b"' % text.encode()
        before, found, after = payload.partition(quoted)
        if found and quoted not in after:
            self.before, self._after = before + b'"', b'"' + after
            self._start, self._stop = len(self.before), -len(self._after)


def read_json(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """Decode one event.

    Raises:
        WireError: ``bad_json`` or ``bad_event``.
    """
    try:
        return decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise WireError("bad_event", f"an event has a wrong shape: {error}") from error
    except (ValueError, RecursionError) as error:
        raise WireError("bad_json", f"an event is not JSON: {error}") from error


def _either(first: int | None, second: int | None) -> int | None:
    return second if first is None else first
