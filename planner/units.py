"""Quantities as users write them: they carry units, and a bare number is refused."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.records import MAX_SLOTS, Slo

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "format_declared",
    "format_duration",
    "format_figure",
    "format_rate",
    "highest_percentile",
    "metric_of",
    "parse_duration",
    "parse_price",
    "parse_rate",
    "parse_slo",
    "parse_slots",
    "percentile_of",
]

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PER_SECOND = {"s": 1.0, "min": 1 / 60, "m": 1 / 60, "h": 1 / 3600}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_DURATION = re.compile(rf"\s*({_NUMBER})\s*([a-zµ]*)\s*")
_RATE = re.compile(rf"\s*({_NUMBER})\s*/\s*([a-z]+)\s*")
_SLO = re.compile(
    r"\s*([a-z][a-z0-9_]*?)(?:_(mean|p\d{1,2}(?:\.\d+)?))?\s*(<=|>=|<|>|==|=)\s*(.+?)\s*"
)
_LATENCIES = ("ttft", "tpot", "itl", "e2e")
_PERCENTILE = re.compile(r"_p(\d{1,2}(?:\.\d+)?)_s$")


def parse_duration(text: str, *, what: str = "duration") -> float:
    """Seconds from ``500ms``, ``2s``, ``5m``, ``1.5h``.

    Raises:
        InputError: no unit, an unknown unit, or not a number.
    """
    match = _DURATION.fullmatch(text)
    if not match or match[2] not in _SECONDS:
        raise InputError(
            f"{what} {text!r} is not a duration: write a number with one of the units "
            f"{', '.join(u for u in _SECONDS if u != 'µs')}, for example 500ms or 2s"
        )
    return _finite(float(match[1]) * _SECONDS[match[2]], what, text)


def parse_rate(text: str, *, what: str = "rate") -> float:
    """Events per second from ``20/s``, ``90/min``.

    Raises:
        InputError: no unit, an unknown unit, or not a number.
    """
    match = _RATE.fullmatch(text)
    if not match or match[2] not in _PER_SECOND:
        raise InputError(f"{what} {text!r} is not a rate: write for example 20/s or 90/min")
    return _finite(float(match[1]) * _PER_SECOND[match[2]], what, text)


def parse_slo(text: str) -> Slo:
    """An objective from ``ttft_p95<=1s``, ``tpot_p99<=50ms``, ``error_rate<=0.01``.

    Raises:
        InputError: an unknown figure, a direction that makes no sense, or a wrong unit.
    """
    match = _SLO.fullmatch(text)
    if not match:
        raise InputError(
            f"objective {text!r} cannot be read: write FIGURE<=BOUND, for example ttft_p95<=1s"
        )
    metric, statistic, op, bound = match.groups()
    if op != "<=":
        raise InputError(
            f"objective {text!r} uses {op!r}: latency and error rate are bounded from above, "
            f"write {metric}{'_' + statistic if statistic else ''}<={bound}"
        )
    if metric == "error_rate" and statistic is None:
        return Slo(figure="error_rate", op="<=", bound=_share(bound, text), text=text.strip())
    if metric not in _LATENCIES:
        raise InputError(
            f"objective {text!r} names an unknown figure {metric!r}: known are "
            f"{', '.join(_LATENCIES)} (with _mean or _pNN, as in ttft_p95) and error_rate"
        )
    if statistic is None:
        raise InputError(
            f"objective {text!r} does not say which statistic: write {metric}_p95 or {metric}_mean"
        )
    if statistic != "mean" and float(statistic[1:]) == 0:
        raise InputError(f"objective {text!r}: a percentile lies between p1 and p99.99")
    seconds = parse_duration(bound, what=f"bound of objective {text!r}:")
    if seconds == 0:
        raise InputError(f"objective {text!r} has a bound of zero, which nothing can meet")
    return Slo(figure=f"{metric}_{statistic}_s", op="<=", bound=seconds, text=text.strip())


def parse_price(text: str) -> tuple[str, float]:
    """A kind of GPU (or a target's name) and its price per hour, from ``H100=2.5``.

    Raises:
        InputError: no name, no number, or a negative one.
    """
    kind, equals, price = text.rpartition("=")
    try:
        value = float(price)
    except ValueError:
        value = math.nan
    if not (kind.strip() and equals and 0 <= value < math.inf):
        raise InputError(f"price {text!r} cannot be read: write KIND=PRICE, for example H100=2.5")
    return kind.strip(), value


def parse_slots(text: str) -> tuple[str, int]:
    """A target's name and its slots, from ``vllm=256``.

    Raises:
        InputError: no name, no whole number, or one out of bounds.
    """
    target, equals, count = text.rpartition("=")
    known = re.fullmatch(r"[0-9]{1,9}", count.strip())
    if not (target.strip() and equals and known and 1 <= int(count) <= MAX_SLOTS):
        raise InputError(
            f"slots {text!r} cannot be read: write TARGET=NUMBER, a whole number from 1 to "
            f"{MAX_SLOTS}, for example vllm=256"
        )
    return target.strip(), int(count)


def metric_of(figure: str) -> str:
    """What a figure is of: ``ttft`` of ``ttft_p95_s``."""
    return figure.partition("_")[0]


def percentile_of(figure: str) -> float | None:
    """The percentile as a fraction: ``0.95`` of ``ttft_p95_s``; ``None`` if it is not one."""
    match = _PERCENTILE.search(figure)
    return float(match[1]) / 100 if match else None


def highest_percentile(slo: Iterable[Slo]) -> float | None:
    """The highest percentile that the objectives ask for, as a fraction; ``None`` if none does."""
    asked = [q for objective in slo if (q := percentile_of(objective.figure)) is not None]
    return max(asked, default=None)


def format_duration(seconds: float) -> str:
    """A duration for people, to three significant digits: ``812 ms``, ``1.34 s``, ``3 min``."""
    if not math.isfinite(seconds):
        return "unbounded"
    if seconds >= 120:  # noqa: PLR2004 - below two minutes seconds read better
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 0.9995 or seconds == 0:  # noqa: PLR2004 - shown as 1.00
            return f"{_significant(seconds * factor)} {unit}"
    return f"{_significant(seconds * 1e6)} µs"


def format_figure(name: str, value: float) -> str:
    """A figure of an operating point with its unit: ``812 ms``, ``143 tok/s``, ``0.4 %``."""
    if name == "error_rate":
        return f"{_significant(value * 100)} %"
    if name == "output_tokens_per_s":
        return f"{_significant(value)} tok/s"
    if name == "requests_per_s":
        return f"{_significant(value)} req/s"
    return format_duration(value)


def format_declared(name: str, value: float) -> str:
    """A figure that somebody stated, not measured, without idle zeros: ``10 s``, ``1.5 s``."""
    return re.sub(r"(\.\d*?)0+(?= )", r"\1", format_figure(name, value)).replace(". ", " ")


def format_rate(per_s: float) -> str:
    """Three digits of a rate without idle zeros or an exponent: ``2.5``, ``20``, ``2,750``."""
    return f"{per_s:.3g}" if per_s < 999.5 else f"{per_s:,.0f}"  # noqa: PLR2004 - where %g turns


def _significant(value: float) -> str:
    """Three significant digits without an exponent, thousands set apart."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value) * 1.0005)))
    return f"{value:,.{digits}f}"


def _finite(value: float, what: str, text: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{what} {text!r} is out of range")
    return value


def _share(bound: str, text: str) -> float:
    """A share from ``0.01`` or ``1%``."""
    percent = bound.endswith("%")
    try:
        value = float(bound.rstrip("% ")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"objective {text!r}: an error rate lies between 0 and 1 (or 0% and 100%)")
    return value
