"""What goes out and what comes back: plain values, no sockets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

__all__ = ["Call", "Exchange", "Timeouts"]


class Call(Protocol):
    """What is to be sent. ``loadtests.dialects.base.HttpCall`` is one.

    ``Host``, ``Content-Length`` and ``Connection`` are the client's business and not in it.
    """

    @property
    def method(self) -> str:
        """``GET``, ``POST``."""

    @property
    def path(self) -> str:
        """Begins with a slash; stands behind the endpoint's base path."""

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Pairs of name and value."""

    @property
    def body(self) -> bytes:
        """May be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait, in seconds."""

    connect_s: float = 10.0  # name look-up, TCP, proxy and TLS together
    first_byte_s: float = 600.0  # from sending to the first byte of the body: queueing counts here
    idle_s: float = 120.0  # between two receives of a body
    total_s: float | None = None  # from sending to the end


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Moments are on the run's clock.

    ``failure`` is a kind and a message. The kinds: ``dns``, ``connect``, ``tls``,
    ``timeout_connect``, ``timeout_first_byte``, ``timeout_idle``, ``timeout_total``, ``reset``,
    ``closed`` (EOF before the message's end), ``bad_http``, ``too_large``, ``clock_step`` (the wall
    clock was set meanwhile, so that kernel stamps cannot be placed) and, from
    ``StreamClient.partial`` only, ``cancelled``. What arrived before a failure is kept.
    """

    status: int | None  # None: no complete response headers
    headers: dict[str, str]  # names in lower case
    body: bytes
    receive_ends: list[int]  # length of the body after each receive that brought bytes of it
    receive_s: list[float]  # the moments at which the last byte of each of these receives arrived
    connect_began_s: float | None  # it may have been opened ahead; None on a reused connection
    connect_s: float | None  # duration of name look-up, TCP and TLS; None on a reused connection
    sent_s: float  # just before the first byte was written; the start where it never came to that
    headers_s: float | None  # the receive that completed the response headers
    ended_s: float  # the last receive, the failure or the cancellation
    resent: bool = False  # sent once more, after it met the closing of a kept connection
    failure: tuple[str, str] | None = None
