"""The difference of one figure between two sides, and what its interval and p-values follow from.

All are worked out from a few numbers that the record holds, so that one difference can be judged
against any margin and any confidence without the runs.
"""

from __future__ import annotations

import math
from typing import Literal

from scipy import special

from planner.records import Record

__all__ = [
    "BOUND",
    "Counts",
    "Difference",
    "Method",
    "Spread",
    "Verdict",
    "bound_confidence",
    "decide",
    "higher_is_better",
    "quantile_of",
]

Verdict = Literal["better", "worse", "no evidence", "inconclusive"]
"""``better`` and ``worse``: no chance, and by more than the margin. ``no evidence``: it is shown
that the difference is not beyond the margin on either side (without a margin: the interval holds
zero). ``inconclusive``: the runs are too short to tell."""

Method = Literal["blocks of time", "blocks of time and runs", "runs", "counts", "none"]

BOUND = 0.95
"""How sure it must be on which side of a margin a difference lies: as sure as a figure is of an
absolute bound. That there is a difference at all is shown with the confidence asked for."""

_POWER = 0.95


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
        return math.inf if error is None else error * quantile_of(self.freedom, confidence)

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
        return decide(self, margin, confidence, self.p_worse(), self.p_better())

    def needed_times(self, margin: float, confidence: float, slowdown: float) -> float | None:
        """How many times as long both runs must be to find a slowdown in 95 of 100 cases.

        Standard errors fall with the square root of the length. Both what ``decide`` asks for must
        be found: that there is a slowdown, and that it is beyond the margin.

        Args:
            margin: what must be exceeded.
            confidence: that a difference is no chance.
            slowdown: the true one, above the margin: 0.2 is 20 % worse.

        Returns:
            The factor, below 1 where the runs were longer than needed; ``None`` where it cannot
            be told.
        """
        errors = [s.above if higher_is_better(self.figure) else s.below for s in self.spreads]
        known = [
            (error, s.freedom)
            for error, s in zip(errors, self.spreads, strict=True)
            if error is not None
        ]
        if not known or len(known) < len(errors) or slowdown <= margin:
            return None
        asked = (
            (confidence, math.log1p(slowdown)),
            (bound_confidence(confidence), math.log((1 + slowdown) / (1 + margin))),
        )
        return (
            max(
                error * (quantile_of(freedom, sure) + quantile_of(freedom, _POWER)) / distance
                for error, freedom in known
                for sure, distance in asked
            )
            ** 2
        )


def higher_is_better(figure: str) -> bool:
    """Whether more of a figure is good: throughput and goodput; latencies and errors are not."""
    return figure.endswith("_per_s") or figure.startswith("goodput")


def bound_confidence(confidence: float) -> float:
    """How sure the side of a margin must be, of a verdict with this confidence."""
    return min(confidence, BOUND)


def decide(
    found: Difference, margin: float, confidence: float, p_worse: float, p_better: float
) -> Verdict:
    """The verdict by p-values of no difference that may have been corrected for others.

    Two nested questions, each with a risk of its own (Morikawa & Yoshida, J. Biopharm. Stat. 5,
    1995): is there a difference at all, and on which side of the margin does it lie? The first
    has the confidence asked for, since its error fails a build though nothing changed. The
    second has that of any other bound, ``BOUND``: its error misjudges how large a change is.

    Args:
        found: the difference.
        margin: what is still the same.
        confidence: that a difference is no chance.
        p_worse: of B not being worse at all.
        p_better: of B not being better at all.
    """
    risk, bound_risk = 1 - confidence, 1 - bound_confidence(confidence)
    if p_worse <= risk and found.p_worse(margin) <= bound_risk:
        return "worse"
    if p_better <= risk and found.p_better(margin) <= bound_risk:
        return "better"
    if found.counts is not None and not found.counts.failed_a + found.counts.failed_b:
        return "no evidence"
    if margin == 0:
        low, high = found.bounds(confidence)
        return "inconclusive" if low is None or high is None else "no evidence"
    return "no evidence" if found.p_within(margin) <= bound_risk else "inconclusive"


def _count_bounds(counts: Counts, confidence: float) -> tuple[float | None, float | None]:
    """The limits of Clopper & Pearson of B's share of the failures, as ratios less 1."""
    a, b = counts.failed_a, counts.failed_b
    low = counts.ratio(float(special.betaincinv(b, a + 1, 1 - confidence))) - 1 if b else None
    high = counts.ratio(float(special.betaincinv(b + 1, a, confidence))) - 1 if a else None
    return low, high


def quantile_of(freedom: float | None, confidence: float) -> float:
    """Of the standard normal distribution, or of Student's t."""
    if freedom is None or math.isinf(freedom):
        return float(special.ndtri(confidence))
    return float(special.stdtrit(freedom, confidence))
