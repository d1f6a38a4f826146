"""``headroom export``: a run's operating points in a format that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from planner.cli import Command, console
from planner.errors import InputError, Refused
from planner.export import (
    csv_text,
    exported_of,
    json_bytes,
    openmetrics_text,
    parquet_bytes,
    serving_bench_results,
)
from planner.phrases import one_line
from planner.runfolder import read_run

if TYPE_CHECKING:
    from planner.export import Exported

__all__ = ["export"]

FORMATS = ("csv", "parquet", "json", "vllm-bench", "openmetrics")


@click.command(cls=Command, epilog="Example: headroom export runs/vllm --format csv -o levels.csv")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True,
    help="One row per level (csv, parquet), all as one document (json), a vLLM result per level "
    "(vllm-bench: one JSON per line), or gauges for Prometheus (openmetrics).",
)  # fmt: skip
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; needed for parquet.  [default: standard output]",
)  # fmt: skip
def export(runs: tuple[Path, ...], kind: str, file: Path | None) -> None:
    """The operating points of RUN folders, measured or imported, with their intervals.

    Levels that must not be used are in it too, marked so, but for vllm-bench, which has no word for
    that and leaves them out.
    """
    if kind == "parquet" and file is None:
        raise InputError("parquet is no text: name a file with -o FILE")
    levels = exported_of([read_run(path) for path in runs])
    if not levels:
        raise Refused(f"{runs[0]} has no level yet: nothing to export")
    try:
        data = _data(levels, kind)
        if file is None:
            click.echo(data, nl=False)
        else:
            file.write_bytes(data)
    except OSError as error:
        raise InputError(
            f"cannot write {file or 'the output'}: {error.strerror or error}"
        ) from error


def _data(levels: list[Exported], kind: str) -> bytes:
    if kind == "parquet":
        return parquet_bytes(levels)
    if kind == "csv":
        return csv_text(levels).encode()
    if kind == "json":
        return json_bytes(levels)
    if kind == "openmetrics":
        return openmetrics_text(levels).encode()
    usable = [level for level in levels if level.point.usable]
    results, left_out = serving_bench_results(usable)
    left_out += [
        f"{level.point.target} at {level.point.load:g} left out: {'; '.join(level.point.problems)}"
        for level in levels
        if not level.point.usable
    ]
    for line in left_out:
        console(stderr=True).print(one_line(f"! {line}"), markup=False, soft_wrap=True)
    if not results:
        raise Refused("no level that can be used: nothing to export as vllm-bench")
    return b"".join(msgspec.json.encode(result) + b"\n" for result in results)
