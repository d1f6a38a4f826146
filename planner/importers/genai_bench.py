"""genai-bench (SGLang project): one file per run, with its single requests.

``num_concurrency`` is a rate where arrivals were counted. Latencies are in ``_time_unit``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.importers.levels import Imported, Level, spread_of
from planner.importers.reading import Fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source
    from planner.table import Floats

__all__ = ["NAME", "matches", "read"]

NAME = "genai-bench"
METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e_latency"}
UNITS = {"s": 1.0, "ms": 1e-3}
OPEN_LOOP = ("qps", "request_rate", "traffic_rate")
"""Kinds of iteration that offer requests at a rate."""


def matches(source: Source) -> bool:
    """Whether this is a run of genai-bench's."""
    return "aggregated_metrics" in source.keys


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The one level of a file.

    Raises:
        InputError: the load is not told, the unit is not known, or a figure is none.
    """
    document = Fields(source.path, source.documents[0])
    run = document.object("aggregated_metrics")
    if run is None:
        raise InputError(f"{source.path}: aggregated_metrics is empty: no run was measured")
    unit = document.text("_time_unit") or "s"
    if unit not in UNITS:
        raise InputError(f"{source.path} at $._time_unit: {unit!r} is not one of s, ms")
    concurrency = run.number("num_concurrency")
    iteration = run.text("iteration_type") or "num_concurrency"
    if not concurrency or iteration == "batch_size":
        raise InputError(
            f"{source.path}: the load is not told: aggregated_metrics.num_concurrency is "
            f"{concurrency}, iterated over {iteration}"
        )
    offered = run.number("arrival_requests_per_second")
    is_rate = offered is not None or iteration in OPEN_LOOP
    latencies, values = _latencies(document, run, UNITS[unit])
    level = Level(
        load_kind="rate" if is_rate else "concurrency",
        load=concurrency,
        completed=run.count("num_completed_requests") or 0,
        failed=run.count("num_error_requests"),
        duration_s=run.number("run_duration"),
        requests_per_s=run.number("requests_per_second"),
        output_tokens_per_s=run.number("mean_output_throughput_tokens_per_s"),
        prompt_tokens_mean=_mean(run, "num_input_tokens"),
        output_tokens_mean=_mean(run, "num_output_tokens"),
        latencies=latencies,
        values=values,
    )
    scenario = run.text("scenario")
    return [
        Imported(
            path=source.path,
            tool=NAME,
            settings={"scenario": scenario} if scenario else {},
            levels=(level,),
        )
    ]


def _mean(run: Fields, key: str) -> float | None:
    found = run.object("stats", key)
    return None if found is None else found.number("mean")


def _latencies(
    document: Fields, run: Fields, scale: float
) -> tuple[dict[str, Latency], dict[str, Floats]]:
    """Summaries, and the single requests that they are of (warm-up may be left out of them)."""
    single = _single(document, scale)
    summaries, values = {}, {}
    for metric, key in METRICS.items():
        stats = run.object("stats", key)
        if stats is None:
            continue
        mean, total = stats.number("mean"), stats.number("sum")
        n = round(total / mean) if mean and total else run.count("num_completed_requests") or 0
        found = spread_of(stats, n=n, scale=scale)
        if found is None:
            continue
        summaries[metric] = found
        mine = single[metric]
        if mine.size == n and math.isclose(mine.sum(), (total or 0) * scale, rel_tol=1e-6):
            values[metric] = mine
    return summaries, values


def _single(document: Fields, scale: float) -> dict[str, Floats]:
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for request in document.objects("individual_request_metrics"):
        if request.number("error_code"):
            continue
        for metric, key in METRICS.items():
            if (value := request.number(key)) is not None:
                found[metric].append(value * scale)
    return {metric: np.array(values) for metric, values in found.items()}
