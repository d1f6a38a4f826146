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
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from scipy import special

from planner.records import OperatingPoint, Record
from planner.uncertainty import CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Estimate

__all__ = [
    "Counts",
    "Difference",
    "LevelData",
    "Spread",
    "Verdict",
    "compare_levels",
    "higher_is_better",
    "holm",
    "verdicts",
]

Verdict = Literal["better", "worse", "no evidence", "inconclusive"]
"""``better`` and ``worse``: by more than the margin. ``no evidence``: it is shown that the
difference is not beyond the margin on either side (without a margin: the interval holds zero).
``inconclusive``: the runs are too short to tell."""

Method = Literal["blocks of time", "blocks of time and runs", "runs", "counts", "none"]

_LEAST_FREEDOM = 2  # degrees, from which on the scatter of runs is used
_POWER = 0.95


class LevelData(Record, frozen=True, kw_only=True):
    """What one run measured at one level. ``planner.compare_runs`` makes it from a run folder.

    Attributes:
        point: the operating point; an imported one, or a stored one, will do.
        blocks: independent blocks of time behind its intervals; ``None``: not known.
        effective: metric (``e2e``, ``ttft``, ``requests`` ...) -> number of independent requests
            that its requests are worth.
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


class Spread(Record, frozen=True, kw_only=True):
    """How far the logarithm of a ratio may lie from what was found.

    Attributes:
        below, above: its standard error downwards and upwards; ``None`` where it is unbounded.
        freedom: degrees of freedom of Student's t; ``None``: the normal distribution.
    """

    below: float | None
    above: float | None
    freedom: float | None

    def reach(self, error: float | None, confidence: float) -> float:
        """How far one end lies from the value found, in logarithms."""
        return math.inf if error is None else error * _quantile(self.freedom, confidence)

    def tail(self, error: float | None, distance: float) -> float:
        """The chance of a value so far on the wrong side."""
        if error is None:
            return 1.0
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        score = distance / error
        freedom = self.freedom
        return float(special.ndtr(-score) if freedom is None else special.stdtr(freedom, -score))


class Counts(Record, frozen=True, kw_only=True):
    """Failed requests among all of both sides, worth fewer where failures came in bursts."""

    failed_a: float
    failed_b: float
    all_a: float
    all_b: float

    def share(self, ratio: float) -> float:
        """The share of the failures that is B's if its rate is ``ratio`` times A's."""
        return ratio * self.all_b / (self.all_a + ratio * self.all_b)

    def ratio(self, share: float) -> float:
        """The inverse of ``share``."""
        return math.inf if share >= 1 else share / (1 - share) * self.all_a / self.all_b


class Difference(Record, frozen=True, kw_only=True):
    """A figure of B beside the same figure of A.

    Attributes:
        figure: as in ``OperatingPoint.figures``.
        a, b: its value; of several runs the geometric mean (of shares: all requests together).
        relative: b / a - 1; ``None`` where A's is 0 or one is missing.
        low, high: ends of its interval; ``None``: not bounded on that side.
        confidence: of each end alone.
        n_a, n_b: observations.
        effective_a, effective_b: independent ones that they are worth; ``None``: not known.
        runs_a, runs_b: how many runs.
        method: what the interval rests on.
        why: why nothing can be said; ``None`` where something can.
        spreads: what the interval was made of; where there are two, the wider one counts.
        counts: the same for a share.
    """

    figure: str
    a: float | None
    b: float | None
    relative: float | None
    low: float | None
    high: float | None
    confidence: float
    n_a: int
    n_b: int
    effective_a: float | None = None
    effective_b: float | None = None
    runs_a: int
    runs_b: int
    method: Method
    why: str | None = None
    spreads: tuple[Spread, ...] = ()
    counts: Counts | None = None

    def bounds(self, confidence: float) -> tuple[float | None, float | None]:
        """Both ends of b / a - 1, each alone of this confidence; ``None`` where unbounded."""
        if self.counts is not None:
            return _count_bounds(self.counts, confidence)
        if not self.spreads or self.relative is None:
            return None, None
        found = math.log1p(self.relative)
        low = min(found - s.reach(s.below, confidence) for s in self.spreads)
        high = max(found + s.reach(s.above, confidence) for s in self.spreads)
        return (
            None if math.isinf(low) else math.expm1(low),
            None if math.isinf(high) else math.expm1(high),
        )

    def p_above(self, ratio: float) -> float:
        """One-sided p-value of b / a being at most ``ratio``: small means it is above."""
        if self.counts is not None:
            c = self.counts
            if not c.failed_b:
                return 1.0
            return float(special.betainc(c.failed_b, c.failed_a + 1, c.share(ratio)))
        if not self.spreads or self.relative is None:
            return 1.0
        distance = math.log1p(self.relative) - math.log(ratio)
        return max(s.tail(s.below if distance > 0 else s.above, distance) for s in self.spreads)

    def p_below(self, ratio: float) -> float:
        """One-sided p-value of b / a being at least ``ratio``: small means it is below."""
        if self.counts is not None:
            c = self.counts
            if not c.failed_a:
                return 1.0
            return float(special.betaincc(c.failed_b + 1, c.failed_a, c.share(ratio)))
        if not self.spreads or self.relative is None:
            return 1.0
        distance = math.log(ratio) - math.log1p(self.relative)
        return max(s.tail(s.above if distance > 0 else s.below, distance) for s in self.spreads)

    def p_worse(self, margin: float = 0.0) -> float:
        """One-sided p-value: small means that B is worse than A by more than the margin.

        Worse by 10 % is 1.10 times the latency, or 1 / 1.10 of the throughput.
        """
        if higher_is_better(self.figure):
            return self.p_below(1 / (1 + margin))
        return self.p_above(1 + margin)

    def p_better(self, margin: float = 0.0) -> float:
        """One-sided p-value: small means that B is better than A by more than the margin."""
        if higher_is_better(self.figure):
            return self.p_above(1 + margin)
        return self.p_below(1 / (1 + margin))

    def p_different(self) -> float:
        """Two-sided p-value of no difference."""
        return min(1.0, 2 * min(self.p_above(1.0), self.p_below(1.0)))

    def p_within(self, margin: float) -> float:
        """Small means that B differs from A by less than the margin, whichever way.

        Two one-sided tests (Schuirmann, J. Pharmacokin. Biopharm. 15, 1987).
        """
        return max(self.p_below(1 + margin), self.p_above(1 / (1 + margin)))

    def verdict(self, margin: float, confidence: float) -> Verdict:
        """What is shown of this one figure; ``verdicts`` decides on several at once."""
        return _verdict(self, margin, 1 - confidence, self.p_worse(margin), self.p_better(margin))

    def needed_times(self, margin: float, confidence: float, slowdown: float) -> float | None:
        """How many times as long both runs must be to find a slowdown in 95 of 100 cases.

        Standard errors fall with the square root of the length.

        Args:
            margin: what must be exceeded.
            confidence: of the verdict.
            slowdown: the true one, above the margin: 0.2 is 20 % worse.

        Returns:
            The factor, below 1 where the runs were longer than needed; ``None`` where it cannot
            be told.
        """
        errors = [s.above if higher_is_better(self.figure) else s.below for s in self.spreads]
        known = [
            error * (_quantile(s.freedom, confidence) + _quantile(s.freedom, _POWER))
            for error, s in zip(errors, self.spreads, strict=True)
            if error is not None
        ]
        if not known or len(known) < len(errors) or slowdown <= margin:
            return None
        return (max(known) / math.log((1 + slowdown) / (1 + margin))) ** 2


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


def higher_is_better(figure: str) -> bool:
    """Whether more of a figure is good: throughput and goodput; latencies and errors are not."""
    return figure.endswith("_per_s") or figure.startswith("goodput")


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
    build, so that its chance is what matters, and not the share of alarms that are false.

    Args:
        differences: all that one reader looks at.
        margin: what is still the same: 0.05 is 5 %.
        confidence: as above; 0.99 allows one false alarm in a hundred comparisons.
    """
    worse = holm([one.p_worse(margin) for one in differences])
    better = holm([one.p_better(margin) for one in differences])
    return tuple(
        _verdict(one, margin, 1 - confidence, p_worse, p_better)
        for one, p_worse, p_better in zip(differences, worse, better, strict=True)
    )


