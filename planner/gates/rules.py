"""Rules files: TOML to rules, and the JSON Schema by which editors check them.

::

    slo = ["ttft_p95<=1s", "tpot_p95<=100ms"]  # what goodput and users_at_slo refer to

    [[rule]]
    check = "ttft_p95 <= 800ms"
    target = "vllm"                            # every target when left out
    concurrency = 8                            # every level when left out

    [[rule]]
    check = "ttft_p95 <= baseline * 1.10"
"""

from __future__ import annotations

import difflib
import tomllib
from typing import Annotated, Any

import msgspec

from planner.errors import InputError
from planner.gates.checks import CHECK_PATTERN, MAX_TEXT, NEEDS_SLO, parse_check
from planner.gates.records import Inconclusive, Rule, Rules
from planner.records import LoadKind, Record, Slo
from planner.uncertainty import CONFIDENCE as INTERVAL
from planner.units import parse_duration, parse_rate, parse_slo

__all__ = ["END", "MAX_BYTES", "MAX_RULES", "parse_rules", "rules_schema"]

MAX_BYTES = 2**16
MAX_RULES = 200
MAX_LINE = 1000
"""Bytes of a line: keys of many dotted parts take the square of their number to read."""
CONFIDENCE = 0.99
"""Of a rule against a baseline, unless it asks for another one: a build fails for no reason once in
a hundred times at most, however many such rules there are."""
END = (1 + INTERVAL) / 2
"""Confidence of each end of a figure's interval, by which absolute bounds are judged."""

_NAME = msgspec.Meta(max_length=200, min_length=1)
_Slo = Annotated[
    list[str],
    msgspec.Meta(
        max_length=50,
        description="Objectives, as ttft_p95<=1s, that goodput and users_at_slo refer to.",
    ),
]
_Think = Annotated[str, msgspec.Meta(description="Mean pause of a user, as 10s, for users_at_slo.")]
_Confidence = Annotated[
    float,
    msgspec.Meta(gt=0.5, lt=1, description="How sure a rule against a baseline must be."),
]


class _RuleTable(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[rule]]``."""

    check: Annotated[
        str,
        msgspec.Meta(
            description="Figure, direction and bound: ttft_p95 <= 800ms, tokens_per_s >= 900, "
            "goodput >= 95%, users_at_slo >= 40, ttft_p95 <= baseline * 1.10.",
            extra_json_schema={"pattern": CHECK_PATTERN, "maxLength": MAX_TEXT},
        ),
    ]
    name: Annotated[str, _NAME, msgspec.Meta(description="What reports call the rule.")] | None = (
        None
    )
    target: Annotated[str, _NAME, msgspec.Meta(description="Only this target.")] | None = None
    concurrency: (
        Annotated[int, msgspec.Meta(ge=1, le=10**6, description="Only at so many in flight.")]
        | None
    ) = None
    users: (
        Annotated[int, msgspec.Meta(ge=1, le=10**6, description="Only at so many users.")] | None
    ) = None
    rate: Annotated[str, msgspec.Meta(description="Only at this rate, as 20/s.")] | None = None
    stage: (
        Annotated[int, msgspec.Meta(ge=0, le=10**6, description="Only this stage, from 0.")] | None
    ) = None
    confidence: _Confidence | None = None
    slo: _Slo | None = None
    think_time: _Think | None = None


class _RulesFile(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rules of a gate of Headroom."""

    rule: Annotated[list[_RuleTable], msgspec.Meta(min_length=1, max_length=MAX_RULES)]
    slo: _Slo = msgspec.field(default_factory=list)
    think_time: _Think | None = None
    confidence: _Confidence = CONFIDENCE
    inconclusive: Annotated[
        Inconclusive,
        msgspec.Meta(description="What a rule that cannot be judged does: exit 1, 0 or 3."),
    ] = "3"


