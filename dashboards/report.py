"""From run folders to the report's file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards.claims import Material, verdicts_of
from dashboards.page import render
from dashboards.replan import examine
from planner.errors import InputError
from planner.runfolder import read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.hardware import Catalogue
    from planner.records import PlanContext

__all__ = ["write_report"]


def write_report(
    run_paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    plan: PlanContext | None = None,
    catalogue: Catalogue | None = None,
    material: Material | None = None,
) -> Path:
    """Write the report of one or several runs. The same runs give the same bytes.

    Args:
        run_paths: run folders; at least one.
        out: the file to write; by default ``report.html`` in the first run folder.
        plan: the question to answer; by default the one that the runs were made for.
        catalogue: of hardware; the one that ships by default.
        material: what claims are judged by beside the runs.

    Returns:
        The file written.

    Raises:
        RunFolderError: a run folder cannot be read.
        InputError: no run was given, or the file cannot be written.
    """
    if not run_paths:
        raise InputError("no run folder given: name at least one")
    target = Path(run_paths[0]) / "report.html" if out is None else Path(out)
    runs = [read_run(path, gaps=False) for path in run_paths]
    if not target.parent.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {target.parent}")
    measured, answer = examine(runs, plan, catalogue=catalogue)
    verdicts = verdicts_of(measured, answer, material or Material(), catalogue)
    page = render(measured, answer, verdicts)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    return target
