"""A report for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from planner.gates.text import bound_told, headline, interval_told, place_told, value_told
from planner.phrases import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from planner.gates.records import GateReport, Outcome

__all__ = ["print_report"]

_STYLE: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def print_report(report: GateReport, out: Console) -> None:
    """Print the outcome, a row for each verdict, and why what did not pass did not."""
    out.print(Text(headline(report), style=_STYLE[report.outcome]))
    out.print()
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for heading in ("", "rule", "where"):
        table.add_column(heading)
    for heading in ("value", "interval", "n"):
        table.add_column(heading, justify="right")
    for verdict in report.verdicts:
        table.add_row(
            Text(verdict.outcome, style=_STYLE[verdict.outcome]),
            escape(one_line(verdict.rule)),
            escape(place_told(verdict)),
            value_told(verdict),
            interval_told(verdict),
            "-" if verdict.n is None else f"{verdict.n:,}",
        )
    out.print(table)
    lines = [
        f"{v.outcome}: {v.rule} [{place_told(v)}, bound {bound_told(v)}]: {v.reason}"
        for v in report.verdicts
        if v.outcome != "pass"
    ]
    for title, told in (("Why", lines), ("Mind", list(report.notes))):
        if told:
            out.print(Text(f"\n{title}:", style="bold"))
            for line in told:
                out.print(Text(f"  {one_line(line)}"), soft_wrap=True)
