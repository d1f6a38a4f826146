"""``headroom compare``: run against run, each figure's difference with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from planner.cli import EXIT_DONE, EXIT_INCONCLUSIVE, SLO, Command, console, print_json
from planner.comparable import KEYS, check_comparable
from planner.compare_answer import compare_runs, figure_of
from planner.errors import InputError
from planner.phrases import one_line
from planner.runfolder import read_run
from planner.units import format_figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.comparable import Mismatch
    from planner.compare import Difference
    from planner.compare_answer import ComparedFigure, ComparedLevel, ComparedRuns
    from planner.records import Slo
    from planner.runfolder import Run

__all__ = ["compare"]

_WIDEST = 10.0  # ends beyond ten times as much say nothing
_LONGEST = 1000  # times as long as it was, which nobody will measure


@click.command(
    cls=Command,
    epilog="Example: headroom compare runs/before runs/after --margin 5 --figure ttft_p95_s",
)
@click.argument("run_a", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("run_b", metavar="RUN_B", type=click.Path(path_type=Path))
@click.option(
    "--repeat-a", multiple=True, type=click.Path(path_type=Path), metavar="RUN",
    help="One more run of the same as RUN_A; repeatable. Three runs show how runs differ.",
)  # fmt: skip
@click.option(
    "--repeat-b", multiple=True, type=click.Path(path_type=Path), metavar="RUN",
    help="One more run of the same as RUN_B; repeatable.",
)  # fmt: skip
@click.option(
    "--figure", "figures", multiple=True, metavar="FIGURE",
    help="Only this figure, as ttft_p99.9_s; repeatable.",
)  # fmt: skip
@click.option(
    "--slo", type=SLO, multiple=True, metavar="FIGURE<=BOUND",
    help="Objective that goodput counts, as ttft_p95<=1s; repeatable.",
)  # fmt: skip
@click.option(
    "--margin", type=click.FloatRange(0, 1000), default=5.0, show_default=True, metavar="PERCENT",
    help="What differs by less counts as the same.",
)  # fmt: skip
@click.option(
    "--confidence", type=click.FloatRange(0.5, 1, min_open=True, max_open=True), default=0.99,
    show_default=True, help="That no figure is called worse (or better) by chance.",
)  # fmt: skip
@click.option(
    "--allow-different", "allowed", multiple=True, type=click.Choice(KEYS), metavar="KEY",
    help=f"What may differ between the runs; repeatable: {', '.join(KEYS)}.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON.")
@click.pass_context
def compare(
    context: click.Context,
    run_a: Path,
    run_b: Path,
    repeat_a: tuple[Path, ...],
    repeat_b: tuple[Path, ...],
    figures: tuple[str, ...],
    slo: tuple[Slo, ...],
    margin: float,
    confidence: float,
    allowed: tuple[str, ...],
    as_json: bool,
) -> None:
    """How RUN_B differs from RUN_A, level by level, and what of it is no chance.

    Each end of an interval alone errs with 1 - confidence. Verdicts hold for all figures together:
    two runs of the same thing get any "worse" with at most that chance. Exit codes: 0 something is
    better, worse or the same; 2 bad input or runs that cannot be compared; 3 inconclusive.
    """
    asked = tuple(dict.fromkeys(map(figure_of, figures)))
    paths_a, paths_b = (run_a, *repeat_a), (run_b, *repeat_b)
    _check_distinct([*paths_a, *paths_b])
    side_a, side_b = ([read_run(path, gaps=False) for path in side] for side in (paths_a, paths_b))
    found = compare_runs(
        side_a,
        side_b,
        figures=asked,
        slo=slo,
        margin=margin / 100,
        confidence=confidence,
        differing=_differing(side_a, side_b, allowed),
    )
    if as_json:
        print_json(found)
    else:
        _print(found)
    context.exit(EXIT_DONE if found.conclusive else EXIT_INCONCLUSIVE)


def _check_distinct(paths: Sequence[Path]) -> None:
    """A run beside itself would look like a repeat."""
    seen = set()
    for path in paths:
        if (real := path.resolve()) in seen:
            raise InputError(f"{path}: given twice: a run says nothing new beside itself")
        seen.add(real)


def _differing(a: Sequence[Run], b: Sequence[Run], allowed: Sequence[str]) -> tuple[Mismatch, ...]:
    """What differs knowingly between any run and the first."""
    first = a[0]
    found: dict[Mismatch, None] = {}
    for run in (*a[1:], *b):
        names = (str(first.path), str(run.path))
        differ = check_comparable(first.manifest, run.manifest, allowed=allowed, names=names)
        found |= dict.fromkeys(differ)
    return tuple(found)


def _print(found: ComparedRuns) -> None:
    out = console()
    for side, runs in (("A", found.a), ("B", found.b)):
        out.print(one_line(f"{side}  {', '.join(runs)}"), markup=False, soft_wrap=True)
    for level in found.levels:
        out.print()
        out.print(_table(level, found))
        for line in _reasons(level):
            out.print(one_line(f"! {line}"), markup=False, soft_wrap=True)
    out.print()
    ends = {row.difference.confidence for level in found.levels for row in level.figures}
    out.print(
        f"worse, better: by more than {found.margin * 100:g} %, no figure of all by chance with "
        f"confidence {found.confidence:g}; intervals: each end with {max(ends):g}",
        markup=False,
        soft_wrap=True,
    )
    for one in found.differing:
        out.print(one_line(f"! differs: {one}"), markup=False, soft_wrap=True)
    for note in found.notes:
        out.print(one_line(f"! {note}"), markup=False, soft_wrap=True)


def _table(level: ComparedLevel, found: ComparedRuns) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    unit = {"concurrency": "in flight", "users": "users", "rate": "requests/s"}[level.load_kind]
    other = f" ({level.target_b} in B)" if level.target_b != level.target else ""
    beside = f", beside {', '.join(level.together)}" if level.together else ""
    table.title = escape(one_line(f"{level.target}{other} at {level.load:g} {unit}{beside}"))
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("figure")
    for heading in ("A", "B", "difference", "interval"):
        table.add_column(heading, justify="right")
    table.add_column("B is")
    for row in level.figures:
        one = row.difference
        table.add_row(
            _short(one.figure),
            _value(one.figure, one.a),
            _value(one.figure, one.b),
            "-" if one.relative is None else f"{one.relative * 100:+.1f} %",
            _interval(one),
            escape(_verdict(row, found)),
        )
    return table


def _reasons(level: ComparedLevel) -> Iterator[str]:
    """Why nothing can be said of some figures, each reason once."""
    figures: dict[str, list[str]] = {}
    for row in level.figures:
        if row.difference.why:
            figures.setdefault(row.difference.why, []).append(_short(row.difference.figure))
    yield from (f"{', '.join(some)}: {why}" for why, some in figures.items())


def _short(figure: str) -> str:
    return figure if figure.endswith("_per_s") else figure.removesuffix("_s")


def _value(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure in {"goodput_per_s", "goodput_share"}:
        return f"{value:.3g} req/s" if figure == "goodput_per_s" else f"{value:.1%}"
    return format_figure(figure, value)


def _interval(one: Difference) -> str:
    if one.low is None and one.high is None:
        return "-"
    low, high = (
        "open" if end is None or end > _WIDEST else f"{end * 100:+.1f}"
        for end in (one.low, one.high)
    )
    return f"{low} to {high} %"


def _verdict(row: ComparedFigure, found: ComparedRuns) -> str:
    if row.verdict == "no evidence":
        return f"no evidence of {found.margin * 100:g} %" if found.margin else "no evidence"
    if row.verdict != "inconclusive":
        return row.verdict
    if row.difference.why or row.needed_times is None:
        return "inconclusive: see below" if row.difference.why else "inconclusive"
    if row.needed_times > _LONGEST:
        return "inconclusive"
    if row.needed_times <= 1:
        return f"inconclusive: too near to {found.margin * 100:g} %"
    return f"inconclusive: {row.needed_times:.2g} times as long finds {found.slowdown * 100:g} %"
