"""``headroom backtest``: read a table of published curves, predict parts of each, print errors."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from planner.backtest import METRICS, SPLITS, Errors, by_ensemble, by_form, errors_of
from planner.cli import Command, console, print_json
from planner.errors import InputError
from planner.forms import FORMS
from planner.points import FEWEST_POINTS, lines_of_points, read_curves
from planner.runfolder import read_run
from planner.summary import operating_points

if TYPE_CHECKING:
    from planner.backtest import Missed

__all__ = ["Backtest", "backtest"]

MOST_BYTES = 64 * 2**20
ENSEMBLE = "ensemble"


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """The document that ``--json`` prints.

    Attributes:
        schema: version of this shape.
        split: which points were fitted.
        metric: which was predicted.
        model: by what: the ensemble, or the name of one form.
        curves: number that were tested.
        skipped: number that were not.
        skipped_why: reason -> number.
        overall: errors of all points.
        datasets: errors by data set.
    """

    schema: int = 1
    split: str
    metric: str
    model: str
    curves: int
    skipped: int
    skipped_why: dict[str, int]
    overall: Errors
    datasets: dict[str, Errors]


@click.command(
    cls=Command, epilog="Example: headroom backtest curves.csv --split low-half --metric ttft"
)
@click.argument("points", metavar="POINTS.csv|RUN", type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default=SPLITS[0],
    show_default=True,
    help="What to fit: the lower half, all but one inner point in turn, or the lowest, the middle "
    "and the highest point.",
)
@click.option(
    "--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True,
    help="What to predict.",
)  # fmt: skip
@click.option(
    "--model",
    type=click.Choice([ENSEMBLE, *FORMS, "pchip"]),
    default=ENSEMBLE,
    show_default=True,
    help="What to predict by: the planner's ensemble, or one form alone for comparison.",
)
@click.option("--json", "as_json", is_flag=True, help="The errors as JSON.")
def backtest(points: Path, split: str, metric: str, model: str, as_json: bool) -> None:
    """How wrong the planner would have been on the curves of a table of operating points.

    A curve is the rows of one dataset and curve_id, with a concurrency and a measured figure each.
    Part of its points is fitted, the others are predicted; no other row of the table takes part.
    For a TTFT the throughput and TPOT of the fitted points are used too, where the table has them.
    Of a RUN, measured or imported, each target is a curve over its levels.
    """
    lines = _lines_of_run(points) if points.is_dir() else _lines(points)
    curves, skipped = read_curves(lines, metric)
    if not curves:
        reasons = "; ".join(f"{count} with {why}" for why, count in skipped.items()) or "no rows"
        raise InputError(f"{points}: no curve of {FEWEST_POINTS} points to test ({reasons})")
    if model == ENSEMBLE:
        missed = by_ensemble(curves, split, metric)
    else:
        missed = by_form(curves, split, metric, model)
    found = Backtest(
        split=split,
        metric=metric,
        model=model,
        curves=len(curves),
        skipped=sum(skipped.values()),
        skipped_why=skipped,
        overall=errors_of(missed),
        datasets=_by_dataset(missed),
    )
    if as_json:
        print_json(found)
    else:
        _print(found)


def _lines_of_run(path: Path) -> list[str]:
    """The levels of a run as such a table."""
    run = read_run(path, gaps=False)
    points = operating_points(run, metrics=("ttft", "tpot"))
    return lines_of_points(points, run.manifest.targets, path.resolve().name)


def _lines(path: Path) -> list[str]:
    """The table's text, bounded."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8 text") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: more than {MOST_BYTES // 2**20} MiB: split the table")
    return text.splitlines(keepends=True)


def _by_dataset(missed: list[Missed]) -> dict[str, Errors]:
    sets: dict[str, list[Missed]] = defaultdict(list)
    for point in missed:
        sets[point.curve.dataset].append(point)
    return {name: errors_of(points) for name, points in sorted(sets.items())}


def _print(found: Backtest) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{found.metric}, {found.split}")
    for heading in ("points", "median error", "p90 error", "in 90 % band"):
        table.add_column(heading, justify="right")
    for name, errors in (*found.datasets.items(), ("overall", found.overall)):
        inside = "-" if errors.coverage90 is None else f"{errors.coverage90:.1%}"
        table.add_row(
            escape(name), f"{errors.n:,}", f"{errors.median_ape:.2f} %",
            f"{errors.p90_ape:.1f} %", inside,
        )  # fmt: skip
    console().print(table)
    console().print(f"{found.curves} curves tested, {found.skipped} skipped")
    for why, count in found.skipped_why.items():
        console().print(f"  {count} skipped: {why}", markup=False)
