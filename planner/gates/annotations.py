"""A report as annotations of GitHub Actions: workflow commands that a runner reads from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.gates.text import bound_told, place_told
from planner.phrases import one_line

if TYPE_CHECKING:
    from planner.gates.records import GateReport, Verdict

__all__ = ["github_annotations"]

MAX_OF_A_KIND = 10
"""GitHub shows at most ten errors and ten warnings of a step."""


def github_annotations(report: GateReport) -> list[str]:
    """The commands, one a line; the last of a kind tells how many more there are."""
    error_too = report.inconclusive == "fail"
    failed = [v for v in report.verdicts if v.outcome == "fail"]
    open_ones = [v for v in report.verdicts if v.outcome == "inconclusive"]
    if not failed and not open_ones:
        passed = f"all rules passed ({report.count('pass')})"
        return [f"::notice title={_property('headroom gate')}::{_data(passed)}"]
    if error_too:
        return _commands("error", [*failed, *open_ones])
    return [*_commands("error", failed), *_commands("warning", open_ones)]


def _commands(kind: str, verdicts: list[Verdict]) -> list[str]:
    shown = verdicts if len(verdicts) <= MAX_OF_A_KIND else verdicts[: MAX_OF_A_KIND - 1]
    lines = [
        f"::{kind} title={_property(f'{v.rule} [{place_told(v)}]')}::"
        f"{_data(f'{v.outcome}: {v.reason} (bound {bound_told(v)})')}"
        for v in shown
    ]
    if len(shown) < len(verdicts):
        more = f"{len(verdicts) - len(shown)} more rules: see the job's summary"
        lines.append(f"::{kind} title={_property('headroom gate')}::{_data(more)}")
    return lines


def _data(text: str) -> str:
    """Escaped as the runner unescapes it: a percent sign, and line breaks, which end a command."""
    return one_line(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A property's value: the separators of properties are escaped too."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
