"""Runs and a question to an answer: the one way in which commands, plans and reports come by it.

The seed is fixed, so that the same run gives the same answer on the terminal and in the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.levels import NextStep, plan_next
from planner.recommend import recommend
from planner.records import Demand
from planner.summary import LevelSample, level_samples
from planner.units import parse_slo, percentile_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import PlanContext, Recommendation, TargetInfo
    from planner.runfolder import Run

__all__ = ["SEED", "answer", "next_step"]

SEED = 20261122
_DRAWS = 200


def answer(
    runs: Sequence[Run],
    question: PlanContext,
    *,
    prompt_tokens_mean: float | None = None,
    output_tokens_mean: float | None = None,
    seed: int = SEED,
) -> Recommendation:
    """Recommend from all that was measured.

    Args:
        runs: at least one; their targets must have different names.
        question: users, think time, objectives, prices.
        prompt_tokens_mean: of the demand, where it differs from what was measured.
        output_tokens_mean: the same for answers.
        seed: of the bootstrap.

    Raises:
        InputError: targets of two runs have one name, or the question is out of bounds.
    """
    rng = np.random.default_rng(seed)
    targets, samples = _evidence(runs, question, rng)
    return recommend(
        samples,
        targets,
        Demand(
            users=question.users,
            think_time_s=question.think_time_s,
            prompt_tokens_mean=prompt_tokens_mean,
            output_tokens_mean=output_tokens_mean,
        ),
        tuple(parse_slo(text) for text in question.slo),
        rng=rng,
        confidence=question.confidence,
        spare=question.spare,
        gpu_cost=question.gpu_cost,
    )


def next_step(run: Run, question: PlanContext, *, top: int) -> NextStep | None:
    """What to measure next for the question, or ``None`` when the answer is sure enough.

    Args:
        run: what was measured so far, perhaps nothing.
        question: what the run is made for.
        top: the highest concurrency to try.
    """
    recommendation = answer([run], question)
    _, samples = _evidence([run], question, np.random.default_rng(SEED))
    return plan_next(recommendation, samples, run.manifest.targets, top=top)


def _evidence(
    runs: Sequence[Run], question: PlanContext, rng: np.random.Generator
) -> tuple[tuple[TargetInfo, ...], tuple[LevelSample, ...]]:
    """The targets of all runs and their levels, with replicates."""
    targets = tuple(target for run in runs for target in run.manifest.targets)
    names = [target.name for target in targets]
    if clash := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"two of the runs have a target named {clash[0]!r}: measure them under different "
            f"names, as in NAME:vllm=http://127.0.0.1:8000"
        )
    asked = [percentile_of(parse_slo(text).figure) for text in question.slo]
    quantiles = tuple(q for q in asked if q is not None)
    samples = tuple(
        sample
        for run in runs
        for sample in level_samples(run, draws=_DRAWS, rng=rng, quantiles=quantiles)
    )
    return targets, samples
