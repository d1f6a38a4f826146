"""What was measured, as rules ask for it: levels with the figures of one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from planner.compare import LevelData
from planner.compare_runs import LevelKey, level_data
from planner.gates.checks import NEEDS_SLO, latency_of
from planner.records import Name, Record, Slo
from planner.resample import METRICS
from planner.summary import QUANTILE_LEVELS, level_samples, unanswered_points
from planner.uncertainty import CONFIDENCE, needed_for_percentile
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.gates.records import Rule
    from planner.records import Estimate, LoadKind
    from planner.runfolder import Run
    from planner.summary import LevelSample

__all__ = ["Level", "Question", "levels_of", "question_of"]


_DRAWS = 400


class Question(NamedTuple):
    """What must be worked out of a run to judge a rule.

    A percentile decides how many answers are enough, and so which stages are pooled.
    """

    quantile: float | None
    slo: tuple[Slo, ...]


class Level(Record, frozen=True, kw_only=True):
    """One measurement of one level of load on one target.

    Attributes:
        data: its operating point, with what its intervals rest on.
        arrivals: pattern of a rate.
        stages: indexes of the stages that it was made of, where they are known.
        client_fault: why not even its errors can be counted against the server.
    """

    data: LevelData
    arrivals: Name | None = None
    stages: tuple[int, ...] = ()
    client_fault: str | None = None

    @property
    def key(self) -> tuple[LevelKey, tuple[str, ...]]:
        """What two measurements must share to be compared; who was loaded beside it counts."""
        point = self.data.point
        key = LevelKey(point.target, point.load_kind, point.load, point.think_time_s, self.arrivals)
        return key, tuple(sorted(point.together))

    @property
    def told(self) -> str:
        """The level for people: ``8 in flight``, ``50 users``, ``20/s``."""
        point = self.data.point
        return told_load(point.load_kind, point.load, point.together)


def told_load(kind: LoadKind, load: float, together: Sequence[str] = ()) -> str:
    """A load for people."""
    beside = f" beside {', '.join(together)}" if together else ""
    if kind == "rate":
        return f"{load:g}/s{beside}"
    return f"{load:g} {'users' if kind == 'users' else 'in flight'}{beside}"


def question_of(rule: Rule) -> Question:
    """The question that a rule puts to a run: the same one however its objectives are written."""
    needs = rule.check.figure in NEEDS_SLO
    slo = {
        Slo(figure=s.figure, op=s.op, bound=s.bound, text=f"{s.figure}{s.op}{s.bound!r}")
        for s in rule.slo
        if needs and s.figure != "error_rate"
    }
    return Question(percentile_of(rule.check.figure), tuple(sorted(slo, key=lambda s: s.text)))


def levels_of(run: Run, question: Question, figures: Iterable[str]) -> tuple[Level, ...]:
    """All levels of a run with what a question asks for, those without any answer included.

    Args:
        run: the run.
        question: decides what is enough, and adds goodput.
        figures: those that are wanted; metrics of which none is wanted are left out.
    """
    wanted = {latency_of(figure) for figure in figures} | {"ttft"}
    metrics = tuple(metric for metric in METRICS if metric in wanted)
    if run.imported is not None:
        return _imported_levels(run, metrics)
    found = level_data(
        run,
        quantiles=() if question.quantile is None else (question.quantile,),
        slo=question.slo,
        metrics=metrics,
    )
    stages = run.manifest.stages
    levels = [_level(run, data, key.arrivals) for key, several in found.items() for data in several]
    for point in unanswered_points(run):
        arrivals = None if point.stage is None else stages[point.stage].arrivals
        levels.append(_level(run, LevelData(point=point), arrivals))
    return tuple(levels)


def _imported_levels(run: Run, metrics: Sequence[str]) -> tuple[Level, ...]:
    """Levels that another tool measured, with intervals as if their requests were independent."""
    rng = np.random.default_rng(abs(run.manifest.seed))
    levels = []
    for sample in level_samples(run, draws=_DRAWS, rng=rng, metrics=metrics):
        point = sample.point
        figures = {name: _bounded(sample, name, known) for name, known in point.figures.items()}
        data = LevelData(point=msgspec.structs.replace(point, figures=figures))
        levels.append(_level(run, data, None))
    return tuple(levels)


def _bounded(sample: LevelSample, name: str, known: Estimate) -> Estimate:
    """A figure with the interval of its replicates, where the file has none and they are known."""
    metric, quantile = latency_of(name), percentile_of(name)
    rows = getattr(sample, name, None) if metric is None else sample.means.get(metric)
    if quantile is not None and metric is not None:
        at = np.flatnonzero(np.isclose(QUANTILE_LEVELS, quantile))
        known_rows = sample.quantiles.get(metric)
        rows = None if known_rows is None or not at.size else known_rows[:, at[0]]
    if known.low is not None or known.high is not None or rows is None or len(rows) <= 1:
        return known
    if not np.ptp(rows[1:]) > 0:
        return known  # the file tells no spread, which is not the same as none
    low, high = np.quantile(rows[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if not (np.isfinite(low) and np.isfinite(high)):
        return known
    bounded = quantile is None or known.n >= needed_for_percentile(quantile)
    return msgspec.structs.replace(
        known,
        low=min(float(low), known.value),
        high=max(float(high), known.value) if bounded else None,
    )


def _level(run: Run, data: LevelData, arrivals: str | None) -> Level:
    point = data.point
    stage = None if point.stage is None else run.manifest.stages[point.stage]
    return Level(
        data=data,
        arrivals=arrivals,
        stages=() if stage is None else (stage.index,),
        client_fault=None if stage is None else stage.invalid,
    )
