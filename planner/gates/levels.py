"""What was measured, as rules ask for it: levels with the figures of one question."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from planner.compare import LevelData
from planner.compare_runs import LevelKey, level_data
from planner.gates.checks import NEEDS_SLO, metric_of
from planner.records import Name, Record, Slo
from planner.resample import METRICS
from planner.summary import unanswered_points
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.gates.records import Rule
    from planner.records import LoadKind
    from planner.runfolder import Run

__all__ = ["RAMP", "Level", "Question", "levels_of", "question_of"]

RAMP = "users were being started or stopped"
"""``StageInfo.invalid`` of what lies between two levels; no rule is about it."""


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
    """The question that a rule puts to a run."""
    needs = rule.check.figure in NEEDS_SLO
    slo = tuple(s for s in rule.slo if s.figure != "error_rate") if needs else ()
    return Question(percentile_of(rule.check.figure), slo)


def levels_of(run: Run, question: Question, figures: Iterable[str]) -> tuple[Level, ...]:
    """All levels of a run with what a question asks for, those without any answer included.

    Args:
        run: the run.
        question: decides what is enough, and adds goodput.
        figures: those that are wanted; metrics of which none is wanted are left out.
    """
    wanted = {metric_of(figure) for figure in figures} | {"ttft"}
    found = level_data(
        run,
        quantiles=() if question.quantile is None else (question.quantile,),
        slo=question.slo,
        metrics=tuple(metric for metric in METRICS if metric in wanted),
    )
    stages = run.manifest.stages
    levels = [_level(run, data, key.arrivals) for key, several in found.items() for data in several]
    for point in unanswered_points(run):
        arrivals = None if point.stage is None else stages[point.stage].arrivals
        levels.append(_level(run, LevelData(point=point), arrivals))
    return tuple(levels)


def _level(run: Run, data: LevelData, arrivals: str | None) -> Level:
    point = data.point
    stage = None if point.stage is None else run.manifest.stages[point.stage]
    return Level(
        data=data,
        arrivals=arrivals,
        stages=() if stage is None else (stage.index,),
        client_fault=None if stage is None else stage.invalid,
    )
