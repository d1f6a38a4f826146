"""Sockets: one request out, stamped bytes back."""

from __future__ import annotations

from loadtests.stream.client import MAX_BODY_BYTES, Call, Exchange, StreamClient, Timeouts
from loadtests.stream.clock import Clock
from loadtests.stream.endpoint import Endpoint

__all__ = ["MAX_BODY_BYTES", "Call", "Clock", "Endpoint", "Exchange", "StreamClient", "Timeouts"]
