"""A claim and the evidence at hand to a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planner.claims import rules
from planner.claims.capacity import judge_only_one, judge_possible
from planner.claims.facts import (
    judge_at_once,
    judge_capability,
    judge_coexist,
    judge_identical,
    judge_loaded,
)
from planner.claims.ratios import judge_ratio, judge_scaling, judge_trend
from planner.claims.records import ClaimVerdict, Finding, Ruling
from planner.claims.weighing import ruled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from planner.claims.catalogue import Claim
    from planner.claims.records import Evidence, Verdict
    from planner.claims.rules import NotMeasured

__all__ = ["judge", "judge_all"]


def _not_measured(check: NotMeasured, _: Evidence) -> Ruling:
    finding = Finding(what="no run of Headroom records it", state="open", told=check.why)
    return ruled("not_measured", check.why, [finding], next_steps=[check.instead])


_JUDGES: dict[type, Callable[[Any, Evidence], Ruling]] = {
    rules.Ratio: judge_ratio,
    rules.Trend: judge_trend,
    rules.Scaling: judge_scaling,
    rules.AtOnce: judge_at_once,
    rules.OnlyOne: judge_only_one,
    rules.Identical: judge_identical,
    rules.Loaded: judge_loaded,
    rules.Capability: judge_capability,
    rules.Coexist: judge_coexist,
    rules.Possible: judge_possible,
    rules.NotMeasured: _not_measured,
}


def judge_all(claims: Mapping[str, Claim], evidence: Evidence) -> tuple[ClaimVerdict, ...]:
    """Every claim of a catalogue, in its order."""
    return tuple(judge(name, claim, evidence) for name, claim in claims.items())


def judge(name: str, claim: Claim, evidence: Evidence) -> ClaimVerdict:
    """One claim. It holds if each of its checks does."""
    rulings = tuple(_JUDGES[type(check)](check, evidence) for check in claim.checks)
    decided = [ruling for ruling in rulings if ruling.verdict != "untested"]
    told = decided or rulings
    return ClaimVerdict(
        id=name,
        text=claim.text,
        source=claim.source or "",
        verdict=_together(ruling.verdict for ruling in rulings),
        reason="; and ".join(dict.fromkeys(ruling.reason for ruling in told)),
        rulings=rulings,
        next_steps=tuple(dict.fromkeys(s for ruling in rulings for s in ruling.next_steps)),
    )


def _together(verdicts: Iterable[Verdict]) -> Verdict:
    """All checks together: refuted if one is and none holds even in part."""
    seen = set(verdicts)
    if len(seen) == 1:
        return seen.pop()
    if seen <= {"refuted", "untested"}:
        return "refuted"
    return "mixed"
