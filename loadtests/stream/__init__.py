"""Sockets: one request out, stamped bytes back."""

from __future__ import annotations

from loadtests.stream.client import MAX_BODY_BYTES, StreamClient
from loadtests.stream.clock import Clock
from loadtests.stream.endpoint import Endpoint
from loadtests.stream.exchange import Call, Exchange, Timeouts
from loadtests.stream.memory import settle_memory
from loadtests.stream.sources import clock_name
from loadtests.stream.tls import tls_context

__all__ = [
    "MAX_BODY_BYTES",
    "Call",
    "Clock",
    "Endpoint",
    "Exchange",
    "StreamClient",
    "Timeouts",
    "clock_name",
    "settle_memory",
    "tls_context",
]
