"""llmperf (Ray): ``*_summary.json``, flat, in seconds.

Its inter-token latency is E2E over tokens, the first token's wait included, so it is neither TPOT
nor ITL and is left out. Requests are counted per minute. It counts from the first request to the
last answer, and looks for answers once in as many steps as there are requests in flight, so that on
average fewer are in flight than the file says. NaN stands for what it could not tell, as the spread
of one answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.importers.fields import Fields
from planner.importers.levels import Imported, Level, latency, quantile_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.imported import Latency
    from planner.importers.reading import Source

__all__ = ["NAME", "matches", "read"]

NAME = "llmperf"
METRICS = {"ttft": "ttft_s", "e2e": "end_to_end_latency_s"}
SHARES = ("p25", "p50", "p75", "p90", "p95", "p99")
HELD = 0.9
"""A level at which less of its concurrency was in flight than this share is told."""


def matches(source: Source) -> bool:
    """Whether this is llmperf's summary."""
    return any(key.startswith("results_") for key in source.keys) and bool(
        source.keys
        & {"num_concurrent_requests", "results_ttft_s_mean", "results_num_completed_requests"}
    )


def read(source: Source, beside: Sequence[Source]) -> list[Imported]:  # noqa: ARG001 - one protocol
    """The one level of a file.

    Raises:
        InputError: the load is not told, or a figure is none.
    """
    fields = Fields(source.path, source.documents[0])
    concurrency = fields.number("num_concurrent_requests")
    if not concurrency:
        raise InputError(f"{source.path}: the load is not told: no num_concurrent_requests")
    completed = fields.count("results_num_completed_requests") or 0
    per_minute = fields.number("results_num_completed_requests_per_min")
    level = Level(
        load_kind="concurrency",
        load=concurrency,
        completed=completed,
        failed=fields.count("results_number_errors"),
        requests_per_s=None if per_minute is None else per_minute / 60,
        output_tokens_per_s=fields.number("results_mean_output_throughput_token_per_s"),
        prompt_tokens_mean=fields.number("results_number_input_tokens_mean"),
        output_tokens_mean=fields.number("results_number_output_tokens_mean"),
        latencies={
            metric: found
            for metric, name in METRICS.items()
            if (found := _latency(fields, name, completed)) is not None
        },
    )
    return [
        Imported(
            path=source.path,
            tool=NAME,
            version=fields.text("version"),
            model=fields.text("model"),
            levels=(level,),
            notes=(
                "its inter-token latency counts the first token too: no TPOT is taken from it",
                *_not_held(level),
            ),
        )
    ]


def _not_held(level: Level) -> tuple[str, ...]:
    """That fewer requests were in flight than were asked for, by Little's law."""
    e2e = level.latencies.get("e2e")
    if e2e is None or e2e.mean_s is None or level.requests_per_s is None:
        return ()
    in_flight = level.requests_per_s * e2e.mean_s
    if in_flight >= HELD * level.load:
        return ()
    held = f"of {level.load:g} in flight llmperf held {in_flight:.3g} on average"
    slower = f"a server that holds {level.load:g} throughout is slower to answer"
    return (f"{held}, start and end included: {slower}",)


def _latency(fields: Fields, name: str, n: int) -> Latency | None:
    quantiles = [
        (share, fields.reported(f"results_{name}_quantiles_{key}"))
        for key in SHARES
        if (share := quantile_share(key)) is not None
    ]
    return latency(
        f"{fields.path}, {name}",
        n=n,
        mean=fields.reported(f"results_{name}_mean"),
        std=fields.reported(f"results_{name}_stddev"),
        quantiles=[
            (0.0, fields.reported(f"results_{name}_min")),
            *quantiles,
            (1.0, fields.reported(f"results_{name}_max")),
        ],
        scale=1.0,
    )
