"""What was measured, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.scenario import median_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.scenario import Error, Figures, Lateness

__all__ = ["BUSY", "capacity_table", "clients_table", "lateness_table", "pair", "us"]

BUSY = 0.05
"""Share of the time that a client may wait for its processor before its row is marked."""

_NAMES = {
    "headroom": "**Headroom** (Locust user)",
    "fasthttpuser": "Locust FastHttpUser, `readline`",
    "httpuser": "Locust HttpUser, `iter_lines`",
    "aiohttp": "aiohttp, as vLLM bench",
    "aiperf": "aiperf 0.13, whole tree",
    "guidellm": "guidellm 0.8, whole tree",
}
_COLUMNS: dict[str, Callable[[Figures], str]] = {
    "arrival error p50 / p99": lambda f: pair(f.arrival),
    "ITL error p50 / p99": lambda f: pair(f.itl),
    "TTFT error p50 / p99": lambda f: pair(f.ttft),
    "CPU per chunk": lambda f: us(f.cpu_per_chunk_s),
    "CPU per request": lambda f: us(f.cpu_per_request_s),
    "memory per stream": lambda f: _shown(f.bytes_per_stream, "{:.0f} KiB", 1 / 1024),
    "shared stamps": lambda f: _shown(f.shared_share, "{:.2%}"),
    "core used": lambda f: _shown(f.cpu_share, "{:.0%}"),
    "waited": lambda f: _shown(f.waited_share, "{:.1%}"),
    "wrong": lambda f: str(f.wrong),
}


def clients_table(runs: Mapping[str, Sequence[Figures]]) -> str:
    """A row for each client: medians of its runs."""
    rows = []
    for name, found in runs.items():
        if found:
            row = median_of(found)
            mark = " \\*" if (row.waited_share or 0.0) > BUSY else ""
            rows.append([_NAMES[name] + mark, *(show(row) for show in _COLUMNS.values())])
    return _table(["client", *_COLUMNS], rows)


def capacity_table(runs: Mapping[str, Sequence[tuple[float, Figures]]]) -> str:
    """A row for each client and rate."""
    columns = ["arrival error p50 / p99", "shared stamps", "CPU per chunk", "core used", "waited"]
    rows = [
        [_NAMES[name], f"{rate:,.0f}/s", _shown(row.sent_per_s, "{:,.0f}/s"),
         *(_COLUMNS[column](row) for column in columns), us(row.server_late_s)]
        for name, found in runs.items()
        for rate, row in found
    ]  # fmt: skip
    return _table(["client", "rate", "busiest second", *columns, "server late in the mean"], rows)


def lateness_table(runs: Sequence[Lateness]) -> str:
    """A row for each run."""
    rows = [
        [pair(run.said), pair(run.true), f"{run.requests:,}", f"{run.cpu_share:.0%}",
         f"{run.waited_share:.1%}"]
        for run in runs
    ]  # fmt: skip
    return _table(
        ["late by its own stamp p50 / p99", "by the server's p50 / p99", "requests", "core used",
         "waited"],
        rows,
    )  # fmt: skip


def pair(error: Error | None) -> str:
    """Both quantiles, or nothing."""
    return "" if error is None else f"{us(error.p50_s)} / {us(error.p99_s)}"


def us(seconds: float | None) -> str:
    """Microseconds, or nothing."""
    if seconds is None:
        return ""
    value = seconds * 1e6
    return f"{value:.1f} µs" if value < 10 else f"{value:,.0f} µs"


def _shown(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
