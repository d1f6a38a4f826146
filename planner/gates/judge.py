"""Rules and levels to verdicts.

An absolute bound is judged by the figure's interval, each end of which holds with 95 %: it passes
where the whole interval meets the bound, fails where none of it does, and is inconclusive between.
A bound against a baseline is judged alike by the interval of the ratio of the figures; and before
it fails, a change of any size must be shown with the asked confidence, after Holm's correction
over all such rules of the gate, so that an unchanged server hardly ever fails any
(``planner.difference.decide``). Passing needs no correction: that every rule passes when one should
not is no likelier than for that one alone (an intersection-union test: Berger, Technometrics 24,
1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from planner.compare import compare_levels, holm
from planner.difference import bound_confidence
from planner.gates.checks import latency_of, show
from planner.gates.levels import told_load
from planner.gates.records import RAMP, Rule, Verdict
from planner.uncertainty import needed_for_percentile
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.compare import Difference
    from planner.gates.levels import Level
    from planner.gates.records import Outcome
    from planner.records import Estimate

__all__ = [
    "Compared",
    "chosen_levels",
    "corrected",
    "judge_absolute",
    "judge_relative",
    "unmatched",
]

_WORST_ERRORS = 0.05
_MOST_TIMES = 100
"""Nobody would measure for longer than this."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A verdict against a baseline before the correction for many rules."""

    rule: Rule
    verdict: Verdict
    difference: Difference | None  # None: nothing could be compared


def chosen_levels(rule: Rule, levels: Sequence[Level]) -> list[Level]:
    """The levels that a rule is about.

    Of a level that was measured again because the first time was not usable, only the usable
    measurements count.
    """
    mine = [
        level
        for level in levels
        if rule.target in {None, level.data.point.target}
        and rule.load_kind in {None, level.data.point.load_kind}
        and (rule.load is None or math.isclose(rule.load, level.data.point.load, rel_tol=1e-6))
        and (rule.stage is None or rule.stage in level.stages)
    ]
    if rule.stage is not None:
        return mine
    mine = [level for level in mine if level.client_fault != RAMP]
    usable = {level.key for level in mine if not level.data.point.problems}
    return [lv for lv in mine if lv.key not in usable or not lv.data.point.problems]


def unmatched(rule: Rule, levels: Sequence[Level]) -> Verdict:
    """The verdict on a rule that is about nothing that was measured."""
    asked = f"stage {rule.stage}" if rule.stage is not None else "any level"
    if rule.load_kind is not None and rule.load is not None:
        asked = told_load(rule.load_kind, rule.load)
    real = [level for level in levels if level.client_fault != RAMP]
    had = dict.fromkeys(f"{level.data.point.target} at {level.told}" for level in real)
    listed = "; ".join(list(had)[:8]) + ("; ..." if len(had) > 8 else "")  # noqa: PLR2004 - readable
    return _verdict(
        rule,
        None,
        "inconclusive",
        f"{rule.target + ' was not' if rule.target else 'nothing was'} measured at {asked}"
        f"{f': the run has {listed}' if had else ': the run has no level'}",
    )


def judge_absolute(rule: Rule, level: Level) -> Verdict:
    """The verdict of an absolute rule on one level."""
    check = rule.check
    found = level.data.point.figures.get(check.figure)
    problem = _problem(rule, level)
    if problem is not None or found is None:
        return _verdict(
            rule, level, "inconclusive", problem or _not_reported(check.figure, level), found
        )
    outcome, why = _against_bound(rule, found, level)
    return _verdict(rule, level, outcome, why, found)


def judge_relative(
    rule: Rule, level: Level, baseline: Sequence[Level] | None, *, held: bool = True
) -> Compared:
    """What a rule against a baseline says about one level, not yet corrected for other rules.

    Args:
        rule: the rule.
        level: the run's.
        baseline: its measurements of the same level; ``None``: there is no baseline yet.
        held: whether the baseline has the figure at any level: a file holds only some.
    """
    check = rule.check
    found = level.data.point.figures.get(check.figure)
    problem = _problem(rule, level)
    if baseline is None:
        problem = problem or "there is no baseline yet"
    elif not held:
        problem = problem or (
            f"the baseline file does not hold {_named(check.figure)}: save it again with these "
            f"rules, or give its run folder as the baseline"
        )
    elif not baseline:
        problem = problem or f"the baseline has no usable level at {level.told}: measure it there"
    if problem is None and found is None:
        problem = _not_reported(check.figure, level)
    if problem is not None or not baseline:
        return Compared(rule, _verdict(rule, level, "inconclusive", problem or "", found), None)
    difference = compare_levels(
        [one.data for one in baseline],
        [level.data],
        check.figure,
        confidence=bound_confidence(rule.confidence),
    )
    if difference.why is not None:
        told = f"{difference.why} (A is the baseline, B this run)"
        return Compared(rule, _verdict(rule, level, "inconclusive", told, found), None)
    return Compared(rule, _with_change(rule, level, found, difference), difference)


