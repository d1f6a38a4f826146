"""A parity report on the terminal: each server against itself, each pair, what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from planner.parity import SIGNIFICANCE

if TYPE_CHECKING:
    from rich.console import Console

    from planner.parity_records import PairParity, ParityReport
    from planner.records import Estimate

__all__ = ["meaning_of", "print_parity"]

_PARTINGS = 3  # how many of a pair are shown


def print_parity(report: ParityReport, out: Console) -> None:
    """Print the report."""
    asked = f"{len(report.prompts)} prompts, {report.repeat} times each"
    company = f", and again with {report.company} in flight" if report.company else ""
    out.print(
        f"{asked}, at most {report.max_tokens} tokens, temperature 0{company}", soft_wrap=True
    )
    out.print()
    out.print(_own_table(report))
    for pair in report.pairs:
        out.print()
        out.print(f"[bold]{escape(pair.a)} and {escape(pair.b)}[/bold]")
        out.print(_pair_table(pair))
        out.print(escape(meaning_of(pair, report)))


def meaning_of(pair: PairParity, report: ParityReport) -> str:
    """What the comparison of two servers says, in a sentence or two."""
    said = {
        "same": "They gave the same answers: no difference seen.",
        "different": "They differ, and by more than their own repeats do: the difference is real.",
        "undecided": "Not all answers are the same, yet each one's own repeats differ enough to "
        "explain that: it cannot be told. Ask more prompts, more often.",
        None: "",
    }[pair.verdict]
    if pair.other_prompt_tokens:
        said += (
            f" But {pair.other_prompt_tokens} of {pair.prompts} prompts have another length in "
            "tokens there than here: the servers were not asked the same (chat template, start "
            "token)."
        )
    own = [o for o in report.own if o.target in {pair.a, pair.b}]
    swayed = [o.target for o in own if o.company_p_value is not None
              and o.company_p_value <= SIGNIFICANCE]  # fmt: skip
    if swayed:
        said += f" Under load {' and '.join(swayed)} answers otherwise than alone."
    return said


def _own_table(report: ParityReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("against itself")
    table.add_column("steady alone", justify="right")
    table.add_column("and in company", justify="right")
    table.add_column("company matters", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("failed", justify="right")
    for own in report.own:
        tokens = own.output_tokens_mean
        table.add_row(
            escape(own.target),
            _share(own.identical),
            _share(own.company_identical),
            "-" if own.company_p_value is None else _p(own.company_p_value),
            "-" if tokens is None else f"{tokens:.1f}",
            str(own.failed),
        )
    return table


def _pair_table(pair: PairParity) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("same answers", _share(pair.identical))
    table.add_row(
        "edit distance", f"{pair.edit_distance.value:.1%} {_ends(pair.edit_distance, '{:.1%}')}"
    )
    if pair.parts_at is not None:
        unit = "token" if pair.unit == "tokens" else "word or mark (no token lists)"
        table.add_row("part at", f"{unit} {pair.parts_at.value:g} {_ends(pair.parts_at, '{:g}')}, "
                      f"median of the {pair.parts_at.n} that part")  # fmt: skip
    table.add_row("beyond their own", f"{pair.excess:.0%} of the answers, {_p(pair.p_value)}")
    for parting in pair.partings[:_PARTINGS]:
        ways = f"{parting.a_goes_on!r} / {parting.b_goes_on!r}"
        table.add_row(f"prompt {parting.prompt + 1}", escape(f"at {parting.at}: {ways}"))
    if len(pair.partings) > _PARTINGS:
        table.add_row("", f"and {len(pair.partings) - _PARTINGS} more")
    return table


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    hits = round(estimate.value * estimate.n)
    return f"{hits} of {estimate.n} {_ends(estimate, '{:.0%}')}"


def _ends(estimate: Estimate, form: str) -> str:
    if estimate.low is None and estimate.high is None:
        return ""
    low, high = (
        "open" if end is None else form.format(end) for end in (estimate.low, estimate.high)
    )
    return f"({low} to {high})"


def _p(value: float) -> str:
    return f"p {'<' if value < 0.001 else '='} {max(value, 0.001):.3f}"  # noqa: PLR2004 - what is shown
