"""Run against run: is a figure of one level really different from another's, and by how much?

One measurement gives a figure and its interval, which the block bootstrap over time made as wide as
neighbouring requests depend on each other (``planner.resample``). Two such figures are compared as
the logarithm of their ratio: the interval of a difference of two independent estimates follows from
their own intervals, each end from the ends that point its way (MOVER: Zou & Donner, Statistics in
Medicine 27, 2008; Donner & Zou, Stat. Methods Med. Res. 21, 2012). That needs no normal
distribution, keeps the long side of a tail long, and works for a stored baseline of which only
figures with intervals are left. Shares of failed requests are compared by their counts.

Several runs a side show what a single run cannot: how runs differ from each other. From two degrees
of freedom on (three runs against one, two against two) their scatter makes a second interval
(Student's t; a bootstrap of three runs would be far too narrow), and the wider of the two counts.
One run against one knows nothing of that scatter, and says so by ``Difference.method``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.difference import (
    Counts,
    Difference,
    Spread,
    Verdict,
    decide,
    higher_is_better,
    quantile_of,
)
from planner.records import OperatingPoint, Record
from planner.uncertainty import CONFIDENCE
from planner.units import metric_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Estimate

__all__ = [
    "Difference",
    "LevelData",
    "Verdict",
    "compare_levels",
    "higher_is_better",
    "holm",
    "verdicts",
]

_LEAST_FREEDOM = 2  # degrees, from which on the scatter of runs is used
_ENOUGH_RUNS = 3  # of each side, which show their scatter by themselves
_BATCHES = 16  # of the series from which the dependence within a run is extrapolated
_OF_NO_HITS = 6.0
"""Of no hit the upper end is -log(0.05) = 3 of them; half a one, which the logarithm of a share
takes for none (Gart & Nam, Biometrics 44, 1988), is a sixth of that."""


class LevelData(Record, frozen=True, kw_only=True):
    """What one run measured at one level. ``planner.compare_runs`` makes it from a run folder.

    Attributes:
        point: the operating point; an imported one, or a stored one, will do.
        blocks: independent blocks of time behind its intervals; ``None``: not known.
        effective: metric (``e2e``, ``ttft``, ``requests``, ``goodput`` ...) -> number of
            independent requests that its requests are worth.
        inflation: metric -> how many times as large the variance of its figures is as their
            intervals say (``planner.dependence``), at least 1.
        freedom: metric -> degrees of freedom, where there are fewer than blocks.
        error_inflation: how many times the variance of the error rate that of independent
            failures is.
    """

    point: OperatingPoint
    blocks: float | None = None
    effective: dict[str, float] = msgspec.field(default_factory=dict)
    inflation: dict[str, float] = msgspec.field(default_factory=dict)
    freedom: dict[str, float] = msgspec.field(default_factory=dict)
    error_inflation: float = 1.0


def compare_levels(
    a: Sequence[LevelData],
    b: Sequence[LevelData],
    figure: str,
    *,
    confidence: float = 0.99,
) -> Difference:
    """Compare one figure of one level.

    Args:
        a: the level as each run of the first side measured it, the baseline; at least one.
        b: the same of the second side.
        figure: as in ``OperatingPoint.figures``.
        confidence: of each end of the interval alone.

    Returns:
        The difference; where nothing can be said, why not. A point that failed a gate
        (``OperatingPoint.problems``) shows nothing but its error rate.

    Raises:
        ValueError: a side without a run.
    """
    if not a or not b:
        raise ValueError("each side of a comparison needs a run")
    found = _compare_counts(a, b) if figure == "error_rate" else _compare_ratio(a, b, figure)
    low, high = found.bounds(confidence)
    return msgspec.structs.replace(found, low=low, high=high, confidence=confidence)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted so that the chance of any false one among them is held.

    Holm (Scand. J. Statist. 6, 1979): valid however the tests depend on each other, as figures of
    the same requests do.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return tuple(adjusted)


def verdicts(
    differences: Sequence[Difference], *, margin: float, confidence: float
) -> tuple[Verdict, ...]:
    """Verdicts on many figures at once.

    The chance that two runs of the same thing get any ``worse`` is at most 1 - confidence over all
    figures together, and as much for ``better``: Holm's correction, since one false alarm stops a
    build, so that its chance is what matters, and not the share of alarms that are false. What is
    different all the same is called so where it is beyond the margin (``decide``); that is asked
    of each figure alone, since a change that is there is no false alarm.

    Args:
        differences: all that one reader looks at.
        margin: what is still the same: 0.05 is 5 %.
        confidence: as above; 0.99 allows one false alarm in a hundred comparisons.
    """
    worse = holm([one.p_worse() for one in differences])
    better = holm([one.p_better() for one in differences])
    return tuple(
        decide(one, margin, confidence, p_worse, p_better)
        for one, p_worse, p_better in zip(differences, worse, better, strict=True)
    )


def _compare_ratio(a: Sequence[LevelData], b: Sequence[LevelData], figure: str) -> Difference:
    side_a, side_b = ([one.point.figures.get(figure) for one in side] for side in (a, b))
    found_b = _geometric_mean([one for one in side_b if one is not None])
    if figure.startswith("goodput"):
        # That B meets no objective any more must be found; of a baseline of 0 there is no ratio.
        side_b = [_above_nothing(one) for one in side_b]
    between = _between_runs(side_a, side_b)
    whys = [
        why
        for name, side, levels in (("A", side_a, a), ("B", side_b, b))
        if (why := _unusable(name, levels) or _unfit(name, side, alone=between is None)) is not None
    ]
    known_a, known_b = ([e for e in side if e is not None] for side in (side_a, side_b))
    value_a, value_b = _geometric_mean(known_a), _geometric_mean(known_b)
    metric = _metric(figure)
    base = Difference(
        figure=figure,
        a=value_a,
        b=found_b,
        relative=value_b / value_a - 1 if value_a and value_b is not None else None,
        low=None,
        high=None,
        confidence=CONFIDENCE,
        n_a=sum(e.n for e in known_a),
        n_b=sum(e.n for e in known_b),
        effective_a=_effective(a, metric),
        effective_b=_effective(b, metric),
        runs_a=len(a),
        runs_b=len(b),
        method="none",
        why="; ".join(whys) or None,
    )
    if whys:
        return base
    # Whatever lasts within a run is in the scatter of enough runs, so it need not be guessed.
    guess = min(len(a), len(b)) < _ENOUGH_RUNS
    within = _within_runs(
        [_errors(e, one, metric, guess=guess) for e, one in zip(known_a, a, strict=True)],
        [_errors(e, one, metric, guess=guess) for e, one in zip(known_b, b, strict=True)],
    )
    bare = all(one.low is None and one.high is None for one in (*known_a, *known_b))
    if between is None:
        unbounded = within.below is None and within.above is None
        why = "too few requests to bound it on both sides" if unbounded else None
        return msgspec.structs.replace(base, method="blocks of time", spreads=(within,), why=why)
    return msgspec.structs.replace(
        base,
        method="runs" if bare else "blocks of time and runs",
        spreads=(between,) if bare else (within, between),
    )


def _unusable(name: str, side: Sequence[LevelData]) -> str | None:
    """What forbids to use a side's latencies and rates."""
    problems = dict.fromkeys(problem for one in side for problem in one.point.problems)
    return f"{name}: {'; '.join(problems)}" if problems else None


