"""The command ``headroom report``."""

from __future__ import annotations

from pathlib import Path

import click

from dashboards.report import write_report
from planner.cli import Command
from planner.config import catalogue_of, config_option

__all__ = ["report"]


@click.command(cls=Command, epilog="Example: headroom report runs/demo --out report.html")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "file",  # not the run folder that a --config file may name as out
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; by default report.html in the (first) run folder.",
)
@config_option
@click.pass_context
def report(context: click.Context, runs: tuple[Path, ...], file: Path | None) -> None:
    """Write one self-contained HTML file that opens offline.

    The answer to the question that the runs were made for stands on top, the evidence below it.
    """
    click.echo(write_report(runs, file, catalogue=catalogue_of(context)))
