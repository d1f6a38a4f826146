"""Reads rules, a run and a baseline, has them judged, and writes what was asked for."""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner import __version__
from planner.answer import merged, metrics_of
from planner.comparable import check_comparable, target_pairs
from planner.errors import InputError, Refused
from planner.gates import baseline as saved
from planner.gates.baseline import Baseline, bare_manifest, held_levels
from planner.gates.capacity import judge_capacity
from planner.gates.judge import (
    Compared,
    chosen_levels,
    corrected,
    judge_absolute,
    judge_relative,
    unmatched,
)
from planner.gates.levels import Level, Question, levels_of, question_of
from planner.gates.records import EXIT_OF, GateReport
from planner.gates.rules import MAX_BYTES, parse_rules
from planner.hardware import builtin_catalogue
from planner.resample import METRICS
from planner.roofline import beyond_hardware
from planner.runfolder import read_run
from planner.summary import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from planner.gates.records import Inconclusive, Outcome, Rule, Rules, Verdict
    from planner.hardware import Catalogue
    from planner.records import TargetInfo
    from planner.runfolder import Run

__all__ = ["gate", "make_baseline", "read_baseline", "read_rules", "write_file"]

MAX_VERDICTS = 10_000
CAPACITY = "users_at_slo"


def read_rules(path: Path) -> Rules:
    """The rules in a file.

    Raises:
        InputError: it cannot be read, or as ``parse_rules``.
    """
    return parse_rules(_read(path, MAX_BYTES, "rules"), what=f"rules {path}")


def read_baseline(path: Path) -> Run | Baseline:
    """A baseline: a run folder, or a file written by ``--save-baseline``.

    Raises:
        InputError: neither of the two, or damaged.
    """
    if path.is_dir():
        return read_run(path, gaps=False)
    data = _read(path, saved.MAX_BYTES, "baseline")
    return saved.parse_baseline(data, f"baseline {path}")