def corrected(compared: Sequence[Compared]) -> list[Verdict]:
    """The verdicts of all rules against a baseline, corrected for how many they are."""
    known = [one for one in compared if one.difference is not None]
    adjusted = iter(holm([_p_changed(one.rule, one.difference) for one in known if one.difference]))
    return [
        one.verdict if one.difference is None else _decided(one, one.difference, next(adjusted))
        for one in compared
    ]


def _decided(one: Compared, difference: Difference, p_changed: float) -> Verdict:
    rule, factor = one.rule, one.rule.check.factor or 1.0
    risk = 1 - bound_confidence(rule.confidence)
    beyond, within = difference.p_above(factor), difference.p_below(factor)
    if rule.check.op == ">=":
        beyond, within = within, beyond
    flawless = rule.check.figure == "error_rate" and difference.b == 0
    change = _change(one.verdict)
    if p_changed <= 1 - rule.confidence and beyond <= risk:
        outcome: Outcome = "fail"
        why = f"{change}: beyond what the rule allows, {_percent(factor)}"
    elif within <= risk or flawless:
        outcome = "pass"
        why = f"{change}: within what the rule allows, {_percent(factor)}"
    else:
        outcome = "inconclusive"
        why = f"{change}: the interval holds what the rule allows, {_percent(factor)}{_longer(one)}"
        if beyond <= risk:
            why = (
                f"{change}: beyond what the rule allows, {_percent(factor)}, but among so many "
                f"rules it may be chance: measure for longer, or ask fewer rules"
            )
    return msgspec.structs.replace(one.verdict, outcome=outcome, reason=why, p_value=p_changed)


def _p_changed(rule: Rule, difference: Difference) -> float:
    """Of the figure being no worse than the baseline's at all."""
    return difference.p_above(1.0) if rule.check.op == "<=" else difference.p_below(1.0)


def _longer(one: Compared) -> str:
    """By how much longer both runs would have to be to tell a difference of twice the margin."""
    factor = one.rule.check.factor or 1.0
    margin = max(factor, 1 / factor) - 1
    if one.difference is None or margin == 0:
        return ": measure both for longer"
    times = one.difference.needed_times(margin, one.rule.confidence, max(2 * margin, 0.05))
    if times is None or times <= 1:
        return ": measure both for longer"
    if times > _MOST_TIMES:
        return ", and varies too much to be narrowed: allow for more, or bound another figure"
    return f": measure both about {_times(times)} times as long"


def _problem(rule: Rule, level: Level) -> str | None:
    """Why a level cannot be judged at all. Errors are counted whatever else is wrong with it."""
    if rule.check.figure == "error_rate":
        return level.client_fault
    point = level.data.point
    return "; ".join(point.problems) or None


def _named(figure: str) -> str:
    return "goodput by these objectives" if figure.startswith("goodput") else figure[: -len("_s")]


def _not_reported(figure: str, level: Level) -> str:
    """Why a figure is missing."""
    point = level.data.point
    if point.source != "measured" and not point.source.startswith("emulated"):
        return f"{point.source} did not report it: the file cannot answer this rule"
    if figure == "error_rate" or not point.completed:
        return "no request ended in the window: measure this level for longer"
    metric = latency_of(figure)
    if metric in {"tpot", "itl"} or figure == "output_tokens_per_s":
        return "the server's answers do not tell it: too few tokens each, or no usage figures"
    return "it lies among requests that timed out: raise their limit or lower the load"


