"""Older and newer versions of the formats, and loads that a file does not tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from planner.errors import InputError
from tests.planner.importers.inputs import DATA, imported, points

if TYPE_CHECKING:
    from pathlib import Path


def sample(name: str) -> Any:
    """A sample's document."""
    return json.loads((DATA / name).read_text())


def written(path: Path, *documents: Any) -> Path:
    """A file with documents, one per line."""
    path.write_text("\n".join(json.dumps(document) for document in documents))
    return path


def test_aiperf_with_the_command_line(tmp_path: Path) -> None:
    """Before phases there was input_config.loadgen, and the metrics stood in records."""
    new = sample("aiperf.json")
    config = {
        "endpoint": {"model_names": ["m"], "url": "http://user:pw@127.0.0.1:8000/v1?key=x"},
        "loadgen": {"concurrency": 16, "request_count": 80},
    }
    metrics = {key: value for key, value in new.items() if isinstance(value, dict)}
    old = {"input_config": config, "records": metrics, "error_summary": []}
    manifest, levels, _ = imported(written(tmp_path / "old.json", old))
    (point,) = levels.points()
    assert point.load == 16
    assert point.figures["ttft_p95_s"].value == pytest.approx(0.0702448644)
    assert manifest.targets[0].model == "m"
    assert manifest.targets[0].url == "http://127.0.0.1:8000/v1"  # no credentials, no query


def test_aiperf_at_a_rate(tmp_path: Path) -> None:
    """A phase with a rate is a rate, its concurrency only a cap."""
    new = sample("aiperf.json")
    phase = new["input_config"]["phases"][1]
    phase |= {"type": "poisson", "rate": 12.5, "concurrency": 64}
    (point,) = points(written(tmp_path / "a.json", new))
    assert (point.load_kind, point.load) == ("rate", 12.5)


def test_aiperf_without_its_load(tmp_path: Path) -> None:
    """A schedule replayed tells neither concurrency nor rate: refused, with the key."""
    new = sample("aiperf.json")
    new["input_config"]["phases"][1] = {"name": "profiling", "type": "fixed_schedule"}
    with pytest.raises(InputError, match=r"input_config\.phases\[\]\.concurrency"):
        points(written(tmp_path / "a.json", new))


def test_aiperf_single_requests_give_intervals(tmp_path: Path) -> None:
    """The lines beside the summary bound its percentiles; alone they have no load."""
    new = sample("aiperf.json")
    lines = [
        {
            "metadata": {"benchmark_phase": "profiling"},
            "metrics": {"time_to_first_token": {"value": 60.0 + 0.1 * i, "unit": "ms"}},
            "error": None,
        }
        for i in range(80)
    ]
    summary = written(tmp_path / "profile_export_aiperf.json", new)
    requests = written(tmp_path / "profile_export.jsonl", *lines)
    (point,) = points(summary, requests)
    p50 = point.figures["ttft_p50_s"]
    assert p50.low is not None
    assert p50.high is not None
    assert p50.value == pytest.approx(0.06280292)
    assert p50.low <= p50.value <= p50.high
    assert point == points(tmp_path)[0]
    with pytest.raises(InputError, match=r"profile_export_aiperf\.json, which has their load"):
        points(requests)


@pytest.mark.parametrize("holder", ["args", "scheduler"])
def test_guidellm_older(tmp_path: Path, holder: str) -> None:
    """The strategy stood in args, then in the scheduler; counts in run_stats; no p50."""
    new = sample("guidellm.json")
    for benchmark in new["benchmarks"]:
        config = benchmark.pop("config")
        strategy = {"type_": "constant", "rate": 2.5 * config["strategy"]["streams"]}
        benchmark[holder] = {"strategy": strategy}
        benchmark["run_stats"] = {"requests_made": benchmark["metrics"].pop("request_totals")}
        benchmark["worker"] = {"backend_model": "m", "backend_target": "http://127.0.0.1:8000"}
        for metric in benchmark["metrics"].values():
            metric["successful"]["percentiles"].pop("p50", None)
    new.pop("metadata")
    manifest, levels, _ = imported(written(tmp_path / "old.json", new))
    assert [(p.load_kind, p.load) for p in levels.points()] == [
        ("rate", 2.5), ("rate", 10.0), ("rate", 20.0)
    ]  # fmt: skip
    assert manifest.targets[0].model == "m"
    assert levels.points()[2].figures["ttft_p50_s"].value == pytest.approx(0.061911582946777344)
    assert levels.points()[2].completed == 60


