"""Runs of an engine whose every step is known: simulated requests as a client records them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.records import EngineLimits, TargetInfo
from planner.runfolder import Run
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths
from planner.steptime import StepTime
from planner.table import RequestTable
from tests.planner.examples import manifest, request, stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import RequestRecord
    from planner.simulation.outcome import Outcome

__all__ = ["SLOTS", "STEP", "engine", "lengths", "run_of_levels", "simulated_users"]

STEP = StepTime(
    base_s=0.016, per_sequence_s=8e-4, per_context_token_s=1.5e-6, per_prompt_token_s=9e-5
)
SLOTS = 8


def engine(step: StepTime = STEP) -> Engine:
    """The engine that all these runs measure."""
    return Engine(step=step, slots=SLOTS, batch_tokens=2048 + SLOTS)


def lengths(rng: np.random.Generator, times: float = 1.0) -> Lengths:
    """Prompts of 50 to 350 tokens, answers of 60 on average, lognormal, or so many times that."""
    output = np.maximum(2, times * rng.lognormal(np.log(50), 0.6, 400)).astype(np.int64)
    return Lengths(prompt_tokens=rng.integers(50, 350, 400), output_tokens=output)


def simulated_users(
    users: int,
    think_time_s: float,
    count: int,
    *,
    seed: int,
    times: float = 1.0,
    step: StepTime = STEP,
) -> Outcome:
    """Users of one replica, of the same population of requests whatever the seed."""
    rng = np.random.default_rng(seed)
    population = lengths(np.random.default_rng(99), times)
    source = ClosedUsers(users, think_time_s, population, requests=count, rng=rng)
    return simulate(engine(step), source, rng=rng)


def run_of_levels(
    levels: Sequence[int], *, count: int = 400, seed: int = 1, step: StepTime = STEP
) -> Run:
    """A run of a closed loop at some levels; what is unfinished at a stage's end is left out."""
    requests: list[RequestRecord] = []
    stages = []
    began_s = 0.0
    for index, level in enumerate(levels):
        done = simulated_users(level, 0.0, count + level, seed=seed + index, step=step)
        ended_s = float(np.sort(done.ended_s)[-level - 1]) + 1e-6
        for i in np.flatnonzero(done.ended_s <= ended_s):
            requests.append(
                request(
                    began_s + float(done.arrival_s[i]),
                    began_s + float(done.ended_s[i]),
                    id=len(requests),
                    stage=index,
                    user=len(requests) % level,
                    first_token_s=began_s + float(done.first_token_s[i]),
                    prompt_tokens=int(done.prompt_tokens[i]),
                    output_tokens=int(done.output_tokens[i]),
                    gaps_s=b"",
                )
            )
        stages.append(
            stage(
                level, end=began_s + ended_s, index=index, started_s=began_s, stop_reason="steady"
            )
        )
        began_s += ended_s + 1
    target = TargetInfo(
        name="t", backend="vllm", url="http://127.0.0.1:1", limits=EngineLimits(slots=SLOTS)
    )
    table = RequestTable.from_records(requests)
    return Run(Path("run"), manifest(*stages, targets=(target,)), table, {})
