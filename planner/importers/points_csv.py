"""A CSV of operating points, as ``headroom backtest`` reads: one level of one curve per row.

Needed is ``concurrency``; ``output_tokens_per_s``, ``ttft_ms``, ``tpot_ms``, ``e2e_ms`` are means,
each may be missing or empty. ``dataset`` and ``curve_id`` tell targets apart; ``engine``,
``engine_version``, ``hardware``, ``model``, ``gpu_count``, ``input_tokens``, ``output_tokens`` and
``precision`` say what was measured. ``requests`` is how many answers a row rests on.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers.levels import MS, Imported, Level, latency
from planner.points import MOST_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.importers.reading import Source

__all__ = ["NAME", "NEEDED", "matches", "read"]

NAME = "csv"
METRICS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
FIGURES = ("output_tokens_per_s", *METRICS.values())
NEEDED = f"the columns concurrency and one of {', '.join(FIGURES)}, with commas"
IDENTITY = ("dataset", "curve_id", "engine", "engine_version", "hardware", "model", "gpu_count",
            "input_tokens", "output_tokens", "precision")  # fmt: skip
_LONGEST = 200


def matches(source: Source) -> bool:
    """Whether the header names a concurrency and a figure."""
    if source.text is None:
        return False
    header = {name.strip() for name in source.text.partition("\n")[0].rstrip("\r").split(",")}
    return "concurrency" in header and bool(header & set(FIGURES))


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The curves of a table, each a target.

    Raises:
        InputError: not CSV, or a cell that is no figure.
    """
    curves: dict[tuple[str, ...], list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for number, row in _rows(source):
        curves[tuple(row.get(column, "") for column in IDENTITY)].append((number, row))
    found = []
    for identity, rows in curves.items():
        told = {
            column: _name(value)
            for column, value in zip(IDENTITY, identity, strict=True)
            if value.strip()
        }
        gpus = _cell(source, rows[0], "gpu_count")
        curve = " ".join(told[key] for key in ("dataset", "curve_id") if key in told)
        found.append(
            Imported(
                path=source.path,
                tool=NAME,
                curve=curve or None,
                model=told.get("model"),
                engine=told.get("engine"),
                engine_version=told.get("engine_version"),
                hardware=told.get("hardware"),
                gpus=None if gpus is None else round(gpus),
                settings={"precision": told["precision"]} if "precision" in told else {},
                levels=tuple(_level(source, row) for row in rows),
            )
        )
    return found


def _rows(source: Source) -> list[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(
        (source.text or "").splitlines(keepends=True), restval="", restkey="", strict=True
    )
    found: list[tuple[int, dict[str, str]]] = []
    try:
        for row in reader:
            if len(found) >= MOST_ROWS:
                raise InputError(f"{source.path}: more than {MOST_ROWS:,} rows: split the table")
            named = {(key or "").strip(): value for key, value in row.items() if key}
            found.append((reader.line_num, named))
    except csv.Error as error:
        raise InputError(f"{source.path} line {reader.line_num}: not CSV ({error})") from error
    if not found:
        raise InputError(f"{source.path}: a header and no rows")
    return found


def _level(source: Source, row: tuple[int, Mapping[str, str]]) -> Level:
    concurrency = _cell(source, row, "concurrency")
    if concurrency is None:
        raise InputError(f"{source.path} line {row[0]}: the load is not told: no concurrency")
    tokens_per_s = _cell(source, row, "output_tokens_per_s")
    outputs = _cell(source, row, "output_tokens")
    requests = _cell(source, row, "requests")
    n = 1 if requests is None else round(requests)  # without it, one published value
    return Level(
        load_kind="concurrency",
        load=concurrency,
        completed=n,
        requests_per_s=tokens_per_s / outputs if tokens_per_s and outputs else None,
        output_tokens_per_s=tokens_per_s,
        prompt_tokens_mean=_cell(source, row, "input_tokens"),
        output_tokens_mean=outputs,
        latencies={
            metric: found
            for metric, column in METRICS.items()
            if (
                found := latency(
                    f"{source.path} line {row[0]}",
                    n=n,
                    mean=_cell(source, row, column),
                    scale=MS,
                )
            )
            is not None
        },
    )


def _cell(source: Source, row: tuple[int, Mapping[str, str]], column: str) -> float | None:
    """A positive number; ``None`` for an empty cell."""
    text = row[1].get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"{source.path} line {row[0]}: {column} is {text[:40]!r}, not a positive number"
        )
    return value


def _name(text: str) -> str:
    """A name fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text.strip()[:_LONGEST])
