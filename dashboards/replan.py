"""Asks the planner what the runs say, and samples its predictions as lines to draw.

The streams of random numbers are those of ``planner.answer``, so that a line in a figure and a
number in a table come from the same resamples, and the report agrees with ``headroom recommend``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from dashboards.answer import Answer, Measured
from dashboards.capacity import CapacityCurve
from dashboards.curves import Curve
from dashboards.text import figure_name, tick_text
from planner.answer import answer, merged, metrics_of
from planner.capacity import Capacity
from planner.errors import Refused
from planner.pooling import evidence_of
from planner.predict import Load, Replica
from planner.prior import family_of
from planner.recommend import sentence
from planner.summary import QUANTILE_LEVELS, operating_points
from planner.units import parse_slo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planner.hardware import Catalogue
    from planner.records import OperatingPoint, PlanContext, RunManifest, Slo, TargetInfo
    from planner.runfolder import Run
    from planner.summary import LevelSample

__all__ = ["examine"]

_USUAL = ("ttft_p95_s", "tpot_p95_s", "e2e_p95_s")
_CURVE_POINTS = 40
_CAPACITY_POINTS = 60
_SURELY_MISSED = 0.005
_NO_QUESTION = "No recommendation: these runs were made without a number of users to plan for."
_ASK = "headroom recommend RUN --users N --think-time T --slo 'ttft_p95<=1s'"


def examine(
    runs: Sequence[Run],
    plan: PlanContext | None = None,
    *,
    catalogue: Catalogue | None = None,
) -> tuple[tuple[Measured, ...], Answer]:
    """What each level gave, and what the planner recommends.

    Args:
        runs: at least one.
        plan: the question; by default the one that the last of the runs was made for.
        catalogue: of hardware; the one that ships by default.

    Raises:
        InputError: the question cannot be answered by any data, or two runs measured different
            targets under one name that their folders do not tell apart.
    """
    plans = [run.manifest.plan for run in runs if run.manifest.plan is not None]
    asked = plan or (plans[-1] if plans else None)
    slo = () if asked is None else tuple(parse_slo(text) for text in asked.slo)
    seed = abs(runs[0].manifest.seed)
    figures = [*(s.figure for s in slo), *_USUAL]
    metrics = metrics_of(figures)
    samples, targets = merged(
        runs, slo, rng=np.random.default_rng([seed, 0]), metrics=metrics, catalogue=catalogue
    )
    measured = tuple(_measured(runs, samples, metrics))
    replicas = dict(_replicas(samples, targets, np.random.default_rng([seed, 1])))
    curves = tuple(_curves(replicas, figures))
    if asked is None:
        nothing = Answer(question="What was measured", sentence=_NO_QUESTION, curves=curves)
        return measured, replace(nothing, next_measurements=(_ASK,))
    return measured, _answer(runs, asked, slo, replicas, curves, catalogue)


def _answer(
    runs: Sequence[Run],
    plan: PlanContext,
    slo: tuple[Slo, ...],
    replicas: Mapping[str, Replica],
    curves: tuple[Curve, ...],
    catalogue: Catalogue | None,
) -> Answer:
    question = _question(plan, slo)
    try:
        found = answer(runs, plan, catalogue=catalogue)
    except Refused as refusal:
        return Answer(
            question=question,
            sentence=f"No recommendation: {refusal}",
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
        capacities=tuple(_capacities(replicas, slo, plan.think_time_s, plan.confidence)),
    )


def _question(plan: PlanContext, slo: Sequence[Slo]) -> str:
    """``50 users who pause 10 s between requests, with TTFT p95 ≤ 1 s``."""
    users = f"{plan.users:,} user{'s' if plan.users != 1 else ''}"
    think = tick_text("think_s", plan.think_time_s)
    pause = f" who pause {think} between requests" if plan.think_time_s else ""
    bounds = " and ".join(f"{figure_name(s.figure)} ≤ {tick_text(s.figure, s.bound)}" for s in slo)
    return f"{users}{pause}{', with ' if bounds else ''}{bounds}"


def _measured(
    runs: Sequence[Run], samples: Sequence[LevelSample], metrics: Sequence[str]
) -> Iterator[Measured]:
    """Each run with its points, under the names by which the planner tells targets apart.

    The samples come run after run. A stage that was pooled with others of its level is judged as
    the planner judges them together.
    """
    rest = iter(samples)
    for run in runs:
        points, stages = list(operating_points(run, metrics=metrics)), run.manifest.stages
        waiting = {number for number, point in enumerate(points) if point.completed}
        names = {}
        while waiting:
            sample = next(rest)
            for number in sample.stages:
                names[stages[number].target] = sample.point.target
                points[number] = (
                    sample.point
                    if len(sample.stages) == 1
                    else msgspec.structs.replace(points[number], problems=sample.point.problems)
                )
            waiting.difference_update(sample.stages)
        renamed = replace(run, manifest=_renamed(run.manifest, names))
        yield Measured(renamed, tuple(_of_target(p, names) for p in points))


def _of_target(point: OperatingPoint, names: Mapping[str, str]) -> OperatingPoint:
    return msgspec.structs.replace(point, target=names.get(point.target, point.target))


def _renamed(manifest: RunManifest, names: Mapping[str, str]) -> RunManifest:
    return msgspec.structs.replace(
        manifest,
        targets=tuple(
            msgspec.structs.replace(t, name=names.get(t.name, t.name)) for t in manifest.targets
        ),
        stages=tuple(
            msgspec.structs.replace(s, target=names.get(s.target, s.target))
            for s in manifest.stages
        ),
    )


def _replicas(
    samples: Sequence[LevelSample], targets: Sequence[TargetInfo], rng: np.random.Generator
) -> Iterator[tuple[str, Replica]]:
    """The planner's model of one replica of each target that has a usable level."""
    by_name = sorted(targets, key=lambda target: target.name)
    for target, stream in zip(by_name, rng.spawn(len(by_name)), strict=True):
        evidence = evidence_of([s for s in samples if s.point.target == target.name])
        if evidence.curve:
            replica = Replica(
                evidence.curve,
                evidence.thinking,
                quantile_levels=QUANTILE_LEVELS,
                slots=target.slots,
                family=family_of(target.engine or target.backend),
                rng=stream,
            )
            yield target.name, replica


