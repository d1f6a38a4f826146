"""Runs made by hand for the tests of the planner."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from planner.records import (
    ClientFacts,
    RequestRecord,
    RunManifest,
    StageInfo,
    TargetInfo,
    Workload,
)
from planner.runfolder import Run
from planner.table import RequestTable

__all__ = ["closed_loop", "manifest", "records", "request", "run_of", "stage"]


def manifest(*stages: StageInfo, **changes: Any) -> RunManifest:
    """A manifest with one target named ``t``."""
    facts: dict[str, Any] = {
        "headroom_version": "0.1",
        "started_unix_s": 1.7e9,
        "state": "complete",
        "seed": 7,
        "targets": (TargetInfo(name="t", backend="vllm", url="http://127.0.0.1:1"),),
        "workload": Workload(prompt_tokens="64", output_tokens="20"),
        "client": ClientFacts(platform="test", cpu_count=2, python="3.11", clock="monotonic"),
        "stages": stages,
    }
    return RunManifest(**(facts | changes))


def stage(load: float, *, end: float | None, **changes: Any) -> StageInfo:
    """Stage 0 of target ``t``, a closed loop that starts at 0."""
    facts: dict[str, Any] = {
        "index": 0,
        "target": "t",
        "load_kind": "concurrency",
        "load": load,
        "started_s": 0.0,
        "ended_s": end,
    }
    return StageInfo(**(facts | changes))


def request(start: float, end: float, **changes: Any) -> RequestRecord:
    """A good answer of 11 tokens whose first token came after a tenth of its time."""
    facts: dict[str, Any] = {
        "id": 0,
        "stage": 0,
        "target": "t",
        "backend": "vllm",
        "user": 0,
        "scheduled_s": start,
        "sent_s": start,
        "first_token_s": start + (end - start) / 10,
        "ended_s": end,
        "gaps_s": np.full(10, (end - start) * 0.09, "<f4").tobytes(),
        "prompt_tokens": 64,
        "output_tokens": 11,
        "status": "ok",
    }
    return RequestRecord(**(facts | changes))


def run_of(
    requests: list[RequestRecord],
    *stages: StageInfo,
    errors: dict[int, dict[str, int]] | None = None,
    **changes: Any,
) -> Run:
    """A run that never was on a disk."""
    table = RequestTable.from_records(requests)
    return Run(Path("run"), manifest(*stages, **changes), table, errors or {})


def closed_loop(
    users: int, slots: int, until: float, rng: np.random.Generator, *, think_time_s: float = 0.0
) -> list[RequestRecord]:
    """Users of a server with some slots, first come first served, service exponential of mean 1 s.

    What is unfinished at the end is cancelled there, as the load driver does.
    """
    free = [0.0] * slots
    arrivals = [(rng.exponential(think_time_s) if think_time_s else 0.0, u) for u in range(users)]
    heapq.heapify(arrivals)
    found = []
    while arrivals:
        sent, user = heapq.heappop(arrivals)
        if sent >= until:
            continue
        begin = max(sent, heapq.heappop(free))
        end = begin + rng.exponential()
        heapq.heappush(free, end)
        facts: dict[str, Any] = {"user": user, "scheduled_s": sent, "sent_s": sent}
        first = begin + (end - begin) / 10
        if end > until:
            cut: dict[str, Any] = {"output_tokens": None, "gaps_s": b"", "status": "cancelled"}
            seen = first if first < until else None
            found.append(
                request(begin, end, **facts | cut | {"first_token_s": seen, "ended_s": until})
            )
            continue
        found.append(request(begin, end, **facts))
        pause = rng.exponential(think_time_s) if think_time_s else 0.0
        heapq.heappush(arrivals, (end + pause, user))
    return found


_moments = st.floats(0, 1e6)
_counts = st.none() | st.integers(0, 2**31 - 1)
_texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
_seconds = st.none() | st.floats(0, 1e6)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    """Any request that a run can hold."""
    sent = draw(_moments)
    gaps = draw(st.lists(st.floats(0, 100, width=32), max_size=5))
    return RequestRecord(
        id=draw(st.integers(0, 2**62)),
        stage=draw(st.integers(0, 3)),
        target=draw(st.sampled_from(["t", "zwei"])),
        backend="vllm",
        user=draw(st.integers(0, 2**31 - 1)),
        turn=draw(st.integers(0, 9)),
        worker=draw(st.integers(0, 9)),
        scheduled_s=draw(_moments),
        sent_s=sent,
        connect_s=draw(_seconds),
        connect_ahead_s=draw(_seconds),
        headers_s=draw(_seconds),
        first_token_s=draw(_seconds),
        ended_s=sent + draw(_moments),
        gaps_s=np.array(gaps, "<f4").tobytes(),
        prompt_tokens=draw(_counts),
        output_tokens=draw(_counts),
        cached_tokens=draw(_counts),
        token_source=draw(st.sampled_from([None, "usage", "timings", "tokenizer", "chunks"])),
        status=draw(st.sampled_from(["ok", "error", "timeout", "cancelled"])),
        http_status=draw(st.none() | st.integers(100, 599)),
        finish_reason=draw(_texts),
        error_kind=draw(_texts),
        error=draw(_texts),
        coalesced_share=draw(st.none() | st.floats(0, 1)),
        server_queue_s=draw(_seconds),
        server_prompt_s=draw(_seconds),
        server_decode_s=draw(_seconds),
    )
