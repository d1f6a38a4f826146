"""Operating points as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from planner.comparison import FIGURES, memory_bytes
from planner.phrases import one_line
from planner.units import format_declared, format_figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.comparison import LevelRow, Sharing
    from planner.records import Estimate, OperatingPoint, Predicted, Slo
    from planner.verification import Verification

__all__ = ["comparison_table", "points_table", "sharing_table", "verification_table"]

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

    What else there is to say of a point is numbered, and stands below the table.

    Args:
        points: in the order of the rows.
        slo: objectives, whose figures are shown too.
        emulated: names of targets that were emulators, which the title tells.
    """
    figures = list(dict.fromkeys([*_ALWAYS, *(objective.figure for objective in slo)]))
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    if emulated:
        table.title = escape(one_line(f"EMULATED, not measured: {', '.join(emulated)}"))
        table.title_justify, table.title_style = "left", "bold"
    table.add_column("target")
    table.add_column("load", justify="right")
    table.add_column("requests", justify="right")
    for figure in figures:
        table.add_column(_heading(figure), justify="right")
    table.add_column("note")
    notes: dict[str, int] = {}
    for point in points:
        own = [*_company(point), *point.problems, *point.notes]
        numbers = [str(notes.setdefault(note, len(notes) + 1)) for note in own]
        table.add_row(
            escape(one_line(point.target)),
            _load(point),
            f"{point.completed:,}",
            *(_cell(figure, point.figures.get(figure)) for figure in figures),
            ", ".join(numbers),
        )
    if notes:
        table.caption = escape(
            "\n".join(one_line(f"{number}: {note}") for note, number in notes.items())
        )
        table.caption_justify, table.caption_style = "left", ""
    return table


def _company(point: OperatingPoint) -> list[str]:
    return [f"together with {', '.join(point.together)}"] if point.together else []


def sharing_table(costs: Iterable[Sharing]) -> Table:
    """What each target gives beside the others, as a multiple of what it gives alone."""
    table = _bare("Together, as a multiple of alone")
    for heading in ("target", "load", *map(_heading, FIGURES)):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for cost in costs:
        table.add_row(
            escape(one_line(cost.target)),
            _load(cost),
            *(_times(cost.ratios.get(name)) for name in FIGURES),
        )
    return table


def comparison_table(rows: Iterable[LevelRow], *, emulated: Sequence[str] = ()) -> Table:
    """The targets beside each other, load by load, each figure with both ends of its interval.

    Args:
        rows: as ``planner.comparison.side_by_side`` gives them.
        emulated: names of targets that were emulators, which their rows tell.
    """
    table = _bare("Side by side")
    rows = list(rows)
    memory = any(memory_bytes(p) is not None for row in rows for p in row.points.values())
    for heading in ("load", "target", *map(_heading, FIGURES), *(["memory"] if memory else [])):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for row in rows:
        for number, (target, point) in enumerate(sorted(row.points.items())):
            figures = (point.figures.get(name) for name in FIGURES)
            table.add_row(
                "" if number else _load(point),
                escape(one_line(f"{target} (emulated)" if target in emulated else target)),
                *(
                    "-" if e is None else _range(n, e)
                    for n, e in zip(FIGURES, figures, strict=True)
                ),
                *([_gigabytes(memory_bytes(point))] if memory else []),
            )
    return table


def _gigabytes(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e9:.2f} GB"


def _bare(title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False, title=title)
    table.title_justify, table.title_style = "left", "bold"
    return table


def _times(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    if estimate.low is None and estimate.high is None:
        return f"× {estimate.value:.2f} (open)"
    ends = ("open" if end is None else f"{end:.2f}" for end in (estimate.low, estimate.high))
    return f"× {estimate.value:.2f} ({' to '.join(ends)})"


def verification_table(found: Verification) -> Table:
    """Predicted beside measured: one row per objective."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    who, think = ("1 user", "thinks") if found.users == 1 else (f"{found.users} users", "think")
    if found.think_time_s:
        who += f" who {think} {format_declared('think_s', found.think_time_s)}"
    mark = f" (emulated: {found.emulated})" if found.emulated else ""
    table.title = f"{found.target}{mark}: {who} on one replica"
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
    value = format_figure(figure, known.value)
    if known.low is None and known.high is None:
        return f"{value} (open)"
    ends = [
        "open" if end is None else format_figure(figure, end) for end in (known.low, known.high)
    ]
    if ends[1].split()[-1:] == value.split()[-1:]:  # one unit is enough
        ends = [end.removesuffix(f" {value.split()[-1]}") for end in ends]
    return f"{value} ({ends[0]} to {ends[1]})"


def _heading(figure: str) -> str:
    metric, _, statistic = figure.removesuffix("_s").partition("_")
    return _HEADINGS.get(figure, f"{metric.upper()} {statistic}")


def _load(point: OperatingPoint | Sharing) -> str:
    if point.load_kind == "users":
        return f"{point.load:g} users"
    return f"{point.load:g}" if point.load_kind == "concurrency" else f"{point.load:g}/s"


def _cell(figure: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    value = format_figure(figure, estimate.value)
    if figure in _HEADINGS:  # which tells the unit
        value = value.removesuffix(" tok/s").removesuffix(" req/s")
    if estimate.low is None or estimate.high is None:
        return value
    margin = max(estimate.high - estimate.value, estimate.value - estimate.low)
    return f"{value} ±{margin / estimate.value:.0%}" if estimate.value else value
