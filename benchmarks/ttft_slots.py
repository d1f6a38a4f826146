"""How wrong a TTFT is between levels on both sides of an engine's slots, queue apart or not.

::

    python -m benchmarks.ttft_slots

Three engines are simulated step by step in a closed loop. The curve is drawn through three levels,
and its median TTFT between and beyond them is compared with a simulation there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.curves import latency_curve
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths
from planner.steptime import StepTime
from planner.waiting import Occupancy

Array = npt.NDArray[np.float64]

LEVELS = np.array([4.0, 16.0, 64.0])
WANTED = np.array([8.0, 24.0, 32.0, 40.0, 48.0, 96.0, 128.0])
SETTLED, UNFINISHED = 0.35, 0.9
"""Shares of the requests between whose ends a closed loop is steady."""


@dataclass(frozen=True)
class Case:
    """An engine, and how many times as long as usual its prompts are."""

    name: str
    step: StepTime
    slots: int
    prompts: int = 1


def _step(base_s: float, sequence_s: float, context_s: float, prompt_s: float) -> StepTime:
    return StepTime(
        base_s=base_s,
        per_sequence_s=sequence_s,
        per_context_token_s=context_s,
        per_prompt_token_s=prompt_s,
    )


CASES = (
    Case("32 slots", _step(0.016, 8e-4, 1.5e-6, 2e-5), 32),
    Case("48 slots", _step(0.016, 4e-4, 1.5e-6, 2e-5), 48),
    Case("40 slots, long prompts", _step(0.012, 3e-4, 5e-7, 9e-5), 40, prompts=8),
)


@dataclass(frozen=True)
class Level:
    """What a client sees at one concurrency: requests/s, seconds."""

    requests_per_s: float
    ttft_median_s: float
    ttft_mean_s: float
    tpot_mean_s: float


def level_of(case: Case, n: int) -> Level:
    """Simulate a closed loop of n users: prompts of 50 to 350 tokens, answers of 120 on average."""
    some = np.random.default_rng(99)
    output = np.maximum(2, 2 * some.lognormal(np.log(50), 0.6, 400)).astype(np.int64)
    population = Lengths(
        prompt_tokens=case.prompts * some.integers(50, 350, 400), output_tokens=output
    )
    rng = np.random.default_rng(n)
    engine = Engine(step=case.step, slots=case.slots, batch_tokens=2048 + case.slots)
    source = ClosedUsers(n, 0.0, population, requests=max(600, 14 * n), rng=rng)
    done = simulate(engine, source, rng=rng)
    start, end = np.quantile(done.ended_s, [SETTLED, UNFINISHED])
    kept = (done.ended_s > start) & (done.ended_s <= end)
    ttft = (done.first_token_s - done.arrival_s)[kept]
    tpot = (done.ended_s - done.first_token_s)[kept] / (done.output_tokens[kept] - 1)
    return Level(
        requests_per_s=float(kept.sum() / (end - start)),
        ttft_median_s=float(np.median(ttft)),
        ttft_mean_s=float(ttft.mean()),
        tpot_mean_s=float(tpot.mean()),
    )


def main() -> None:
    """Print predicted over simulated median TTFT."""
    print("in flight".ljust(38), *(f"{n:6.0f}" for n in WANTED))
    for case in CASES:
        known = [level_of(case, int(n)) for n in LEVELS]
        truth = np.array([level_of(case, int(n)).ttft_median_s for n in WANTED])
        before_first = np.array([level.requests_per_s * level.ttft_mean_s for level in known])
        seen = Occupancy(
            decoding=LEVELS - before_first, step=np.array([level.tpot_mean_s for level in known])
        )
        medians = np.array([[level.ttft_median_s for level in known]])
        for name, occupancy in (("smooth", None), ("queue apart", seen)):
            drawn = latency_curve(LEVELS, medians, metric="ttft", occupancy=occupancy)(WANTED)[0]
            print(f"{case.name}, {name}".ljust(38), *(f"{r:6.2f}" for r in drawn / truth))


if __name__ == "__main__":
    main()
