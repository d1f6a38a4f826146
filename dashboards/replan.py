"""Asks the planner again what a run was made for, and samples its predictions as lines to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from planner.recommend import recommend, sentence

from dashboards.answer import Answer, Measured
from dashboards.capacity import Capacity
from dashboards.figures import Curve
from dashboards.text import figure_name, tick_text
from planner.errors import Refused
from planner.levels import is_closed_loop
from planner.predict import Load, Replica
from planner.records import Demand
from planner.runfolder import read_run
from planner.summary import QUANTILE_LEVELS, level_samples, operating_points
from planner.units import format_duration, parse_slo, percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from planner.records import PlanContext, Slo, TargetInfo
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
    measured: Sequence[Measured], plan: PlanContext | None, *, rng: np.random.Generator
) -> Answer:
    """What the planner recommends from these runs.

    Args:
        measured: the runs; the last one's question counts where several were asked.
        plan: the question; by default the one that the runs were made for.
        rng: of the bootstrap.
    """
    plans = [m.run.manifest.plan for m in measured if m.run.manifest.plan is not None]
    asked = plan or (plans[-1] if plans else None)
    if asked is None:
        return Answer(
            question="What was measured", sentence=_NO_QUESTION, next_measurements=(_ASK,)
        )
    slo = _objectives(asked)
    question = _question(asked, slo)
    samples = [
        s
        for m in measured
        for s in level_samples(m.run, draws=_DRAWS, rng=rng, quantiles=_quantiles(slo))
    ]
    targets = list({t.name: t for m in measured for t in m.run.manifest.targets}.values())
    replicas = dict(_replicas(samples, targets, rng))
    curves = tuple(_curves(replicas, slo))
    try:
        found = recommend(
            samples,
            targets,
            Demand(users=asked.users, think_time_s=asked.think_time_s),
            slo,
            confidence=asked.confidence,
            spare=asked.spare,
            gpu_cost=asked.gpu_cost,
            rng=rng,
        )
    except Refused as refusal:
        return Answer(
            question=question,
            sentence=f"No recommendation: {refusal}.".replace("..", "."),
            slo=slo,
            next_measurements=refusal.next_measurements,
            curves=curves,
        )
    return Answer(
        question=question,
        sentence=sentence(found),
        recommendation=found,
        slo=slo,
        next_measurements=found.next_measurements,
        warnings=found.warnings,
        curves=curves,
        capacities=tuple(_capacities(replicas, slo, asked)),
    )


def _objectives(plan: PlanContext | None) -> tuple[Slo, ...]:
    return () if plan is None else tuple(parse_slo(text) for text in plan.slo)


def _quantiles(slo: Sequence[Slo]) -> tuple[float, ...]:
    return tuple(sorted({q for s in slo if (q := percentile_of(s.figure)) is not None}))


def _question(plan: PlanContext, slo: Sequence[Slo]) -> str:
    """``50 users who pause 10 s between requests, with TTFT p95 ≤ 1 s``."""
    users = f"{plan.users:,} user{'s' if plan.users != 1 else ''}"
    pause = (
        f" who pause {format_duration(plan.think_time_s)} between requests"
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
        own = [s for s in samples if s.point.target == target.name and s.point.usable]
        curve = {s.point.load: s for s in own if is_closed_loop(s.point)}
        if curve:
            yield (
                target.name,
                Replica(
                    list(curve.values()),
                    [s for s in own if not is_closed_loop(s.point)],
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
) -> Iterator[Capacity]:
    """P(every objective is met) against users on one replica, while it is known and above 0."""
    usable = {t: r for t, r in replicas.items() if all(r.reports(s.figure) for s in slo)}
    for target, replica in usable.items() if slo else ():
        most = max(2 * plan.users, 8)
        users = np.unique(np.round(np.linspace(1, most, _CAPACITY_POINTS))).astype(int)
        shares: list[float] = []
        for count in users:
            load = Load(int(count), plan.think_time_s)
            if replica.label(load) == "refused":
                break
            shares.append(float(np.all([replica.met(load, s) for s in slo], axis=0)[1:].mean()))
            if shares[-1] < _SURELY_MISSED:
                break
        if len(shares) > 1:
            yield Capacity(
                target=target,
                users=users[: len(shares)].astype(float),
                probability=np.array(shares),
            )
