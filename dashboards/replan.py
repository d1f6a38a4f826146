"""Asks the planner again what a run was made for, and samples its predictions as lines to draw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dashboards.answer import Answer, Measured
from dashboards.capacity import CapacityCurve
from dashboards.figures import Curve
from dashboards.text import figure_name, tick_text
from planner.capacity import Capacity
from planner.errors import Refused
from planner.pooling import evidence_of
from planner.predict import Load, Replica
from planner.recommend import recommend, sentence
from planner.records import Demand
from planner.runfolder import read_run
from planner.summary import QUANTILE_LEVELS, level_samples, operating_points
from planner.units import parse_slo, percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from planner.records import PlanContext, Recommendation, Slo, TargetInfo
    from planner.summary import LevelSample

__all__ = ["answer_from", "measured_from"]

_DRAWS = 400
_CURVE_POINTS = 40
_CAPACITY_POINTS = 60
_SURELY_MISSED = 0.005
_NO_QUESTION = (
    "No recommendation: these runs were made without a number of users and objectives to plan for."
)
_ASK = "headroom recommend RUN --users N --think-time T --slo 'ttft_p95<=1s'"


def measured_from(paths: Sequence[Path], plan: PlanContext | None) -> list[Measured]:
    """Read runs and summarise them, with the quantiles that the objectives ask for.

    Raises:
        RunFolderError: a run folder cannot be read.
        InputError: an objective in a plan cannot be read.
    """
    measured = []
    for path in paths:
        run = read_run(path, gaps=False)
        asked = _quantiles(_objectives(plan or run.manifest.plan))
        measured.append(Measured(run, operating_points(run, quantiles=asked)))
    return measured


def answer_from(
    measured: Sequence[Measured],
    plan: PlanContext | None,
    *,
    rng: np.random.Generator,
    recommendation: Recommendation | None = None,
) -> Answer:
    """What the planner recommends from these runs.

    Args:
        measured: the runs; the last one's question counts where several were asked.
        plan: the question; by default the one that the runs were made for.
        rng: of the bootstrap.
        recommendation: the answer, where the caller has it already.

    Raises:
        InputError: the question cannot be answered by any data: no users, no objective.
    """
    plans = [m.run.manifest.plan for m in measured if m.run.manifest.plan is not None]
    asked = plan or (plans[-1] if plans else None)
    if asked is None:
        return Answer(
            question="What was measured", sentence=_NO_QUESTION, next_measurements=(_ASK,)
        )
    slo = _objectives(asked)
    quantiles = _quantiles(slo)
    samples = [
        sample
        for m in measured
        for sample in level_samples(m.run, draws=_DRAWS, rng=rng, quantiles=quantiles)
    ]
    targets = list({t.name: t for m in measured for t in m.run.manifest.targets}.values())
    replicas = dict(_replicas(samples, targets, rng))
    answer = Answer(
        question=_question(asked, slo), sentence="", slo=slo, curves=tuple(_curves(replicas, slo))
    )
    try:
        found = recommendation or _recommend(samples, targets, asked, slo, rng)
    except Refused as refusal:
        return replace(
            answer,
            sentence=f"No recommendation: {refusal}",
            next_measurements=refusal.next_measurements,
        )
    return replace(
        answer,
        sentence=sentence(found),
        recommendation=found,
        next_measurements=found.next_measurements,
        warnings=found.warnings,
        capacities=tuple(_capacities(replicas, slo, asked)),
    )


def _recommend(
    samples: Sequence[LevelSample],
    targets: Sequence[TargetInfo],
    plan: PlanContext,
    slo: Sequence[Slo],
    rng: np.random.Generator,
) -> Recommendation:
    return recommend(
        samples,
        targets,
        Demand(users=plan.users, think_time_s=plan.think_time_s),
        slo,
        confidence=plan.confidence,
        spare=plan.spare,
        gpu_cost=plan.gpu_cost,
        rng=rng,
    )


def _objectives(plan: PlanContext | None) -> tuple[Slo, ...]:
    return () if plan is None else tuple(parse_slo(text) for text in plan.slo)


def _quantiles(slo: Sequence[Slo]) -> tuple[float, ...]:
    return tuple(sorted({q for s in slo if (q := percentile_of(s.figure)) is not None}))


def _question(plan: PlanContext, slo: Sequence[Slo]) -> str:
    """``50 users who pause 10 s between requests, with TTFT p95 ≤ 1 s``."""
    users = f"{plan.users:,} user{'s' if plan.users != 1 else ''}"
    pause = (
        f" who pause {tick_text('think_s', plan.think_time_s)} between requests"
        if plan.think_time_s
        else ""
    )
    bounds = " and ".join(f"{figure_name(s.figure)} ≤ {tick_text(s.figure, s.bound)}" for s in slo)
    return f"{users}{pause}{', with ' if bounds else ''}{bounds}"


def _replicas(
    samples: Sequence[LevelSample], targets: Sequence[TargetInfo], rng: np.random.Generator
) -> Iterator[tuple[str, Replica]]:
    """The planner's model of one replica of each target that has a usable level."""
    for target in targets:
        evidence = evidence_of([s for s in samples if s.point.target == target.name])
        if evidence.curve:
            yield (
                target.name,
                Replica(
                    evidence.curve,
                    evidence.thinking,
                    quantile_levels=QUANTILE_LEVELS,
                    slots=target.limits.slots,
                    rng=rng,
                ),
            )


def _curves(replicas: dict[str, Replica], slo: Sequence[Slo]) -> Iterator[Curve]:
    """Each objective's figure against concurrency, over the measured range."""
    names = dict.fromkeys([*(s.figure for s in slo), "ttft_p95_s", "tpot_p95_s", "e2e_p95_s"])
    for target, replica in replicas.items():
        low, high = float(replica.levels[0]), float(replica.levels[-1])
        if low == high:
            continue
        loads = np.unique(np.round(np.geomspace(low, high, _CURVE_POINTS)))
        for name in names:
            if not replica.reports(name):
                continue
            rows = [replica.predict(Load(int(n), 0.0), name) for n in loads]
            value, low_end, high_end = (
                np.array([np.nan if v is None else v for v in column])
                for column in zip(*((r.value, r.low, r.high) for r in rows), strict=True)
            )
            if np.isfinite(value).any():
                yield Curve(
                    target=target, figure=name, load=loads, value=value, low=low_end, high=high_end
                )


def _capacities(
    replicas: dict[str, Replica], slo: Sequence[Slo], plan: PlanContext
) -> Iterator[CapacityCurve]:
    """P(every objective is met) against users on one replica, as far as it is known and not 0."""
    for target, replica in replicas.items():
        if not slo or not all(replica.reports(objective.figure) for objective in slo):
            continue
        capacity = Capacity(replica, slo, plan.think_time_s)
        most = min(capacity.limit, capacity.at(_SURELY_MISSED) + 1)
        users = np.unique(np.round(np.linspace(1, max(most, 1), _CAPACITY_POINTS)))
        if most > 1:
            share = np.array([capacity.probability(int(count)) for count in users])
            yield CapacityCurve(target=target, users=users, probability=share)
