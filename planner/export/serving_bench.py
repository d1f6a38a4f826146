"""Levels as ``vllm bench serve --save-result`` writes them, which many dashboards read.

It has values and no intervals, and a load is a concurrency or a rate: a level of users who think is
neither, and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.export.exported import Exported

__all__ = ["serving_bench_results"]

NAMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
"""Metric -> its name in the keys."""
_MEDIAN = 0.5


def serving_bench_results(levels: Iterable[Exported]) -> tuple[list[dict[str, Any]], list[str]]:
    """One result per level, and what was left out."""
    results, left_out = [], []
    for level in levels:
        point = level.point
        name = f"{point.target} at {point.load:g} {point.load_kind}"
        if point.think_time_s or point.load_kind == "users":
            left_out.append(f"{name} left out: this format has no users who think")
        elif "requests_per_s" not in point.figures:
            left_out.append(f"{name} left out: no request was answered")
        else:
            results.append(_result(level))
    return results, left_out


def _result(level: Exported) -> dict[str, Any]:
    point, figures = level.point, level.point.figures
    rate = figures["requests_per_s"].value
    tokens = figures.get("output_tokens_per_s")
    prompts, outputs = point.prompt_tokens_mean, point.output_tokens_mean
    is_rate = point.load_kind == "rate"
    total = None if prompts is None or tokens is None else rate * prompts + tokens.value
    found: dict[str, Any] = {
        "date": f"{np.datetime64(int(level.manifest.started_unix_s), 's').item():%Y%m%d-%H%M%S}",
        "endpoint_type": "openai-chat",
        "backend": level.target.backend,
        "label": point.target,
        "model_id": level.target.model,
        "tokenizer_id": level.target.model,
        "num_prompts": point.completed + point.failed + point.censored,
        "request_rate": point.load if is_rate else "inf",
        "burstiness": 1.0,
        "max_concurrency": None if is_rate else _whole(point.load),
        "duration": _duration(level),
        "completed": point.completed,
        "failed": point.failed + point.censored,
        "total_input_tokens": None if prompts is None else round(prompts * point.completed),
        "total_output_tokens": None if outputs is None else round(outputs * point.completed),
        "request_throughput": rate,
        "output_throughput": None if tokens is None else tokens.value,
        "total_token_throughput": total,
    }
    for metric, name in NAMES.items():
        for key, estimate in figures.items():
            if not key.startswith(f"{metric}_"):
                continue
            milliseconds = estimate.value * 1e3
            statistic = key.removeprefix(f"{metric}_").removesuffix("_s")
            found[f"{statistic}_{name}_ms"] = milliseconds
            if percentile_of(key) == _MEDIAN:
                found[f"median_{name}_ms"] = milliseconds
    return {key: value for key, value in found.items() if value is not None}


def _whole(load: float) -> int | float:
    return int(load) if load == int(load) else load


def _duration(level: Exported) -> float | None:
    start, end = level.point.window_start_s, level.point.window_end_s
    return None if start is None or end is None else end - start
