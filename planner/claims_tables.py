"""Verdicts on claims for the terminal, with what they rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.padding import Padding
from rich.text import Text

from planner.cli import console
from planner.phrases import one_line
from planner.tables import comparison_table, sharing_table

if TYPE_CHECKING:
    from rich.console import Console

    from planner.claims.records import ClaimsReport, ClaimVerdict, Verdict
    from planner.records import PairCrossovers

__all__ = ["pair_lines", "print_claims"]

_STYLES: dict[Verdict, str] = {
    "confirmed": "green",
    "refuted": "red",
    "mixed": "yellow",
    "untested": "dim",
}
_INDENT = 11


def print_claims(report: ClaimsReport, out: Console | None = None) -> None:
    """Print verdicts for people: the decided ones first, then what is untested.

    Args:
        report: what was judged.
        out: where to; standard output by default.
    """
    out = out or console()
    decided = [one for one in report.verdicts if one.verdict != "untested"]
    for one in decided:
        _print_verdict(out, one, rules=True)
    for one in report.verdicts:
        if one.verdict == "untested":
            _print_verdict(out, one, rules=False)
    counts = {word: sum(one.verdict == word for one in report.verdicts) for word in _STYLES}
    out.print(Text(", ".join(f"{count} {word}" for word, count in counts.items() if count)))
    if report.comparison:
        out.print()
        out.print(comparison_table(report.comparison))
    if report.sharing:
        out.print()
        out.print(sharing_table(report.sharing))
    if report.pairs:
        out.print(Text("\nFrom how many users on which of two is the better answer", style="bold"))
        for pair in report.pairs:
            for line in pair_lines(pair):
                out.print(Text(f"  {one_line(line)}"))


def _print_verdict(out: Console, one: ClaimVerdict, *, rules: bool) -> None:
    head = Text(f"{one.verdict:<{_INDENT}}", style=_STYLES[one.verdict])
    head.append(one_line(one.id), style="bold")
    out.print(head)
    lines = [f"\N{LEFT DOUBLE QUOTATION MARK}{one.text}\N{RIGHT DOUBLE QUOTATION MARK}", one.reason]
    lines += [f"rule {ruling.rule}: {ruling.asks}" for ruling in one.rulings] if rules else []
    lines += [f"-> {step}" for step in one.next_steps[:1] if one.verdict in ("untested", "mixed")]
    for line in lines:
        out.print(Padding(Text(one_line(line)), (0, 0, 0, _INDENT)))
    out.print()


def pair_lines(pair: PairCrossovers) -> tuple[str, ...]:
    """From how many users on which of two targets is better, a line for each change."""
    first, *later = pair.crossovers
    lines = [f"{pair.a} and {pair.b}: {first.target}, from the first user on"]
    for change in later:
        low = "fewer" if change.low is None else f"{change.low:,}"
        high = "more" if change.high is None else f"{change.high:,}"
        known = "" if change.low is None and change.high is None else f" (from {low} to {high})"
        lines.append(f"{pair.a} and {pair.b}: {change.target}, from {change.from_users:,}{known}")
    return tuple(lines)
