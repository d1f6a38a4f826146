"""Imported runs drive what measured ones drive, and refuse what their files cannot carry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from headroom import main
from planner.errors import InputError, RunFolderError
from planner.imported import ImportedPoints, Latency, mean_replicates, quantile_replicates
from planner.resample import QUANTILE_LEVELS
from planner.runfolder import RunWriter, read_run
from planner.summary import level_samples, operating_points
from tests.planner.importers.inputs import DATA

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def headroom(*arguments: object) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def imported_run(path: Path, *files: str, options: tuple[str, ...] = ()) -> Path:
    """A run folder of some samples."""
    result = headroom("import", *(DATA / f for f in files), "--out", path, *options)
    assert result.exit_code == 0, result.output
    return path


def test_recommend_by_an_import(tmp_path: Path) -> None:
    """Three levels of guidellm's carry a p95, with their source among the warnings."""
    run = imported_run(
        tmp_path / "run", "guidellm.json",
        options=("--target", "box", "--backend", "vllm", "--hardware", "H100", "--gpus", "2"),
    )  # fmt: skip
    result = headroom("recommend", run, "--users", "12", "--slo", "ttft_p95<=200ms", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    best = found["recommended"]
    assert (best["target"], best["backend"], best["hardware"]) == ("box", "vllm", "H100")
    assert best["gpus"] % 2 == 0
    assert 0.06 < best["predicted"]["ttft_p95_s"]["value"] < 0.1
    assert any("imported from guidellm 0.8.1" in warning for warning in found["warnings"])


def test_means_cannot_answer_a_percentile(tmp_path: Path) -> None:
    """A CSV of means: p95 is refused with exit 3 and what to measure; the mean is answered."""
    run = imported_run(tmp_path / "run", "points.csv")
    refused = headroom("recommend", run, "--users", "20", "--slo", "tpot_p95<=100ms", "--json")
    assert refused.exit_code == 3
    found = json.loads(refused.stdout)
    assert found["options"][0]["refused"] == (
        "tpot_p95<=100ms: the file of csv has only tpot_mean at 1, not tpot_p95"
    )
    assert "headroom measure" in found["next_measurements"][0]
    answered = headroom("recommend", run, "--users", "3", "--slo", "tpot_mean<=100ms")
    assert answered.exit_code == 0


def test_what_no_level_reported_is_refused(tmp_path: Path) -> None:
    """SGLang's file tells no failures, so it cannot answer an error rate."""
    run = imported_run(tmp_path / "run", "sglang.jsonl")
    result = headroom("recommend", run, "--users", "20", "--slo", "error_rate<=1%")
    assert result.exit_code == 3


def test_too_few_requests_for_a_percentile(tmp_path: Path) -> None:
    """60 requests bound a p95 (59 do) and no p99 (299 would)."""
    run = imported_run(tmp_path / "run", "vllm_bench_c1.json", "vllm_bench_c8.json")
    assert headroom("recommend", run, "--users", "8", "--slo", "ttft_p95<=1s").exit_code == 0
    refused = headroom("recommend", run, "--users", "8", "--slo", "ttft_p99<=1s")
    assert refused.exit_code == 3
    assert "cannot bound this percentile" in refused.stdout


def test_gate_on_an_import(tmp_path: Path) -> None:
    """A gate judges an import: p95 of 60 requests passes or fails; p99, and means alone, do not."""
    run = imported_run(tmp_path / "run", "guidellm.json")
    means = imported_run(tmp_path / "means", "points.csv")
    rules = tmp_path / "rules.toml"

    def exit_code(folder: Path, check: str) -> int:
        rules.write_text(f'[[rule]]\ncheck = "{check}"\n')
        return headroom("gate", folder, "--rules", rules).exit_code

    assert exit_code(run, "ttft_p95 <= 200ms") == 0
    assert exit_code(run, "ttft_p95 <= 20ms") == 1
    assert exit_code(run, "ttft_p99 <= 200ms") == 3
    assert exit_code(means, "ttft_mean <= 2s") == 3


def test_compare_imports(tmp_path: Path) -> None:
    """Two imports stand side by side, and what has no interval is no evidence."""
    first = imported_run(tmp_path / "a", "guidellm.json")
    second = imported_run(tmp_path / "b", "guidellm.json")
    result = headroom("compare", first, second)
    assert result.exit_code in (0, 3), result.output
    assert "61.6 ms" in result.stdout


def test_report_tells_the_source(tmp_path: Path) -> None:
    """The report opens, and names file, tool and hash; nothing that nobody told."""
    run = imported_run(tmp_path / "run", "guidellm.json")
    result = headroom("report", run)
    assert result.exit_code == 0, result.output
    page = (run / "report.html").read_text()
    assert "guidellm.json, guidellm 0.8.1, SHA-256" in page
    assert "Temperature" not in page


def test_backtest_of_a_run_and_of_its_table(tmp_path: Path) -> None:
    """An imported table gives the errors that the table itself gives."""
    run = imported_run(tmp_path / "run", "points.csv")
    by_run = json.loads(headroom("backtest", run, "--json").stdout)
    by_table = json.loads(headroom("backtest", DATA / "points.csv", "--json").stdout)
    assert by_run["overall"] == by_table["overall"]
    assert by_run["curves"] == 1


def test_the_same_run_gives_the_same_replicates(tmp_path: Path) -> None:
    """Replicates spread about the file's own figures, which row 0 keeps."""
    run = read_run(imported_run(tmp_path / "run", "guidellm.json"))
    first, again = (level_samples(run, draws=300, rng=np.random.default_rng(5)) for _ in range(2))
    points = operating_points(run)
    assert [sample.point for sample in first] == list(points)
    at_95 = int(np.searchsorted(QUANTILE_LEVELS, 0.95))
    for one, other, point in zip(first, again, points, strict=True):
        assert np.array_equal(one.quantiles["ttft"], other.quantiles["ttft"])
        told = point.figures["ttft_p95_s"].value
        assert one.quantiles["ttft"][0, at_95] == pytest.approx(told)
        assert np.std(one.quantiles["ttft"][1:, at_95]) > 0
        assert one.means["ttft"][0] == point.figures["ttft_mean_s"].value
        assert one.requests_per_s[0] == point.figures["requests_per_s"].value
        assert np.all(np.diff(one.quantiles["ttft"], axis=1) >= 0)


def test_replicates_are_finite() -> None:
    """A spread that is absurd beside its mean gives no infinity."""
    latency = Latency(n=2, mean_s=1e-9, std_s=1e6)
    drawn = mean_replicates(latency, 100, np.random.default_rng(1))
    assert drawn is not None
    assert np.all(np.isfinite(drawn) & (drawn > 0))


def test_replicates_hold_the_truth() -> None:
    """Percentiles of samples of a known distribution: 90 % intervals hold it about as often.

    An exponential distribution, of which each file tells p50, p90, p95 and p99 of 400 requests.
    """
    rng = np.random.default_rng(11)
    shares = (0.5, 0.9, 0.95, 0.99)
    at_95 = int(np.searchsorted(QUANTILE_LEVELS, 0.95))
    truth, held, mean_held, trials = -np.log(0.05), 0, 0, 200
    for _ in range(trials):
        values = rng.exponential(size=400)
        latency = Latency(
            n=400,
            mean_s=float(values.mean()),
            std_s=float(values.std(ddof=1)),
            quantiles=tuple((q, float(np.quantile(values, q))) for q in shares),
        )
        drawn = quantile_replicates(latency, QUANTILE_LEVELS, 300, rng)
        means = mean_replicates(latency, 300, rng)
        assert drawn is not None
        assert means is not None
        low, high = np.quantile(drawn[1:, at_95], [0.05, 0.95])
        held += bool(low <= truth <= high)
        low, high = np.quantile(means[1:], [0.05, 0.95])
        mean_held += bool(low <= 1.0 <= high)
    assert held / trials == pytest.approx(0.9, abs=0.07)
    assert mean_held / trials == pytest.approx(0.9, abs=0.07)


def test_measuring_into_an_import_is_refused(tmp_path: Path) -> None:
    """A run that was imported has no requests to go on with; importing into a run neither."""
    run = imported_run(tmp_path / "run", "guidellm.json")
    with pytest.raises(InputError, match="was imported: measure into another folder"):
        RunWriter.resume(run)
    again = headroom("import", DATA / "guidellm.json", "--out", run)
    assert again.exit_code == 2
    assert "holds a run already" in again.stderr


def test_a_changed_points_file_is_refused(tmp_path: Path) -> None:
    """Torn, of other levels, or missing."""
    run = imported_run(tmp_path / "run", "guidellm.json")
    file = run / "points.json"
    data = file.read_bytes()
    file.write_bytes(data[:200])
    with pytest.raises(InputError, match="torn"):
        read_run(run)
    document = json.loads(data)
    document["levels"].pop()
    file.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match="other levels than manifest"):
        read_run(run)
    file.unlink()
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_run(run)


