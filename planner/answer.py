"""Runs and a question to an answer: what ``recommend``, ``plan`` and the report all call."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.cli import EXIT_DONE, EXIT_INCONCLUSIVE, EXIT_NO
from planner.errors import InputError
from planner.hardware import builtin_catalogue
from planner.levels import plan_next
from planner.recommend import recommend
from planner.records import Demand
from planner.resample import METRICS
from planner.roofline import beyond_hardware
from planner.runfolder import read_run
from planner.server_view import disagreements
from planner.slots import joined, looks_at, seen_slots
from planner.summary import PERCENTILES, level_samples, unanswered_points
from planner.units import metric_of, parse_slo, percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from planner.hardware import Catalogue
    from planner.levels import NextStep
    from planner.records import PlanContext, Recommendation, RunManifest, Slo, TargetInfo
    from planner.runfolder import Run
    from planner.slots import Looks
    from planner.summary import LevelSample

__all__ = ["answer", "exit_code_of", "merged", "metrics_of", "next_step", "read_runs"]

DRAWS = 400


def answer(
    runs: Sequence[Run],
    question: PlanContext,
    *,
    demand: Demand | None = None,
    seed: int | None = None,
    catalogue: Catalogue | None = None,
    routing: str | None = None,
) -> Recommendation:
    """What the runs say about a question. The same runs and seed always give the same answer.

    Args:
        runs: at least one.
        question: users, think time, objectives, confidence, spares, prices.
        demand: what must be served, in place of the question's users and think time.
        seed: of the bootstrap; by default the first run's.
        catalogue: as for ``merged``.
        routing: as for ``recommend``.

    Raises:
        InputError: two runs measured different things under one name, or the question is wrong.
    """
    slo = tuple(parse_slo(text) for text in question.slo)
    start = abs(runs[0].manifest.seed if seed is None else seed)
    samples, targets = merged(
        runs,
        slo,
        rng=np.random.default_rng([start, 0]),
        metrics=metrics_of(objective.figure for objective in slo),
        catalogue=catalogue,
    )
    catalogue = _with_kept(catalogue, runs)
    demand = demand or _demand_of(question)
    found = _recommend(samples, targets, demand, slo, question, start, catalogue, routing)
    notes = [f"{run.path.name}: {note}" for run in runs for note in _notes(run)]
    warnings = tuple(dict.fromkeys([*notes, *found.warnings]))
    return msgspec.structs.replace(found, warnings=warnings)


def next_step(
    run: Run, question: PlanContext, *, top: int, catalogue: Catalogue | None = None
) -> NextStep | None:
    """What to measure next for a question, or ``None`` when the answer is sure enough.

    Args:
        run: what was measured so far.
        question: as for ``answer``.
        top: the highest concurrency allowed.
        catalogue: as for ``merged``.
    """
    slo = tuple(parse_slo(text) for text in question.slo)
    start = abs(run.manifest.seed)
    samples, targets = merged(
        [run],
        slo,
        rng=np.random.default_rng([start, 0]),
        metrics=metrics_of(objective.figure for objective in slo),
        catalogue=catalogue,
    )
    catalogue = _with_kept(catalogue, [run])
    found = _recommend(
        samples,
        targets,
        _demand_of(question),
        slo,
        question,
        start,
        catalogue,
        simulated=False,  # which measures nothing
    )
    return plan_next(found, [*samples, *unanswered_points(run)], targets, top=top)


def merged(
    runs: Sequence[Run],
    slo: Sequence[Slo] = (),
    *,
    rng: np.random.Generator,
    draws: int = DRAWS,
    metrics: Sequence[str] = METRICS,
    catalogue: Catalogue | None = None,
) -> tuple[list[LevelSample], list[TargetInfo]]:
    """The levels and targets of several runs together.

    A target that two runs measured alike (engine, model, settings, limits and workload) is one
    target; one that only has the same name is told apart by its run folder. Where nobody tells its
    slots, they are what its telemetry in all of them shows.

    Args:
        runs: the runs.
        slo: objectives whose percentiles must be known.
        rng: source of randomness of the bootstrap.
        draws: replicates.
        metrics: those that are wanted.
        catalogue: of hardware; a point beyond what it allows gets a problem. The one that ships
            by default, with what the runs kept of their user's.

    Raises:
        InputError: two different targets cannot be told apart even by their folders.
    """
    catalogue = _with_kept(catalogue, runs)
    unusual = tuple(
        share for s in slo if (share := percentile_of(s.figure)) and share not in PERCENTILES
    )
    samples: list[LevelSample] = []
    targets: dict[str, TargetInfo] = {}
    identities: dict[str, object] = {}
    looks: dict[str, list[Looks]] = {}
    for run in runs:
        names, telemetry = {}, run.telemetry()
        for target in run.manifest.targets:
            identity = _identity(target, run.manifest)
            name = target.name
            if identities.setdefault(name, identity) != identity:
                name = f"{target.name} ({run.path.name})"
                if identities.setdefault(name, identity) != identity:
                    raise InputError(
                        f"{run.path}: target {target.name!r} was measured differently in another "
                        f"run of the same folder name; give one of the folders another name"
                    )
            names[target.name] = name
            targets.setdefault(name, msgspec.structs.replace(target, name=name))
            looks.setdefault(name, []).append(looks_at(telemetry, target.name))
        for sample in level_samples(run, draws=draws, rng=rng, quantiles=unusual, metrics=metrics):
            name = names[sample.point.target]
            wrong = beyond_hardware(sample.point, targets[name], catalogue)
            point = msgspec.structs.replace(
                sample.point, target=name, problems=(*sample.point.problems, *wrong)
            )
            samples.append(dataclasses.replace(sample, point=point))
    seen = {name: seen_slots(joined(own)) for name, own in looks.items()}
    return samples, [
        msgspec.structs.replace(target, slots_seen=seen[name]) for name, target in targets.items()
    ]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Run folders, without the gaps between content events, by far the largest part of a run.

    They stay on the disk, and are read there by what needs them.
    """
    return [read_run(path, gaps=False) for path in paths]


