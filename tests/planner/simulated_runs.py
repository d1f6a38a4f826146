"""Runs of an engine whose every step is known: simulated requests as a client records them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.records import EngineLimits, TargetInfo, TelemetrySample
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

__all__ = ["SLOTS", "STEP", "engine", "lengths", "look", "run_of_levels", "simulated_users"]

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
    of: Engine | None = None,
) -> Outcome:
    """Users of one replica, of the same population of requests whatever the seed."""
    rng = np.random.default_rng(seed)
    population = lengths(np.random.default_rng(99), times)
    source = ClosedUsers(users, think_time_s, population, requests=count, rng=rng)
    return simulate(of or engine(step), source, rng=rng)


def look(done: Outcome, moment_s: float, began_s: float, of: Engine | None) -> TelemetrySample:
    """What the engine's page says at a moment of a stage."""
    here = (done.arrival_s <= moment_s) & (moment_s < done.ended_s)
    runs = here & (done.scheduled_s <= moment_s)
    values = {"running": float(runs.sum()), "waiting": float((here & ~runs).sum())}
    if of is not None and of.kv_tokens is not None:
        decoding_s = np.maximum(done.ended_s - done.first_token_s, 1e-9)[runs]
        share = np.clip((moment_s - done.first_token_s[runs]) / decoding_s, 0, 1)
        held = done.prompt_tokens[runs] + share * done.output_tokens[runs]
        values["kv_usage"] = min(1.0, float(held.sum()) / of.kv_tokens)
    time_s = began_s + moment_s
    return TelemetrySample(time_s=time_s, target="t", source="/metrics", values=values)


def run_of_levels(
    levels: Sequence[int],
    *,
    count: int = 400,
    seed: int = 1,
    step: StepTime = STEP,
    of: Engine | None = None,
    looks: list[TelemetrySample] | None = None,
) -> Run:
    """A run of a closed loop at some levels; what is unfinished at a stage's end is left out.

    With ``looks`` its server tells no slots, and is looked at once a second, as vLLM is.
    """
    requests: list[RequestRecord] = []
    stages = []
    began_s = 0.0
    for index, level in enumerate(levels):
        done = simulated_users(level, 0.0, count + level, seed=seed + index, step=step, of=of)
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
        if looks is not None:
            looks += [look(done, t, began_s, of) for t in np.arange(0.5, ended_s)]
        began_s += ended_s + 1
    limits = EngineLimits(slots=SLOTS) if looks is None else EngineLimits()
    target = TargetInfo(name="t", backend="vllm", url="http://127.0.0.1:1", limits=limits)
    table = RequestTable.from_records(requests)
    return Run(Path("run"), manifest(*stages, targets=(target,)), table, {})
