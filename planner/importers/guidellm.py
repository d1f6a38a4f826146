"""guidellm (vllm-project): ``benchmarks.json``, one level per benchmark.

``time_per_output_token_ms`` counts the first token's time too, so TPOT is taken from
``inter_token_latency_ms``: the mean gap of each request, (last − first token) / (tokens − 1). Gaps
between single events are not in the file, so of ITL only the mean is known. Versions differ in
where the strategy stands: ``config`` (0.5 and later), ``args`` (to 0.3), ``scheduler`` (0.4).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.lateness import held_back
from planner.importers.levels import MOST_LEVELS, MS, Imported, Level, latency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source
    from planner.records import LoadKind
    from planner.table import Floats

__all__ = ["NAME", "matches", "read"]

NAME = "guidellm"

METRICS = {
    "ttft": ("time_to_first_token_ms", MS),
    "tpot": ("inter_token_latency_ms", MS),
    "e2e": ("request_latency", 1.0),
}
LATE = (
    ("scheduler_metrics", "request_targeted_start_delay_avg"),
    ("run_stats", "request_start_time_targeted_delay_avg"),  # to 0.3
)
"""Where it says how late requests were sent."""
_DIGITS = re.compile(r"p(\d{2,4})")


def matches(source: Source) -> bool:
    """Whether this is guidellm's report."""
    if "benchmarks" not in source.keys:
        return False
    first = next(Fields(source.path, source.documents[0]).objects("benchmarks"), None)
    return first is None or first.object("metrics") is not None


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The levels of a file; benchmarks whose load is not told are left out, and named.

    Raises:
        InputError: no benchmark tells its load, or a figure is none.
    """
    document = Fields(source.path, source.documents[0])
    levels: list[Level] = []
    left_out: list[str] = []
    first = None
    for benchmark in document.objects("benchmarks"):
        first = first or benchmark
        if len(levels) + len(left_out) >= MOST_LEVELS:
            raise InputError(f"{source.path}: more than {MOST_LEVELS:,} benchmarks")
        strategy = _strategy(benchmark)
        load = None if strategy is None else _load(strategy)
        if load is None:
            kind = "no strategy" if strategy is None else f"strategy {strategy.text('type_')}"
            left_out.append(f"{benchmark.place[2:]} ({kind}) left out: its load is not told")
            continue
        levels.append(_level(benchmark, *load))
    if not levels:
        raise InputError(
            f"{source.path}: no benchmark tells its load: no benchmarks[].config.strategy.streams "
            f"or .rate" + (f" ({left_out[0]})" if left_out else "")
        )
    metadata = document.object("metadata")
    return [
        Imported(
            path=source.path,
            tool=NAME,
            version=None if metadata is None else metadata.text("guidellm_version"),
            model=_backend(document, first, "model", "backend_model"),
            url=_backend(document, first, "target", "backend_target"),
            levels=tuple(levels),
            notes=tuple(left_out),
        )
    ]


def _strategy(benchmark: Fields) -> Fields | None:
    for holder in ("config", "args", "scheduler", "benchmarker"):
        found = benchmark.object(holder, "strategy")
        if found is not None:
            return found
    return None


def _load(strategy: Fields) -> tuple[LoadKind, float, str | None] | None:
    kind = strategy.text("type_")
    if kind == "synchronous":
        return "concurrency", 1.0, None
    if kind in ("concurrent", "throughput"):
        streams = strategy.number("streams", "max_concurrency")
        return ("concurrency", streams, None) if streams else None
    rate = strategy.number("rate")
    if kind in ("constant", "poisson", "async") and rate:
        return "rate", rate, "poisson" if kind == "poisson" else "constant"
    return None


def _level(benchmark: Fields, kind: LoadKind, load: float, arrivals: str | None) -> Level:
    metrics = benchmark.object("metrics")
    if metrics is None:
        raise InputError(f"{benchmark.path} at {benchmark.place}: no metrics")
    totals = (
        metrics.object("request_totals")
        or benchmark.object("request_totals")
        or benchmark.object("scheduler_metrics", "requests_made")
        or benchmark.object("run_stats", "requests_made")
    )
    latencies = metrics.object("request_latency", "successful")
    counted = None if totals is None else totals.count("successful")
    if counted is None:
        counted = 0 if latencies is None else latencies.count("count") or 0
    found = {
        metric: _latency(metrics.object(key, "successful"), counted, scale)
        for metric, (key, scale) in METRICS.items()
    }
    told = {metric: known for metric, known in found.items() if known is not None}
    if "tpot" in told:  # a mean of gaps, each counted once, whichever request it is of
        told["itl"] = msgspec.structs.replace(told["tpot"], quantiles=(), std_s=None)
    return Level(
        load_kind=kind,
        load=load,
        arrivals=arrivals,
        completed=counted,
        failed=None if totals is None else totals.count("errored"),
        duration_s=benchmark.number("duration"),
        requests_per_s=_mean(metrics, "requests_per_second"),
        output_tokens_per_s=_mean(metrics, "output_tokens_per_second"),
        in_flight_mean=_mean(metrics, "request_concurrency"),
        prompt_tokens_mean=_mean(metrics, "prompt_token_count"),
        output_tokens_mean=_mean(metrics, "output_token_count"),
        latencies=told,
        values=_values(benchmark),
        problems=held_back(kind, told.get("e2e"), late_s=_late(benchmark)),
    )


def _late(benchmark: Fields) -> float | None:
    """Mean seconds between when a request was due and its send."""
    for holder, key in LATE:
        found = benchmark.object(holder)
        if found is not None and (late := found.signed(key)) is not None:
            return late
    return None


def _mean(metrics: Fields, key: str) -> float | None:
    found = metrics.object(key, "successful")
    return None if found is None else found.number("mean")


def _latency(fields: Fields | None, n: int, scale: float) -> Latency | None:
    if fields is None:
        return None
    percentiles = fields.object("percentiles")
    quantiles = [(0.0, fields.number("min")), (0.5, fields.number("median"))]
    for key in () if percentiles is None else percentiles.keys:
        match = _DIGITS.fullmatch(key)
        if match and percentiles is not None:  # p05 is 5 %, p999 is 99.9 %, p001 is 0.1 %
            quantiles.append((int(match[1]) / 10 ** len(match[1]), percentiles.number(key)))
    quantiles.append((1.0, fields.number("max")))
    return latency(
        f"{fields.path} at {fields.place}",
        n=n,
        mean=fields.number("mean"),
        std=fields.number("std_dev"),
        quantiles=quantiles,
        scale=scale,
    )


def _values(benchmark: Fields) -> dict[str, Floats]:
    """Latencies of the single requests, where the report was written with them."""
    requests = benchmark.object("requests")
    found: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for request in () if requests is None else requests.objects("successful"):
        for metric, (key, scale) in METRICS.items():
            if (value := request.number(key)) is not None and value > 0:
                found[metric].append(value * scale)
    return {metric: np.array(values) for metric, values in found.items() if values}


def _backend(document: Fields, benchmark: Fields | None, key: str, older: str) -> str | None:
    if benchmark is not None:
        holders: tuple[tuple[str, ...], ...] = (
            ("config", "backend"),
            ("worker",),
            ("benchmarker", "backend"),
        )
        for holder in holders:
            found = benchmark.object(*holder)
            if found is not None and (told := found.text(key, older)):
                return told
    places: tuple[tuple[str, ...], ...] = (("config", "spec", "backend"), ("args",))
    for place in places:
        found = document.object(*place)
        if found is not None and (told := found.text(key)):
            return told
    return None
