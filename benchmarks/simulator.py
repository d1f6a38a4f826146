"""How many requests the simulator gets through on one core.

    python benchmarks/simulator.py [--requests 100000]

Prints CPU seconds (the fastest of three), which a busy machine disturbs less than wall-clock time.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import numpy as np

from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths, OpenArrivals, poisson_arrivals
from planner.steptime import StepTime

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.simulation.traffic import Source

# About an 8 B model in bfloat16 on a card with 1 TB/s.
STEP = StepTime(
    base_s=0.016, per_sequence_s=1e-4, per_context_token_s=1.3e-7, per_prompt_token_s=9e-5
)
REPEATS = 3


def main() -> None:
    """Time each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    count: int = parser.parse_args().requests

    def lengths(rng: np.random.Generator) -> Lengths:
        output = np.maximum(1, rng.lognormal(np.log(160), 0.668, count)).astype(np.int64)
        return Lengths(prompt_tokens=rng.integers(50, 450, count), output_tokens=output)

    def poisson(rate: float) -> Callable[[np.random.Generator], Source]:
        return lambda rng: OpenArrivals(poisson_arrivals(rate, count, rng), lengths(rng))

    def users(rng: np.random.Generator) -> Source:
        return ClosedUsers(400, 20.0, lengths(rng), requests=count, rng=rng, turns=4)

    slots = Engine(step=STEP, slots=64)
    tight = Engine(step=STEP, slots=64, kv_tokens=12_000)
    cases: tuple[tuple[str, Engine, int, str, Callable[[np.random.Generator], Source]], ...] = (
        ("Poisson 6/s, 64 slots", slots, 1, "least-loaded", poisson(6)),
        ("Poisson 9/s, more than it carries", slots, 1, "least-loaded", poisson(9)),
        ("Poisson 6/s, KV cache that preempts", tight, 1, "least-loaded", poisson(6)),
        ("Poisson 24/s, 4 replicas, least loaded", slots, 4, "least-loaded", poisson(24)),
        ("400 users think 20 s, 4 turns, 4 sticky", slots, 4, "sticky", users),
    )
    print(f"{count} requests, mean 200 output tokens; CPU seconds, fastest of {REPEATS}")
    for name, engine, replicas, routing, make in cases:
        best, preempted = np.inf, 0
        for seed in range(REPEATS):
            rng = np.random.default_rng(seed)
            source = make(rng)
            began = time.process_time()
            outcome = simulate(engine, source, rng=rng, replicas=replicas, routing=routing)
            best = min(best, time.process_time() - began)
            preempted = int(outcome.preemptions.sum())
        print(f"{name:42} {best:5.2f} s   {preempted:7} preemptions")


if __name__ == "__main__":
    main()