def parse_rules(data: bytes, *, what: str) -> Rules:
    """The rules in the bytes of a TOML file.

    Args:
        data: at most ``MAX_BYTES``.
        what: the file's name, which begins the messages.

    Raises:
        InputError: too large, no TOML, no rules, an unknown key or figure, a wrong unit, or rules
            that contradict each other.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{what} is too large: at most {MAX_BYTES} bytes of rules are read")
    if any(len(line) > MAX_LINE for line in data.splitlines()):
        raise InputError(f"{what} has a line of more than {MAX_LINE} bytes: break it")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is no TOML: {_line(error)}") from error
    _check_keys(document, what)
    try:
        file = msgspec.convert(document, _RulesFile)
    except msgspec.ValidationError as error:
        raise InputError(f"{what}: {_line(error)}") from error
    rules = tuple(
        _rule(table, file, f"{what}, rule {number}") for number, table in enumerate(file.rule, 1)
    )
    _check_agreement(rules, what)
    return Rules(rules=rules, inconclusive=file.inconclusive)


def rules_schema() -> dict[str, Any]:
    """The JSON Schema of a rules file, from the very types that the parser reads."""
    (top, rule), definitions = msgspec.json.schema_components(
        [_RulesFile, _RuleTable], ref_template="#/$defs/{name}"
    )
    file, table = (
        _without_null(definitions[ref["$ref"].rpartition("/")[2]]) for ref in (top, rule)
    )
    file["properties"]["rule"]["items"] = {"$ref": "#/$defs/rule"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **file,
        "title": "Rules of headroom gate",
        "$defs": {"rule": {**table, "title": "rule"}},
    }


def _without_null(table: dict[str, Any]) -> dict[str, Any]:
    """What may be left out is not null: TOML has no such value."""
    properties = {
        name: field["anyOf"][0] if "anyOf" in field else field
        for name, field in table["properties"].items()
    }
    return {**table, "properties": properties}


def _check_keys(document: dict[str, Any], what: str) -> None:
    """Tell an unknown key with the nearest known one, and a file without rules."""
    _known(document, _RulesFile, what)
    tables = document.get("rule", [])
    if not tables:
        raise InputError(
            f"{what} has no rules: write [[rule]] and below it, for example, "
            f'check = "ttft_p95 <= 800ms"'
        )
    if not isinstance(tables, list):
        raise InputError(f"{what}: rule is one table: write [[rule]] with two brackets")
    for number, table in enumerate(tables[: MAX_RULES + 1], 1):
        if isinstance(table, dict):
            _known(table, _RuleTable, f"{what}, rule {number}")


def _known(table: dict[str, Any], struct: type[msgspec.Struct], where: str) -> None:
    names = [field.name for field in msgspec.structs.fields(struct)]
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
            raise InputError(f"{where} has the unknown key {key[:60]!r}: {hint}")


def _rule(table: _RuleTable, file: _RulesFile, where: str) -> Rule:
    check = parse_check(table.check, where=where)
    kind, load = _level(table, where)
    if table.confidence is not None and check.factor is None:
        raise InputError(
            f"{where}: confidence is for rules against a baseline; an absolute bound is judged by "
            f"an interval whose ends each hold with {END:.0%}: leave it out"
        )
    objectives = [*(file.slo if table.slo is None else table.slo)]
    slo = tuple(_objective(text, where) for text in objectives)
    if check.figure in NEEDS_SLO:
        _check_objectives(check.figure, slo, where)
    elif table.slo is not None or table.think_time is not None:
        raise InputError(f"{where}: slo and think_time are for goodput and users_at_slo only")
    if check.figure == "users_at_slo" and (load is not None or table.stage is not None):
        raise InputError(
            f"{where}: users_at_slo is about a target, not a level: leave out "
            f"{'stage' if load is None else kind}"
        )
    think = file.think_time if table.think_time is None else table.think_time
    return Rule(
        name=table.name or check.text,
        check=check,
        target=table.target,
        load_kind=kind,
        load=load,
        stage=table.stage,
        confidence=(table.confidence or file.confidence) if check.factor is not None else END,
        slo=slo,
        think_time_s=None if think is None else parse_duration(think, what=f"{where}: think_time"),
    )


def _level(table: _RuleTable, where: str) -> tuple[LoadKind | None, float | None]:
    """The one level that a rule is about, if it names one."""
    rate = None if table.rate is None else parse_rate(table.rate, what=f"{where}: rate")
    given: dict[LoadKind | None, float | None] = {
        "concurrency": table.concurrency,
        "users": table.users,
        "rate": rate,
        None: table.stage,
    }
    named = [(kind, load) for kind, load in given.items() if load is not None]
    if len(named) > 1:
        names = " and ".join(kind or "stage" for kind, _ in named)
        raise InputError(f"{where} names its level by {names}: give one of them")
    return named[0] if named and named[0][0] is not None else (None, None)


def _objective(text: str, where: str) -> Slo:
    try:
        return parse_slo(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_objectives(figure: str, slo: tuple[Slo, ...], where: str) -> None:
    name = "goodput" if figure.startswith("goodput") else figure
    latencies = [s for s in slo if s.figure != "error_rate"]
    if not latencies:
        raise InputError(
            f"{where}: {name} needs the objectives that it is about: "
            f'write slo = ["ttft_p95<=1s", "tpot_p95<=100ms"] at the top of the file'
        )
    if figure == "users_at_slo":
        return
    for objective in latencies:
        if objective.figure.startswith("itl_") or objective.figure.endswith("_mean_s"):
            raise InputError(
                f"{where}: goodput asks each request whether it met {objective.text!r}, which is "
                f"about no single request: use ttft, tpot or e2e with a percentile"
            )


def _check_agreement(rules: tuple[Rule, ...], what: str) -> None:
    """Refuse two bounds for one figure of the same levels, and names that are used twice."""
    bounds: dict[object, tuple[int, Rule]] = {}
    names: dict[str, int] = {}
    for number, rule in enumerate(rules, 1):
        scope = (
            rule.check.figure, rule.relative, rule.target, rule.load_kind, rule.load, rule.stage,
            rule.slo if rule.check.figure in NEEDS_SLO else (), rule.think_time_s,
        )  # fmt: skip
        first, other = bounds.setdefault(scope, (number, rule))
        if first != number:
            same = (rule.check.bound, rule.check.factor) == (other.check.bound, other.check.factor)
            told = "say the same" if same else "contradict each other"
            raise InputError(
                f"{what}, rules {first} and {number} {told}: {other.check.text!r} and "
                f"{rule.check.text!r} for the same levels: keep one"
            )
        if rule.name != rule.check.text and names.setdefault(rule.name, number) != number:
            raise InputError(
                f"{what}, rules {names[rule.name]} and {number} have the same name {rule.name!r}"
            )


def _line(error: Exception) -> str:
    """A message without line breaks or characters that a terminal would obey, bounded."""
    text = " ".join(str(error).split())[:300]
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
