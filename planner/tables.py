"""Operating points as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from planner.units import format_duration, format_figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.records import Estimate, OperatingPoint, Predicted, Slo
    from planner.verification import Verification

__all__ = ["points_table", "verification_table"]

_ALWAYS = ("output_tokens_per_s", "ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s")
_HEADINGS = {
    "output_tokens_per_s": "tokens/s",
    "requests_per_s": "requests/s",
    "error_rate": "errors",
}


def points_table(
    points: Iterable[OperatingPoint],
    slo: Sequence[Slo] = (),
    *,
    emulated: Sequence[str] = (),
) -> Table:
    """One row per operating point: load, requests, and the figures that matter, with intervals.

    Args:
        points: in the order of the rows.
        slo: objectives, whose figures are shown too.
        emulated: names of targets that were emulators, which the title tells.
    """
    figures = list(dict.fromkeys([*_ALWAYS, *(objective.figure for objective in slo)]))
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    if emulated:
        table.title = escape(f"EMULATED, not measured: {', '.join(emulated)}")
        table.title_justify, table.title_style = "left", "bold"
    table.add_column("target")
    table.add_column("load", justify="right")
    table.add_column("requests", justify="right")
    for figure in figures:
        table.add_column(_heading(figure), justify="right")
    table.add_column("")
    for point in points:
        table.add_row(
            escape(point.target),
            _load(point),
            f"{point.completed:,}",
            *(_cell(figure, point.figures.get(figure)) for figure in figures),
            escape("; ".join(point.problems)),
        )
    return table


def verification_table(found: Verification) -> Table:
    """Predicted beside measured: one row per objective."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    think = f" who think {format_duration(found.think_time_s)}" if found.think_time_s else ""
    mark = f" (emulated: {found.emulated})" if found.emulated else ""
    table.title = f"{found.target}{mark}: {found.users} users{think} on one replica"
    table.title_justify, table.title_style = "left", "bold"
    for heading in ("objective", "predicted", "measured", "it is"):
        table.add_column(heading)
    for row in found.comparisons:
        table.add_row(
            escape(row.objective),
            f"{_range(row.figure, row.predicted)}, {row.predicted.label}",
            "-" if row.measured is None else _range(row.figure, row.measured),
            row.verdict,
        )
    return table


def _range(figure: str, known: Predicted | Estimate) -> str:
    """A value with both ends of its interval."""
    if known.value is None:
        return "-"
    ends = [
        "open" if end is None else format_figure(figure, end) for end in (known.low, known.high)
    ]
    return f"{format_figure(figure, known.value)} ({ends[0]} to {ends[1]})"


def _heading(figure: str) -> str:
    metric, _, statistic = figure.removesuffix("_s").partition("_")
    return _HEADINGS.get(figure, f"{metric.upper()} {statistic}")


def _load(point: OperatingPoint) -> str:
    if point.load_kind == "users":
        return f"{point.load:g} users"
    return f"{point.load:g}" if point.load_kind == "concurrency" else f"{point.load:g}/s"


def _cell(figure: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value = format_figure(figure, estimate.value)
    if estimate.low is None or estimate.high is None:
        return value
    margin = max(estimate.high - estimate.value, estimate.value - estimate.low)
    return f"{value} ±{margin / estimate.value:.0%}" if estimate.value else value
