"""One exchange on the wire and its decoded reply, put together as one request record."""

from __future__ import annotations

import struct
from bisect import bisect_left
from operator import sub
from typing import TYPE_CHECKING

import msgspec

from planner.records import RequestRecord

if TYPE_CHECKING:
    from loadtests.dialects.base import Dialect, Reply
    from loadtests.stream.client import Exchange
    from planner.records import Status

__all__ = ["RequestLabel", "assemble"]

_HTTP_OK = 200
_ERROR_LENGTH = 300
_CENSORED: dict[str, Status] = {"cancelled": "cancelled"}


class RequestLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is called in its run: everything about it that the wire does not tell."""

    id: int
    stage: int
    target: str
    backend: str
    user: int
    turn: int
    scheduled_s: float


def assemble(label: RequestLabel, exchange: Exchange, dialect: Dialect) -> RequestRecord:
    """The record of one request, whatever became of it."""
    reply = _decode(exchange, dialect) if exchange.status == _HTTP_OK else None
    moments = _content_moments(exchange, reply)
    gaps = list(map(sub, moments[1:], moments))
    status, kind, error = _outcome(exchange, reply, dialect)
    return RequestRecord(
        id=label.id,
        stage=label.stage,
        target=label.target,
        backend=label.backend,
        user=label.user,
        turn=label.turn,
        scheduled_s=label.scheduled_s,
        sent_s=exchange.sent_s,
        connect_s=exchange.connect_s,
        connect_ahead_s=_connect_ahead_s(label.scheduled_s, exchange),
        headers_s=exchange.headers_s,
        first_token_s=moments[0] if moments else None,
        ended_s=exchange.ended_s,
        gaps_s=struct.pack(f"<{len(gaps)}f", *gaps),
        prompt_tokens=reply.prompt_tokens if reply else None,
        output_tokens=reply.output_tokens if reply else None,
        cached_tokens=reply.cached_tokens if reply else None,
        token_source=reply.token_source if reply else None,
        status=status,
        http_status=exchange.status,
        finish_reason=reply.finish_reason if reply else None,
        error_kind=kind,
        error=error[:_ERROR_LENGTH] if error else None,
        coalesced_share=gaps.count(0.0) / len(moments) if moments else None,
        server_queue_s=reply.server_queue_s if reply else None,
        server_prompt_s=reply.server_prompt_s if reply else None,
        server_decode_s=reply.server_decode_s if reply else None,
    )


def _connect_ahead_s(scheduled_s: float, exchange: Exchange) -> float | None:
    """How much of connecting lay before the intended start."""
    if exchange.connect_began_s is None or exchange.connect_s is None:
        return None
    return min(max(scheduled_s - exchange.connect_began_s, 0.0), exchange.connect_s)


def _decode(exchange: Exchange, dialect: Dialect) -> Reply:
    decoder = dialect.decoder()
    decoder.feed(exchange.body)
    return decoder.finish()


def _content_moments(exchange: Exchange, reply: Reply | None) -> list[float]:
    """When each content event was complete: the stamp of the receive that brought its last byte."""
    if reply is None:
        return []
    ends, moments = exchange.receive_ends, exchange.receive_s
    return [moments[bisect_left(ends, end)] for end in reply.content_ends]


def _outcome(
    exchange: Exchange, reply: Reply | None, dialect: Dialect
) -> tuple[Status, str | None, str | None]:
    """Status, error kind and message. What the network did comes before what the stream said."""
    if exchange.failure is not None:
        kind, message = exchange.failure
        if kind.startswith("timeout"):
            return "timeout", kind, message
        return _CENSORED.get(kind, "error"), kind, message
    if reply is None:
        kind, message = dialect.error(exchange.status or 0, exchange.body)
        return "error", kind, message
    if reply.error_kind is not None:
        return "error", reply.error_kind, reply.error
    return "ok", None, None
