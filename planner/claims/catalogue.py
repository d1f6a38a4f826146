"""A catalogue of claims: what is said, by whom, and by which rules it is judged.

::

    source = "an article"                       # of all claims that name none of their own

    [claims.single-stream-fastest]
    text = "llama.cpp has the lowest time per token for one request"
    checks = [{ rule = "ratio", figure = "tpot_mean_s", of = "llamacpp", over = ["vllm"],
                most = 1, to_load = 1 }]
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from planner.claims import rules
from planner.errors import InputError
from planner.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MOST_CLAIMS", "RULES", "Claim", "claims_of"]

MOST_CLAIMS = 500

RULES = tuple(
    sorted(
        str(kind.__struct_config__.tag)
        for kind in vars(rules).values()
        if isinstance(kind, type) and issubclass(kind, Record) and kind.__struct_config__.tag
    )
)
"""Names of the rules."""

Line = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class Claim(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One claim. It holds if every check does."""

    text: Line
    source: Line | None = None
    checks: Annotated[tuple[rules.Check, ...], msgspec.Meta(min_length=1, max_length=10)]


def claims_of(document: Mapping[str, Any], *, what: str) -> dict[str, Claim]:
    """The claims of a catalogue by their names, in its order.

    Args:
        document: a TOML document.
        what: its name for messages, such as the file's.

    Raises:
        InputError: no claims, an unknown rule or key, a value out of its bounds.
    """
    tables = document.get("claims")
    if not isinstance(tables, dict) or not tables:
        raise InputError(f"{what} has no claims: write a table [claims.NAME] for each")
    if len(tables) > MOST_CLAIMS:
        raise InputError(f"{what} has {len(tables)} claims: at most {MOST_CLAIMS} are judged")
    if odd := sorted(set(document) - {"claims", "source"}):
        raise InputError(f"{what} has the unknown key {odd[0]!r}: known are source and claims")
    source = document.get("source", what)
    if not isinstance(source, str):
        raise InputError(f"{what}: source is {str(source)[:50]!r}: write a text")
    return {name: _claim(name, table, source, what) for name, table in tables.items()}


def _claim(name: str, table: Any, source: str, what: str) -> Claim:
    for number, check in enumerate(_checks(table), start=1):
        rule = check.get("rule") if isinstance(check, dict) else None
        if rule not in RULES:
            near = difflib.get_close_matches(str(rule), RULES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(RULES)}"
            raise InputError(
                f"{what}, claim {name!r}, check {number}: no rule {str(rule)[:50]!r}: {hint}"
            )
    try:
        claim = msgspec.convert(table, Claim)
    except msgspec.ValidationError as error:
        raise InputError(f"{what}, claim {name!r}: {error}") from error
    for number, check in enumerate(claim.checks, start=1):
        if (why := _contradiction(check)) is not None:
            raise InputError(f"{what}, claim {name!r}, check {number}: {why}")
    return msgspec.structs.replace(claim, source=claim.source or source)


def _checks(table: Any) -> list[Any]:
    checks = table.get("checks") if isinstance(table, dict) else None
    return checks if isinstance(checks, list) else []


def _contradiction(check: rules.Check) -> str | None:
    """What no single value shows."""
    if isinstance(check, rules.Ratio | rules.Trend):
        if check.from_load > check.to_load:
            return f"from_load {check.from_load:g} is above to_load {check.to_load:g}"
        if check.of in check.over:
            return f"{check.of} is compared with itself: leave it out of over"
    if isinstance(check, rules.Ratio):
        if check.least is None and check.most is None:
            return "a ratio needs a bound: give least, most or both"
        if check.least is not None and check.most is not None and check.least > check.most:
            return f"least {check.least:g} is above most {check.most:g}"
    if isinstance(check, rules.OnlyOne) and check.backend in check.over:
        return f"{check.backend} is compared with itself: leave it out of over"
    return None
