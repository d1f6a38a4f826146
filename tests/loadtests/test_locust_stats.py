"""Locust's tables with Headroom's rows: fractions of a millisecond, and a total of whole requests.

In a process of their own, because Locust patches the one that imports it.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.loadtests.measure.driving import ROOT

TOLD = """
import csv, io, json, sys
import locust
import msgpack
from loadtests import locust_stats
locust_stats.install()
from locust.env import Environment
from locust.html import get_html_report
from locust.stats import (StatsCSV, PERCENTILES_TO_REPORT, get_percentile_stats_summary,
                          get_stats_summary, setup_distributed_stats_event_listeners)
tpots = json.load(sys.stdin)

def fire(environment, times):
    for time in times:
        for kind, ms in (("chat", 100 * time), ("TTFT", 10 * time), ("TPOT", time)):
            environment.events.request.fire(
                request_type=kind, name="big", response_time=ms, exception=None,
                response_length=0, context={})
    environment.events.request.fire(
        request_type="chat", name="big", response_time=3.0, exception=ValueError("no"),
        response_length=0, context={})

def told(environment):
    stats, file = environment.stats, io.StringIO()
    StatsCSV(environment, PERCENTILES_TO_REPORT).requests_csv(csv.writer(file))
    return dict(
        rows=[entry.to_dict() for entry in [*stats.entries.values(), stats.total]],
        tables="\\n".join([*get_stats_summary(stats, False), *get_percentile_stats_summary(stats)]),
        csv=file.getvalue(),
        keys=max(len(entry.response_times) for entry in stats.entries.values()),
    )

alone = Environment()
alone.create_local_runner()
fire(alone, tpots)
master = Environment()
setup_distributed_stats_event_listeners(master.events, master.stats)
for half in (tpots[::2], tpots[1::2]):
    worker = Environment()
    worker.create_local_runner()
    setup_distributed_stats_event_listeners(worker.events, worker.stats)
    fire(worker, half)
    data = {}
    worker.events.report_to_master.fire(client_id="w", data=data)
    data = msgpack.loads(msgpack.dumps(data), strict_map_key=False)  # as Locust's protocol does
    master.events.worker_report.fire(client_id="w", data=data)
busy = Environment()
busy.create_local_runner()
for i in range(10_000):
    busy.events.request.fire(
        request_type="chat", name="big", response_time=1.0, response_length=0, context={},
        exception=ValueError(f"overloaded: request {i} was refused"))
    if i == 5_000:
        lost = busy.stats.errors  # what a worker does when it has reported
        busy.stats.errors = {}
errors = [e.to_dict() for part in (lost, busy.stats.errors) for e in part.values()]
found = dict(alone=told(alone), merged=told(master))
found["errors"] = errors
times = [10.0**e * m for e in range(-6, 7) for m in (1, 1.23449, 9.996)]
found["buckets"] = [locust_stats.bucket(time) for time in times]
found["decade"] = len({locust_stats.bucket(x / 1000) for x in range(10_000, 100_000)})
print(json.dumps(found))
"""

TPOTS_MS = np.random.default_rng(4).lognormal(np.log(5.0), 0.2, 2000)


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What Locust says of 2,000 requests, seen by one process and by two workers."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        input=json.dumps(TPOTS_MS.tolist()),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_buckets_have_three_digits(told: dict[str, Any]) -> None:
    """A time is within half a percent of its bucket, or half a microsecond; a decade has 900."""
    times = [10.0**e * m for e in range(-6, 7) for m in (1, 1.23449, 9.996)]
    for time, bucket in zip(times, told["buckets"], strict=True):
        assert abs(bucket - time) <= max(0.005001 * time, 0.0005001)
    assert told["decade"] == 901  # both ends


@pytest.mark.parametrize("who", ["alone", "merged"])
def test_percentiles_of_tpot_are_finer_than_a_millisecond(told: dict[str, Any], who: str) -> None:
    """Every row's percentiles are those of its times, whoever saw them; the web UI gets these."""
    rows = {row["method"]: row for row in told[who]["rows"]}
    for method, factor in (("TPOT", 1), ("TTFT", 10)):
        row = rows[method]
        assert row["num_requests"] == 2000
        for name, quantile in (
            ("median_response_time", 0.5),
            ("response_time_percentile_0.95", 0.95),
            ("response_time_percentile_0.99", 0.99),
            ("min_response_time", 0.0),
            ("max_response_time", 1.0),
        ):
            expected = np.quantile(TPOTS_MS * factor, quantile)
            assert row[name] == pytest.approx(expected, rel=0.01 if quantile < 0.99 else 0.02)
    assert told[who]["keys"] < 1500


@pytest.mark.parametrize(("who", "failures"), [("alone", 1), ("merged", 2)])
def test_the_total_is_of_whole_requests(told: dict[str, Any], who: str, failures: int) -> None:
    """A request counts once in the total, and only its duration is in its percentiles."""
    rows = {row["method"]: row for row in told[who]["rows"]}
    total = rows.pop("")
    assert total.pop("name") == "Aggregated"
    assert (total["num_requests"], total["num_failures"]) == (2000 + failures, failures)
    for name in ("median_response_time", "response_time_percentile_0.95", "max_response_time"):
        assert total[name] == rows["chat"][name]


def test_merged_is_as_alone(told: dict[str, Any]) -> None:
    """Two workers' reports give the master the rows that one process has."""
    alone, merged = ({r["method"]: r for r in told[who]["rows"]} for who in ("alone", "merged"))
    for method in ("TTFT", "TPOT"):
        for name in ("median_response_time", "response_time_percentile_0.99", "avg_response_time"):
            assert alone[method][name] == pytest.approx(merged[method][name], rel=1e-9)


def test_ten_thousand_messages_fill_no_table(told: dict[str, Any]) -> None:
    """Failures that all say something else are counted, the first 200 by what they say."""
    assert sum(error["occurrences"] for error in told["errors"]) == 10_000
    assert len({error["error"] for error in told["errors"]}) == 201
    most = max(told["errors"], key=lambda error: error["occurrences"])
    assert most["error"] == "overloaded: with more messages than are told apart here"


def test_printed_tables_and_csv_show_the_digits(told: dict[str, Any]) -> None:
    """The tables of a headless run, in their columns, and --csv have what the percentiles have."""
    median, p99 = (float(np.quantile(TPOTS_MS, q)) for q in (0.5, 0.99))
    tables = told["alone"]["tables"].splitlines()
    requests, percentiles = (line.split() for line in tables if line.startswith("TPOT"))
    assert requests[:5] == ["TPOT", "big", "2000", "0(0.00%)", "|"]
    assert float(requests[8]) == pytest.approx(median, rel=0.01)
    heading = next(line.split() for line in tables if "99%" in line)
    shown = dict(zip(heading[2:], percentiles[2:], strict=False))
    assert float(shown["50%"]) == pytest.approx(median, rel=0.01)
    assert float(shown["99%"]) == pytest.approx(p99, rel=0.02)
    assert percentiles[-1] == "2000"
    row = next(r for r in csv.DictReader(io.StringIO(told["alone"]["csv"])) if r["Type"] == "TPOT")
    assert float(row["50%"]) == pytest.approx(median, rel=0.01)
    assert float(row["99%"]) == pytest.approx(p99, rel=0.02)
    widths = {len(line) for line in tables if line.startswith(("TPOT", "TTFT", "chat"))}
    assert len(widths) == 2  # one for each table
