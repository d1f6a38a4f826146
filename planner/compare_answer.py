"""Two runs, or several of each, to a table of differences with verdicts."""

from __future__ import annotations

import difflib
import re
from itertools import groupby
from typing import TYPE_CHECKING

from planner.comparable import Mismatch, target_pairs
from planner.compare import Difference, Verdict, compare_levels, verdicts
from planner.compare_runs import level_data
from planner.difference import bound_confidence
from planner.errors import InputError
from planner.records import LoadKind, Name, Record
from planner.resample import METRICS
from planner.summary import PERCENTILES
from planner.units import metric_of, percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.compare import LevelData
    from planner.compare_runs import LevelKey
    from planner.records import Slo
    from planner.runfolder import Run

__all__ = [
    "FIGURES",
    "SLOWDOWN",
    "ComparedFigure",
    "ComparedLevel",
    "ComparedRuns",
    "compare_runs",
    "figure_of",
]

FIGURES = (
    "ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "tpot_p50_s", "tpot_p95_s", "e2e_p50_s", "e2e_p95_s",
    "output_tokens_per_s", "error_rate",
)  # fmt: skip
"""Compared where none is named. All verdicts hold together, so each further one costs power."""

SLOWDOWN = 0.20
"""The one of which it is told how long runs must be to find it (twice the margin, where that is
more)."""

_RATES = ("requests_per_s", "output_tokens_per_s", "error_rate")
_GOODPUT = ("goodput_per_s", "goodput_share")
_LATENCY = re.compile(rf"({'|'.join(METRICS)})_(mean|p(\d{{1,2}}(?:\.\d{{1,2}})?))(_s)?")

Sides = list[tuple["LevelKey", tuple["LevelData", ...], tuple["LevelData", ...]]]


class ComparedFigure(Record, frozen=True, kw_only=True):
    """One row.

    Attributes:
        difference: with its interval.
        p_worse, p_better: one-sided p-values of a difference beyond the margin, of this row alone.
        verdict: corrected for all rows of all levels.
        needed_times: of an inconclusive one, how many times as long both runs must be to find a
            slowdown of ``ComparedRuns.slowdown`` in 95 of 100 cases; ``None``: cannot be told.
    """

    difference: Difference
    p_worse: float
    p_better: float
    verdict: Verdict
    needed_times: float | None = None


class ComparedLevel(Record, frozen=True, kw_only=True):
    """One level of load on one target."""

    target: Name
    target_b: Name  # its name in B
    load_kind: LoadKind
    load: float
    think_time_s: float
    arrivals: Name | None
    together: tuple[str, ...] = ()
    figures: tuple[ComparedFigure, ...]


