"""What the results of vLLM's and SGLang's serving benchmarks share: one flat object per level.

``mean_ttft_ms``, ``median_ttft_ms``, ``std_ttft_ms``, ``p99_ttft_ms``, and so for the other
latencies; TPOT leaves the first token out. ``max_concurrent_requests`` counts requests of a whole
second and overcounts, so it is not used.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.importers.lateness import held_back
from planner.importers.levels import MS, Level, latency, quantile_share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.imported import Latency
    from planner.importers.fields import Fields
    from planner.records import LoadKind
    from planner.table import Floats

__all__ = ["latencies_of", "level_of"]

_STATISTIC = re.compile(r"(mean|median|std|p\d{1,2}(?:\.\d+)?)_([a-z0-9_]+)_ms")
SINGLE = {"ttft": "ttfts", "e2e": "latencies"}
"""Metric -> list of the single requests'."""
UNLIMITED = ("inf", "Infinity")
"""A rate without a bound: vLLM writes the one, SGLang the other, as a number that JSON lacks."""
_ROUNDING_MS = 1e-3


@dataclass(frozen=True)
class _Load:
    kind: LoadKind
    load: float
    arrivals: str | None = None
    cap: float | None = None


def latencies_of(fields: Fields, names: Mapping[str, str], n: int) -> dict[str, Latency]:
    """The latencies of a level by metric.

    Args:
        fields: the flat object.
        names: metric -> its name in the keys.
        n: good answers.
    """
    found: dict[str, dict[str, float | None]] = {name: {} for name in names.values()}
    for key in fields.keys:
        match = _STATISTIC.fullmatch(key)
        if match and match[2] in found:
            found[match[2]][match[1]] = _milliseconds(fields, key)
    told = {}
    for metric, name in names.items():
        statistics = found[name]
        known = latency(
            f"{fields.path}, {name}",
            n=n,
            mean=statistics.get("mean"),
            std=statistics.get("std"),
            quantiles=[
                (share, value)
                for key, value in statistics.items()
                if (share := quantile_share(key)) is not None
            ],
            scale=MS,
        )
        if known is not None:
            told[metric] = known
    return told


def _milliseconds(fields: Fields, key: str) -> float | None:
    """A latency; the rounding of differences leaves a hair below zero in real files."""
    value = fields.signed(key)
    return 0.0 if value is not None and -_ROUNDING_MS < value < 0 else fields.number(key)


def level_of(fields: Fields, names: Mapping[str, str]) -> Level:
    """The level of one result.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    completed = fields.count("completed") or 0
    load = _load(fields)
    latencies = latencies_of(fields, names, completed)
    failed = fields.count("failed")
    started = fields.count("num_prompts")
    if failed is None and started is not None:
        failed = max(started - completed, 0)
    prompts, outputs = fields.number("total_input_tokens"), fields.number("total_output_tokens")
    return Level(
        load_kind=load.kind,
        load=load.load,
        arrivals=load.arrivals,
        completed=completed,
        failed=failed,
        duration_s=fields.number("duration"),
        requests_per_s=fields.number("request_throughput"),
        output_tokens_per_s=fields.number("output_throughput"),
        in_flight_mean=fields.number("concurrency"),
        prompt_tokens_mean=prompts / completed if prompts and completed else None,
        output_tokens_mean=outputs / completed if outputs and completed else None,
        latencies=latencies,
        values=_values(fields, completed),
        problems=held_back(
            load.kind,
            latencies.get("e2e"),
            late_s=_late(fields) if load.cap else None,
            cap=load.cap,
            requests_per_s=fields.number("request_throughput"),
        ),
    )


def _values(fields: Fields, completed: int) -> dict[str, Floats]:
    """Latencies of the single requests in seconds, where the result was saved with them."""
    lists = {metric: np.array(fields.numbers(key)) for metric, key in SINGLE.items()}
    return {
        metric: values
        for metric, values in lists.items()
        if values.size == completed and completed and values.min() > 0
    }


def _late(fields: Fields) -> float | None:
    """Mean seconds that requests waited for the cap before they were sent."""
    queues = fields.numbers("queue_times")
    if queues:
        return sum(queues) / len(queues)
    mean = fields.number("mean_client_queue_time_ms")
    return None if mean is None else mean * MS


def _load(fields: Fields) -> _Load:
    ramp = fields.text("ramp_up_strategy")
    if ramp:
        raise InputError(
            f"{fields.path}: the load is not told: the rate was ramped up ({ramp}), so the figures "
            f"are of no one load; run it without --ramp-up-strategy"
        )
    cap = fields.number("max_concurrency")
    rate = _rate(fields)
    if rate is not None:
        burstiness = fields.number("burstiness")
        if burstiness in {None, 0, 1}:
            arrivals = "poisson"
        else:
            arrivals = f"gamma:{1 / math.sqrt(burstiness or 1):g}"
        return _Load("rate", rate, arrivals, cap)
    if cap:
        return _Load("concurrency", cap)
    raise InputError(
        f"{fields.path}: the load is not told: no max_concurrency, and request_rate is "
        f"{'inf: all requests were sent at once' if 'request_rate' in fields else 'missing'}; "
        f"run it with --max-concurrency N"
    )


def _rate(fields: Fields) -> float | None:
    """Requests per second; ``None`` for "inf", which is as fast as the cap allows."""
    if fields.is_text("request_rate"):
        told = fields.text("request_rate")
        if told == "trace":
            raise InputError(
                f"{fields.path}: the load is not told: request_rate is trace, arrivals as they "
                f"were recorded; run it with --max-concurrency N or at a rate"
            )
        if told not in UNLIMITED:
            raise InputError(
                f'{fields.path} at $.request_rate: {told!r} is neither a number nor "inf"'
            )
        return None
    return fields.number("request_rate") or None
