"""Small bounded questions to one server; every outcome is a value, none an exception."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from loadtests.dialects.base import HttpCall
from loadtests.dialects.failures import http_error
from loadtests.measure.inquiry import clean
from loadtests.stream import Clock, Exchange, StreamClient, Timeouts
from loadtests.targets import api_key
from planner.diagnosis import Capability

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from loadtests.targets import Target

__all__ = ["Answer", "Asker", "Verdict"]

MAX_ANSWER_BYTES = 4 * 2**20
_OK = 200
_NOT_NOW = frozenset({401, 403, 408, 425, 429, 502, 503, 504})
"""Answers that say something of the moment or of the key, nothing of the server's abilities."""
_SHORTEST_S = 0.5
_EVIDENCE_CHARACTERS = 120

Verdict = tuple[bool | None, str]
"""Whether something is supported, and the evidence in a few words."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back to one question.

    Attributes:
        exchange: the bytes; ``None`` when the time for all questions was used up before this one.
    """

    exchange: Exchange | None

    @property
    def status(self) -> int | None:
        """The HTTP status of a whole answer."""
        exchange = self.exchange
        return None if exchange is None or exchange.failure is not None else exchange.status

    @property
    def body(self) -> bytes:
        """The body; empty without an answer."""
        return b"" if self.exchange is None else self.exchange.body

    @property
    def document(self) -> dict[str, Any] | None:
        """The body as a JSON object, if it is one."""
        try:
            found = msgspec.json.decode(self.body)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def capability(self, name: str, judge: Callable[[], Verdict]) -> Capability:
        """What the answer says of a capability; ``judge`` is asked for a 200 alone."""
        supported, evidence = judge() if self.status == _OK else self._refusal()
        return Capability(
            name=name,
            supported=supported,
            status=self.status,
            evidence=clean(evidence)[:_EVIDENCE_CHARACTERS].rstrip(),
        )

    def _refusal(self) -> Verdict:
        if self.exchange is None:
            return None, "not asked: the time for this server was used up"
        if self.exchange.failure is not None:
            kind, message = self.exchange.failure
            return None, f"no whole answer ({kind}): {message}"
        status = self.exchange.status or 0
        _, message = http_error(status, self.body)
        # The status has a place of its own.
        said = message.removeprefix(f"HTTP {status}: ")
        return (None if status in _NOT_NOW else False), said


class Asker:
    """Asks one server, each question on a connection of its own, until the time is used up."""

    def __init__(self, target: Target, timeouts: Timeouts, within_s: float) -> None:
        """Ask a target for at most so many seconds in all."""
        self.target = target
        self._timeouts = timeouts
        self._ends_s = time.monotonic() + within_s

    def get(self, path: str) -> Answer:
        """The answer to a GET."""
        return self.send(HttpCall(method="GET", path=path, headers=self._headers(), body=b""))

    def post(self, path: str, fields: Mapping[str, Any], *, with_key: bool = True) -> Answer:
        """The answer to a POST of JSON."""
        headers = (*self._headers(with_key=with_key), ("Content-Type", "application/json"))
        body = msgspec.json.encode(fields)
        return self.send(HttpCall(method="POST", path=path, headers=headers, body=body))

    def send(self, call: HttpCall) -> Answer:
        """The answer to a call."""
        left_s = self._ends_s - time.monotonic()
        if left_s < _SHORTEST_S:
            return Answer(exchange=None)
        total_s = min(left_s, self._timeouts.total_s or left_s)
        timeouts = Timeouts(
            connect_s=min(self._timeouts.connect_s, left_s),
            first_byte_s=min(self._timeouts.first_byte_s, left_s),
            idle_s=min(self._timeouts.idle_s, left_s),
            total_s=total_s,
        )
        client = StreamClient(
            self.target.endpoint, Clock(), timeouts, max_body_bytes=MAX_ANSWER_BYTES
        )
        return Answer(exchange=client.exchange(call))

    def _headers(self, *, with_key: bool = True) -> tuple[tuple[str, str], ...]:
        key = api_key(self.target) if with_key else None
        plain = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "headroom"))
        return plain if key is None else (*plain, ("Authorization", f"Bearer {key}"))
