"""Rules on what servers told, did and answered: capabilities, files, limits, company, parity."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from planner.claims.records import Finding
from planner.claims.remedies import doctor_command, measure_command, parity_command
from planner.claims.weighing import NAMES, missing, ruled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planner.claims.records import Evidence, Ruling, State
    from planner.claims.rules import AtOnce, Capability, Coexist, Identical, Loaded
    from planner.diagnosis import Diagnosis
    from planner.parity_records import PairParity
    from planner.records import OperatingPoint, TargetInfo

__all__ = [
    "judge_at_once",
    "judge_capability",
    "judge_coexist",
    "judge_identical",
    "judge_loaded",
]

_SHOWN_BY_A_RUN = {"chat", "streaming"}
_BY_HAND = "slots"  # the doctor's name for the option of a server's command line


def judge_capability(check: Capability, evidence: Evidence) -> Ruling:
    """By the doctor's questions; a chat that was measured over the OpenAI API answers two."""
    findings = [
        _capable(check, diagnosis)
        for diagnosis in evidence.diagnoses
        if diagnosis.target.backend == check.backend
    ]
    if set(check.names) <= _SHOWN_BY_A_RUN:
        findings += [
            Finding(
                what=target.name,
                state="holds" if check.has else "fails",
                told=f"{answers:,} chats were answered over its OpenAI-compatible API",
            )
            for target in evidence.of_backend(check.backend)
            if target.api == "openai" and (answers := _answers(target, evidence))
        ]
    if not findings:
        findings = [missing(check.backend, evidence, "no doctor has looked at one")]
    asks = (
        f"{NAMES[check.backend]} {'has' if check.has else 'lacks'} "
        f"{', '.join(name.replace('_', ' ') for name in check.names)} in its OpenAI-compatible API"
    )
    steps = [doctor_command(evidence, [check.backend])] if _any_open(findings) else []
    return ruled("capability", asks, findings, next_steps=steps)


def _capable(check: Capability, diagnosis: Diagnosis) -> Finding:
    told = {name: diagnosis.can(name) for name in check.names}
    lacks = [name for name, can in told.items() if can is False]
    unknown = [name for name, can in told.items() if can is None]
    has = [name for name, can in told.items() if can]
    state: State
    if check.has:
        state = "fails" if lacks else "open" if unknown else "holds"
    else:
        state = "fails" if has else "open" if unknown else "holds"
    parts = [
        f"{word} {', '.join(names)}"
        for word, names in (("has", has), ("lacks", lacks), ("does not tell of", unknown))
        if names
    ]
    what = f"{diagnosis.target.name}, {_engine(diagnosis.target)}"
    return Finding(what=what, state=state, told=f"by the doctor it {' and '.join(parts)}")


def judge_loaded(check: Loaded, evidence: Evidence) -> Ruling:
    """By the model file that a server names; that it names none tells nothing."""
    findings = []
    for backend in check.backends:
        looked = [d.target for d in evidence.diagnoses if d.target.backend == backend]
        servers = {t.url: t for t in (*looked, *evidence.of_backend(backend))}
        findings += [_file(check.suffix, target) for target in servers.values()]
        if not servers:
            findings.append(missing(backend, evidence, "no server of this kind was looked at"))
    asks = (
        f"{', '.join(NAMES[name] for name in check.backends)} each loaded a file that ends in "
        f"{check.suffix}"
    )
    steps = [doctor_command(evidence, check.backends)] if _any_open(findings) else []
    return ruled("model_files", asks, findings, next_steps=steps)


def _file(suffix: str, target: TargetInfo) -> Finding:
    file = target.settings.get("model file")
    named = next((t for t in (file, target.model) if t and t.casefold().endswith(suffix)), None)
    if named:
        return Finding(what=target.name, state="holds", told=f"it says it loaded {named}")
    if file:
        return Finding(what=target.name, state="fails", told=f"it says it loaded {file}")
    told = f"it names its model {target.model or 'not at all'}, and no file"
    return Finding(what=target.name, state="open", told=told)


def judge_at_once(check: AtOnce, evidence: Evidence) -> Ruling:
    """By the limit that a server tells unasked, and by how many ran at once by its own account."""
    findings = []
    looked = [d.target for d in evidence.diagnoses if d.target.backend == check.backend]
    servers = {t.url: t for t in (*evidence.of_backend(check.backend), *looked)}
    findings += [_limit(check, target) for target in servers.values()]
    findings += _ran_at_once(check, evidence)
    if not findings:
        findings = [missing(check.backend, evidence, "no server of this kind was looked at")]
    asks = f"{NAMES[check.backend]} works on {check.requests} requests at once by default"
    steps = []
    if _any_open(findings):
        command = measure_command(evidence, [check.backend], [2 * check.requests])
        steps = [f"{command} (started without a limit, so that its metrics show how many run)"]
    return ruled("at_once", asks, findings, next_steps=steps)


def _limit(check: AtOnce, target: TargetInfo) -> Finding:
    slots = target.limits.slots
    if slots is None:
        told = "it does not tell how many it works on at once"
        return Finding(what=target.name, state="open", told=told)
    if _BY_HAND in target.settings or target.backend == "llamacpp":
        told = f"it was started with {slots}, which tells nothing of the default"
        return Finding(what=target.name, state="open", told=told)
    state: State = "holds" if slots == check.requests else "fails"
    return Finding(what=target.name, state=state, told=f"it says {slots}")


