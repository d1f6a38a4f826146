"""genai-bench (SGLang project): one file per run, with its single requests.

``num_concurrency`` is a rate in its open loop. Latencies are in ``_time_unit``. Each traffic
scenario is a target of its own; ``experiment_metadata.json`` beside the runs names model and
server.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.levels import Imported, Level, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source
    from planner.table import Floats

__all__ = ["NAME", "PARTS", "PART_FILES", "is_part", "matches", "read"]

NAME = "genai-bench"
PART_FILES = ("experiment_metadata.json",)
"""Read where it lies beside a run."""
PARTS = "what genai-bench was asked for, no result: name the files of its runs, too"
METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e_latency"}
UNITS = {"s": 1.0, "ms": 1e-3}
OPEN_LOOP = ("qps", "request_rate", "traffic_rate")
"""Kinds of iteration that offer requests at a rate."""


def matches(source: Source) -> bool:
    """Whether this is a run of genai-bench's."""
    return "aggregated_metrics" in source.keys


def is_part(source: Source) -> bool:
    """Whether this says what an experiment was asked for."""
    return {"api_backend", "traffic_scenario"} <= source.keys


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:
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
    latencies, values = _latencies(document, run, UNITS[unit])
    per_minute = run.number("requests_per_minute")
    throughput = run.number("requests_per_second") or (per_minute and per_minute / 60)
    e2e = latencies.get("e2e")
    in_flight = throughput * e2e.mean_s if throughput and e2e and e2e.mean_s else None
    is_rate = iteration in OPEN_LOOP or _is_rate(run, concurrency, in_flight)
    level = Level(
        load_kind="rate" if is_rate else "concurrency",
        load=concurrency,
        completed=run.count("num_completed_requests") or 0,
        failed=run.count("num_error_requests"),
        duration_s=run.number("run_duration"),
        requests_per_s=throughput,
        output_tokens_per_s=run.number("mean_output_throughput_tokens_per_s"),
        prompt_tokens_mean=_mean(run, "num_input_tokens"),
        output_tokens_mean=_mean(run, "num_output_tokens"),
        latencies=latencies,
        values=values,
    )
    scenario = run.text("scenario")
    asked = next((Fields(s.path, s.documents[0]) for s in beside if is_part(s)), None)
    gpus = None if asked is None else _whole(asked, "server_gpu_count")
    return [
        Imported(
            path=source.path,
            tool=NAME,
            curve=scenario,
            version=None if asked is None else asked.text("benchmark_version"),
            model=None if asked is None else asked.text("api_model_name", "model"),
            engine=None if asked is None else asked.text("server_engine"),
            engine_version=None if asked is None else asked.text("server_version"),
            hardware=None if asked is None else asked.text("server_gpu_type"),
            gpus=gpus,
            settings={"scenario": scenario} if scenario else {},
            levels=(level,),
        )
    ]


def _is_rate(run: Fields, load: float, in_flight: float | None) -> bool:
    """Whether the load is of the open loop, which gives requests per second.

    The closed loop of later versions counts arrivals too, so that the load is what it lies nearer
    to: the arrivals of a second, or the requests in flight.
    """
    arrivals = run.number("arrival_requests_per_second")
    if not arrivals:
        return False
    return in_flight is None or abs(math.log(load / arrivals)) < abs(math.log(load / in_flight))


def _whole(asked: Fields, key: str) -> int | None:
    """A number of GPUs, which is a text in some versions; ``None`` where it is none."""
    told = asked.text(key) or "" if asked.is_text(key) else f"{asked.number(key) or 0:.0f}"
    return int(told) if told.isdecimal() and len(told) < len("10000") and int(told) else None


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
