"""Exports read back by what reads them: csv, pyarrow, our importer, Prometheus's own parser."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from headroom import main
from planner.export import csv_text, exported_of, openmetrics_text
from planner.runfolder import read_run
from planner.summary import operating_points
from tests.planner.importers.inputs import DATA

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def headroom(*arguments: object) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with intervals: genai-bench's, with its single requests."""
    path = tmp_path / "run"
    result = headroom("import", DATA / "genai_bench.json", "--target", "=box", "--out", path)
    assert result.exit_code == 0, result.output
    return path


def test_csv_has_every_figure_and_interval(run: Path) -> None:
    """One row a level; each figure with its ends and n; text that a sheet would run is quoted."""
    result = headroom("export", run, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    (point,) = operating_points(read_run(run))
    assert (row["target"], row["load"], row["usable"]) == ("'=box", "32.0", "true")
    for name, estimate in point.figures.items():
        assert float(row[name]) == estimate.value
        for end, value in (("low", estimate.low), ("high", estimate.high)):
            assert row[f"{name}_{end}"] == ("" if value is None else str(value))
        assert int(row[f"{name}_n"]) == estimate.n
    assert row["hardware"] == ""


def test_parquet_is_the_same_table(run: Path, tmp_path: Path) -> None:
    """Columns and values as in the CSV, typed; without a file it is refused."""
    file = tmp_path / "levels.parquet"
    assert headroom("export", run, "--format", "parquet", "-o", file).exit_code == 0
    table = pq.read_table(file)
    (row,) = csv.DictReader(io.StringIO(csv_text(exported_of([read_run(run)]))))
    assert table.column_names == list(row)
    (values,) = table.to_pylist()
    assert values["ttft_p95_s"] == float(row["ttft_p95_s"])
    assert values["ttft_p99_s_high"] is None
    assert values["usable"] is True
    refused = headroom("export", run, "--format", "parquet")
    assert refused.exit_code == 2
    assert "name a file with -o" in refused.stderr


def test_json_is_the_points_and_the_manifest(run: Path) -> None:
    """The points as records, with the manifest they are of."""
    document = json.loads(headroom("export", run, "--format", "json").stdout)
    (point,) = operating_points(read_run(run))
    (level,) = document["levels"]
    assert level["point"]["figures"]["ttft_p95_s"]["value"] == point.figures["ttft_p95_s"].value
    assert document["runs"][0]["manifest"]["sources"][0]["tool"] == "genai-bench"


def test_vllm_bench_goes_round(tmp_path: Path) -> None:
    """Exported as vLLM's results and imported again, every figure is the same."""
    first = tmp_path / "first"
    headroom("import", DATA / "vllm_bench_c1.json", DATA / "vllm_bench_c8.json", "--out", first)
    file = tmp_path / "levels.json"
    assert headroom("export", first, "--format", "vllm-bench", "-o", file).exit_code == 0
    second = tmp_path / "second"
    result = headroom("import", file, "--out", second)
    assert result.exit_code == 0, result.output
    for one, other in zip(
        operating_points(read_run(first)), operating_points(read_run(second)), strict=True
    ):
        assert (one.load_kind, one.load, one.completed) == (
            other.load_kind, other.load, other.completed
        )  # fmt: skip
        assert one.figures.keys() == other.figures.keys()
        for name, estimate in one.figures.items():
            assert other.figures[name].value == pytest.approx(estimate.value, rel=1e-12), name


def test_openmetrics_by_prometheus_own_parser(run: Path) -> None:
    """Prometheus's parser reads it; each figure stands once, with its interval as bounds."""
    levels = exported_of([read_run(run)])
    text = openmetrics_text(levels)
    parsed = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    point = levels[0].point
    samples = {
        (s.labels["statistic"], s.labels["bound"]): s.value
        for s in families["headroom_ttft_seconds"].samples
    }
    p95 = point.figures["ttft_p95_s"]
    assert samples["p95", "estimate"] == p95.value
    assert (samples["p95", "low"], samples["p95", "high"]) == (p95.low, p95.high)
    assert ("p99", "high") not in samples
    assert families["headroom_ttft_seconds"].unit == "seconds"
    (usable,) = families["headroom_level_usable"].samples
    assert (usable.value, usable.labels["load"], usable.labels["target"]) == (1.0, "32", "=box")
    assert headroom("export", run, "--format", "openmetrics").stdout.endswith("# EOF\n")


def test_nothing_to_export(tmp_path: Path) -> None:
    """A folder that is no run, and a level that vLLM's format has no word for."""
    assert headroom("export", tmp_path, "--format", "csv").exit_code == 2
    base = json.loads((DATA / "vllm_bench_c8.json").read_text())
    held = {**base, "request_rate": 20.0, "max_concurrency": 4, "queue_times": [3.9]}
    (tmp_path / "v.json").write_text(json.dumps(held))
    headroom("import", tmp_path / "v.json", "--out", tmp_path / "run")
    refused = headroom("export", tmp_path / "run", "--format", "vllm-bench")
    assert refused.exit_code == 3
    assert "left out: at most 4 in flight held requests back" in refused.stderr
    assert headroom("export", tmp_path / "run", "--format", "csv").exit_code == 0
