"""evalscope perf: ``benchmark_summary.json``, with ``benchmark_percentile.json`` beside it.

Names of the figures changed with the versions (``Concurrency`` was ``Number of concurrency``,
``Avg TTFT (ms)`` was ``Average time to first token (s)``), so their units are read from the names.
NaN stands for what was not seen. Without streaming it writes E2E for TTFT, which is left out.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.lateness import held_back
from planner.importers.levels import Imported, Level, latency
from planner.importers.reading import objects_in
from planner.importers.streaming import NOT_STREAMED, STREAMED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source
    from planner.records import LoadKind

__all__ = ["NAME", "PARTS", "PART_FILES", "is_part", "matches", "read"]

NAME = "evalscope"
PART_FILES = ("benchmark_percentile.json", "benchmark_args.json")
"""Read where they lie beside a summary."""
PARTS = "a part of evalscope's result: name benchmark_summary.json, which has the load, too"

MEANS = {
    "ttft": ("Avg TTFT", "TTFT", "Average time to first token"),
    "tpot": ("Avg TPOT", "TPOT", "Average time per output token"),
    "itl": ("Avg ITL", "ITL", "Average inter-token latency"),
    "e2e": ("Avg Latency", "Average latency", "Latency"),
}
COLUMNS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "Latency"}
UNITS = {"ms": 1e-3, "s": 1.0}
MOST_ROWS = 100
"""Percentiles in a file."""
_CONCURRENCY = ("Concurrency", "Number of concurrency")
_SHARE = re.compile(r"(\d{1,2}(?:\.\d+)?)%")


def matches(source: Source) -> bool:
    """Whether this is evalscope's summary."""
    return bool(source.keys & set(_CONCURRENCY)) and bool(
        source.keys & {"Success Requests", "Succeed requests", "Total Requests", "Total requests"}
    )


def is_part(source: Source) -> bool:
    """Whether this is a file that belongs to a summary: percentiles, or the arguments."""
    if {"parallel", "tokenizer_path", "api"} <= source.keys:
        return True
    return bool(source.documents) and source.documents[0][:1] == b"[" and bool(_rows(source))


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:
    """The one level of a summary, with the percentiles of its folder.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    fields = Fields(source.path, source.documents[0])
    kind, load = _load(fields)
    completed = fields.count("Success Requests", "Succeed requests") or 0
    rows = _rows(_part(source, beside, "benchmark_percentile.json"))
    arguments = _part(source, beside, "benchmark_args.json")
    told = None if arguments is None else Fields(arguments.path, arguments.documents[0])
    streamed = _streamed(fields, told)
    throughput = fields.number("Req Throughput (req/s)", "Request throughput (req/s)")
    latencies = {
        metric: found
        for metric in MEANS
        if (streamed or metric not in STREAMED)
        and (found := _latency(fields, rows, metric, completed)) is not None
    }
    level = Level(
        load_kind=kind,
        load=load,
        completed=completed,
        failed=fields.count("Failed Requests", "Failed requests"),
        duration_s=fields.number("Test Duration (s)", "Time taken for tests (s)"),
        requests_per_s=throughput,
        output_tokens_per_s=fields.number(
            "Output Throughput (tok/s)", "Output token throughput (tok/s)"
        ),
        prompt_tokens_mean=fields.number("Avg Input Tokens", "Average input tokens per request"),
        output_tokens_mean=fields.number("Avg Output Tokens", "Average output tokens per request"),
        latencies=latencies,
        problems=held_back(
            kind, latencies.get("e2e"), cap=_concurrency(fields), requests_per_s=throughput
        ),
    )
    return [
        Imported(
            path=source.path,
            tool=NAME,
            model=None if told is None else told.text("model_id", "model"),
            url=None if told is None else told.text("url"),
            levels=(level,),
            notes=(
                *(() if streamed else (NOT_STREAMED,)),
                *(() if rows else (f"no {PART_FILES[0]} beside {source.path.name}: means only",)),
            ),
        )
    ]


def _streamed(fields: Fields, arguments: Fields | None) -> bool:
    if arguments is not None and arguments.flag("stream") is False:
        return False
    return not fields.number("Non-Stream Requests") or fields.number("Stream Requests") != 0


def _load(fields: Fields) -> tuple[LoadKind, float]:
    rate = fields.signed("Request Rate (req/s)")
    if rate is None:
        rate = fields.signed("Request rate (req/s)")
    if rate is not None and rate > 0:
        return "rate", rate
    concurrency = _concurrency(fields)
    if concurrency is not None:
        return "concurrency", concurrency
    raise InputError(f"{fields.path}: the load is not told: no {_CONCURRENCY[0]}, no Request Rate")


def _concurrency(fields: Fields) -> float | None:
    """Most requests in flight; ``None`` where it is not told or without a bound (-1)."""
    told = (fields.signed(key) for key in _CONCURRENCY)
    return next((value for value in told if value is not None and value > 0), None)


def _part(source: Source, beside: Sequence[Source], name: str) -> Source | None:
    """A file of the same folder."""
    path = source.path.with_name(name)
    return next((other for other in beside if other.path == path), None)


def _rows(source: Source | None) -> list[Fields]:
    """The rows of a percentile file; none where it is another list."""
    if source is None or not source.documents or source.documents[0][:1] != b"[":
        return []
    items = list(itertools.islice(objects_in(source.documents[0]), MOST_ROWS))
    if None in items:
        return []
    rows = [
        Fields(source.path, item, f"$[{index}]")
        for index, item in enumerate(items)
        if item is not None
    ]
    return rows if all("Percentiles" in row for row in rows) else []


def _latency(fields: Fields, rows: Sequence[Fields], metric: str, n: int) -> Latency | None:
    mean = next(
        (
            value * scale
            for name in MEANS[metric]
            for unit, scale in UNITS.items()
            if (value := fields.reported(f"{name} ({unit})")) is not None
        ),
        None,
    )
    quantiles = []
    for row in rows:
        label = row.text("Percentiles") or ""
        match = _SHARE.fullmatch(label)
        share = {"min": 0.0, "max": 1.0}.get(label, float(match[1]) / 100 if match else None)
        if share is None:
            continue
        quantiles += [
            (share, value * scale)
            for unit, scale in UNITS.items()
            if (value := row.reported(f"{COLUMNS[metric]} ({unit})")) is not None
        ]
    return latency(f"{fields.path}, {metric}", n=n, mean=mean, quantiles=quantiles, scale=1.0)