def _against_bound(rule: Rule, found: Estimate, level: Level) -> tuple[Outcome, str]:
    """An absolute bound against an interval, and a sentence that says so."""
    check, bound = rule.check, rule.check.bound
    assert bound is not None  # noqa: S101 - the rule is absolute
    told = show(check.figure, bound, declared=True)
    value = show(check.figure, found.value)
    good, bad = (found.high, found.low) if check.op == "<=" else (found.low, found.high)
    meets: Callable[[float], bool] = (
        (lambda v: v <= bound) if check.op == "<=" else (lambda v: v >= bound)
    )
    if good is not None and meets(good):
        return "pass", f"{value} ({_interval(check.figure, found)}) meets {check.op} {told}"
    if bad is not None and not meets(bad):
        return "fail", f"{value} ({_interval(check.figure, found)}) breaks {check.op} {told}"
    if found.low is None and found.high is None:
        source = level.data.point.source
        return "inconclusive", f"{value} of {source} has no interval: no evidence is possible"
    side = "meets" if meets(found.value) else "breaks"
    return "inconclusive", (
        f"{value} {side} {check.op} {told}, but its interval ({_interval(check.figure, found)}) "
        f"holds the bound: {_remedy(check.figure, found, bound)}"
    )


def _remedy(figure: str, found: Estimate, bound: float) -> str:
    """What would narrow an interval enough."""
    if figure == "error_rate" and found.value == 0 and bound > 0:
        needed = math.ceil(math.log(_WORST_ERRORS) / math.log1p(-min(bound, 0.999)))
        return f"{found.n:,} requests without an error are too few, {needed:,} would do"
    quantile = percentile_of(figure)
    if quantile is not None and found.n < (needed := needed_for_percentile(quantile)):
        return f"{found.n:,} answers are too few, p{quantile * 100:g} needs {needed:,}"
    distance = abs(bound - found.value)
    end = found.high if bound > found.value else found.low
    if end is None or distance == 0 or abs(end - found.value) <= distance:
        return "measure this level for longer"
    times = (abs(end - found.value) / distance) ** 2
    if times > _MOST_TIMES:
        return "value and bound are too near to be told apart: move the bound"
    return f"measure this level about {_times(times)} times as long"


def _with_change(
    rule: Rule, level: Level, found: Estimate | None, difference: Difference
) -> Verdict:
    base = difference.a
    factor = rule.check.factor or 1.0
    return msgspec.structs.replace(
        _verdict(rule, level, "inconclusive", "", found),
        baseline=base,
        bound=None if base is None else factor * base,
        change=difference.relative,
        change_low=difference.low,
        change_high=difference.high,
    )


def _change(verdict: Verdict) -> str:
    """A change for people: ``812 ms against 700 ms: +16 % (+9.1 to +23 %)``."""
    figure = verdict.figure
    told = f"{show(figure, verdict.value)} against {show(figure, verdict.baseline)}"
    if verdict.change is None:
        return told
    low, high = (_signed(end) for end in (verdict.change_low, verdict.change_high))
    return f"{told}, {_signed(verdict.change)} ({low} to {high})"


def _times(times: float) -> str:
    return f"{math.ceil(times)}" if times > 10 else f"{math.ceil(times * 10) / 10:g}"  # noqa: PLR2004


def _signed(change: float | None) -> str:
    return "open" if change is None else f"{change * 100:+.3g} %"


def _percent(factor: float) -> str:
    return f"{(factor - 1) * 100:+.3g} %" if factor != 1 else "no change"


def _interval(figure: str, found: Estimate) -> str:
    low = "open" if found.low is None else show(figure, found.low)
    high = "open" if found.high is None else show(figure, found.high)
    return f"{low} to {high}, n = {found.n:,}"


def _verdict(
    rule: Rule,
    level: Level | None,
    outcome: Outcome,
    reason: str,
    found: Estimate | None = None,
) -> Verdict:
    return Verdict(
        rule=rule.name,
        check=rule.check.text,
        outcome=outcome,
        figure=rule.check.figure,
        target=rule.target if level is None else level.data.point.target,
        level=None if level is None else level.told,
        stages=() if level is None else level.stages,
        op=rule.check.op,
        bound=rule.check.bound,
        value=None if found is None else found.value,
        low=None if found is None else found.low,
        high=None if found is None else found.high,
        n=None if found is None else found.n,
        factor=rule.check.factor,
        confidence=rule.confidence,
        reason=reason[:4000],
    )
