"""Figures in words that people read, and text from elsewhere fit for one line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.units import format_figure

if TYPE_CHECKING:
    from planner.records import Estimate, Predicted

__all__ = ["figure_name", "interval", "one_line", "whole_percent"]


def figure_name(figure: str) -> str:
    """``ttft_p95_s`` as people say it: ``TTFT p95``."""
    if figure == "error_rate":
        return "error rate"
    metric, statistic, _ = figure.split("_")
    return f"{metric.upper()} {statistic}"


def one_line(text: str) -> str:
    """Text without line breaks and other characters that a terminal or a CI system would obey.

    Names and problems come from servers, files and folders.
    """
    return "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def whole_percent(share: float) -> str:
    """A probability in whole percent, never rounded up: ``91 %`` of 0.918."""
    return f"{math.floor(share * 100 + 1e-9)} %"


def interval(figure: str, told: Predicted | Estimate) -> str:
    """A figure as people read it: ``785 to 960 ms``."""
    if told.value is None:
        return "not known"
    if told.low is None or told.high is None:
        return format_figure(figure, told.value)
    low, high = (format_figure(figure, end) for end in (told.low, told.high))
    if low.split()[-1] == high.split()[-1]:
        low = low.rsplit(maxsplit=1)[0]
    return f"{low} to {high}"