def test_guidellm_sweep_leaves_out_what_has_no_load(tmp_path: Path) -> None:
    """A throughput benchmark without a cap tells no level: left out, by name; all: refused."""
    new = sample("guidellm.json")
    new["benchmarks"][0]["config"]["strategy"] = {"type_": "synchronous"}
    new["benchmarks"][1]["config"]["strategy"] = {"type_": "throughput", "max_concurrency": None}
    _, levels, notes = imported(written(tmp_path / "sweep.json", new))
    assert [p.load for p in levels.points()] == [1, 8]
    assert notes == ["benchmarks[1] (strategy throughput) left out: its load is not told"]
    new["benchmarks"] = new["benchmarks"][1:2]
    with pytest.raises(InputError, match=r"benchmarks\[\]\.config\.strategy\.streams"):
        points(written(tmp_path / "none.json", new))


def test_vllm_older_and_appended(tmp_path: Path) -> None:
    """Without failed, p95 and E2E, and several levels appended to one file."""
    old = {
        key: value
        for key, value in sample("vllm_bench_c8.json").items()
        if "p95" not in key and "p90" not in key and "e2el" not in key and key != "failed"
    }
    old |= {"num_prompts": 64, "completed": 60}
    file = written(tmp_path / "append.json", old, {**old, "max_concurrency": 16})
    first, second = points(file)
    assert (first.load, second.load, first.failed) == (8, 16, 4)
    assert "ttft_p95_s" not in first.figures
    assert first.figures["ttft_p99_s"].value == pytest.approx(0.06806099)
    assert first.in_flight_mean is None


def test_vllm_at_a_rate(tmp_path: Path) -> None:
    """A rate is a rate; burstiness tells the arrivals; a cap that held requests back is told."""
    base = sample("vllm_bench_c8.json")
    free = {**base, "request_rate": 5.0, "burstiness": 4.0, "max_concurrency": None}
    held = {**base, "request_rate": 20.0, "max_concurrency": 4, "queue_times": [3.9, 4.0]}
    manifest, levels, _ = imported(written(tmp_path / "r.json", free, held))
    open_loop, capped = levels.points()
    assert (open_loop.load_kind, open_loop.load, open_loop.usable) == ("rate", 5.0, True)
    assert manifest.stages[0].arrivals == "gamma:0.5"
    assert not capped.usable
    assert "3.95 s on average before they were sent" in capped.problems[0]


def test_vllm_with_single_requests(tmp_path: Path) -> None:
    """Lists of the single requests bound the tool's own percentiles; a list of others is not."""
    base = sample("vllm_bench_c8.json")
    seconds = [0.3695 + 0.00017 * i for i in range(60)]
    detailed = {**base, "latencies": seconds, "ttfts": [0.06, *seconds]}
    (point,) = points(written(tmp_path / "v.json", detailed))
    p95 = point.figures["e2e_p95_s"]
    assert p95.value == pytest.approx(0.37917302915014943)
    assert p95.low is not None
    assert p95.low < p95.value
    assert point.figures["ttft_p95_s"].low is None


def test_vllm_all_at_once_is_no_level(tmp_path: Path) -> None:
    """Neither a cap nor a rate: refused, with the key."""
    with pytest.raises(InputError, match="no max_concurrency, and request_rate is inf"):
        points(written(tmp_path / "v.json", {**sample("vllm_bench_c8.json"),
                                             "max_concurrency": None}))  # fmt: skip


def test_zero_is_not_reported(tmp_path: Path) -> None:
    """Answers of one token have no TPOT: the tool writes zeros, the point has none."""
    base = sample("vllm_bench_c8.json")
    zeros = {key: 0.0 if "_tpot_" in key else value for key, value in base.items()}
    (point,) = points(written(tmp_path / "v.json", zeros))
    assert not [name for name in point.figures if name.startswith("tpot")]
    assert "ttft_p95_s" in point.figures


def test_a_mean_of_zero_beside_percentiles_is_not_reported(tmp_path: Path) -> None:
    """A mean of zero is none; what the file does have is used, and a plan can be made of it."""
    base = sample("vllm_bench_c8.json") | {"mean_e2el_ms": 0.0, "mean_ttft_ms": 0.0}
    _, levels, _ = imported(written(tmp_path / "v.json", base))
    (level,) = levels.levels
    assert level.latencies["ttft"].mean_s is None
    assert level.point.figures["ttft_p95_s"].value > 0


def test_a_spread_of_years_is_refused(tmp_path: Path) -> None:
    """As a latency of years is."""
    base = sample("vllm_bench_c8.json") | {"std_ttft_ms": 1e12}
    with pytest.raises(InputError, match="is its unit as the tool writes it"):
        points(written(tmp_path / "v.json", base))