def _unfit(name: str, side: Sequence[Estimate | None], *, alone: bool) -> str | None:
    """Why a side has nothing to compare; alone: without the scatter of repeated runs."""
    known = [one for one in side if one is not None]
    if len(known) < len(side):
        return f"{name} does not report it"
    if any(not (math.isfinite(one.value) and one.value > 0) for one in known):
        return f"{name}'s is not above 0"
    if alone and all(one.low is None and one.high is None for one in known):
        return f"{name} has no interval of it: no evidence is possible"
    return None


def _geometric_mean(side: Sequence[Estimate]) -> float | None:
    values = [one.value for one in side]
    if not values or min(values) < 0:
        return None
    if min(values) == 0:
        return 0.0
    return values[0] if len(values) == 1 else math.exp(float(np.mean(np.log(values))))


def _above_nothing(one: Estimate | None) -> Estimate | None:
    """Half a hit where there is none, so that it has a logarithm."""
    if one is None or one.value or not one.high:
        return one
    return msgspec.structs.replace(one, value=one.high / _OF_NO_HITS, low=None)


def _metric(figure: str) -> str:
    """Whose dependence a figure has; every rate but that of goodput is one of requests."""
    named = metric_of(figure)
    return "requests" if higher_is_better(figure) and named != "goodput" else named


def _effective(side: Sequence[LevelData], metric: str) -> float | None:
    """Independent requests of all runs."""
    known = [one.effective.get(metric) for one in side]
    numbers = [one for one in known if one is not None]
    return sum(numbers) if len(numbers) == len(known) else None


Errors = tuple[float, float, float]
"""Standard errors of a logarithm downwards and upwards, and degrees of freedom."""


def _within_runs(a: Sequence[Errors], b: Sequence[Errors]) -> Spread:
    """The spread that blocks of time within each run show."""
    below_a, above_a, freedom_a = _side(a)
    below_b, above_b, freedom_b = _side(b)
    below, above = math.hypot(below_b, above_a), math.hypot(above_b, below_a)
    return Spread(
        below=below if math.isfinite(below) else None,
        above=above if math.isfinite(above) else None,
        freedom=_pooled_freedom(((below_a, above_a, freedom_a), (below_b, above_b, freedom_b))),
    )


def _side(each: Sequence[Errors]) -> Errors:
    """Of the mean of a side's runs."""
    below, above = (math.sqrt(sum(e[i] ** 2 for e in each)) / len(each) for i in (0, 1))
    return below, above, _pooled_freedom(each) or math.inf