def write_file(path: Path, data: bytes, what: str) -> None:
    """Write beside and rename, so that no reader sees half a file.

    Raises:
        InputError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{what} {path} cannot be written: {error.strerror or error}") from error


def gate(
    run: Run,
    rules: Rules,
    *,
    rules_name: str,
    baseline: Run | Baseline | None = None,
    baseline_name: str = "",
    inconclusive: Inconclusive | None = None,
    baseline_follows: bool = False,
    allowed: Collection[str] = (),
    catalogue: Catalogue | None = None,
) -> GateReport:
    """Judge a run. The same run, rules and baseline always give the same report.

    Args:
        run: the run.
        rules: from :func:`read_rules`.
        rules_name: how the report calls them.
        baseline: from :func:`read_baseline`.
        baseline_name: how the report and messages call it.
        inconclusive: what such rules do; by default as the rules file says.
        baseline_follows: this run will be the first baseline: rules against one are inconclusive
            instead of refused.
        allowed: what may differ from the baseline (``planner.comparable.KEYS``).
        catalogue: of hardware; what lies beyond it was not measured. The one that ships by default.

    Raises:
        InputError: a rule names an unknown target or needs a baseline that is not there or that
            cannot be compared with the run.
    """
    catalogue = catalogue or builtin_catalogue()
    targets = {target.name: target for target in run.manifest.targets}
    _check_targets(rules.rules, list(targets))
    notes = _check_baseline(
        run, rules.rules, baseline, baseline_name, allowed=allowed, follows=baseline_follows
    )
    levels = _levels(run, rules.rules, catalogue)
    other = _BaselineLevels(run, baseline if any(r.relative for r in rules.rules) else None)
    judged: list[Verdict | Compared] = []
    for rule in rules.rules:
        if rule.check.figure == CAPACITY:
            judged += _capacity(run, rule, catalogue)
            continue
        measured = levels[question_of(rule)]
        chosen = chosen_levels(rule, measured)
        if not chosen:
            judged.append(unmatched(rule, measured))
        elif rule.relative:
            held = other.holds(rule)
            judged += [
                judge_relative(rule, level, other.of(rule, level), held=held) for level in chosen
            ]
        else:
            judged += [judge_absolute(rule, level) for level in chosen]
        if len(judged) > MAX_VERDICTS:
            raise InputError(
                f"{rules_name}: more than {MAX_VERDICTS} verdicts (rules times levels): name the "
                f"levels that the rules are about"
            )
    verdicts = _after_correction(judged)
    outcome = _worst(verdict.outcome for verdict in verdicts)
    choice = inconclusive or rules.inconclusive
    return GateReport(
        run=str(run.path),
        rules=rules_name,
        baseline=baseline_name or None,
        outcome=outcome,
        exit_code={"pass": 0, "fail": 1, "inconclusive": EXIT_OF[choice]}[outcome],
        inconclusive=choice,
        verdicts=tuple(verdicts),
        notes=(*notes, *_imported(run), *run.notes, *run.manifest.notes),
        emulated=tuple(t.name for t in targets.values() if t.emulated),
    )


def make_baseline(run: Run, rules: Rules | None) -> Baseline:
    """A summary of a run that later runs can be compared with.

    Args:
        run: the run.
        rules: whose percentiles and goodput it shall hold beside the usual figures.

    Raises:
        Refused: the run has no usable level.
    """
    asked = [question_of(r) for r in rules.rules if r.check.figure != CAPACITY] if rules else []
    usual = [Question(None, ()), *(Question(quantile, ()) for quantile in sorted(PERCENTILES))]
    levels = [
        held
        for question in dict.fromkeys((*usual, *asked))
        for held in held_levels(levels_of(run, question, METRICS_WANTED), question)
    ]
    if not levels:
        raise Refused(
            f"{run.path} has no usable level to save as a baseline: headroom report says why"
        )
    return Baseline(
        headroom_version=__version__,
        manifest=bare_manifest(run.manifest),
        levels=tuple(levels),
    )


class _BaselineLevels:
    """The levels of a baseline, worked out once for each question."""

    def __init__(self, run: Run, baseline: Run | Baseline | None) -> None:
        pairs = () if baseline is None else target_pairs(baseline.manifest, run.manifest)
        self._names = {mine.name: other.name for other, mine in pairs}
        self._baseline = baseline
        self._found: dict[Question, Sequence[Level]] = {}

    def of(self, rule: Rule, level: Level) -> list[Level] | None:
        """The usable measurements of the same level; ``None`` without a baseline."""
        if self._baseline is None:
            return None
        name = self._names[level.data.point.target]
        (_, *same), beside = level.key
        levels = chosen_levels(msgspec.structs.replace(rule, target=name, stage=None),
                               self._levels(question_of(rule)))  # fmt: skip
        return [
            other
            for other in levels
            if (list(other.key[0][1:]), other.key[1]) == (same, beside)
            and other.client_fault is None
            and (rule.check.figure == "error_rate" or not other.data.point.problems)
        ]

    def holds(self, rule: Rule) -> bool:
        """Whether it can have what a rule asks for: a file holds the answers to some questions."""
        other = self._baseline
        asked = question_of(rule)
        return not isinstance(other, Baseline) or any(h.question == asked for h in other.levels)

    def _levels(self, question: Question) -> Sequence[Level]:
        if question not in self._found:
            other = self._baseline
            if isinstance(other, Baseline):
                held = [h.level for h in other.levels if h.question == question]
            else:
                assert other is not None  # noqa: S101 - `of` has looked
                held = [*levels_of(other, question, METRICS_WANTED)]
            self._found[question] = held
        return self._found[question]


METRICS_WANTED = tuple(f"{metric}_mean_s" for metric in METRICS)


def _check_targets(rules: Sequence[Rule], targets: Sequence[str]) -> None:
    for rule in rules:
        if rule.target is not None and rule.target not in targets:
            known = ", ".join(repr(name) for name in targets)
            raise InputError(
                f"rule {rule.name!r} names target {rule.target!r}, which the run does not have: it "
                f"has {known}"
            )


def _check_baseline(
    run: Run,
    rules: Sequence[Rule],
    baseline: Run | Baseline | None,
    name: str,
    *,
    allowed: Collection[str],
    follows: bool,
) -> tuple[str, ...]:
    """Whether the rules that need a baseline have one that can be compared; what differs in it."""
    targets = [target.name for target in run.manifest.targets]
    relative = [rule for rule in rules if rule.relative]
    if baseline is None:
        if relative and not follows:
            raise InputError(
                f"rule {relative[0].name!r} needs a baseline: give one with --baseline (a run "
                f"folder, or a file written by headroom gate RUN --save-baseline FILE)"
            )
        return ()
    if not relative:
        return ("no rule is about the baseline",)
    found = check_comparable(
        baseline.manifest, run.manifest, allowed=allowed, names=(f"baseline {name}", str(run.path))
    )
    paired = {mine.name for _, mine in target_pairs(baseline.manifest, run.manifest)}
    for rule in relative:
        if missing := ({rule.target} if rule.target else {*targets}) - paired:
            raise InputError(
                f"rule {rule.name!r} is about target {min(missing)!r}, which baseline {name} does "
                f"not have: name a target that both have, or measure the baseline anew"
            )
    return tuple(f"differs from the baseline (A): {one}" for one in found)


def _levels(
    run: Run, rules: Sequence[Rule], catalogue: Catalogue
) -> dict[Question, tuple[Level, ...]]:
    """The levels of the run for each question that the rules put."""
    figures: dict[Question, set[str]] = defaultdict(set)
    for rule in rules:
        if rule.check.figure != CAPACITY:
            # TPOT stands beside what is asked: the hardware bounds it.
            figures[question_of(rule)] |= {rule.check.figure, "tpot_mean_s"}
    targets = {target.name: target for target in run.manifest.targets}
    found = {question: levels_of(run, question, asked) for question, asked in figures.items()}
    return {
        question: tuple(_possible(level, targets, catalogue) for level in levels)
        for question, levels in found.items()
    }


def _possible(level: Level, targets: Mapping[str, TargetInfo], catalogue: Catalogue) -> Level:
    """A level beyond what its hardware can do is marked as one that must not be used."""
    point = level.data.point
    wrong = beyond_hardware(point, targets[point.target], catalogue)
    if not wrong:
        return level
    marked = msgspec.structs.replace(point, problems=(*point.problems, *wrong))
    return msgspec.structs.replace(level, data=msgspec.structs.replace(level.data, point=marked))


def _capacity(run: Run, rule: Rule, catalogue: Catalogue) -> list[Verdict]:
    """``users_at_slo`` of each target that the rule is about."""
    seed = abs(run.manifest.seed)
    samples, targets = merged(
        [run],
        rule.slo,
        rng=np.random.default_rng([seed, 0]),
        metrics=metrics_of(objective.figure for objective in rule.slo),
        catalogue=catalogue,
    )
    plan = run.manifest.plan
    planned = plan.think_time_s if plan is not None else 0.0
    think = planned if rule.think_time_s is None else rule.think_time_s
    return [
        judge_capacity(
            rule,
            target,
            [sample for sample in samples if sample.point.target == target.name],
            think_time_s=think,
            rng=np.random.default_rng([seed, 1]),
        )
        for target in targets
        if rule.target in {None, target.name}
    ]


def _imported(run: Run) -> list[str]:
    """What must be told of figures that another tool measured."""
    if run.imported is None:
        return []
    tools = ", ".join(dict.fromkeys(file.tool for file in run.manifest.sources))
    return [f"imported from {tools}: intervals take its requests as independent"]


def _after_correction(judged: Sequence[Verdict | Compared]) -> list[Verdict]:
    """The verdicts in their order, those against the baseline corrected for how many they are."""
    compared = iter(corrected([one for one in judged if isinstance(one, Compared)]))
    return [next(compared) if isinstance(one, Compared) else one for one in judged]


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    if "fail" in found:
        return "fail"
    return "inconclusive" if "inconclusive" in found else "pass"


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{what} {path} is not a file")
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from error
    except ValueError as error:  # a null byte in the name
        raise InputError(f"{what} {str(path)!r} is no path: {error}") from error
