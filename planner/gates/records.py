"""What a gate reads and what it says: rules, verdicts, the report."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from planner.records import LoadKind, Name, Record, Slo

__all__ = [
    "EXIT_OF",
    "RAMP",
    "Check",
    "GateReport",
    "Inconclusive",
    "Outcome",
    "Rule",
    "Rules",
    "Verdict",
]

Outcome = Literal["pass", "fail", "inconclusive"]
Inconclusive = Literal["fail", "pass", "3"]
"""What an inconclusive rule does to the exit code: 1, 0 or 3."""

RAMP = "users were being started or stopped"
"""``StageInfo.invalid`` of what lies between two levels of a live run; no rule is about it."""

EXIT_OF: dict[Inconclusive, int] = {"fail": 1, "pass": 0, "3": 3}


class Check(Record, frozen=True, kw_only=True):
    """A figure, a direction, and a bound: absolute, or a factor of the baseline's figure.

    Figures are named as in ``OperatingPoint.figures``; beside them there are ``goodput_share``,
    ``goodput_per_s`` and ``users_at_slo``.
    """

    figure: Name
    op: Literal["<=", ">="]
    bound: float | None = None  # in SI units, as the figure
    factor: float | None = None  # of the baseline; None: the bound is absolute
    text: Name  # as the user wrote it


class Rule(Record, frozen=True, kw_only=True):
    """One check and what it applies to: every level of every target unless narrowed."""

    name: Name
    check: Check
    target: Name | None = None
    load_kind: LoadKind | None = None
    load: float | None = None
    stage: int | None = None
    confidence: float  # of each end of the interval
    slo: tuple[Slo, ...] = ()  # what goodput and users_at_slo refer to
    think_time_s: float | None = None  # of users_at_slo; None: as the run was planned for

    @property
    def relative(self) -> bool:
        """Whether it needs a baseline."""
        return self.check.factor is not None


class Rules(Record, frozen=True, kw_only=True):
    """A rules file, read and checked."""

    rules: tuple[Rule, ...]
    inconclusive: Inconclusive = "3"


class Verdict(Record, frozen=True, kw_only=True):
    """What one rule says about one level of one target."""

    rule: Name
    check: Name
    outcome: Outcome
    figure: Name
    target: Name | None = None  # None: nothing that was measured matches the rule
    level: Name | None = None  # for people: "8 in flight", "50 users", "20/s"
    stages: tuple[int, ...] = ()
    op: Literal["<=", ">="]
    bound: float | None  # in the figure's unit; of a relative rule, factor times the baseline
    value: float | None = None
    low: float | None = None  # the ends of the interval, of which each holds with 95 %
    high: float | None = None
    n: int | None = None  # observations behind the value
    factor: float | None = None  # of a relative rule
    baseline: float | None = None  # the baseline's figure
    change: float | None = None  # value over baseline less 1, with its interval, ends as above
    change_low: float | None = None
    change_high: float | None = None
    p_value: float | None = None  # that nothing changed for the worse, for all rules together
    confidence: float
    reason: Annotated[str, msgspec.Meta(max_length=4000)]  # one sentence, with the remedy


class GateReport(Record, frozen=True, kw_only=True):
    """All verdicts of a gate, in the order of the rules."""

    schema: int = 1
    run: str
    rules: str
    baseline: str | None = None
    outcome: Outcome
    exit_code: int
    inconclusive: Inconclusive
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    emulated: tuple[Name, ...] = ()  # targets that were emulators: no server was measured

    def count(self, outcome: Outcome) -> int:
        """How many verdicts have this outcome."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)
