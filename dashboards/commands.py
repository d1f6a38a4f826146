"""The command ``headroom report``."""

from __future__ import annotations

from pathlib import Path

import click

from dashboards.claims import Material
from dashboards.report import write_report
from planner.claims.files import read_claims, read_doctors, read_parities
from planner.cli import Command
from planner.config import catalogue_of, config_option

__all__ = ["report"]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(cls=Command, epilog="Example: headroom report runs/demo --out report.html")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    "file",  # not the run folder that a --config file may name as out
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; by default report.html in the (first) run folder.",
)
@click.option("--claims", "catalogue", type=_FILE, metavar="FILE.toml",
              help="Your own claims, to judge in place of those that ship.")  # fmt: skip
@click.option("--doctor", type=_FILE, multiple=True, metavar="FILE.json",
              help="What headroom doctor --json printed, for the claims; repeatable.")  # fmt: skip
@click.option("--parity", type=_FILE, multiple=True, metavar="FILE.json",
              help="What headroom parity --json printed, for the claims; repeatable.")  # fmt: skip
@config_option
@click.pass_context
def report(
    context: click.Context,
    runs: tuple[Path, ...],
    file: Path | None,
    catalogue: Path | None,
    doctor: tuple[Path, ...],
    parity: tuple[Path, ...],
) -> None:
    """Write one self-contained HTML file that opens offline.

    The answer to the question that the runs were made for stands on top, the evidence below it.
    """
    material = Material(
        claims=read_claims(catalogue) if catalogue else None,
        diagnoses=read_doctors(doctor),
        parities=read_parities(parity),
    )
    click.echo(write_report(runs, file, catalogue=catalogue_of(context), material=material))
