"""Every sample, imported, against the table that its own tool printed of the same run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.planner.importers.inputs import DATA, imported, points

if TYPE_CHECKING:
    from planner.records import OperatingPoint


def told(point: OperatingPoint, **figures: float) -> None:
    """Each figure, to the digits that the tool printed."""
    for name, value in figures.items():
        assert point.figures[name].value == pytest.approx(value, rel=1e-9, abs=6e-6), name


def test_aiperf_against_its_csv() -> None:
    """Aiperf's own CSV of the run: TTFT 64.00, p95 70.24; ITL 10.06 (TPOT); chunk p99 14.08 ms."""
    (point,) = points("aiperf.json")
    assert (point.load_kind, point.load, point.completed, point.failed) == ("concurrency", 8, 80, 0)
    assert point.source == "aiperf 0.13.0"
    told(
        point,
        ttft_mean_s=0.06400, ttft_p50_s=0.06280, ttft_p95_s=0.07024, ttft_p99_s=0.07061,
        tpot_mean_s=0.01006, tpot_p95_s=0.01032, tpot_p99_s=0.01037,
        itl_p50_s=0.01000, itl_p99_s=0.01408,
        e2e_mean_s=0.37576, e2e_p95_s=0.38967,
    )  # fmt: skip
    assert point.figures["requests_per_s"].value == pytest.approx(20.75, abs=0.005)
    assert point.figures["output_tokens_per_s"].value == pytest.approx(664.04, abs=0.005)
    assert point.in_flight_mean == pytest.approx(7.80, abs=0.005)
    assert (point.prompt_tokens_mean, point.output_tokens_mean) == (200, 32)


def test_guidellm_against_its_csv() -> None:
    """Guidellm's own CSV: three levels; its ITL is our TPOT, its TPOT has the first token in it."""
    low, middle, high = points("guidellm.json")
    assert [p.load for p in (low, middle, high)] == [1, 4, 8]
    told(low, ttft_mean_s=0.06199330886205037, ttft_p50_s=0.061577558517456055,
         e2e_mean_s=0.3732877651850382, tpot_mean_s=0.010026946631810999)  # fmt: skip
    told(middle, ttft_mean_s=0.06266871690750122, tpot_p50_s=0.010000798010057018,
         requests_per_s=10.553640133871045, output_tokens_per_s=337.71648428387357)  # fmt: skip
    told(high, ttft_mean_s=0.06336762507756551, e2e_p50_s=0.37302160263061523,
         tpot_p50_s=0.00999952131702054, requests_per_s=19.634665952825138,
         output_tokens_per_s=628.3093104904043)  # fmt: skip
    assert high.in_flight_mean == pytest.approx(7.34031952938889)
    assert high.source == "guidellm 0.8.1"
    assert high.figures["itl_mean_s"].value == high.figures["tpot_mean_s"].value
    assert "itl_p95_s" not in high.figures  # gaps between single events are not in the file


def test_vllm_bench() -> None:
    """The keys of ``vllm bench serve --save-result``; max_concurrent_requests (32) is not used."""
    one, eight = points("vllm_bench_c1.json", "vllm_bench_c8.json")
    assert (one.load, eight.load) == (1, 8)
    told(
        eight,
        ttft_mean_s=0.06404968, ttft_p50_s=0.06351137, ttft_p95_s=0.06756054, ttft_p99_s=0.06806099,
        tpot_mean_s=0.01001328, tpot_p95_s=0.01005322, itl_p95_s=0.01059347, itl_p99_s=0.01090397,
        e2e_mean_s=0.37446139, e2e_p95_s=0.37917303, requests_per_s=20.01747697222799,
        output_tokens_per_s=640.5592631112956, error_rate=0.0,
    )  # fmt: skip
    assert eight.in_flight_mean == pytest.approx(20.01747697 * 0.37446139)
    assert eight.prompt_tokens_mean == pytest.approx(5139 / 60)


def test_sglang() -> None:
    """SGLang's line: 32 in flight, 31.97 of them achieved."""
    (point,) = points("sglang.jsonl")
    assert point.load == 32
    assert point.in_flight_mean == pytest.approx(31.970244251741015)
    told(point, ttft_p95_s=0.10981261, tpot_p95_s=0.02007623, itl_p99_s=0.02406187,
         e2e_p95_s=1.37360089, output_tokens_per_s=1498.2671718049808)  # fmt: skip
    assert "error_rate" not in point.figures  # this file does not tell of failures


def test_inference_perf() -> None:
    """Stages in seconds; requested_rate (60.0) is a count, and the summary is no level."""
    manifest, levels, notes = imported(
        "inference_perf_stage_0.json", "inference_perf_stage_1.json", "inference_perf_summary.json"
    )
    one, eight = levels.points()
    assert [(p.load_kind, p.load) for p in (one, eight)] == [("concurrency", 1), ("concurrency", 8)]
    told(eight, ttft_mean_s=0.06132333, ttft_p95_s=0.06231839, tpot_p95_s=0.01003722,
         itl_p99_s=0.01148089, e2e_p95_s=0.37299232, requests_per_s=19.73208207798428,
         output_tokens_per_s=631.426626495497)  # fmt: skip
    assert eight.figures["ttft_p99.9_s"].value == pytest.approx(0.06360292771306855)
    assert notes == [
        "inference_perf_summary.json left out: it has the figures of all stages together"
    ]
    assert [source.name for source in manifest.sources] == [
        "inference_perf_stage_0.json", "inference_perf_stage_1.json"
    ]  # fmt: skip