class ComparedRuns(Record, frozen=True, kw_only=True):
    """The document that ``headroom compare --json`` prints.

    Attributes:
        schema: version of this shape.
        a, b: the run folders of each side.
        margin: what is still the same, relative.
        confidence: that no figure of all is called worse (or better) by chance. Ends of intervals,
            which say on which side of the margin a figure lies, have ``Difference.confidence``.
        slowdown: that ``needed_times`` is about.
        levels: those that both sides measured.
        differing: what differs between the runs, knowingly or as the engine's version.
        notes: what else a reader must know.
    """

    schema: int = 1
    a: tuple[str, ...]
    b: tuple[str, ...]
    margin: float
    confidence: float
    slowdown: float
    levels: tuple[ComparedLevel, ...]
    differing: tuple[Mismatch, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def conclusive(self) -> bool:
        """Whether anything is shown; that neither side had errors says nothing of its speed."""
        rows = [row for level in self.levels for row in level.figures]
        errors_only = all(row.difference.figure == "error_rate" for row in rows)
        return any(
            row.verdict in {"better", "worse"}
            or (row.verdict == "no evidence" and (errors_only or row.difference.counts is None))
            for row in rows
        )


def figure_of(text: str) -> str:
    """The figure that a user names: ``ttft_p95`` or ``ttft_p95_s``, ``requests_per_s`` ...

    Raises:
        InputError: there is none of that name; the nearest are told.
    """
    match = _LATENCY.fullmatch(text)
    if match and (match[3] is None or float(match[3]) > 0):
        return text.removesuffix("_s") + "_s"
    if text in (*_RATES, *_GOODPUT):
        return text
    known = [*_RATES, *_GOODPUT, *(f"{m}_{p}" for m in METRICS for p in ("mean", "p50", "p95"))]
    near = difflib.get_close_matches(text[:40], known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise InputError(
        f"--figure {text[:40]!r} is unknown: known are {', '.join(METRICS)} with _mean or _pNN, "
        f"{', '.join((*_RATES, *_GOODPUT))}{meant}"
    )


def compare_runs(
    a: Sequence[Run],
    b: Sequence[Run],
    *,
    figures: Sequence[str] = (),
    slo: Sequence[Slo] = (),
    margin: float = 0.05,
    confidence: float = 0.99,
    differing: Sequence[Mismatch] = (),
) -> ComparedRuns:
    """Compare two sides level by level.

    Args:
        a: runs of the baseline, at least one.
        b: runs of the other side, at least one.
        figures: those to compare, as ``figure_of`` gives them; none: ``FIGURES``, and goodput where
            there are objectives.
        slo: objectives that goodput counts.
        margin: what is still the same: 0.05 is 5 %.
        confidence: as in ``ComparedRuns``.
        differing: what ``check_comparable`` allowed.

    Raises:
        InputError: no level in common, or goodput without an objective.
    """
    chosen = tuple(figures) or (*FIGURES, *(["goodput_per_s"] if slo else []))
    if not slo and any(figure in _GOODPUT for figure in chosen):
        raise InputError("goodput counts the requests that met objectives: give them with --slo")
    rows: list[tuple[int, Difference]] = []
    keys: list[LevelKey] = []
    notes: dict[str, None] = {}
    pairs = target_pairs(a[0].manifest, b[0].manifest)
    renamed = {one.name: other.name for one, other in pairs}
    ends = bound_confidence(confidence) if margin else confidence
    by_quantile = sorted(chosen, key=lambda figure: _unusual(figure) or 0.0)
    for quantile, some in groupby(by_quantile, _unusual):
        wanted = list(some)
        levels, told = _sides(a, b, renamed, quantile, slo, wanted)
        notes |= dict.fromkeys(told)
        for key, side_a, side_b in levels:
            if key not in keys:
                keys.append(key)
            found = (compare_levels(side_a, side_b, f, confidence=ends) for f in wanted)
            rows += [(keys.index(key), difference) for difference in found]
    if not rows:
        raise InputError(f"no level in common: {'; '.join(notes)}: measure the same levels")
    notes |= dict.fromkeys(_few_runs(a, b))
    notes |= dict.fromkeys(f"{r.path.name}: {n}" for r in (*a, *b) for n in r.notes)
    judged = verdicts([one for _, one in rows], margin=margin, confidence=confidence)
    slowdown = max(SLOWDOWN, 2 * margin)
    compared = [
        (index, _row(one, verdict, margin, confidence, slowdown))
        for (index, one), verdict in zip(rows, judged, strict=True)
    ]
    order = {figure: number for number, figure in enumerate(chosen)}
    return ComparedRuns(
        a=tuple(run.path.name for run in a),
        b=tuple(run.path.name for run in b),
        margin=margin,
        confidence=confidence,
        slowdown=slowdown,
        levels=tuple(
            ComparedLevel(
                target=key.target,
                target_b=renamed[key.target],
                load_kind=key.load_kind,
                load=key.load,
                think_time_s=key.think_time_s,
                arrivals=key.arrivals,
                together=key.together,
                figures=tuple(
                    sorted(
                        (row for at, row in compared if at == index),
                        key=lambda row: order[row.difference.figure],
                    )
                ),
            )
            for index, key in enumerate(keys)
        ),
        differing=tuple(differing),
        notes=tuple(notes),
    )


def _unusual(figure: str) -> float | None:
    """A percentile that must be asked for, and that decides how many answers are enough."""
    share = percentile_of(figure)
    return share if share is not None and share not in PERCENTILES else None


def _sides(
    a: Sequence[Run],
    b: Sequence[Run],
    renamed: dict[str, str],
    quantile: float | None,
    slo: Sequence[Slo],
    figures: Sequence[str],
) -> tuple[Sides, list[str]]:
    """The levels that both sides measured, in A's order, and which only one did."""
    named = {metric_of(figure) for figure in figures}
    metrics = [metric for metric in METRICS if metric in named or metric == "e2e"]
    original = {name: name_a for name_a, name in renamed.items()}
    (of_a, left_a), (of_b, left_b) = (
        _pooled(name, side, quantile, slo, metrics) for name, side in (("A", a), ("B", b))
    )
    of_b = {
        key._replace(target=original[key.target]): levels
        for key, levels in of_b.items()
        if key.target in original
    }
    both = [(key, levels, of_b[key]) for key, levels in of_a.items() if key in of_b]
    alone = [f"only in A: {_told(key)}" for key in of_a if key not in of_b]
    alone += [f"only in B: {_told(key)}" for key in of_b if key not in of_a]
    return both, [*alone, *left_a, *left_b]


def _pooled(
    name: str,
    runs: Sequence[Run],
    quantile: float | None,
    slo: Sequence[Slo],
    metrics: Sequence[str],
) -> tuple[dict[LevelKey, tuple[LevelData, ...]], list[str]]:
    """The levels of all runs of a side; where some are usable the others are left out, and told."""
    found: dict[LevelKey, list[LevelData]] = {}
    for run in runs:
        quantiles = () if quantile is None else (quantile,)
        for key, levels in level_data(run, quantiles=quantiles, slo=slo, metrics=metrics).items():
            found.setdefault(key, []).extend(levels)
    kept: dict[LevelKey, tuple[LevelData, ...]] = {}
    told = []
    for key, several in found.items():
        levels = tuple(several)
        usable = tuple(one for one in levels if one.point.usable)
        kept[key] = usable or levels
        if 0 < len(usable) < len(levels):
            told.append(
                f"{name}: of {len(levels)} measurements of {_told(key)} {len(usable)} could be used"
            )
    return kept, told


def _row(
    found: Difference, verdict: Verdict, margin: float, confidence: float, slowdown: float
) -> ComparedFigure:
    needed = None
    if verdict == "inconclusive":
        needed = found.needed_times(margin, confidence, slowdown)
    return ComparedFigure(
        difference=found,
        p_worse=found.p_worse(margin),
        p_better=found.p_better(margin),
        verdict=verdict,
        needed_times=needed,
    )


def _few_runs(a: Sequence[Run], b: Sequence[Run]) -> Iterable[str]:
    if len(a) + len(b) <= 3:  # noqa: PLR2004 - two degrees of freedom need four, or three and one
        yield (
            "one run a side does not show how runs differ from each other: repeat them (3 or more "
            "of each) before you trust a small difference"
        )


def _told(key: LevelKey) -> str:
    unit = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}[key.load_kind]
    beside = f" beside {', '.join(key.together)}" if key.together else ""
    return f"{key.target} at {key.load:g} {unit}{beside}"
