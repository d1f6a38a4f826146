"""A report as Markdown, for the summary of a CI job or a comment."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner.gates.text import bound_told, headline, interval_told, place_told, value_told
from planner.phrases import one_line

if TYPE_CHECKING:
    from planner.gates.records import GateReport, Outcome, Verdict

__all__ = ["markdown"]

MAX_BYTES = 900_000
"""GitHub takes at most 1 MiB of a step's summary."""

_MARK: dict[Outcome, str] = {
    "pass": "✅ pass",
    "fail": "❌ **fail**",
    "inconclusive": "⚠️ inconclusive",
}
_ORDER: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
_MEANING = re.compile(r"([\\`*_{}\[\]#!|~$])")


def markdown(report: GateReport) -> str:
    """The page: the outcome, a table of the verdicts with the worst first, what to mind."""
    verdicts = sorted(report.verdicts, key=lambda verdict: _ORDER.index(verdict.outcome))
    against = f" against {_safe(report.baseline)}" if report.baseline else ""
    lines = [
        f"## {_safe(headline(report))}",
        "",
        f"{_safe(report.run)} by {_safe(report.rules)}{against}; exit code {report.exit_code}.",
        "",
        "| | rule | where | value | interval | bound | n | why |",
        "|---|---|---|--:|---|---|--:|---|",
    ]
    size, left_out = sum(len(line.encode()) + 1 for line in lines), 0
    for verdict in verdicts:
        row = _row(verdict)
        size += len(row.encode()) + 1
        if size > MAX_BYTES:
            left_out += 1
        else:
            lines.append(row)
    if left_out:
        lines.append(f"\n{left_out} further verdicts are left out here.")
    if report.notes:
        lines += ["", "Mind:", "", *(f"- {_safe(note)}" for note in report.notes[:50])]
    return "\n".join(lines) + "\n"


def _row(verdict: Verdict) -> str:
    cells = (
        _MARK[verdict.outcome],
        _safe(verdict.rule),
        _safe(place_told(verdict)),
        _safe(value_told(verdict)),
        _safe(interval_told(verdict)),
        _safe(bound_told(verdict)),
        "-" if verdict.n is None else f"{verdict.n:,}",
        _safe(verdict.reason),
    )
    return f"| {' | '.join(cells)} |"


def _safe(text: str) -> str:
    """Text that means nothing to Markdown or HTML, and mentions nobody."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MEANING.sub(r"\\\1", text)
    # An address or a mention would become a link of its own.
    # GitHub looks for mentions when entities are characters again: nothing may follow the sign.
    text = text.replace("@", "&#64;&#8203;")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")
