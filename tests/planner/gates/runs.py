"""Small run folders with a known truth, for the tests of gates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from planner.records import RequestRecord, StageInfo, TargetInfo
from planner.runfolder import RunWriter
from tests.planner.examples import manifest, request, stage

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LEVEL", "run_folder"]

LEVEL = 4


def run_folder(
    path: Path,
    *,
    slow: float = 1.0,
    seed: int = 1,
    requests: int = 1200,
    failing: float = 0.0,
    levels: tuple[int, ...] = (LEVEL,),
    stage_facts: dict[str, Any] | None = None,
    target_facts: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """A closed loop at each level: answers of 11 tokens whose duration is uniform on 0.5 to 1.5 s.

    TTFT is a tenth of the duration, so its mean is 100 ms, its p95 145 ms; TPOT is 0.09 of it.

    Args:
        path: the folder to make.
        slow: factor of all durations.
        seed: of the durations.
        requests: in each level.
        failing: share of requests that fail.
        levels: concurrencies.
        stage_facts: of every stage.
        target_facts: of the target ``t``.
        facts: of the manifest.
    """
    rng = np.random.default_rng(seed)
    stages: list[StageInfo] = []
    records: list[RequestRecord] = []
    start = 0.0
    for index, level in enumerate(levels):
        made = _closed_loop(level, requests, slow, failing, rng)
        length = max(record.ended_s for record in made)
        records += [_moved(r, start, index, len(records) + i) for i, r in enumerate(made)]
        told = {"index": index, "started_s": start, "stop_reason": "time limit"}
        stages.append(stage(level, end=start + length, **(told | (stage_facts or {}))))
        start += length + 1
    targets = (
        TargetInfo(**({"name": "t", "backend": "vllm", "url": "http://127.0.0.1:1"}
                      | (target_facts or {}))),
    )  # fmt: skip
    kept = manifest(*stages, targets=targets, **facts)
    writer = RunWriter.create(path, kept)
    for record in records:
        writer.append(record)
    writer.finish(kept)
    return path


def _closed_loop(
    level: int, requests: int, slow: float, failing: float, rng: np.random.Generator
) -> list[RequestRecord]:
    """So many users, each with a request in flight at all times."""
    each = requests // level
    made = []
    for user in range(level):
        ends = np.cumsum(rng.uniform(0.5, 1.5, each) * slow)
        for start, end in zip(np.concatenate([[0.0], ends[:-1]]), ends, strict=True):
            facts: dict[str, Any] = {"user": user}
            if rng.random() < failing:
                facts |= {"status": "error", "error_kind": "http_500", "output_tokens": None}
                facts |= {"gaps_s": b"", "first_token_s": None}
            made.append(request(float(start), float(end), **facts))
    return sorted(made, key=lambda record: record.ended_s)


def _moved(record: RequestRecord, later: float, stage_index: int, number: int) -> RequestRecord:
    first = record.first_token_s
    return msgspec.structs.replace(
        record,
        id=number,
        stage=stage_index,
        scheduled_s=record.scheduled_s + later,
        sent_s=record.sent_s + later,
        first_token_s=None if first is None else first + later,
        ended_s=record.ended_s + later,
    )
