"""Compare real runs: an embedded engine with itself, and with a slower one.

::

    python -m benchmarks.same_engine OUT [--pairs 10] [--seconds 12] [--slots 3]
    python -m benchmarks.same_engine OUT --layers 15 [--truth 60]

Starts ``headroom serve llamacpp`` with four slots, and a slower one: of fewer slots, or with more
layers in its model, 12 otherwise, so that each step does as much more work.
Measures each at four requests in flight for some seconds, in turn (A, A, B, A, A, B ...), and has
the pairs compared, and judged by a gate of ``RULES``: two runs of A should differ by nothing
beyond 10 %, and B should be found. With ``--layers`` how much slower B is in truth is measured
first, by runs of ``--truth`` seconds, A, B, B, A. OUT keeps the run folders.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadtests.engines.model import SHAPES
from loadtests.engines.modelfiles import write_gguf
from loadtests.engines.vocabulary import train_vocabulary
from loadtests.engines.weights import random_weights
from planner.compare_answer import compare_runs
from planner.gates.gate import gate
from planner.gates.rules import parse_rules
from planner.runfolder import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planner.compare_answer import ComparedRuns
    from planner.gates.records import GateReport, Outcome

HEADROOM = (sys.executable, "-m", "headroom")
MARGIN, CONFIDENCE = 0.10, 0.99
LAYERS = 12
"""Of the model that is A: enough that the rest of a step, and of the server, is little beside."""
RULES = parse_rules(
    b"""
    [[rule]]
    check = "ttft_p50 <= baseline * 1.10"
    [[rule]]
    check = "tpot_p50 <= baseline * 1.10"
    [[rule]]
    check = "e2e_mean <= baseline * 1.10"
    [[rule]]
    check = "e2e_p95 <= baseline * 1.10"
    [[rule]]
    check = "tokens_per_s >= baseline * 0.909"
    """,
    what="rules",
)


def make_model(path: Path, layers: int) -> Path:
    """The tiny model with so many layers; the seed is the same, so the first layers are too."""
    shape = dataclasses.replace(SHAPES["tiny"], layers=layers)
    vocabulary = train_vocabulary(shape.vocabulary)
    weights = random_weights(shape, vocabulary, np.random.default_rng(2026))
    path.parent.mkdir(parents=True)
    write_gguf(path, "headroom-bench", shape, vocabulary, weights)
    return path


@contextmanager
def engine(slots: int, model: Path | None = None) -> Iterator[str]:
    """An engine's address."""
    command = [*HEADROOM, "serve", "llamacpp", "--parallel", str(slots)]
    if model is not None:
        command += ["--model", str(model)]
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


def gated(a: Path, b: Path) -> GateReport:
    """A gate's verdicts on B with A as its baseline; the slower model is knowingly another one."""
    base, run = (read_run(path, gaps=False) for path in (a, b))
    allowed = ("model", "limits", "settings")
    return gate(
        run, RULES, rules_name="rules", baseline=base, baseline_name=str(a), allowed=allowed
    )


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


def print_gates(name: str, reports: Sequence[GateReport]) -> None:
    """How the gate ended, and each of its rules."""
    ends = Counter(report.outcome for report in reports)
    print(f"{name}: the gate of {len(RULES.rules)} rules: {_counts(ends)}")
    for column, verdict in enumerate(reports[0].verdicts):
        told = Counter(report.verdicts[column].outcome for report in reports)
        print(f"    {verdict.check:40} {_counts(told)}")


def _counts(of: Mapping[Outcome, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(of.items()))


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--slots", type=int, default=3, help="of the slower engine")
    parser.add_argument("--layers", type=int, help=f"of the slower model, instead of {LAYERS}")
    parser.add_argument("--truth", type=float, default=60, help="seconds of each long run")
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True)
    with ExitStack() as engines:
        if given.layers is None:
            slower = f"{given.slots} slots beside 4"
            urls = [engines.enter_context(engine(slots)) for slots in (4, given.slots)]
        else:
            slower = f"{given.layers} layers beside {LAYERS}"
            models = [make_model(out / name / "bench.gguf", layers) for name, layers in
                      (("model-a", LAYERS), ("model-b", given.layers))]  # fmt: skip
            urls = [engines.enter_context(engine(4, model)) for model in models]
            long = [
                measure(urls[side], out / f"truth-{number}", given.truth, 1000 + number)
                for number, side in enumerate((0, 1, 1, 0))
            ]
            print_pairs(f"{slower}, the truth", [compared([long[0], long[3]], long[1:3])])
        print_runs(out, urls, slower, given.pairs, given.seconds)


def print_runs(out: Path, urls: Sequence[str], slower: str, pairs: int, seconds: float) -> None:
    """Measure both engines in turn, and compare the pairs."""
    runs: dict[str, list[Path]] = {"a": [], "again": [], "b": []}
    for pair in range(pairs):
        for side, url in (("a", urls[0]), ("again", urls[0]), ("b", urls[1])):
            path = out / f"{side}-{pair}"
            runs[side].append(measure(url, path, seconds, 3 * pair + len(side)))
    for name, side in (("A beside A", "again"), (slower, "b")):
        both = list(zip(runs["a"], runs[side], strict=True))
        print_pairs(name, [compared([a], [b]) for a, b in both])
        print_gates(name, [gated(a, b) for a, b in both])
        print_pairs(f"{name}, all runs of a side together", [compared(runs["a"], runs[side])])


if __name__ == "__main__":
    main()