def exit_code_of(recommendation: Recommendation) -> int:
    """0 with a recommendation, 1 when surely nothing meets the objectives, 3 when it is open."""
    if recommendation.recommended is not None:
        return EXIT_DONE
    return EXIT_INCONCLUSIVE if recommendation.next_measurements else EXIT_NO


def _with_kept(catalogue: Catalogue | None, runs: Sequence[Run]) -> Catalogue:
    """A catalogue with what the runs kept of their user's own."""
    catalogue = catalogue or builtin_catalogue()
    for run in runs:
        catalogue = catalogue.with_kept(run.manifest.hardware)
    return catalogue


def _demand_of(question: PlanContext) -> Demand:
    return Demand(users=question.users, think_time_s=question.think_time_s)


def _recommend(
    samples: Sequence[LevelSample],
    targets: Sequence[TargetInfo],
    demand: Demand,
    slo: Sequence[Slo],
    question: PlanContext,
    start: int,
    catalogue: Catalogue,
    routing: str | None = None,
    *,
    simulated: bool = True,
) -> Recommendation:
    return recommend(
        samples,
        targets,
        demand,
        slo,
        confidence=question.confidence,
        spare=question.spare,
        gpu_cost=question.gpu_cost,
        catalogue=catalogue,
        rng=np.random.default_rng([start, 1]),
        routing=routing,
        simulated=simulated,
    )


def metrics_of(figures: Iterable[str]) -> tuple[str, ...]:
    """The metrics that figures are of, and TTFT and TPOT, which tell the server's step times."""
    named = {"ttft", "tpot", *map(metric_of, figures)}
    return tuple(metric for metric in METRICS if metric in named)


def _identity(target: TargetInfo, manifest: RunManifest) -> object:
    """What must be equal for two measurements to lie on one curve; a port does not matter."""
    return (
        target.backend,
        target.api,
        target.model,
        target.engine_version,
        target.hardware,
        target.gpus_per_replica,
        target.limits,
        target.slots_given,
        target.settings,
        manifest.workload,
    )


def _notes(run: Run) -> tuple[str, ...]:
    unfinished = run.manifest.state == "running"  # its manifest does not have them yet
    return (*run.notes, *run.manifest.notes, *(disagreements(run) if unfinished else ()))
