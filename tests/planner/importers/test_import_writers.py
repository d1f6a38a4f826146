"""What the tools' own code writes, in versions and modes that the samples are not of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from planner.errors import InputError
from planner.importers.assemble import Declared
from tests.planner.importers.inputs import DATA, imported, points
from tests.planner.importers.test_import_versions import sample, written

if TYPE_CHECKING:
    from pathlib import Path

    from planner.records import OperatingPoint

LATE = "held requests back for {} s on average before they were sent"


def only(path: Path, document: Any) -> OperatingPoint:
    """The one point of a file with one document."""
    (point,) = points(written(path / "file.json", document))
    return point


@pytest.mark.parametrize("unlimited", ["inf", "Infinity", float("inf")])
def test_sglang_as_fast_as_the_cap_allows(tmp_path: Path, unlimited: str | float) -> None:
    """SGLang writes Infinity as Python does, which JSON does not have; levels one per line."""
    first = json.loads((DATA / "sglang.jsonl").read_text()) | {"request_rate": unlimited}
    file = written(tmp_path / "s.jsonl", first, {**first, "max_concurrency": 64})
    assert [(p.load_kind, p.load) for p in points(file)] == [
        ("concurrency", 32), ("concurrency", 64)
    ]  # fmt: skip
    file.write_text(json.dumps(first, indent=2))
    assert points(file)[0].load == 32


def test_sglang_trace_is_no_level(tmp_path: Path) -> None:
    """Arrivals as they were recorded are of no one load, capped or not."""
    trace = json.loads((DATA / "sglang.jsonl").read_text()) | {"request_rate": "trace"}
    with pytest.raises(InputError, match="request_rate is trace"):
        only(tmp_path, trace)


def test_vllm_ramp_is_no_level(tmp_path: Path) -> None:
    """A rate that was ramped up is no one load, whatever the cap."""
    ramped = sample("vllm_bench_c8.json") | {"ramp_up_strategy": "linear", "ramp_up_end_rps": 10}
    with pytest.raises(InputError, match=r"the rate was ramped up \(linear\)"):
        only(tmp_path, ramped)


def test_vllm_sweep(tmp_path: Path) -> None:
    """Its warm-up is no level, and the list of all repeats says nothing that they do not say."""
    run = sample("vllm_bench_c8.json")
    written(tmp_path / "run=0.json", {**run, "run_number": 0})
    written(tmp_path / "run=1.json", {**run, "run_number": 1, "duration": 3.1})
    written(tmp_path / "warmup.json", {**run, "run_number": -1})
    written(tmp_path / "summary.json", [run, run])
    _, levels, notes = imported(tmp_path)
    assert [point.problems for point in levels.points()] == [(), (), ("the warm-up of a sweep",)]
    assert notes == ["summary.json left out: not a result file"]


def test_a_copy_is_no_second_level(tmp_path: Path) -> None:
    """A file that lies in a folder twice counts once."""
    run = sample("vllm_bench_c8.json")
    written(tmp_path / "a.json", run)
    written(tmp_path / "b.json", run)
    _, levels, notes = imported(tmp_path)
    assert len(levels.points()) == 1
    assert notes == ["b.json left out: the same as a.json"]


def test_vllm_mean_wait_for_the_cap(tmp_path: Path) -> None:
    """Later versions tell the wait for the cap among the figures, in milliseconds."""
    base = sample("vllm_bench_c8.json") | {
        "request_rate": 20.0, "max_concurrency": 4, "mean_client_queue_time_ms": 3950.0,
        "mean_e2el_including_client_queue_ms": 4324.0,
    }  # fmt: skip
    base.pop("queue_times", None)
    assert LATE.format(3.95) in only(tmp_path, base).problems[0]


def test_what_is_no_number_harms_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """NaN in a figure that nobody reads is nobody's concern, in one line or in many."""
    base = sample("vllm_bench_c8.json") | {"spec_decode_acceptance_rate": float("nan")}
    assert only(tmp_path, base).load == 8
    lines = written(tmp_path / "l.json", base, {**base, "max_concurrency": 16})
    assert [point.load for point in points(lines)] == [8, 16]


