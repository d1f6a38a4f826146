"""The load client beside its peers: errors against the truth, CPU, memory. Writes Markdown.

::

    python -m benchmarks.client [--rounds 3] [--aiohttp-python PATH] [--quick]

Every client runs as a process of its own on one processor, the reference server on another. The
clients take turns within each scenario (A B C, A B C, ...), and a cell is the median of its runs.
A run in which the client waited over 5 % of the time for its processor was made on a busy machine:
its cell is marked with ``*``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.load_client import Scenario, figures
from loadtests.measure.facts import cpu_model
from loadtests.measure.truth import Observed
from loadtests.refserver import reference_server

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
BUSY = 0.05
NAMES = {
    "headroom": "**Headroom** (Locust user)",
    "fasthttpuser": "Locust FastHttpUser, `readline`",
    "httpuser": "Locust HttpUser, `iter_lines`",
    "aiohttp": "aiohttp, as vLLM bench",
}
SECOND_US = 1_000_000
SCENARIOS = {
    "256 streams at 20 ms": Scenario(
        streams=256, tokens=250, itl_us=20_000, ttft_us=SECOND_US, ramp_s=1.0
    ),
    "1,024 streams at 50 ms, ticking together": Scenario(
        streams=1024, tokens=100, itl_us=50_000, ttft_us=2 * SECOND_US, sync=1, ramp_s=2.0
    ),
    "2,048 streams at 50 ms, ticking together": Scenario(
        streams=2048, tokens=100, itl_us=50_000, ttft_us=3 * SECOND_US, sync=1, ramp_s=3.0
    ),
    "256 requests at once": Scenario(streams=256, tokens=20, itl_us=20_000, ttft_us=SECOND_US),
    "requests of 2 tokens, 8 at a time": Scenario(
        streams=8, tokens=2, itl_us=1000, ttft_us=1000, rounds=400
    ),
}
COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "arrival error p50 / p99": lambda f: _pair(f["errors"]["arrival"]),
    "ITL error p50 / p99": lambda f: _pair(f["errors"]["itl"]),
    "TTFT error p50 / p99": lambda f: _pair(f["errors"]["ttft"]),
    "CPU per chunk": lambda f: _us(f["cpu_per_chunk_s"]),
    "CPU per request": lambda f: _us(f["cpu_per_request_s"]),
    "memory per stream": lambda f: f"{f['bytes_per_stream'] / 1024:.0f} KiB",
    "shared stamps": lambda f: f"{f['errors']['coalesced_share'] or 0:.2%}",
    "core used": lambda f: f"{f['cpu_share']:.0%}",
    "waited": lambda f: f"{f['waited_share']:.1%}",
}


def run_client(name: str, url: str, scenario: Scenario, python: str) -> dict[str, Any] | None:
    """One client, once; ``None`` if it failed."""
    fields = json.dumps(asdict(scenario))
    if name == "aiohttp":
        command = [python, str(ROOT / "benchmarks" / "aiohttp_client.py"), url, fields]
    else:
        command = [sys.executable, "-m", "benchmarks.load_client", name, url, fields]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=180, check=False
    )
    if done.returncode != 0:
        print(f"{name} failed: {done.stderr[-500:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    if name != "aiohttp":
        return found
    observed = [
        Observed(sent, np.array(seen, dtype=np.float64), text)
        for sent, seen, text in found["observed"]
    ]
    return figures(observed, found["before"], found["begun"], found["done"], scenario.streams)


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure."""
    merged: dict[str, Any] = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        merged[key] = (
            middle(values)
            if isinstance(value, dict)
            else median(v if v is not None else 0 for v in values)
        )
    return merged


def compare_clients(
    scenario: Scenario, clients: list[str], rounds: int, python: str
) -> dict[str, list[dict[str, Any]]]:
    """All clients in turn, so many times."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}
    with reference_server(
        itl_s=scenario.itl_us * 1e-6, ttft_s=scenario.ttft_us * 1e-6,
        sync=bool(scenario.sync), cpu=0, compiled=True,
    ) as server:  # fmt: skip
        for _ in range(rounds):
            for name in clients:
                server.stats()
                found = run_client(name, server.url, scenario, python)
                if found is not None:
                    found["server_late_s"] = server.stats().late_mean_us * 1e-6
                    runs[name].append(found)
                    print(f"  {name}: waited {found['waited_share']:.1%}", file=sys.stderr)
    return runs


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for each client."""
    lines = ["| client | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, found in runs.items():
        if found:
            row = middle(found)
            mark = " \\*" if row["waited_share"] > BUSY else ""
            cells = " | ".join(show(row) for show in COLUMNS.values())
            lines.append(f"| {NAMES[name]}{mark} | {cells} |")
    return "\n".join(lines)


def _pair(spread: dict[str, float]) -> str:
    return f"{_us(spread['p50_s'])} / {_us(spread['p99_s'])}"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:.1f} µs" if us < 10 else f"{us:,.0f} µs"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="only 256 streams, and the burst")
    parser.add_argument("--clients", default="headroom,fasthttpuser,httpuser,aiohttp")
    parser.add_argument("--aiohttp-python", help="a Python that has aiohttp; left out without")
    asked = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("this needs two processors: one for the server, one for the client")
    clients = [
        name for name in asked.clients.split(",") if name != "aiohttp" or asked.aiohttp_python
    ]
    cpu = max(os.sched_getaffinity(0))
    load = " / ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{platform.platform()}, {cpu_model()}, Python {platform.python_version()};")
    print(f"load average at the start {load}; medians of {asked.rounds} runs.\n")
    for title, scenario in SCENARIOS.items():
        if asked.quick and scenario.streams != 256:
            continue
        placed = Scenario(**(asdict(scenario) | {"cpu": cpu}))
        runs = compare_clients(placed, clients, asked.rounds, asked.aiohttp_python or "")
        print(f"**{title}**\n\n{table(runs)}\n", flush=True)


if __name__ == "__main__":
    main()
