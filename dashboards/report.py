"""From run folders to the report's file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dashboards.page import render
from dashboards.replan import answer_from, measured_from
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import PlanContext, Recommendation

__all__ = ["write_report"]

_SEED = 20240229
"""Of the bootstrap behind the intervals; fixed, so that the same run gives the same report."""


def write_report(
    run_paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    plan: PlanContext | None = None,
    recommendation: Recommendation | None = None,
) -> Path:
    """Write the report of one or several runs.

    Args:
        run_paths: run folders; at least one.
        out: the file to write; by default ``report.html`` in the first run folder.
        plan: the question to answer; by default the one that the runs were made for.
        recommendation: the answer to it; by default the planner is asked again.

    Returns:
        The file written.

    Raises:
        RunFolderError: a run folder cannot be read.
        InputError: no run was given, or the file cannot be written.
    """
    if not run_paths:
        raise InputError("no run folder given: name at least one")
    rng = np.random.default_rng(_SEED)
    measured = measured_from([Path(path) for path in run_paths], plan)
    page = render(measured, answer_from(measured, plan, rng=rng, recommendation=recommendation))
    target = Path(run_paths[0]) / "report.html" if out is None else Path(out)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    return target
