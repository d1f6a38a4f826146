"""The answer for the terminal: one sentence, the options, and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from planner.cli import console
from planner.ranking import confidence_key
from planner.recommend import interval, sentence, sureness

if TYPE_CHECKING:
    from rich.console import Console

    from planner.records import Option, Recommendation

__all__ = ["print_answer"]

_LEGEND = {
    "measured": "this load itself was measured",
    "interpolated": "between measured loads",
    "extrapolated": "beyond the highest measured load, at most twice it, or below the lowest",
    "refused": "too far from what was measured to be told",
}


def print_answer(recommendation: Recommendation, out: Console | None = None) -> None:
    """Print an answer for people.

    Args:
        recommendation: the answer.
        out: where to; standard output by default.
    """
    out = out or console()
    out.print(Text(clean(sentence(recommendation)), style="bold"))
    out.print()
    out.print(_options_table(recommendation))
    for option in recommendation.options:
        for line in (option.refused, *option.notes):
            if line:
                out.print(Text(f"  {clean(option.target)}: {clean(line)}"))
    if any(option.users_per_replica for option in recommendation.options):
        out.print()
        out.print(_capacity_table(recommendation))
    _print_list(out, "From how many users on which option is best", _changes(recommendation))
    _print_list(out, "What the labels mean", _legend(recommendation))
    out.print(Text(f"\nRouting: {recommendation.routing}. Intervals hold with 90 %."))
    _print_list(out, "To know more, measure", recommendation.next_measurements)
    _print_list(out, "Mind", recommendation.warnings)


def clean(text: str) -> str:
    """Text from a run folder without characters that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _print_list(out: Console, title: str, lines: tuple[str, ...]) -> None:
    if not lines:
        return
    out.print(Text(f"\n{title}:", style="bold"))
    for line in lines:
        out.print(Text(f"  {clean(line)}"))


def _options_table(recommendation: Recommendation) -> Table:
    costs = any(option.cost_per_hour is not None for option in recommendation.options)
    table = _table("option", "replicas", "GPUs", *(["per hour"] if costs else []), "sure")
    for slo in recommendation.slo:
        table.add_column(escape(clean(slo.text)), justify="right")
    table.add_column("breaks first")
    for option in recommendation.options:
        cells = [clean(option.target), _count(option.replicas), _count(option.gpus)]
        if costs:
            cells.append("-" if option.cost_per_hour is None else f"{option.cost_per_hour:.2f}")
        cells.append("-" if option.confidence is None else sureness(option).removesuffix(" sure"))
        cells += [_figure(option, slo.figure) for slo in recommendation.slo]
        cells.append(clean(option.binding or "-"))
        chosen = option == recommendation.recommended
        table.add_row(*map(escape, cells), style="bold" if chosen else None)
    return table


def _capacity_table(recommendation: Recommendation) -> Table:
    shares = sorted({0.5, 0.9, 0.95, recommendation.confidence})
    table = _table("users one replica carries", *(f"{share:.4g} sure" for share in shares))
    for column, share in zip(table.columns[1:], shares, strict=True):
        column.header = f"{share * 100:.4g} % sure"
    for option in recommendation.options:
        carried = [option.users_per_replica.get(confidence_key(share)) for share in shares]
        if option.users_per_replica:
            table.add_row(escape(clean(option.target)), *map(_count, carried))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _figure(option: Option, figure: str) -> str:
    predicted = option.predicted.get(figure)
    return "-" if predicted is None else f"{interval(figure, predicted)}, {predicted.label}"


def _changes(recommendation: Recommendation) -> tuple[str, ...]:
    if len(recommendation.crossovers) == 1 and len(recommendation.options) == 1:
        return ()
    return tuple(
        f"{change.from_users:>6,} users: {change.target}" for change in recommendation.crossovers
    )


def _legend(recommendation: Recommendation) -> tuple[str, ...]:
    used = {p.label for option in recommendation.options for p in option.predicted.values()}
    return tuple(f"{label}: {text}" for label, text in _LEGEND.items() if label in used)