def _curves(replicas: Mapping[str, Replica], figures: Sequence[str]) -> Iterator[Curve]:
    """Figures against concurrency, over the measured range."""
    for target, replica in replicas.items():
        low, high = float(replica.levels[0]), float(replica.levels[-1])
        if low == high:
            continue
        loads = np.unique(np.round(np.geomspace(low, high, _CURVE_POINTS)))
        for name in dict.fromkeys(figures):
            if not replica.reports(name):
                continue
            rows = [replica.predict(Load(int(n), 0.0), name) for n in loads]
            ends = np.array([[r.value, r.low, r.high] for r in rows], dtype=float)
            if np.isfinite(ends[:, 0]).any():
                value, lower, upper = ends.T
                yield Curve(
                    target=target, figure=name, load=loads, value=value, low=lower, high=upper
                )


def _capacities(
    replicas: Mapping[str, Replica], slo: Sequence[Slo], think_time_s: float, confidence: float
) -> Iterator[CapacityCurve]:
    """P(every objective is met) against users on one replica, as far as it is known and not 0."""
    for target, replica in replicas.items():
        if not slo or not all(replica.reports(objective.figure) for objective in slo):
            continue
        capacity = Capacity(replica, slo, think_time_s)
        most = min(capacity.limit, capacity.at(_SURELY_MISSED) + 1)
        if most > 1:
            asked = max(capacity.at(confidence), 1)  # the number that the tables show
            users = np.unique([*np.round(np.linspace(1, most, _CAPACITY_POINTS)), asked])
            share = np.array([capacity.probability(int(count)) for count in users])
            yield CapacityCurve(target=target, users=users, probability=share)
