"""inference-perf (kubernetes-sigs): ``stage_N_lifecycle_metrics.json``, in seconds.

With a fixed concurrency ``requested_rate`` is the number of requests, not a rate. With a rate
``schedule_delay`` is how late requests were sent, which the latencies leave out. The file
``summary_lifecycle_metrics.json`` has all stages together, which is no level of load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.lateness import held_back
from planner.importers.levels import Imported, Level, spread_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.importers.reading import Source
    from planner.records import LoadKind

__all__ = ["NAME", "is_summary", "matches", "read"]

NAME = "inference-perf"

METRICS = {
    "ttft": "time_to_first_token",
    "tpot": "time_per_output_token",
    "itl": "inter_token_latency",
    "e2e": "request_latency",
}
SAME_RATE = 0.1
"""A rate was a rate if the achieved one lies this near to it, as a share."""


def matches(source: Source) -> bool:
    """Whether this is a report of inference-perf's."""
    return {"load_summary", "successes"} <= source.keys


def is_summary(source: Source) -> bool:
    """Whether it has all stages together."""
    summary = Fields(source.path, source.documents[0]).object("load_summary")
    return summary is None or not summary.keys & {"requested_rate", "concurrency"}


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The one level of a stage.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    document = Fields(source.path, source.documents[0])
    successes, failures = document.object("successes"), document.object("failures")
    if successes is None:
        raise InputError(f"{source.path}: no successes: no request was answered")
    kind, load = _load(document)
    completed = successes.count("count") or 0
    throughput = successes.object("throughput")
    latencies = {
        metric: found
        for metric, key in METRICS.items()
        if (found := spread_of(successes.object("latency", key), n=completed, scale=1.0))
        is not None
    }
    delay = document.object("load_summary", "schedule_delay")
    level = Level(
        load_kind=kind,
        load=load,
        completed=completed,
        failed=None if failures is None else failures.count("count"),
        duration_s=document.number("benchmark_time_seconds"),
        requests_per_s=None if throughput is None else throughput.number("requests_per_sec"),
        output_tokens_per_s=(
            None if throughput is None else throughput.number("output_tokens_per_sec")
        ),
        prompt_tokens_mean=_mean(successes, "prompt_tokens", "prompt_len"),
        output_tokens_mean=_mean(successes, "output_tokens", "output_len"),
        latencies=latencies,
        problems=held_back(
            kind, latencies.get("e2e"), late_s=None if delay is None else delay.signed("mean")
        ),
    )
    return [Imported(path=source.path, tool=NAME, levels=(level,))]


def _mean(successes: Fields, *keys: str) -> float | None:
    for key in keys:
        found = successes.object(key)
        if found is not None and (mean := found.number("mean")) is not None:
            return mean
    return None


def _load(document: Fields) -> tuple[LoadKind, float]:
    summary = document.object("load_summary")
    concurrency = None if summary is None else summary.number("concurrency")
    if concurrency:
        return "concurrency", concurrency
    rate = None if summary is None else summary.number("requested_rate")
    if summary is None or not rate:
        raise InputError(
            f"{document.path}: the load is not told: no load_summary.concurrency or "
            f".requested_rate; name the files stage_N_lifecycle_metrics.json"
        )
    achieved = summary.number("achieved_rate")
    if rate == summary.number("count") and achieved and abs(achieved / rate - 1) > SAME_RATE:
        raise InputError(
            f"{document.path}: the load is not told: load_summary.requested_rate is the number of "
            f"requests, {rate:g}, as with a fixed concurrency, and there is no "
            f"load_summary.concurrency"
        )
    return "rate", rate