def test_evalscope_without_streaming(tmp_path: Path) -> None:
    """NaN stands for the TTFT of answers that were not streamed: not reported."""
    for name in ("benchmark_summary", "benchmark_percentile"):
        document = sample(f"evalscope/{name}.json")
        for row in document if isinstance(document, list) else ():
            row |= {"TTFT (ms)": float("nan")}
        written(tmp_path / f"{name}.json", document)
    (point,) = points(tmp_path / "benchmark_summary.json")
    assert "ttft_p95_s" not in point.figures
    assert "e2e_p95_s" in point.figures


def test_llmperf_of_one_answer(tmp_path: Path) -> None:
    """The spread of one answer is NaN."""
    one = sample("llmperf.json") | {"results_ttft_s_stddev": float("nan")}
    assert "ttft_p95_s" in only(tmp_path, one).figures


@pytest.mark.parametrize("where", ["Stream Requests", "stream"])
def test_evalscope_tells_that_it_did_not_stream(tmp_path: Path, where: str) -> None:
    """Its TTFT is then E2E: in the summary since requests are counted so, else in the arguments."""
    summary = sample("evalscope/benchmark_summary.json")
    arguments = sample("evalscope/benchmark_args.json") | {"stream": where != "stream"}
    if where == "stream":
        del summary["Stream Requests"]
    else:
        summary |= {"Stream Requests": 0, "Non-Stream Requests": 60}
    summary |= {"Avg TTFT (ms)": 376.3}
    file = written(tmp_path / "benchmark_summary.json", summary)
    written(tmp_path / "benchmark_args.json", arguments)
    _, levels, notes = imported(file)
    (point,) = levels.points()
    assert not [name for name in point.figures if name.startswith(("ttft", "tpot", "itl"))]
    assert "not streamed: no TTFT and no TPOT" in notes
    assert point.figures["e2e_mean_s"].value == 0.3763


def test_what_was_not_streamed_has_no_first_token(tmp_path: Path) -> None:
    """TTFT that is E2E to the last digit was not seen, unless answers have one token."""
    line = json.loads((DATA / "sglang.jsonl").read_text())
    for key in [key for key in line if key.endswith("_ttft_ms")]:
        line[key] = line[key.replace("_ttft_ms", "_e2e_latency_ms")]
    _, levels, notes = imported(written(tmp_path / "s.jsonl", line))
    (point,) = levels.points()
    assert not [name for name in point.figures if name.startswith(("ttft", "tpot", "itl"))]
    assert notes == ["not streamed: no TTFT and no TPOT"]
    assert "ttft_p95_s" in only(tmp_path, line | {"total_output_tokens": 128}).figures


GENAI_PERF: dict[str, dict[str, Any]] = {
    "flat": {
        "model": ["m"], "formatted_model_name": "m", "streaming": True, "u": "localhost:8001",
        "concurrency": 100, "request_rate": None, "measurement_interval": 10000,
    },
    "sections": {
        "model_names": ["m"], "endpoint": {"url": "localhost:8001", "streaming": True},
        "perf_analyzer": {"path": "perf_analyzer", "stimulus": {"concurrency": 100}},
    },
    "a list": {"model": ["m"], "formatted_model_name": "m", "u": "localhost:8001",
               "concurrency": [100]},
}  # fmt: skip


@pytest.mark.parametrize("form", GENAI_PERF)
def test_genai_perf(tmp_path: Path, form: str) -> None:
    """The forerunner of aiperf has its metrics, and the load where its options stand."""
    keep = ("request_throughput", "request_latency", "time_to_first_token", "inter_token_latency",
            "output_token_throughput", "output_sequence_length", "input_sequence_length",
            "request_count")  # fmt: skip
    metrics = {key: value for key, value in sample("aiperf.json").items() if key in keep}
    file = written(tmp_path / "profile_export_genai_perf.json",
                   {**metrics, "input_config": GENAI_PERF[form]})  # fmt: skip
    manifest, levels, notes = imported(file)
    (point,) = levels.points()
    assert (point.load_kind, point.load, point.completed) == ("concurrency", 100, 80)
    assert point.figures["ttft_p95_s"].value == pytest.approx(0.0702448644)
    (target,) = manifest.targets
    assert (target.name, target.model, target.url) == ("genai-perf", "m", "localhost:8001")
    assert notes == []


