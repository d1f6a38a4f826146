"""A diagnosis on the terminal: facts, the table of compatibility, the warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from loadtests.doctor.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from planner.diagnosis import Capability, Caution, Diagnosis
    from planner.records import TargetInfo

__all__ = ["print_diagnoses"]

_TITLES = {f.name: (f.title, f.route) for f in FEATURES} | {
    "parallel": ("two requests at once", "")
}
_WORDS = {True: "yes", False: "no", None: "not said"}
_STYLES = {True: "green", False: "red", None: "yellow"}


def print_diagnoses(diagnoses: Sequence[Diagnosis], out: Console) -> None:
    """Print each server by itself, then all side by side where there are several."""
    for diagnosis in diagnoses:
        _print_one(diagnosis, out)
    if len(diagnoses) > 1:
        out.print(_side_by_side(diagnoses))
        out.print()


def _print_one(diagnosis: Diagnosis, out: Console) -> None:
    info = diagnosis.target
    out.print(f"[bold]{escape(info.name)}[/bold]  {escape(info.url)}", soft_wrap=True)
    out.print(_facts(info, diagnosis))
    out.print()
    out.print(_capabilities(diagnosis.capabilities))
    out.print()
    if not diagnosis.cautions:
        out.print("nothing found that would spoil a measurement")
    else:
        out.print(_cautions(diagnosis.cautions))
    out.print()


def _facts(info: TargetInfo, diagnosis: Diagnosis) -> Table:
    limits = info.limits
    context = f"{limits.context_tokens} tokens a request" if limits.context_tokens else None
    facts = {
        "engine": " ".join(filter(None, (info.engine or info.backend, info.engine_version))),
        "model": info.model,
        "models": ", ".join(diagnosis.models) if len(diagnosis.models) > 1 else None,
        "context": context or "not told",
        "slots": limits.slots or "not told",
        "queue limit": limits.queue_limit or _unlimited(info),
        **{k: v for k, v in info.settings.items() if k not in {"slots", "queue limit"}},
    }
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(escape(name), escape(str(value)))
    return table


def _unlimited(info: TargetInfo) -> str:
    """What is known of a queue without a told bound."""
    return "none: requests wait for a slot" if info.backend == "llamacpp" else "not told"


def _capabilities(capabilities: Sequence[Capability]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("can it", no_wrap=True)
    table.add_column("route", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("HTTP", justify="right")
    table.add_column("evidence", overflow="fold")
    for found in capabilities:
        title, route = _TITLES.get(found.name, (found.name, ""))
        table.add_row(
            title,
            route,
            _word(found.supported),
            str(found.status or ""),
            escape(found.evidence),
        )
    return table


def _cautions(cautions: Sequence[Caution]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, show_edge=False)
    table.add_column(style="yellow")
    table.add_column(overflow="fold")
    for caution in cautions:
        table.add_row("!", escape(caution.message))
        table.add_row("", f"[dim]-> {escape(caution.remedy)}[/dim]")
    return table


def _side_by_side(diagnoses: Sequence[Diagnosis]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("side by side", no_wrap=True)
    for diagnosis in diagnoses:
        table.add_column(escape(diagnosis.target.name))
    for name, (title, _) in _TITLES.items():
        table.add_row(title, *(_word(diagnosis.can(name)) for diagnosis in diagnoses))
    warnings = [str(len(diagnosis.cautions)) for diagnosis in diagnoses]
    table.add_row("warnings", *warnings)
    return table


def _word(supported: bool | None) -> str:
    return f"[{_STYLES[supported]}]{_WORDS[supported]}[/]"