def test_evalscope() -> None:
    """Summary and percentiles, in seconds and milliseconds by the names of the figures."""
    (point,) = points("evalscope/benchmark_summary.json")
    told(point, ttft_mean_s=0.06575, ttft_p95_s=0.0680307, tpot_mean_s=0.01002,
         tpot_p99_s=0.010056, itl_p95_s=0.0109601, e2e_mean_s=0.3763, e2e_p95_s=0.378,
         requests_per_s=19.9039, output_tokens_per_s=636.9237)  # fmt: skip
    assert (point.load, point.completed) == (8, 60)


def test_evalscope_by_its_folder() -> None:
    """The folder, and its three files named one by one, give the same."""
    by_folder = points("evalscope")
    names = ("args", "percentile", "summary")
    by_files = points(*(f"evalscope/benchmark_{name}.json" for name in names))
    assert by_folder == by_files == points("evalscope/benchmark_summary.json")


def test_genai_bench() -> None:
    """The tool's own percentiles, with intervals from the single requests in the file."""
    (point,) = points("genai_bench.json")
    told(point, ttft_mean_s=0.13623687677342033, ttft_p95_s=0.17176592669989074,
         tpot_p95_s=0.020905106785716315, e2e_p99_s=1.449560944800196,
         requests_per_s=20.899921322883497, output_tokens_per_s=1337.5949646645438)  # fmt: skip
    p95 = point.figures["ttft_p95_s"]
    assert p95.low is not None
    assert p95.high is not None
    assert 0.16 < p95.low < p95.value < p95.high < 0.187
    assert point.figures["ttft_p99_s"].high is None  # 128 requests cannot bound it


def test_llmperf() -> None:
    """Per minute to per second; its inter-token latency is left out, and that is said."""
    _, levels, notes = imported("llmperf.json")
    (point,) = levels.points()
    told(point, ttft_p95_s=0.0731, e2e_p99_s=0.394, requests_per_s=1201.2 / 60,
         output_tokens_per_s=640.5, error_rate=2 / 82)  # fmt: skip
    assert not [name for name in point.figures if name.startswith(("tpot", "itl"))]
    assert "no TPOT" in notes[0]


def test_llmperf_as_published() -> None:
    """Real runs of vLLM: figures as in their files, and what was truly in flight is told."""
    _, levels, notes = imported("llmperf_yi_34b_c8.json", "llmperf_yi_34b_c64.json")
    eight, many = levels.points()
    told(eight, ttft_p50_s=3.1766039474996433, ttft_p95_s=4.254826318100367,
         e2e_mean_s=12.427825965779062, requests_per_s=36.044085449240555 / 60,
         output_tokens_per_s=95.81719381923115, error_rate=0.0)  # fmt: skip
    assert (eight.load, eight.completed, eight.output_tokens_mean) == (8, 104, 159.5)
    assert eight.in_flight_mean == pytest.approx(7.466, abs=0.001)
    assert (many.load, many.completed, many.prompt_tokens_mean) == (64, 128, 550)
    told(many, ttft_p99_s=30.57152236029999, e2e_p25_s=48.09660426400069)
    held = [note for note in notes if "held" in note]
    assert len(held) == 1
    assert "of 64 in flight llmperf held 41.5 on average" in held[0]


def test_csv_of_points() -> None:
    """Means only, in SI units; an empty cell is not reported; engine and hardware are kept."""
    manifest, levels, _ = imported("points.csv")
    (target,) = manifest.targets
    assert (target.name, target.backend, target.hardware, target.gpus_per_replica) == (
        "published A", "vllm", "h100_sxm", 8
    )  # fmt: skip
    first, *_, last = levels.points()
    told(first, ttft_mean_s=0.1205, tpot_mean_s=0.0155, e2e_mean_s=15.977,
         output_tokens_per_s=60, requests_per_s=60 / 1024)  # fmt: skip
    assert "ttft_mean_s" not in last.figures
    assert {name for name in last.figures if "_p" in name and not name.endswith("per_s")} == set()


@pytest.mark.parametrize("sample", ["aiperf.json", "guidellm.json", "vllm_bench_c8.json"])
def test_no_interval_is_made_up(sample: str) -> None:
    """A summary has no intervals but that of the error rate, which its counts give exactly."""
    for point in points(sample):
        for name, estimate in point.figures.items():
            if name != "error_rate":
                assert (estimate.low, estimate.high) == (None, None), name
            assert estimate.n >= 60


def test_source_is_kept() -> None:
    """The manifest names the file, its hash, the tool and its version."""
    manifest, _, _ = imported("aiperf.json")
    (source,) = manifest.sources
    digest = hashlib.sha256((DATA / "aiperf.json").read_bytes()).hexdigest()
    assert (source.name, source.sha256, source.tool, source.version) == (
        "aiperf.json", digest, "aiperf", "0.13.0"
    )  # fmt: skip
