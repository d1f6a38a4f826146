"""Compare real runs: the same embedded engine with itself, and with one that has fewer slots.

::

    python -m benchmarks.same_engine OUT [--pairs 10] [--seconds 12] [--slots 3]

Starts ``headroom serve llamacpp`` with four slots and one with fewer, measures each at four
requests in flight for some seconds, in turn (A, A, B, A, A, B ...), and compares the pairs: two
runs of A should differ by nothing beyond 10 %, and B should be found. OUT keeps the run folders.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.compare_answer import compare_runs
from planner.runfolder import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.compare_answer import ComparedRuns

HEADROOM = (sys.executable, "-m", "headroom")
MARGIN, CONFIDENCE = 0.10, 0.99


@contextmanager
def engine(slots: int) -> Iterator[str]:
    """An engine's address."""
    command = [*HEADROOM, "serve", "llamacpp", "--parallel", str(slots)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def measure(url: str, out: Path, seconds: float, seed: int) -> Path:
    """One run of one level."""
    command = [
        *HEADROOM, "measure", f"engine:llamacpp={url}", "--concurrency", "4", "--duration",
        f"{seconds:g}s", "--prompt-tokens", "uniform:20-60", "--output-tokens", "uniform:8-24",
        "--slo", "ttft_p99<=10s", "--seed", str(seed), "--no-telemetry", "--out", str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def compared(a: Sequence[Path], b: Sequence[Path]) -> ComparedRuns:
    """The default figures."""
    sides = [[read_run(path, gaps=False) for path in side] for side in (a, b)]
    return compare_runs(*sides, margin=MARGIN, confidence=CONFIDENCE)


def print_pairs(name: str, pairs: Sequence[ComparedRuns]) -> None:
    """Verdicts of all pairs, and how far their figures lay apart."""
    worse = [any(r.verdict == "worse" for r in p.levels[0].figures) for p in pairs]
    print(f"{name}: {sum(worse)} of {len(pairs)} pairs have a figure that is worse by over 10 %")
    for column, row in enumerate(pairs[0].levels[0].figures):
        rows = [pair.levels[0].figures[column] for pair in pairs]
        seen = [100 * r.difference.relative for r in rows if r.difference.relative is not None]
        told = {v: sum(r.verdict == v for r in rows) for v in
                ("worse", "better", "no evidence", "inconclusive")}  # fmt: skip
        spread = (
            f"median {np.median(seen):+.1f} %, {min(seen):+.1f} to {max(seen):+.1f} %"
            if seen else "-"
        )  # fmt: skip
        counts = ", ".join(f"{count} {verdict}" for verdict, count in told.items() if count)
        print(f"    {row.difference.figure:20} {spread:40} {counts}")


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--slots", type=int, default=3, help="of the slower engine")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    runs: dict[str, list[Path]] = {"a": [], "again": [], "b": []}
    with engine(4) as same, engine(given.slots) as fewer:
        for pair in range(given.pairs):
            for side, url in (("a", same), ("again", same), ("b", fewer)):
                path = given.out / f"{side}-{pair}"
                runs[side].append(measure(url, path, given.seconds, 3 * pair + len(side)))
    for name, side in (("A beside A", "again"), (f"{given.slots} slots beside 4", "b")):
        print_pairs(name, [compared([a], [b]) for a, b in zip(runs["a"], runs[side], strict=True)])
        print_pairs(f"{name}, all runs of a side together", [compared(runs["a"], runs[side])])


if __name__ == "__main__":
    main()
