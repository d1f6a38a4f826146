"""Text for people: untrusted names made safe to show, figures with units and separators."""

from __future__ import annotations

import html
import math
import re
import unicodedata

from planner.units import format_duration, format_figure

__all__ = [
    "count_text",
    "figure_name",
    "figure_text",
    "interval_text",
    "keep_together",
    "plain",
    "plotly_text",
    "tick_text",
]

_LONG_INTEGER = re.compile(r"(?<![\d.,])\d{4,}(?![\d,])")
_NUMBER_AND_WORD = re.compile(r"(\d) (?=[%a-zA-Zµ])")
_METRICS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
_RATES = {
    "requests_per_s": "requests per second",
    "output_tokens_per_s": "output tokens per second",
    "error_rate": "error rate",
}


def plain(text: str, limit: int | None = None) -> str:
    """A name as one line of visible characters, shortened in its middle beyond ``limit``.

    Control, format and surrogate characters go: a right-to-left override in a model's name must
    not turn the rest of a table row around.
    """
    visible = "".join(
        " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    line = " ".join(visible.split())
    if limit is None or len(line) <= limit:
        return line
    tail = (limit - 1) // 2
    return f"{line[: limit - 1 - tail]}…{line[-tail:] if tail else ''}"


def keep_together(text: str) -> str:
    """A sentence whose numbers stay on one line with the word or unit that follows them."""
    return _NUMBER_AND_WORD.sub("\\1\u00a0", text)


def plotly_text(text: str, limit: int | None = None) -> str:
    """A name for plotly, which reads tags, entities and ``%{…}`` in every text it draws."""
    return html.escape(plain(text, limit)).replace("%", "&#37;").replace("$", "&#36;")


def count_text(count: float) -> str:
    """A whole number with thousands separators; a fraction keeps at most two decimals."""
    return f"{round(count, 2):,.10g}"


def figure_text(name: str, value: float) -> str:
    """A figure with its unit and thousands separators: ``812 ms``, ``12,340 tok/s``."""
    if not math.isfinite(value):
        return "unbounded"
    return _LONG_INTEGER.sub(lambda m: f"{int(m[0]):,}", format_figure(name, value))


def interval_text(name: str, low: float | None, high: float | None) -> str:
    """The two ends of an interval, the unit once where both share it; a missing end is said."""
    low_text = None if low is None else figure_text(name, low)
    high_text = None if high is None else figure_text(name, high)
    if low_text is None and high_text is None:
        return "no interval"
    if low_text is None:
        return f"at most {high_text}"
    if high_text is None:
        return f"at least {low_text}"
    low_number, _, low_unit = low_text.partition(" ")
    high_unit = high_text.partition(" ")[2]
    return f"{low_number if low_unit == high_unit else low_text} – {high_text}"


def figure_name(figure: str) -> str:
    """A figure's name as people write it: ``TTFT p95`` of ``ttft_p95_s``."""
    if figure in _RATES:
        return _RATES[figure]
    metric, _, statistic = figure.removesuffix("_s").partition("_")
    if metric not in _METRICS:
        return figure.replace("_", " ")
    return f"{_METRICS[metric]} {statistic}".strip()


def tick_text(name: str, value: float) -> str:
    """An axis label: the shortest exact form, ``500 ms``, ``2 s``, ``1,200``."""
    if value == 0:
        return "0"
    if name == "error_rate":
        return f"{value * 100:.10g} %"
    if name in _RATES:
        return count_text(value)
    return re.sub(r"(\.\d*?)0+(?= )", r"\1", format_duration(value)).replace(". ", " ")
