"""The language of checks: ``ttft_p95 <= 800ms``, ``tokens_per_s >= baseline * 0.9``."""

from __future__ import annotations

import difflib
import math
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from planner.errors import InputError
from planner.gates.records import Check
from planner.units import format_declared, format_figure, metric_of, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CHECK_PATTERN",
    "MAX_FACTOR",
    "MAX_TEXT",
    "NEEDS_SLO",
    "latency_of",
    "parse_check",
    "show",
]

MAX_TEXT = 200
"""Characters of a check."""
MAX_FACTOR = 1000.0
"""A bound beyond so many times the baseline is a slip of the pen."""

NEEDS_SLO = ("goodput_share", "goodput_per_s", "users_at_slo")
"""Figures that mean nothing without objectives."""
_NO_BASELINE = (
    "users_at_slo cannot be compared with a baseline: ask for a number, as users_at_slo >= 40, or "
    "compare what it follows from, as goodput >= baseline * 0.95"
)

_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_DURATION = rf"{_NUMBER}\s*(?:us|µs|ms|s|m|min|h)"
_SHARE = rf"{_NUMBER}\s*%?"
_LATENCY = r"(?:ttft|tpot|itl|e2e)_(?:mean|p\d{1,2}(?:\.\d{1,2})?)"
_RELATIVE = rf"baseline(?:\s*(?:\*\s*{_NUMBER}|[+-]\s*{_NUMBER}\s*%))?"
_TOKENS = rf"{_NUMBER}(?:\s*(?:tok(?:ens)?)?/s)?"
_REQUESTS = rf"{_NUMBER}(?:\s*(?:req(?:uests)?)?/s)?"
_GOODPUT = rf"{_NUMBER}\s*(?:%|(?:req(?:uests)?)?/s)?"
CHECK_PATTERN = (
    rf"^\s*(?:{_LATENCY}\s*<=\s*(?:{_DURATION}|{_RELATIVE})"
    rf"|error_rate\s*<=\s*(?:{_SHARE}|{_RELATIVE})"
    rf"|(?:output_)?tokens_per_s\s*>=\s*(?:{_TOKENS}|{_RELATIVE})"
    rf"|requests_per_s\s*>=\s*(?:{_REQUESTS}|{_RELATIVE})"
    rf"|goodput\s*>=\s*(?:{_GOODPUT}|{_RELATIVE})"
    rf"|goodput_per_s\s*>=\s*(?:{_REQUESTS}|{_RELATIVE})"
    r"|users_at_slo\s*>=\s*\d+)\s*$"
)
"""What an editor can check of a check: its form. Ranges are the parser's."""

_CHECK = re.compile(r"\s*([A-Za-z][\w.]*)\s*(<=|>=|==|!=|=|<|>)\s*(.+?)\s*", re.ASCII | re.DOTALL)
_LATENCY_FIGURE = re.compile(_LATENCY)
_BASELINE = re.compile(rf"baseline(?:\s*(\*|\+|-)\s*({_NUMBER})\s*(%?))?")
_AMOUNT = re.compile(rf"({_NUMBER})\s*(\S*)")


class _Kind(NamedTuple):
    """How a figure is bounded."""

    op: Literal["<=", ">="]
    why: str  # as it is said to one who turned it around
    read: Callable[[str, str], tuple[str, float]]  # (bound, where) -> (figure, SI value)
    relative: bool = True


def parse_check(text: str, *, where: str = "check") -> Check:
    """A check from its text.

    Args:
        text: as in ``ttft_p95 <= 800ms``, ``tokens_per_s >= baseline - 5%``.
        where: begins the messages, as in ``gates.toml, rule 2``.

    Raises:
        InputError: an unknown figure, a wrong direction, a wrong or missing unit, out of range.
    """
    if len(text) > MAX_TEXT:
        raise InputError(f"{where}: check of {len(text)} characters, the bound is {MAX_TEXT}")
    match = _CHECK.fullmatch(text)
    if not match:
        raise InputError(
            f"{where}: check {text!r} cannot be read: write FIGURE <= BOUND or FIGURE >= BOUND, "
            f"for example ttft_p95 <= 800ms or tokens_per_s >= baseline * 0.9"
        )
    name, op, bound = match.groups()
    kind = _kind_of(name, text, where)
    if op != kind.op:
        raise InputError(
            f"{where}: check {text!r} uses {op!r}: {kind.why}, write {name} {kind.op} {bound}"
        )
    told = " ".join(text.split())
    relative = _BASELINE.fullmatch(bound)
    if relative:
        if not kind.relative:
            raise InputError(f"{where}: check {text!r}: {_NO_BASELINE}")
        factor = _factor(relative, kind.op, f"{where}: check {text!r}")
        return Check(figure=_figure_of(name), op=kind.op, factor=factor, text=told)
    if "baseline" in bound:
        raise InputError(
            f"{where}: check {text!r}: write baseline * 1.10, baseline + 10% or baseline - 10%"
        )
    figure, value = kind.read(bound, f"{where}: bound of check {text!r}:")
    return Check(figure=figure or _figure_of(name), op=kind.op, bound=value, text=told)


def latency_of(figure: str) -> str | None:
    """``ttft`` of ``ttft_p95_s``; ``None`` for what is no latency."""
    metric = metric_of(figure)
    return metric if metric in _LATENCIES else None


def show(figure: str, value: float | None, *, declared: bool = False) -> str:
    """A figure's value for people, with its unit: ``812 ms``, ``97.1 %``, ``40 users``.

    Args:
        figure: as in :class:`~planner.gates.records.Check`.
        value: in SI units; ``None`` is ``-``.
        declared: it was stated, not measured, so idle zeros are left out.
    """
    if value is None:
        return "-"
    if figure == "users_at_slo":
        return f"{value:,.0f} users"
    shown = {"goodput_share": "error_rate", "goodput_per_s": "requests_per_s"}.get(figure, figure)
    return format_declared(shown, value) if declared else format_figure(shown, value)


