"""The answer for the terminal: one sentence, the options, and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from planner.cli import console
from planner.phrases import figure_name, interval, one_line
from planner.ranking import confidence_key
from planner.recommend import sentence, sureness

if TYPE_CHECKING:
    from rich.console import Console

    from planner.records import Crossover, Option, Recommendation

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
    out.print(Text(one_line(sentence(recommendation)), style="bold"))
    out.print()
    out.print(_options_table(recommendation))
    for option in recommendation.options:
        second = _simulated(recommendation) if option == recommendation.recommended else None
        for line in (option.refused, *option.notes, second, _energy(option)):
            if line:
                out.print(Text(f"  {one_line(option.target)}: {one_line(line)}"))
    if any(o.users_per_replica or o.rate_per_replica for o in recommendation.options):
        out.print()
        out.print(_capacity_table(recommendation))
    _print_list(out, "From how many users on which option is best", _changes(recommendation))
    if recommendation.sensitivity:
        out.print()
        out.print(_sensitivity_table(recommendation))
    _print_list(out, "What the labels mean", _legend(recommendation))
    out.print(Text(f"\nRouting: {recommendation.routing}. Intervals hold with 90 %."))
    _print_list(out, "To know more, measure", recommendation.next_measurements)
    _print_list(out, "Mind", recommendation.warnings)


def _print_list(out: Console, title: str, lines: tuple[str, ...]) -> None:
    if not lines:
        return
    out.print(Text(f"\n{title}:", style="bold"))
    for line in lines:
        out.print(Text(f"  {one_line(line)}"))


def _options_table(recommendation: Recommendation) -> Table:
    costs = any(option.cost_per_hour is not None for option in recommendation.options)
    money = ["per hour", "per M tok"] if costs else []
    table = _table("option", "replicas", "GPUs", *money, "sure")
    for slo in recommendation.slo:
        table.add_column(escape(one_line(slo.text)), justify="right", overflow="fold")
    table.add_column("breaks first", overflow="fold")
    for option in recommendation.options:
        name = f"{option.target} (emulated)" if option.emulated else option.target
        cells = [one_line(name), _count(option.replicas), _count(option.gpus)]
        if costs:
            cells += [_money(option.cost_per_hour), _money(option.cost_per_million_tokens)]
        cells.append("-" if option.confidence is None else _sure(option))
        cells += [_figure(option, slo.figure) for slo in recommendation.slo]
        cells.append(one_line(option.binding or "-"))
        chosen = option == recommendation.recommended
        table.add_row(*map(escape, cells), style="bold" if chosen else None)
    return table


def _capacity_table(recommendation: Recommendation) -> Table:
    shares = sorted({0.5, 0.9, 0.95, recommendation.confidence})
    what = "users" if recommendation.demand.users is not None else "requests/s"
    table = _table(f"{what} one replica carries", *(f"{s * 100:.4g} % sure" for s in shares))
    for option in recommendation.options:
        keys = [confidence_key(share) for share in shares]
        carried = [option.users_per_replica.get(key) for key in keys]
        cells = ["≥ " * option.is_lower_bound(users) + _count(users) for users in carried]
        if option.rate_per_replica:
            rates = [option.rate_per_replica[key] for key in keys]
            cells = ["≥ " * option.is_lower_bound_rate(rate) + f"{rate:.3g}" for rate in rates]
        if option.users_per_replica or option.rate_per_replica:
            table.add_row(escape(one_line(option.target)), *cells)
    return table


def _sensitivity_table(recommendation: Recommendation) -> Table:
    table = _table("what if", "replicas", "GPUs")
    table.add_column("how it is known", overflow="fold")
    for case in recommendation.sensitivity:
        known = f"{case.label}: {case.why}" if case.why else case.label
        table.add_row(
            escape(one_line(case.what)),
            _count(case.replicas),
            _count(case.gpus),
            escape(one_line(known)),
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(first, overflow="fold")  # a narrow terminal loses no part of a word
    for heading in others:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _sure(option: Option) -> str:
    """How sure an option is, short: ``> 99 %``."""
    return sureness(option).removesuffix(" sure").replace("over ", "> ")


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _simulated(recommendation: Recommendation) -> str | None:
    """The recommended option's figures the second way, in one line; nothing without any."""
    found = recommendation.simulated
    if found is None or not found.figures:
        return None
    figures = (f"{figure_name(name)} {interval(name, of)}" for name, of in found.figures.items())
    return f"simulated request by request: {', '.join(figures)}"


def _energy(option: Option) -> str | None:
    """What its GPUs draw; nothing where it was not measured."""
    if option.watts_per_replica is None:
        return None
    told = f"{option.watts_per_replica:,.0f} W per replica"
    if option.joules_per_output_token is not None and option.kwh_per_million_tokens is not None:
        told += (
            f", {option.joules_per_output_token:.3g} J per output token "
            f"({option.kwh_per_million_tokens:.3g} kWh per M tok)"
        )
    return f"{told}: its GPUs alone, as measured, with every replica up"


def _figure(option: Option, figure: str) -> str:
    predicted = option.predicted.get(figure)
    return "-" if predicted is None else f"{interval(figure, predicted)},\n{predicted.label}"


def _changes(recommendation: Recommendation) -> tuple[str, ...]:
    if len(recommendation.crossovers) == 1 and len(recommendation.options) == 1:
        return ()
    return tuple(
        f"{change.from_users:>6,} user{'s' if change.from_users != 1 else ''}: {change.target}"
        f"{_between(change)}"
        for change in recommendation.crossovers
    )


def _between(change: Crossover) -> str:
    if change.low == change.high:  # both open, or the same in each draw
        return ""
    low = "fewer" if change.low is None else f"{change.low:,}"
    return f"  (from {low} to {'more' if change.high is None else f'{change.high:,}'})"


def _legend(recommendation: Recommendation) -> tuple[str, ...]:
    used = {p.label for option in recommendation.options for p in option.predicted.values()}
    return tuple(f"{label}: {text}" for label, text in _LEGEND.items() if label in used)
