"""A table of published operating points read as curves: CSV text in, curves and refusals out."""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.errors import InputError
from planner.levels import is_closed_loop
from planner.prior import family_of
from planner.waiting import Occupancy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from planner.records import OperatingPoint, TargetInfo

__all__ = ["COLUMNS", "FEWEST_POINTS", "MOST_ROWS", "PointCurve", "lines_of_points",
           "read_curves"]  # fmt: skip

COLUMNS = {"throughput": "output_tokens_per_s", "ttft": "ttft_ms", "tpot": "tpot_ms"}
"""Metric -> its column."""
FEWEST_POINTS = 5
"""Concurrencies that a curve needs to be backtested."""
MOST_POINTS = 64
"""Concurrencies in a curve; one more is no sweep of levels but something else."""
MOST_ROWS = 200_000
MOST_IN_NAME = 80
MOST_LOG = 100.0
"""Of a number of requests that decode at once: its exponential is no number of anything."""
SETTINGS = ("engine", "engine_version", "hardware", "model", "gpu_count", "input_tokens",
            "output_tokens", "precision")  # fmt: skip
"""Columns that must not change within a curve."""
STATIC = ("offline", "batched", "static")
"""Words by which the name of a data set tells that its requests came as one batch."""


@dataclass(frozen=True)
class PointCurve:
    """One quantity of one engine, model, machine and workload over concurrency.

    Attributes:
        dataset: where it was published.
        curve_id: its name in the table.
        model: served, as the table names it.
        machine: engine and hardware, as the table names them.
        family: of the engine (``planner.prior.family_of``).
        n: (L,) concurrencies, increasing, at least ``FEWEST_POINTS``.
        values: (L,) positive, in the unit of the column.
        occupancy: of a TTFT, where the table has throughput and TPOT at every level.
    """

    dataset: str
    curve_id: str
    model: str
    machine: str
    family: str
    n: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]
    occupancy: Occupancy | None = None


class _UnfitCurveError(Exception):
    """Why one curve cannot be used."""


def read_curves(lines: Iterable[str], metric: str) -> tuple[list[PointCurve], dict[str, int]]:
    """Read one metric's curves.

    Rows with the same concurrency in one curve are repeats: their geometric mean is taken. An
    empty cell is a figure that was not reported.

    Args:
        lines: of the CSV, with a header; columns ``curve_id``, ``concurrency`` and the metric's
            are needed, ``dataset`` and what describes the engine and the workload are used.
        metric: key of ``COLUMNS``.

    Returns:
        The curves, and for those left out reason -> number of curves.

    Raises:
        InputError: this is no such table.
    """
    rows: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in _rows(lines, ("curve_id", "concurrency", COLUMNS[metric])):
        rows[_name(row.get("dataset") or "all"), row["curve_id"]].append(row)
    curves, unfit = [], Counter[str]()
    for (dataset, curve_id), points in rows.items():
        try:
            curves.append(_curve(dataset, curve_id, points, COLUMNS[metric]))
        except _UnfitCurveError as error:
            unfit[str(error)] += 1
    return curves, dict(unfit)


def lines_of_points(
    points: Iterable[OperatingPoint], targets: Iterable[TargetInfo], dataset: str
) -> list[str]:
    """The table that ``read_curves`` reads, of the usable closed-loop levels of a run.

    Args:
        points: of the run.
        targets: that they are of; each is a curve.
        dataset: name of the run.
    """
    known = {target.name: target for target in targets}
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))
    writer.writerow(("dataset", "curve_id", "engine", "hardware", "model", "concurrency",
                     "output_tokens_per_s", "ttft_ms", "tpot_ms"))  # fmt: skip
    for point in points:
        if not point.usable or not is_closed_loop(point):
            continue
        target = known[point.target]
        told = [
            (figures.value * scale if (figures := point.figures.get(name)) is not None else "")
            for name, scale in (
                ("output_tokens_per_s", 1.0),
                ("ttft_mean_s", 1e3),
                ("tpot_mean_s", 1e3),
            )
        ]
        engine = target.engine or target.backend
        writer.writerow((dataset, point.target, engine, target.hardware or "", target.model or "",
                         point.load, *told))  # fmt: skip
    return lines


def _rows(lines: Iterable[str], needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """The table's rows; cells that a short row lacks are empty, those beyond the header ignored."""
    reader = csv.DictReader(lines, restval="", restkey="", strict=True)
    try:
        header = reader.fieldnames or ()
        missing = [column for column in needed if column not in header]
        if missing:
            raise InputError(
                f"no column {', '.join(missing)}: a table of operating points has a header line "
                f"with {', '.join(needed)}"
            )
        for count, row in enumerate(reader, start=1):
            if count > MOST_ROWS:
                raise InputError(f"more than {MOST_ROWS:,} rows: split the table")
            yield row
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: not CSV ({error})") from error


def _curve(
    dataset: str, curve_id: str, rows: Sequence[Mapping[str, str]], column: str
) -> PointCurve:
    for setting in SETTINGS:
        if len({row.get(setting, "") for row in rows}) > 1:
            raise _UnfitCurveError(f"different {setting} mixed in one curve")
    values = _logs_by_level(rows, column)
    if not values:
        raise _UnfitCurveError(f"no {column} reported")
    if len(values) < FEWEST_POINTS:
        raise _UnfitCurveError(f"fewer than {FEWEST_POINTS} concurrencies with {column}")
    if len(values) > MOST_POINTS:
        raise _UnfitCurveError(f"more than {MOST_POINTS} concurrencies")
    n = sorted(values)
    first = rows[0]
    serving = bool(first.get("ttft_ms", "").strip()) and not any(
        word in dataset.lower() for word in STATIC
    )
    return PointCurve(
        dataset=dataset,
        curve_id=curve_id,
        model=first.get("model", ""),
        machine=f"{first.get('engine', '')} on {first.get('hardware', '')}",
        family=family_of(first.get("engine", ""), serving=serving),
        n=np.array(n),
        values=np.exp([np.mean(values[level]) for level in n]),
        occupancy=_occupancy(rows, n) if column == COLUMNS["ttft"] else None,
    )


def _occupancy(rows: Sequence[Mapping[str, str]], n: Sequence[float]) -> Occupancy | None:
    """What throughput and TPOT tell; ``None`` unless every level has both, and they can be used."""
    found = []
    for metric in ("throughput", "tpot"):
        try:
            logs = _logs_by_level(rows, COLUMNS[metric])
        except _UnfitCurveError:
            return None
        if not all(level in logs for level in n):
            return None
        found.append(np.array([np.mean(logs[level]) for level in n]))
    rate, step_ms = found
    if np.abs(rate + step_ms).max() > MOST_LOG:
        return None
    return Occupancy(decoding=np.exp(rate + step_ms) / 1e3, step=np.exp(step_ms))


def _logs_by_level(rows: Sequence[Mapping[str, str]], column: str) -> dict[float, list[float]]:
    """Concurrency -> logarithms of the figures reported there."""
    logs: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(column, "").strip():
            logs[_positive(row, "concurrency")].append(math.log(_positive(row, column)))
    return logs


def _positive(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        raise _UnfitCurveError(f"{column} that is no number") from None
    if not (math.isfinite(value) and value > 0):
        raise _UnfitCurveError(f"{column} that is not positive and finite")
    return value


def _name(text: str) -> str:
    """A name fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text[:MOST_IN_NAME])
