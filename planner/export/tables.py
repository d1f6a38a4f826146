"""One row per level: CSV, Parquet, and the same as a JSON document."""

from __future__ import annotations

import csv
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from planner.export.exported import figure_order
from planner.phrases import one_line
from planner.records import OperatingPoint, RunManifest  # noqa: TC001 - msgspec reads the types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.export.exported import Exported

__all__ = ["csv_text", "json_bytes", "parquet_bytes", "rows_of"]

SCHEMA = 1
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With these a cell begins that a spreadsheet would calculate."""
_FIELDS: dict[str, type] = {
    "run": str,
    "target": str,
    "backend": str,
    "engine": str,
    "engine_version": str,
    "model": str,
    "hardware": str,
    "gpus_per_replica": int,
    "emulated": str,
    "source": str,
    "stage": int,
    "load_kind": str,
    "load": float,
    "think_time_s": float,
    "in_flight_mean": float,
    "window_s": float,
    "completed": int,
    "failed": int,
    "censored": int,
    "prompt_tokens_mean": float,
    "output_tokens_mean": float,
    "usable": bool,
    "problems": str,
}
"""Columns that every level has, before those of its figures."""


def rows_of(levels: Sequence[Exported]) -> tuple[dict[str, type], list[dict[str, Any]]]:
    """Columns with their types, and a row per level.

    A figure has four columns: its value, the ends of its interval (``_low``, ``_high``) and the
    observations it rests on (``_n``). What was not reported is ``None``.
    """
    columns = dict(_FIELDS)
    for name in figure_order([level.point for level in levels]):
        columns |= {name: float, f"{name}_low": float, f"{name}_high": float, f"{name}_n": int}
    return columns, [_row(level, columns) for level in levels]


def _row(level: Exported, columns: dict[str, type]) -> dict[str, Any]:
    point, target = level.point, level.target
    window = (
        None
        if point.window_start_s is None or point.window_end_s is None
        else point.window_end_s - point.window_start_s
    )
    known: dict[str, Any] = {
        "run": level.run,
        "engine": target.engine,
        "engine_version": target.engine_version,
        "model": target.model,
        "hardware": target.hardware,
        "gpus_per_replica": target.gpus_per_replica,
        "emulated": target.emulated,
        "window_s": window,
        "usable": point.usable,
        "problems": "; ".join(point.problems) or None,
    }
    for name in _FIELDS.keys() - known.keys():
        known[name] = getattr(point, name)
    for name, estimate in level.figures():
        known |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
            f"{name}_n": estimate.n,
        }
    return {name: known.get(name) for name in columns}


def csv_text(levels: Sequence[Exported]) -> str:
    """The rows as CSV (RFC 4180), empty where nothing was reported."""
    columns, rows = rows_of(levels)
    lines: list[str] = []
    writer = csv.writer(SimpleNamespace(write=lines.append))
    writer.writerow(columns)
    writer.writerows([_cell(row[name]) for name in columns] for row in rows)
    return "".join(lines)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return value
    told = one_line(value)
    return f"'{told}" if value.startswith(_FORMULA) else told


def parquet_bytes(levels: Sequence[Exported]) -> bytes:
    """The rows as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, rows = rows_of(levels)
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    held = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), held, compression="zstd")
    return bytes(held.getvalue())


class _Level(msgspec.Struct, kw_only=True):
    run: str
    usable: bool
    point: OperatingPoint


class _Run(msgspec.Struct, kw_only=True):
    run: str
    manifest: RunManifest


class _Document(msgspec.Struct, kw_only=True):
    schema: int = SCHEMA
    runs: list[_Run]
    levels: list[_Level]


def json_bytes(levels: Sequence[Exported]) -> bytes:
    """Manifests and operating points as one JSON document."""
    manifests = {level.run: level.manifest for level in levels}
    document = _Document(
        runs=[_Run(run=run, manifest=manifest) for run, manifest in manifests.items()],
        levels=[
            _Level(run=level.run, usable=level.point.usable, point=level.point) for level in levels
        ],
    )
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