def _kind_of(name: str, text: str, where: str) -> _Kind:
    if name in _KINDS:
        return _KINDS[name]
    if _LATENCY_FIGURE.fullmatch(name):
        if name.partition("_p")[2] and not float(name.partition("_p")[2]) > 0:
            raise InputError(f"{where}: check {text!r}: a percentile lies between p1 and p99.99")
        return _Kind("<=", "latency is bounded from above", _duration)
    if name in _LATENCIES:
        raise InputError(
            f"{where}: check {text!r} does not say which statistic: write {name}_p95 or {name}_mean"
        )
    raise InputError(f"{where}: check {text!r} names an unknown figure {name!r}: {_nearest(name)}")


def _nearest(name: str) -> str:
    """The known figure that is most like a wrong one, and what else there is."""
    latencies = [
        f"{m}_{s}" for m in _LATENCIES for s in ("mean", "p50", "p90", "p95", "p99", "p99.9")
    ]
    near = difflib.get_close_matches(name.lower(), [*latencies, *_KINDS], n=1, cutoff=0.5)
    known = f"{', '.join(_LATENCIES)} (with _mean or _pNN), {', '.join(_KINDS)}"
    return f"did you mean {near[0]}?" if near else f"known are {known}"


def _figure_of(name: str) -> str:
    if name in {"tokens_per_s", "output_tokens_per_s"}:
        return "output_tokens_per_s"
    if name == "goodput":
        return "goodput_share"
    return f"{name}_s" if _LATENCY_FIGURE.fullmatch(name) else name


def _factor(match: re.Match[str], op: str, what: str) -> float:
    """The factor of the baseline: a rule must leave room on the side that is worse."""
    sign, number, percent = match.groups()
    if sign is None:
        factor = 1.0
    elif sign == "*" and not percent:
        factor = float(number)
    elif sign != "*" and percent:
        factor = 1 + float(f"{sign}{number}") / 100
    else:
        raise InputError(f"{what}: write baseline * 1.10, baseline + 10% or baseline - 10%")
    if not 0 < factor <= MAX_FACTOR:
        raise InputError(
            f"{what}: {factor:g} times the baseline, bounds lie above 0 and up to {MAX_FACTOR:g}"
        )
    if (factor < 1) == (op == "<=") and factor != 1:
        side = "below" if factor < 1 else "above"
        raise InputError(
            f"{what} asks for more than the baseline gave ({factor:g} times it, {side} it): "
            f"a rule allows for some loss, as baseline * {'1.10' if op == '<=' else '0.90'}"
        )
    return factor


def _duration(bound: str, what: str) -> tuple[str, float]:
    seconds = parse_duration(bound, what=what)
    if seconds == 0:
        raise InputError(f"{what} {bound!r} is zero, which nothing can meet")
    return "", seconds


def _share(bound: str, what: str) -> tuple[str, float]:
    match = _AMOUNT.fullmatch(bound)
    if not match or match[2] not in {"", "%"}:
        raise InputError(f"{what} {bound!r} is no share: write for example 0.001 or 0.1%")
    value = float(match[1]) / (100 if match[2] else 1)
    if not 0 <= value <= 1:
        raise InputError(f"{what} {bound!r} is no share: it lies between 0 and 1 (or 0% and 100%)")
    return "", value


def _per_second(bound: str, what: str, units: set[str], example: str) -> float:
    match = _AMOUNT.fullmatch(bound)
    if not match or match[2] not in units:
        raise InputError(f"{what} {bound!r} is no such rate: write for example {example}")
    value = float(match[1])
    if not 0 < value < math.inf:
        raise InputError(f"{what} {bound!r} is out of range: a rate is above 0")
    return value


def _tokens(bound: str, what: str) -> tuple[str, float]:
    return "", _per_second(bound, what, {"", "/s", "tok/s", "tokens/s"}, "900 or 900 tok/s")


def _requests(bound: str, what: str) -> tuple[str, float]:
    return "", _per_second(bound, what, {"", "/s", "req/s", "requests/s"}, "20 or 20/s")


def _goodput(bound: str, what: str) -> tuple[str, float]:
    if bound.endswith("/s"):
        rate = _per_second(bound, what, {"/s", "req/s", "requests/s"}, "0.95, 95% or 20/s")
        return "goodput_per_s", rate
    _, share = _share(bound, what)
    if share == 0:
        raise InputError(f"{what} {bound!r} is zero, which everything meets")
    return "goodput_share", share


def _users(bound: str, what: str) -> tuple[str, float]:
    most = 1_000_000
    if not re.fullmatch(r"\d{1,9}", bound, re.ASCII) or not 1 <= int(bound) <= most:
        raise InputError(f"{what} {bound!r} is no number of users: write one from 1 to {most:,}")
    return "", float(bound)


_KINDS = {
    "error_rate": _Kind("<=", "an error rate is bounded from above", _share),
    "tokens_per_s": _Kind(">=", "throughput is bounded from below", _tokens),
    "output_tokens_per_s": _Kind(">=", "throughput is bounded from below", _tokens),
    "requests_per_s": _Kind(">=", "throughput is bounded from below", _requests),
    "goodput": _Kind(">=", "goodput is bounded from below", _goodput),
    "goodput_per_s": _Kind(">=", "goodput is bounded from below", _requests),
    "users_at_slo": _Kind(">=", "capacity is bounded from below", _users, relative=False),
}
"""Figures that are no latencies."""