def test_inference_perf_count_is_no_rate(tmp_path: Path) -> None:
    """A requested_rate that is the number of requests, without a concurrency, is refused."""
    stage = sample("inference_perf_stage_1.json")
    stage["load_summary"].pop("concurrency")
    with pytest.raises(InputError, match=r"no load_summary\.concurrency"):
        points(written(tmp_path / "s.json", stage))
    stage["load_summary"] |= {"requested_rate": 20.0, "achieved_rate": 19.5}
    (point,) = points(written(tmp_path / "r.json", stage))
    assert (point.load_kind, point.load) == ("rate", 20.0)


def test_inference_perf_summary_alone(tmp_path: Path) -> None:
    """All stages together are no level: refused, with the key and the files to name."""
    summary = written(tmp_path / "s.json", sample("inference_perf_summary.json"))
    with pytest.raises(InputError, match=r"load_summary\.concurrency.*stage_N"):
        points(summary)


def test_evalscope_older_names(tmp_path: Path) -> None:
    """The names of 0.x, in seconds; without percentiles beside it means only, and that is said."""
    old = {
        "Time taken for tests (s)": 3.0,
        "Number of concurrency": 4,
        "Total requests": 50,
        "Succeed requests": 48,
        "Failed requests": 2,
        "Output token throughput (tok/s)": 330.0,
        "Request throughput (req/s)": 10.5,
        "Average latency (s)": 0.375,
        "Average time to first token (s)": 0.064,
        "Average time per output token (s)": 0.0101,
        "Average input tokens per request": 80.0,
        "Average output tokens per request": 32.0,
    }
    rows = [{"Percentiles": "95%", "TTFT (s)": 0.07, "TPOT (s)": 0.0102, "Latency (s)": 0.38}]
    file = written(tmp_path / "benchmark_summary.json", old)
    _, levels, notes = imported(file)
    assert "means only" in notes[0]
    assert "ttft_p95_s" not in levels.points()[0].figures
    written(tmp_path / "benchmark_percentile.json", rows)
    (point,) = points(file)
    assert (point.load, point.completed, point.failed) == (4, 48, 2)
    assert point.figures["ttft_p95_s"].value == 0.07
    assert point.figures["e2e_mean_s"].value == 0.375


def test_evalscope_percentiles_alone(tmp_path: Path) -> None:
    """A part of a result says which file is missing."""
    part = tmp_path / "benchmark_percentile.json"
    part.write_bytes((DATA / "evalscope/benchmark_percentile.json").read_bytes())
    with pytest.raises(InputError, match=r"benchmark_summary\.json, which has the load"):
        points(part)


def test_genai_bench_in_milliseconds_at_a_rate(tmp_path: Path) -> None:
    """A file in milliseconds gives the same seconds; counted arrivals make the load a rate."""
    seconds = sample("genai_bench.json")
    expected = points("genai_bench.json")[0].figures
    for holder in (seconds["aggregated_metrics"]["stats"],):
        for metric in ("ttft", "tpot", "e2e_latency"):
            holder[metric] = {key: value * 1e3 for key, value in holder[metric].items()}
    for request in seconds["individual_request_metrics"]:
        for metric in ("ttft", "tpot", "e2e_latency"):
            request[metric] *= 1e3
    seconds["_time_unit"] = "ms"
    seconds["aggregated_metrics"]["arrival_requests_per_second"] = 31.0
    (point,) = points(written(tmp_path / "g.json", seconds))
    assert (point.load_kind, point.load) == ("rate", 32)
    for name, estimate in expected.items():
        assert point.figures[name].value == pytest.approx(estimate.value), name


def test_files_of_two_models_are_two_targets(tmp_path: Path) -> None:
    """One tool, two models: two targets, unless --target claims one, which is refused."""
    from planner.importers.assemble import Declared

    other = {**sample("vllm_bench_c8.json"), "model_id": "other"}
    files = (DATA / "vllm_bench_c1.json", written(tmp_path / "v.json", other))
    manifest, _, _ = imported(*files)
    assert [target.name for target in manifest.targets] == ["vllm-bench mock", "vllm-bench other"]
    with pytest.raises(InputError, match="several models: mock, other"):
        imported(*files, declared=Declared(target="one"))


def test_folder_with_other_files(tmp_path: Path) -> None:
    """In a folder other files are passed over and named; a file that is named must be a result."""
    (tmp_path / "v.json").write_bytes((DATA / "vllm_bench_c8.json").read_bytes())
    other = written(tmp_path / "settings.json", {"seed": 1})
    _, levels, notes = imported(tmp_path)
    assert len(levels.points()) == 1
    assert notes == ["settings.json left out: not a result file"]
    with pytest.raises(InputError, match=r"not a result of genai-perf.*begin with seed"):
        imported(other)