def test_genai_perf_that_tells_less(tmp_path: Path) -> None:
    """Without streaming its TTFT is E2E; without a count it rests on one request, and says so."""
    document = sample("aiperf.json")
    del document["request_count"]
    document["input_config"] = {**GENAI_PERF["flat"], "streaming": False, "concurrency": None,
                                "request_rate": 2.5}  # fmt: skip
    _, levels, notes = imported(written(tmp_path / "g.json", document))
    (point,) = levels.points()
    assert (point.load_kind, point.load, point.completed) == ("rate", 2.5, 1)
    assert {name.partition("_")[0] for name in point.figures} == {"e2e", "requests", "output"}
    assert "no TTFT" in notes[0]
    assert "number of requests" in notes[1]
    document["input_config"] |= {"request_rate": None}
    with pytest.raises(InputError, match="the load is not told"):
        only(tmp_path, document)


def test_aiperf_phases_without_kinds(tmp_path: Path) -> None:
    """Before 0.13 a phase was known by its name."""
    document = sample("aiperf.json")
    for phase in document["input_config"]["phases"]:
        del phase["kind"]
    assert only(tmp_path, document).load == 8


def test_aiperf_at_a_rate_that_a_cap_holds(tmp_path: Path) -> None:
    """A concurrency beside a rate is a cap; where it is reached, requests waited unseen."""
    document = sample("aiperf.json")
    phase = document["input_config"]["phases"][1]
    phase |= {"type": "poisson", "rate": 40, "concurrency": 8}
    assert "at most 8 in flight held requests back" in only(tmp_path, document).problems[0]
    phase |= {"concurrency": 64}
    assert only(tmp_path, document).usable


def test_inference_perf_older() -> None:
    """A published stage with p10, p50 and p90 only, and lengths under their older names."""
    (point,) = points("inference_perf_kubecon_stage_0.json")
    assert (point.load_kind, point.load, point.completed, point.failed) == ("rate", 1, 60, 0)
    assert point.prompt_tokens_mean == pytest.approx(206.5333)
    assert point.output_tokens_mean == pytest.approx(229.3333)
    assert point.figures["ttft_p90_s"].value == 0.08116110803093761
    assert point.figures["tpot_mean_s"].value == 0.007278099084623923
    assert point.figures["itl_p90_s"].value == 0.015118449670262634
    assert point.figures["requests_per_s"].value == 0.9222687047312378
    assert "ttft_p95_s" not in point.figures
    assert point.usable


def test_inference_perf_that_fell_behind(tmp_path: Path) -> None:
    """A published stage of 129.78 requests/s, not streamed, was 65.8 s late on average."""
    (point,) = points("inference_perf_kubecon_stage_3.json")
    assert (point.load_kind, point.load) == ("rate", 129.78)
    assert {name.partition("_")[0] for name in point.figures} == {
        "e2e", "requests", "output", "error"
    }  # fmt: skip
    assert LATE.format(65.8) in point.problems[0]
    stage = sample("inference_perf_kubecon_stage_3.json")
    stage["load_summary"]["schedule_delay"]["mean"] = -0.0004
    assert only(tmp_path, stage).usable


@pytest.mark.parametrize(
    ("holder", "key"),
    [
        ("scheduler_metrics", "request_targeted_start_delay_avg"),
        ("run_stats", "request_start_time_targeted_delay_avg"),
    ],
)
def test_guidellm_that_fell_behind(tmp_path: Path, holder: str, key: str) -> None:
    """How late requests were sent stands beside the counts, under two names."""
    document = sample("guidellm.json")
    document["benchmarks"] = document["benchmarks"][:1]
    (benchmark,) = document["benchmarks"]
    benchmark["config"]["strategy"] = {"type_": "constant", "rate": 10.0, "max_concurrency": None}
    benchmark.pop("scheduler_metrics", None)
    benchmark[holder] = {key: 3.7}
    assert LATE.format(3.7) in only(tmp_path, document).problems[0]
    benchmark[holder] = {key: 0.001}
    assert only(tmp_path, document).usable


def test_evalscope_at_a_rate_that_a_cap_holds(tmp_path: Path) -> None:
    """Its concurrency caps a rate."""
    document = sample("evalscope/benchmark_summary.json") | {"Request Rate (req/s)": 40.0}
    point = only(tmp_path, document)
    assert (point.load_kind, point.load) == ("rate", 40)
    assert "at most 8 in flight held requests back" in point.problems[0]


def test_evalscope_address() -> None:
    """The address that it names ends in one API's path, which is not the server's."""
    manifest, _, _ = imported("evalscope/benchmark_summary.json")
    assert manifest.targets[0].url == "http://127.0.0.1:8123/v1"


