"""How wrong the simulator is about a real vLLM: fit the first part of a run, predict the rest.

    python benchmarks/vllm_requests.py tests/reference/vllm_requests.csv

The file holds 300 requests of ShareGPT lengths, sent to vLLM 0.19 (Llama-3.1-8B in bfloat16 on
one RTX 4090) in Poisson order at 10 per second: three times what it carries, with a KV cache that
preempts. See tests/reference/README.md for its source.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.replay import fit_replay, rough_step
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import OpenArrivals
from planner.traces import Trace

if TYPE_CHECKING:
    from planner.simulation.outcome import Outcome

BLOCKS, BLOCK_TOKENS = 2587, 16  # num_gpu_blocks less the null block
QUANTILES = (0.5, 0.9, 0.95, 0.99)


def main() -> None:
    """Print the error at each share of the run that the fit may see."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--until", type=float, nargs="+", default=[20.0, 30.0, 60.0, 90.0])
    args = parser.parse_args()
    rows = list(csv.DictReader(args.file.open(encoding="utf-8")))
    columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    trace = Trace(
        arrival_s=columns["queued_s"],
        prompt_tokens=columns["prompt_tokens"].astype(np.int64),
        output_tokens=columns["output_tokens"].astype(np.int64),
    )
    scheduled, first = columns["scheduled_s"], columns["first_token_s"]
    last = columns["last_token_s"]
    print(
        "until  output lengths  requests  figure     "
        + "".join(f"p{q * 100:<15g}" for q in QUANTILES)
    )
    for until in args.until:
        seen = last < until
        start = rough_step(first[seen], last[seen], trace.output_tokens[seen])
        engine = Engine(step=start, slots=256, kv_tokens=BLOCKS * BLOCK_TOKENS, runs_ahead=True)
        fit = fit_replay(engine, trace, first, last, until_s=until)
        engine = replace(engine, step=fit.step)
        rest = first >= until
        measured = {
            "wait": (scheduled - trace.arrival_s)[rest],
            "ttft": (first - trace.arrival_s)[rest],
        }
        for how in ("as recorded", "bootstrapped"):
            runs = [_run(engine, t) for t in _traces(trace, seen, how)]
            for name, truth in measured.items():
                found = [(r.wait_s if name == "wait" else r.latency_s("ttft"))[rest] for r in runs]
                cells = "".join(_cell(truth, found, q) for q in QUANTILES)
                print(f"{until:4.0f} s  {how:14}  {rest.sum():8}  {name:9}  {cells}")
        a, b, c, d = fit.step.coefficients
        print(
            f"        step = {1e3 * a:.1f} ms + {1e6 * b:.0f} us/sequence"
            f" + {1e9 * c:.0f} ns/context token + {1e6 * d:.0f} us/prompt token"
        )


def _traces(trace: Trace, seen: np.ndarray, how: str) -> list[Trace]:
    """The run as it was; or 20 of outputs drawn from those that had ended by then."""
    if how == "as recorded":
        return [trace]
    rng = np.random.default_rng(0)
    drawn = [rng.choice(trace.output_tokens[seen], trace.output_tokens.size) for _ in range(20)]
    return [replace(trace, output_tokens=np.where(seen, trace.output_tokens, d)) for d in drawn]


def _run(engine: Engine, trace: Trace) -> Outcome:
    return simulate(engine, OpenArrivals.replay(trace), rng=np.random.default_rng(0))


def _cell(truth: np.ndarray, found: list[np.ndarray], share: float) -> str:
    true = float(np.quantile(truth, share, method="inverted_cdf"))
    value = float(np.mean([np.quantile(f, share, method="inverted_cdf") for f in found]))
    return f"{true:.0f} s {100 * (value / true - 1):+.1f} %".ljust(16)


if __name__ == "__main__":
    main()
