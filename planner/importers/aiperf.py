"""aiperf (NVIDIA): ``profile_export_aiperf.json``, and its single requests beside it.

Every metric is ``{"unit", "avg", "p50", …}``. ``inter_token_latency`` is (E2E − TTFT) over
(tokens − 1) of each request, which is TPOT; the gaps between events are ``inter_chunk_latency``.
Older versions hold the command line (``input_config.loadgen``), later ones phases
(``input_config.phases``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.lateness import held_back
from planner.importers.levels import Imported, Level, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source
    from planner.records import LoadKind
    from planner.table import Floats

__all__ = [
    "METRICS",
    "NAME",
    "REQUESTS",
    "average_of",
    "is_requests",
    "latency_of",
    "matches",
    "read",
]

NAME = "aiperf"
REQUESTS = "single requests of aiperf: name profile_export_aiperf.json, which has their load, too"

METRICS = {
    "ttft": "time_to_first_token",
    "tpot": "inter_token_latency",
    "itl": "inter_chunk_latency",
    "e2e": "request_latency",
}
SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def matches(source: Source) -> bool:
    """Whether this is aiperf's summary."""
    return "input_config" in source.keys and bool(
        source.keys & {"records", "request_throughput", "request_latency", "request_count"}
    )


def is_requests(source: Source) -> bool:
    """Whether these are aiperf's single requests, one per line."""
    return {"metadata", "metrics"} <= source.keys


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:
    """The one level of a file.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    document = Fields(source.path, source.documents[0])
    records = document.object("records") or document
    config = document.object("input_config")
    kind, load, arrivals, cap = _load(source, config)
    completed = int(average_of(records, "request_count") or 0)
    latencies = {
        metric: found
        for metric, key in METRICS.items()
        if (found := latency_of(records, key, completed)) is not None
    }
    throughput = average_of(records, "request_throughput")
    cancelled = ("the run was cancelled",) if document.flag("was_cancelled") else ()
    late = held_back(kind, latencies.get("e2e"), cap=cap, requests_per_s=throughput)
    level = Level(
        load_kind=kind,
        load=load,
        arrivals=arrivals,
        completed=completed,
        failed=_failed(document, records),
        duration_s=average_of(records, "benchmark_duration"),
        requests_per_s=throughput,
        output_tokens_per_s=average_of(records, "output_token_throughput"),
        in_flight_mean=average_of(records, "effective_concurrency"),
        prompt_tokens_mean=average_of(records, "input_sequence_length"),
        output_tokens_mean=average_of(records, "output_sequence_length"),
        latencies=latencies,
        values=next((_values(other, completed) for other in beside if is_requests(other)), {}),
        problems=(*cancelled, *late),
    )
    return [
        Imported(
            path=source.path,
            tool=NAME,
            version=document.text("aiperf_version"),
            model=_model(config),
            url=_url(config),
            levels=(level,),
        )
    ]


def average_of(records: Fields, key: str) -> float | None:
    """The mean of a metric, in its own unit; ``None``: not reported."""
    metric = records.object(key)
    return None if metric is None else metric.number("avg")


def latency_of(records: Fields, key: str, completed: int) -> Latency | None:
    """A latency in seconds, of so many answers; ``None``: not reported."""
    metric = records.object(key)
    if metric is None:
        return None
    return spread_of(metric, n=completed, scale=_seconds(metric), mean="avg")


def _seconds(metric: Fields) -> float:
    unit = metric.text("unit") or "ms"
    if unit not in SECONDS:
        raise InputError(f"{metric.path} at {metric.place}.unit: {unit!r} is no unit of time")
    return SECONDS[unit]


def _failed(document: Fields, records: Fields) -> int | None:
    told = average_of(records, "error_request_count")
    if told is not None:
        return int(told)
    if "error_summary" not in document:
        return None
    return sum(error.count("count") or 0 for error in document.objects("error_summary"))


def _load(
    source: Source, config: Fields | None
) -> tuple[LoadKind, float, str | None, float | None]:
    """What the load was, of the profiling phase or of the command line; arrivals, and a cap."""
    phases = [] if config is None else list(config.objects("phases"))
    profiling = [p for p in phases if "profiling" in (p.text("kind"), p.text("name"))] or [
        p for p in phases if p.text("kind") != "warmup" and not p.flag("exclude_from_results")
    ]
    if len(profiling) > 1:
        raise InputError(
            f"{source.path} at $.input_config.phases: {len(profiling)} phases are profiled "
            f"together, so the figures are of no one load"
        )
    told = profiling[0] if profiling else None if config is None else config.object("loadgen")
    if told is not None:
        rate = told.number("rate", "request_rate")
        concurrency = told.number("concurrency")
        if rate:
            shape = told.text("type", "request_rate_mode", "arrival_pattern")
            return "rate", rate, shape if shape in ("constant", "poisson") else None, concurrency
        if concurrency and told.text("type") in (None, "concurrency"):
            return "concurrency", concurrency, None, None
    raise InputError(
        f"{source.path}: neither a concurrency nor a rate is told: no input_config.phases[]"
        f".concurrency or .rate of a profiling phase, and no input_config.loadgen.concurrency"
    )


def _model(config: Fields | None) -> str | None:
    if config is None:
        return None
    models = config.object("models")
    named = next(models.objects("items"), None) if models else None
    if named is not None:
        return named.text("name")
    endpoint = config.object("endpoint")
    return None if endpoint is None else next(iter(endpoint.texts("model_names")), None)


def _url(config: Fields | None) -> str | None:
    endpoint = None if config is None else config.object("endpoint")
    if endpoint is None:
        return None
    return next(iter(endpoint.texts("urls")), None) or endpoint.text("url")


def _values(source: Source, completed: int) -> dict[str, Floats]:
    """Latencies of the single requests, if they are those of the summary."""
    found: dict[str, list[float]] = {metric: [] for metric in METRICS if metric != "itl"}
    count = 0
    for number, line in enumerate(source.documents, start=1):
        record = Fields(source.path, line, f"$ line {number}")
        metrics = record.object("metrics")
        phase = record.object("metadata")
        warmup = phase is not None and phase.text("benchmark_phase") == "warmup"
        if metrics is None or record.object("error") is not None or warmup:
            continue
        count += 1
        for metric, values in found.items():
            value = metrics.object(METRICS[metric])
            if value is not None and (told := value.number("value")) is not None:
                values.append(told * _seconds(value))
    if count != completed:
        return {}
    return {metric: np.array(values) for metric, values in found.items() if values}