def _ran_at_once(check: AtOnce, evidence: Evidence) -> Iterator[Finding]:
    """Where more ran at once than the claim allows, by the server's own account."""
    names = {target.name for target in evidence.of_backend(check.backend)}
    for point in evidence.points:
        running = None if point.server is None else point.server.running_mean
        if point.target in names and running is not None and running > check.requests + 1:
            told = f"by its own metrics {running:.3g} requests ran at once"
            what = f"{point.target} at {point.load:g} in flight"
            yield Finding(what=what, state="fails", told=told)


def judge_coexist(check: Coexist, evidence: Evidence) -> Ruling:
    """By stages in which all of them were loaded at the same time."""
    findings = [
        _beside(check, group, evidence)
        for group in _groups(evidence)
        if len({evidence.targets[p.target].backend for p in group} & set(check.backends)) > 1
    ]
    complete = [f for f in findings if f.state != "open"]
    findings = complete or findings[-1:]
    if not findings:
        told = "they were not loaded at the same time"
        findings = [
            missing(name, evidence, told)
            for name in check.backends
            if name in evidence.emulated or not evidence.of_backend(name)
        ] or [Finding(what=_listed(check.backends), state="open", told=told)]
    asks = f"{_listed(check.backends)} answer at the same time on one machine"
    steps = []
    if _any_open(findings):
        steps = [measure_command(evidence, check.backends, [1, 4], together=True)]
    return ruled("coexist", asks, findings, next_steps=steps)


def _groups(evidence: Evidence) -> list[tuple[OperatingPoint, ...]]:
    """The points of targets that were loaded at the same time, group by group."""
    groups: dict[tuple[float, tuple[str, ...]], dict[str, OperatingPoint]] = {}
    for point in evidence.points:
        if point.together and point.target in evidence.targets:
            members = tuple(sorted((point.target, *point.together)))
            groups.setdefault((point.load, members), {})[point.target] = point
    return [tuple(found.values()) for _, found in sorted(groups.items())]


def _beside(check: Coexist, group: tuple[OperatingPoint, ...], evidence: Evidence) -> Finding:
    there = {evidence.targets[p.target].backend for p in group}
    what = f"{', '.join(sorted(p.target for p in group))} at {group[0].load:g} in flight each"
    lacking = [NAMES[name] for name in check.backends if name not in there]
    if lacking:
        answered = f"{sum(p.completed for p in group):,} requests were answered"
        told = f"{answered}, but {_listed_names(lacking)} did not take part"
        return Finding(what=what, state="open", told=told)
    addresses = [urlsplit(evidence.targets[p.target].url).netloc for p in group]
    if len(set(addresses)) < len(addresses):
        return Finding(what=what, state="open", told="two of them have one address")
    failed = {p.target: p.failed / max(p.completed + p.failed, 1) for p in group}
    worst = max(failed, key=lambda name: failed[name])
    if failed[worst] > check.most_failed:
        told = f"{failed[worst]:.0%} of the requests to {worst} failed"
        return Finding(what=what, state="fails", told=told)
    ports = ", ".join(address.rpartition(":")[2] for address in addresses)
    told = f"{sum(p.completed for p in group):,} requests were answered on the ports {ports}"
    return Finding(what=what, state="holds", told=told)


def judge_identical(check: Identical, evidence: Evidence) -> Ruling:
    """By the pairs of servers that ``headroom parity`` compared."""
    findings = []
    for first, second in combinations(check.backends, 2):
        pairs = [_same(pair) for pair in _compared({first, second}, evidence)]
        emulated = next((name for name in (first, second) if name in evidence.emulated), None)
        if not pairs and emulated:
            findings.append(missing(emulated, evidence, ""))
        elif not pairs:
            told = "their answers were not compared"
            what = f"{NAMES[first]} and {NAMES[second]}"
            findings.append(Finding(what=what, state="open", told=told))
        findings += pairs
    asks = f"{_listed(check.backends)} give the same answers to the same prompts, greedily"
    steps = [parity_command(evidence, check.backends)] if _any_open(findings) else []
    return ruled("identical_answers", asks, findings, next_steps=steps)


def _compared(backends: set[str], evidence: Evidence) -> Iterator[PairParity]:
    for report in evidence.parities:
        kinds = {t.name: t.backend for t in report.targets if not t.emulated}
        for pair in report.pairs:
            if pair.a in kinds and pair.b in kinds and {kinds[pair.a], kinds[pair.b]} == backends:
                yield pair


def _same(pair: PairParity) -> Finding:
    states: dict[str | None, State] = {"same": "holds", "different": "fails"}
    told = f"of {pair.prompts} prompts they differ by {pair.excess:.1%} beyond their own repeats"
    if pair.identical is not None:
        same = round(pair.identical.value * pair.identical.n)
        told = f"the same answer to {same} of {pair.identical.n} prompts, p = {pair.p_value:.3f}"
    return Finding(
        what=f"{pair.a} and {pair.b}",
        state=states.get(pair.verdict, "open"),
        told=told,
        estimate=pair.identical,
    )


def _answers(target: TargetInfo, evidence: Evidence) -> int:
    return sum(point.completed for point in evidence.points if point.target == target.name)


def _engine(target: TargetInfo) -> str:
    return f"{target.engine or target.backend} {target.engine_version or ''}".strip()


def _listed(backends: tuple[str, ...]) -> str:
    return _listed_names([NAMES[name] for name in backends])


def _listed_names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _any_open(findings: list[Finding]) -> bool:
    return any(finding.state == "open" for finding in findings)