def _verdict(
    found: Difference, margin: float, risk: float, p_worse: float, p_better: float
) -> Verdict:
    if p_worse <= risk:
        return "worse"
    if p_better <= risk:
        return "better"
    if found.counts is not None and not found.counts.failed_a + found.counts.failed_b:
        return "no evidence"
    if margin == 0:
        low, high = found.bounds(1 - risk)
        return "inconclusive" if low is None or high is None else "no evidence"
    return "no evidence" if found.p_within(margin) <= risk else "inconclusive"


def _compare_ratio(a: Sequence[LevelData], b: Sequence[LevelData], figure: str) -> Difference:
    side_a, side_b = ([one.point.figures.get(figure) for one in side] for side in (a, b))
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
        b=value_b,
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
    within = _within_runs(
        [_errors(e, level, metric) for e, level in zip(known_a, a, strict=True)],
        [_errors(e, level, metric) for e, level in zip(known_b, b, strict=True)],
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


def _metric(figure: str) -> str:
    """Whose dependence a figure has; every rate is one of requests."""
    return "requests" if higher_is_better(figure) else figure.partition("_")[0]


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


def _errors(estimate: Estimate, data: LevelData, metric: str) -> Errors:
    """The ends of a 90 % interval as standard errors of the logarithm."""
    freedom = math.inf if data.blocks is None else max(data.blocks - 1, 1.0)
    scale = _quantile(freedom, (1 + CONFIDENCE) / 2) / math.sqrt(data.inflation.get(metric, 1.0))
    value, low, high = estimate.value, estimate.low, estimate.high
    below = math.log(value / low) / scale if low is not None and 0 < low <= value else math.inf
    above = math.log(high / value) / scale if high is not None and high >= value else math.inf
    return below, above, min(freedom, data.freedom.get(metric, math.inf))


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


def _count_bounds(counts: Counts, confidence: float) -> tuple[float | None, float | None]:
    """The limits of Clopper & Pearson of B's share of the failures, as ratios less 1."""
    a, b = counts.failed_a, counts.failed_b
    low = counts.ratio(float(special.betaincinv(b, a + 1, 1 - confidence))) - 1 if b else None
    high = counts.ratio(float(special.betaincinv(b + 1, a, confidence))) - 1 if a else None
    return low, high


def _quantile(freedom: float | None, confidence: float) -> float:
    """Of the standard normal distribution, or of Student's t."""
    if freedom is None or math.isinf(freedom):
        return float(special.ndtri(confidence))
    return float(special.stdtrit(freedom, confidence))
