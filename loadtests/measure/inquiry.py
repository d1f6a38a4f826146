"""Asking one target about itself: small bounded requests, each failure translated into one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from loadtests.dialects.base import HttpCall
from loadtests.stream import Clock, StreamClient, Timeouts
from loadtests.targets import api_key, key_variables
from planner.errors import TargetError

if TYPE_CHECKING:
    from loadtests.stream import Exchange
    from loadtests.targets import Target

__all__ = ["EMULATOR_HEADER", "INQUIRY_TIMEOUTS", "Inquiry", "clean"]

INQUIRY_TIMEOUTS = Timeouts(connect_s=5.0, first_byte_s=20.0, idle_s=10.0, total_s=30.0)

EMULATOR_HEADER = "x-headroom-emulator"
"""Headroom's emulator names its profile in every answer."""

_MAX_ANSWER_BYTES = 8 * 2**20
_OK, _UNAUTHORIZED, _FORBIDDEN, _UNAVAILABLE = 200, 401, 403, 503
_LONGEST = 200
_UNREACHABLE = ("dns", "connect", "timeout_connect")

T = TypeVar("T")


def clean(value: object) -> str:
    """Text from a server as one bounded, printable line."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: 4 * _LONGEST])
    return " ".join(text.split())[:_LONGEST].rstrip()


@dataclass(frozen=True)
class Inquiry:
    """Questions to one target, one connection each."""

    target: Target
    timeouts: Timeouts = INQUIRY_TIMEOUTS
    marks: set[str] = field(default_factory=set, compare=False)
    """Profiles that answers were marked with: who marks its answers is an emulator."""

    def ask(self, path: str, answer: type[T]) -> T | None:
        """The JSON answer to a GET; ``None`` if the server has no such page or a key is missing.

        Raises:
            TargetError: unreachable, no HTTP, still loading.
        """
        body = self.text(path)
        if body is None:
            return None
        try:
            return msgspec.json.decode(body, type=answer, strict=False)
        except (msgspec.DecodeError, RecursionError):
            return None

    def demand(self, path: str, answer: type[T]) -> T:
        """The JSON answer to a GET that this kind of server must give.

        Raises:
            TargetError: as :meth:`ask`; also a missing key and an unreadable answer.
        """
        exchange = self._get(path)
        if exchange.status != _OK:
            raise self._refused(path, exchange)
        try:
            return msgspec.json.decode(exchange.body, type=answer, strict=False)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self.fault(f"answers {path} with something unreadable: {clean(error)}") from error

    def text(self, path: str) -> bytes | None:
        """The body of a 200 answer to a GET, else ``None``."""
        exchange = self._get(path)
        return exchange.body if exchange.status == _OK else None

    def wants_key(self, path: str) -> bool:
        """Whether the server refuses the page for lack of a (right) key."""
        return self._get(path).status in {_UNAUTHORIZED, _FORBIDDEN}

    def fault(self, what: str) -> TargetError:
        """An error that names the target and its address."""
        return TargetError(f"target {self.target.name!r} ({self.target.url}) {what}")

    def key_fault(self, status: int | None) -> TargetError:
        """The error for a missing or refused key."""
        variables = key_variables(self.target)
        if api_key(self.target) is None:
            remedy = f"set it in the environment variable {' or '.join(variables)}"
            return self.fault(f"wants an API key (HTTP {status}): {remedy}")
        return self.fault(
            f"refuses the API key (HTTP {status}): correct it in {' or '.join(variables)}"
        )

    def network_fault(self, exchange: Exchange) -> TargetError:
        """The error for an exchange that failed."""
        kind, message = exchange.failure or ("", "")
        why = clean(message)
        if kind in _UNREACHABLE:
            return self.fault(
                f"cannot be reached ({why}): is the server running, "
                f"and are scheme, host and port right?"
            )
        if kind == "tls":
            return self.fault(f"cannot be spoken to over TLS ({why}): is it http:// ?")
        if kind.startswith("timeout"):
            return self.fault(f"does not answer ({why}): is it overloaded, or the wrong port?")
        if exchange.status is not None:
            return self.fault(f"breaks off in the middle of an answer ({kind}: {why})")
        return self.fault(
            f"does not answer in HTTP ({kind}: {why}): is it the right port, "
            f"and http or https as the server has it?"
        )

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Headers of a question, the key among them."""
        key = api_key(self.target)
        plain = (("Accept", "*/*"), ("Accept-Encoding", "identity"), ("User-Agent", "headroom"))
        return plain if key is None else (*plain, ("Authorization", f"Bearer {key}"))

    def _get(self, path: str) -> Exchange:
        client = StreamClient(
            self.target.endpoint, Clock(), self.timeouts, max_body_bytes=_MAX_ANSWER_BYTES
        )
        call = HttpCall(method="GET", path=path, headers=self.headers(), body=b"")
        exchange = client.exchange(call)
        if exchange.failure is not None:
            raise self.network_fault(exchange)
        if mark := exchange.headers.get(EMULATOR_HEADER):
            self.marks.add(clean(mark))
        if exchange.status == _UNAVAILABLE:
            why = _error_text(exchange.body)
            raise self.fault(f"is not ready (HTTP 503{': ' + why if why else ''}); try again later")
        return exchange

    def _refused(self, path: str, exchange: Exchange) -> TargetError:
        if exchange.status in {_UNAUTHORIZED, _FORBIDDEN}:
            return self.key_fault(exchange.status)
        return self.fault(f"answers {path} with HTTP {exchange.status}; is the address complete?")


def _error_text(body: bytes) -> str:
    """What a JSON error body says, if it is one."""
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    return clean(error.get("message", "") if isinstance(error, dict) else error or "")
