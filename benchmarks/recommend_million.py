"""How long ``headroom recommend`` takes on a run of a million requests, and in how much memory.

::

    python -m benchmarks.recommend_million [--requests 1000000]

Fabricates a run folder in a temporary directory (a closed loop of ten levels, answers of 20 content
events), then runs the command itself in a process of its own and prints wall time, CPU time and the
peak of its resident memory.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.records import (
    ClientFacts,
    EngineLimits,
    RequestRecord,
    RunManifest,
    StageInfo,
    TargetInfo,
    Workload,
)
from planner.runfolder import RunWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = 21
ASK = (
    *("--users", "20000", "--think-time", "10s"),
    *("--slo", "ttft_p95<=1s", "--slo", "tpot_p95<=50ms"),
)


def fabricate(folder: Path, requests: int) -> None:
    """A run of a batching server: E2E of 0.5 s + 10 ms for each request in flight, ± 20 %."""
    rng = np.random.default_rng(1)
    stages: list[StageInfo] = []
    rows: list[Iterator[RequestRecord]] = []
    began_s = 0.0
    for index, level in enumerate(LEVELS):
        rounds = max(requests // len(LEVELS) // level, 2)
        seconds = (0.5 + 0.01 * level) * rng.uniform(0.8, 1.2, (level, rounds))
        ends_s = began_s + np.cumsum(seconds, axis=1)
        ended_s = float(ends_s[:, -1].min())
        rows.append(_requests(index, ends_s, seconds, rng))
        stages.append(
            StageInfo(
                index=index, target="vllm", load_kind="concurrency", load=level,
                started_s=began_s, ended_s=ended_s, stop_reason="steady",
            )
        )  # fmt: skip
        began_s = float(ends_s.max()) + 1
    manifest = RunManifest(
        headroom_version="0",
        started_unix_s=0.0,
        state="complete",
        seed=1,
        targets=(
            TargetInfo(
                name="vllm", backend="vllm", url="http://127.0.0.1:8000", hardware="H100",
                gpus_per_replica=1, limits=EngineLimits(slots=256),
            ),
        ),
        workload=Workload(prompt_tokens="64", output_tokens=str(TOKENS)),
        stages=tuple(stages),
        client=ClientFacts(platform="none", cpu_count=1, python="3", clock="monotonic"),
    )  # fmt: skip
    writer = RunWriter.create(folder, manifest)
    for row in (record for stage in rows for record in stage):
        writer.append(row)
    writer.finish(manifest)


def _requests(
    stage: int, ends_s: np.ndarray, seconds: np.ndarray, rng: np.random.Generator
) -> Iterator[RequestRecord]:
    for user, (ends, lengths) in enumerate(zip(ends_s, seconds, strict=True)):
        noise = rng.uniform(0.9, 1.1, (lengths.size, TOKENS - 1)).astype("<f4")
        for end, length, wobble in zip(ends.tolist(), lengths.tolist(), noise, strict=True):
            first = length * 0.25
            yield RequestRecord(
                id=0, stage=stage, target="vllm", backend="vllm", user=user,
                scheduled_s=end - length, sent_s=end - length, first_token_s=end - length + first,
                ended_s=end, gaps_s=(wobble * ((length - first) / wobble.sum())).tobytes(),
                prompt_tokens=64, output_tokens=TOKENS, status="ok",
            )  # fmt: skip


def measured(command: list[str]) -> tuple[int, float, float, float]:
    """Exit code, wall seconds, CPU seconds and peak MiB of a command."""
    began_s = time.perf_counter()
    process = os.posix_spawn(
        command[0], command, os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, usage = os.wait4(process, 0)
    return (
        os.waitstatus_to_exitcode(status),
        time.perf_counter() - began_s,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
    )


def main() -> None:
    """Fabricate, measure, print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--requests", type=int, default=1_000_000)
    options.add_argument("--repeat", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        fabricate(folder, given.requests)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        print(f"{given.requests:,} requests, {size:.0f} MiB on disk")
        headroom = [sys.executable, "-m", "headroom", "recommend", str(folder), *ASK]
        questions = {
            "recommend": headroom,
            "recommend, an objective on ITL": [*headroom, "--slo", "itl_p95<=60ms"],
        }
        for what, command in questions.items():
            for _ in range(given.repeat):
                code, wall_s, cpu_s, peak = measured(command)
                print(f"{what}: exit {code}, {wall_s:.2f} s, {cpu_s:.2f} s of CPU, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