def _errors(estimate: Estimate, data: LevelData, metric: str, *, guess: bool) -> Errors:
    """The ends of a 90 % interval as standard errors of the logarithm.

    Args:
        estimate: with the interval.
        data: the level that it is of.
        metric: whose dependence counts.
        guess: whether what blocks of time cannot show is extrapolated.
    """
    freedom = math.inf if data.blocks is None else max(data.blocks - 1, 1.0)
    scale = quantile_of(freedom, (1 + CONFIDENCE) / 2)
    if guess:
        scale /= math.sqrt(data.inflation.get(metric, 1.0))
    value, low, high = estimate.value, estimate.low, estimate.high
    below = math.log(value / low) / scale if low is not None and 0 < low <= value else math.inf
    above = math.log(high / value) / scale if high is not None and high >= value else math.inf
    if guess and metric in data.freedom:
        freedom = min(freedom, _left(data.freedom[metric]))
    return below, above, freedom


def _left(freedom: float) -> float:
    """Degrees of freedom of a variance whose correlation r was estimated from the same batches.

    Of m correlated batches f + 1 = m (1 - r) / (1 + r) independent ones are left, so that the
    variance has the relative variance 2 / f. The error of r, whose variance is (1 - r^2) / m, adds
    4 / ((1 - r^2) m) (delta method); 2 over the sum is what is left, at least 1.
    """
    f = min(freedom, _BATCHES - 1)
    r = (_BATCHES - f - 1) / (_BATCHES + f + 1)
    return max(2 / (2 / f + 4 / ((1 - r**2) * _BATCHES)), 1.0)


def _pooled_freedom(each: Sequence[Errors]) -> float | None:
    """Of a sum of variances (Satterthwaite, Biometrics Bull. 2, 1946); ``None``: infinite."""
    variances = [min(below, above) ** 2 for below, above, _ in each]
    finite = [(v, f) for v, (_, _, f) in zip(variances, each, strict=True) if math.isfinite(v)]
    parts = sum(v**2 / f for v, f in finite)
    if parts == 0:
        return None
    return sum(v for v, _ in finite) ** 2 / parts


def _between_runs(a: Sequence[Estimate | None], b: Sequence[Estimate | None]) -> Spread | None:
    """The spread that the scatter of runs shows; the same scatter is taken for both sides."""
    freedom = len(a) + len(b) - 2
    values = [[one.value for one in side if one is not None and one.value > 0] for side in (a, b)]
    if freedom < _LEAST_FREEDOM or sum(map(len, values)) < len(a) + len(b):
        return None
    squares = 0.0
    for side in values:
        logs = np.log(side)
        squares += float(np.sum((logs - logs.mean()) ** 2))
    error = math.sqrt(squares / freedom * (1 / len(a) + 1 / len(b)))
    return Spread(below=error, above=error, freedom=freedom)


def _compare_counts(a: Sequence[LevelData], b: Sequence[LevelData]) -> Difference:
    """Error rates, by the exact test of two Poisson rates given their sum.

    Przyborowski & Wilenski (Biometrika 31, 1940). Failures that come in bursts are worth fewer.
    """
    (failed_a, all_a), (failed_b, all_b) = (_totals(side) for side in (a, b))
    inflation_a, inflation_b = (_inflation(side) for side in (a, b))
    rate_a = failed_a / all_a if all_a else None
    rate_b = failed_b / all_b if all_b else None
    known = bool(all_a and all_b)
    return Difference(
        figure="error_rate",
        a=rate_a,
        b=rate_b,
        relative=rate_b / rate_a - 1 if rate_a and rate_b is not None else None,
        low=None,
        high=None,
        confidence=CONFIDENCE,
        n_a=all_a,
        n_b=all_b,
        effective_a=all_a / inflation_a,
        effective_b=all_b / inflation_b,
        runs_a=len(a),
        runs_b=len(b),
        method="counts" if known else "none",
        why=None if known else "a side counted no request",
        counts=Counts(
            failed_a=failed_a / inflation_a,
            failed_b=failed_b / inflation_b,
            all_a=all_a / inflation_a,
            all_b=all_b / inflation_b,
        )
        if known
        else None,
    )


def _totals(side: Sequence[LevelData]) -> tuple[int, int]:
    """Failed requests and all requests of a side."""
    failed = sum(one.point.failed + one.point.censored for one in side)
    return failed, failed + sum(one.point.completed for one in side)


def _inflation(side: Sequence[LevelData]) -> float:
    """How many times the variance of independent failures a side has, within runs or between."""
    within = max(one.error_inflation for one in side)
    if len(side) <= _LEAST_FREEDOM:
        return max(within, 1.0)
    failed, everything = _totals(side)
    share = failed / everything if everything else 0.0
    if not 0 < share < 1:
        return max(within, 1.0)
    squares = 0.0
    for one in side:
        count = one.point.failed + one.point.censored
        n = count + one.point.completed
        squares += (count - n * share) ** 2 / (n * share * (1 - share)) if n else 0.0
    return max(within, squares / (len(side) - 1), 1.0)