@pytest.mark.parametrize(
    "change",
    [{"n": 0}, {"mean_s": 0}, {"mean_s": -1}, {"mean_s": 1e300}, {"std_s": -1},
     {"quantiles": [[0.5, 2], [0.9, 1]]}, {"quantiles": [[2, 1]]}, {"quantiles": [[0.5, 1e300]]}],
)  # fmt: skip
def test_an_impossible_latency_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Means, spreads and quantiles that no measurement gives, by the level and the metric."""
    run = imported_run(tmp_path / "run", "guidellm.json")
    document = json.loads((run / "points.json").read_text())
    document["levels"][2]["latencies"]["e2e"] |= change
    (run / "points.json").write_text(json.dumps(document))
    done = headroom("recommend", run, "--users", "12", "--slo", "ttft_p95<=200ms")
    assert done.exit_code == 2
    assert "level 2: e2e is no latency" in done.stderr


def test_a_newer_points_file_is_refused() -> None:
    """By its schema."""
    with pytest.raises(InputError, match="has schema 2"):
        ImportedPoints.parse(b'{"schema": 2, "levels": []}', "points.json")


def test_one_curve_of_a_table(tmp_path: Path) -> None:
    """--curve takes one; an unknown one is refused with those there are."""
    run = imported_run(tmp_path / "run", "points.csv", options=("--curve", "A"))
    assert len(read_run(run).manifest.targets) == 1
    refused = headroom("import", DATA / "points.csv", "--curve", "B", "--out", tmp_path / "x")
    assert refused.exit_code == 2
    assert "they have published A" in refused.stderr
