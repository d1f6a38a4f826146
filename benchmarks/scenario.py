"""What is asked of a client, and what it showed; shared by the driver and what it runs."""

from __future__ import annotations

import json
import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from loadtests.measure.truth import compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.measure.truth import Observed, Spread

__all__ = ["Error", "Figures", "Lateness", "Reading", "Scenario", "figures_of", "median_of"]

_SENT = re.compile(r" T(\d{16})")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is asked of a client.

    Attributes:
        streams: users, each of whom sends ``rounds`` requests.
        tokens: content events of an answer.
        itl_us: gap between them.
        ttft_us: time to the first.
        sync: all streams tick together.
        rounds: requests per user, one after another.
        ramp_s: over which the users begin; 0: all at once.
        cpu: processor to run on.
    """

    streams: int
    tokens: int
    itl_us: int
    ttft_us: int
    sync: int = 0
    rounds: int = 1
    ramp_s: float = 0.0
    cpu: int | None = None

    def body(self) -> bytes:
        """The request of the peers; ours is made by its dialect, from the same server options."""
        return json.dumps(
            {
                "model": "reference", "stream": True, "stream_options": {"include_usage": True},
                "messages": [{"role": "user", "content": "hello " * 16}],
                "max_tokens": self.tokens, "x_itl_us": self.itl_us, "x_ttft_us": self.ttft_us,
                "x_sync": self.sync,
            }
        ).encode()  # fmt: skip


class Reading(msgspec.Struct, frozen=True):
    """A process at one moment.

    Attributes:
        at_s: ``time.monotonic()``.
        cpu_s: user and system time so far.
        rss: resident bytes.
        waited_s: time so far that it was ready to run and had no processor.
    """

    at_s: float
    cpu_s: float
    rss: int
    waited_s: float

    @classmethod
    def now(cls) -> Reading:
        """Of this process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(
            at_s=time.monotonic(),
            cpu_s=used.ru_utime + used.ru_stime,
            rss=int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            waited_s=int(Path("/proc/self/schedstat").read_text().split()[1]) * 1e-9,
        )


class Error(msgspec.Struct, frozen=True):
    """Quantiles of an error's absolute value, in seconds."""

    p50_s: float | None
    p99_s: float | None

    @classmethod
    def of(cls, spread: Spread) -> Error:
        """The two of a comparison."""
        return cls(p50_s=spread.p50_s, p99_s=spread.p99_s)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one run showed. ``None``: it cannot be told of this client."""

    requests: int
    chunks: int
    wrong: int
    sent_per_s: float | None = None  # by the server, in its busiest second
    arrival: Error | None = None
    itl: Error | None = None
    ttft: Error | None = None
    shared_share: float | None = None
    cpu_per_chunk_s: float | None = None
    cpu_per_request_s: float | None = None
    cpu_share: float | None = None
    waited_share: float | None = None
    bytes_per_stream: float | None = None
    server_late_s: float | None = None


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """How late an open loop sent.

    Attributes:
        requests: that were sent and answered.
        said: by the client's stamps.
        true: by the server's.
        waited_share: of the time, in which the client waited for its processor.
        cpu_share: of a core.
    """

    requests: int
    said: Error
    true: Error
    waited_share: float
    cpu_share: float


def figures_of(
    observed: Sequence[Observed], before: Reading, begun: Reading, done: Reading, streams: int
) -> Figures:
    """What a run showed.

    Args:
        observed: its requests.
        before: reading before there were users.
        begun: reading when all had sent, before the first event.
        done: reading when all was recorded.
        streams: how many users there were.
    """
    errors = compare(observed)
    cpu_s, wall_s = done.cpu_s - begun.cpu_s, done.at_s - begun.at_s
    return Figures(
        requests=errors.requests,
        chunks=errors.chunks,
        wrong=errors.wrong,
        sent_per_s=_busiest_second(observed),
        arrival=Error.of(errors.arrival),
        itl=Error.of(errors.itl),
        ttft=Error.of(errors.ttft),
        shared_share=errors.coalesced_share,
        cpu_per_chunk_s=cpu_s / max(errors.chunks, 1),
        cpu_per_request_s=(done.cpu_s - before.cpu_s) / max(errors.requests, 1),
        cpu_share=cpu_s / wall_s,
        waited_share=(done.waited_s - begun.waited_s) / wall_s,
        bytes_per_stream=(begun.rss - before.rss) / streams,
    )


def _busiest_second(observed: Sequence[Observed]) -> float:
    """The most events that the server sent within a second."""
    sent_ns = np.sort([int(ns) for request in observed for ns in _SENT.findall(request.text)])
    if not sent_ns.size:
        return 0.0
    ends = np.searchsorted(sent_ns, sent_ns + 1_000_000_000)
    return float(np.max(ends - np.arange(sent_ns.size)))


def median_of(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs; ``None`` where any run lacks it."""
    rows = [msgspec.to_builtins(run) for run in runs]
    return msgspec.convert(_medians(rows), Figures, strict=False)


def _medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key, first in rows[0].items():
        values = [row[key] for row in rows]
        if any(value is None for value in values):
            merged[key] = None
        elif isinstance(first, dict):
            merged[key] = _medians(values)
        else:
            merged[key] = type(first)(median(values))
    return merged