@pytest.mark.parametrize(("arrivals", "kind"), [(20.9, "concurrency"), (31.8, "rate")])
def test_genai_bench_counts_arrivals_in_both_loops(
    tmp_path: Path, arrivals: float, kind: str
) -> None:
    """The load is what it lies nearer to: 29 requests in flight, or the arrivals of a second."""
    run = sample("genai_bench.json")
    run["aggregated_metrics"]["arrival_requests_per_second"] = arrivals
    point = only(tmp_path, run)
    assert (point.load_kind, point.load) == (kind, 32)


def test_genai_bench_older(tmp_path: Path) -> None:
    """Requests were counted per minute, and no unit of time was told."""
    run = sample("genai_bench.json")
    del run["_time_unit"]
    metrics = run["aggregated_metrics"]
    metrics["requests_per_minute"] = 60 * metrics.pop("requests_per_second")
    for key in ("run_duration", "iteration_type", "batch_size"):
        del metrics[key]
    point = only(tmp_path, run)
    assert point.figures["requests_per_s"].value == pytest.approx(20.899921322883497)
    assert point.figures["ttft_p95_s"].value == pytest.approx(0.17176592669989074)


def test_genai_bench_experiment(tmp_path: Path) -> None:
    """What was asked for names the server; each traffic scenario is a target of its own."""
    experiment = {
        "cmd": "genai-bench benchmark", "benchmark_version": "0.0.2", "api_backend": "openai",
        "auth_config": {}, "api_model_name": "vllm-model", "model": "Meta-Llama-3.1-70B-Instruct",
        "iteration_type": "num_concurrency", "traffic_scenario": ["D(200,64)", "D(100,100)"],
        "server_engine": "vLLM", "server_version": "v0.6.0", "server_gpu_type": "H100",
        "server_gpu_count": "4",
    }  # fmt: skip
    run = sample("genai_bench.json")
    written(tmp_path / "experiment_metadata.json", experiment)
    written(tmp_path / "D200_64_text-to-text_num_concurrency_32_time_60s.json", run)
    manifest, _, notes = imported(tmp_path)
    (target,) = manifest.targets
    assert (target.name, target.model, target.backend, target.engine_version, target.hardware,
            target.gpus_per_replica) == (
        "genai-bench", "vllm-model", "vllm", "v0.6.0", "H100", 4
    )  # fmt: skip
    assert notes == []
    with pytest.raises(InputError, match="name the files of its runs"):
        points(tmp_path / "experiment_metadata.json")
    run["aggregated_metrics"] |= {"scenario": "D(100,100)"}
    written(tmp_path / "D100_100_text-to-text_num_concurrency_32_time_60s.json", run)
    manifest, _, _ = imported(tmp_path)
    assert [target.name for target in manifest.targets] == [
        "genai-bench D(100,100)", "genai-bench D(200,64)"
    ]  # fmt: skip
    with pytest.raises(InputError, match="take one with --curve"):
        imported(tmp_path, declared=Declared(target="box"))
    taken, _, _ = imported(tmp_path, declared=Declared(target="box", curve="D(200,64)"))
    assert [target.name for target in taken.targets] == ["box"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x1f\x8b\x08\x00", "compressed with gzip: unpack it with gunzip"),
        ("{}".encode("utf-16"), "UTF-16: save it as UTF-8"),
        (b"concurrency;ttft_ms\n1;2\n", "a table needs the columns concurrency and one of"),
    ],
)
def test_what_to_do_with_other_files(tmp_path: Path, data: bytes, told: str) -> None:
    """A file that is nearly a result says what is missing."""
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(InputError, match=told):
        points(file)


@pytest.mark.parametrize(("before", "end"), [(b"\xef\xbb\xbf", "\n"), (b"", "\r\n")])
def test_bytes_of_windows(tmp_path: Path, before: bytes, end: str) -> None:
    """A byte order mark and line ends of two characters, in JSON, JSON lines and CSV."""
    document = sample("vllm_bench_c8.json")
    for name, text in (
        ("a.json", json.dumps(document, indent=1)),
        ("b.jsonl", json.dumps(document) + "\n" + json.dumps({**document, "max_concurrency": 16})),
        ("c.csv", (DATA / "points.csv").read_text()),
    ):
        file = tmp_path / name
        file.write_bytes(before + text.replace("\n", end).encode())
        (tmp_path / f"plain_{name}").write_text(text)
        assert points(file) == points(tmp_path / f"plain_{name}")
