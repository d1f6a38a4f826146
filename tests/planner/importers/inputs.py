"""Sample files of the tools, abridged from real runs, and how tests import them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planner.importers.assemble import Declared, assembled
from planner.importers.formats import read_files

if TYPE_CHECKING:
    from planner.imported import ImportedPoints
    from planner.records import OperatingPoint, RunManifest

__all__ = ["DATA", "SAMPLES", "imported", "points"]

DATA = Path(__file__).parent / "data"
SAMPLES = (
    "aiperf.json",
    "guidellm.json",
    "vllm_bench_c8.json",
    "sglang.jsonl",
    "inference_perf_stage_1.json",
    "evalscope/benchmark_summary.json",
    "genai_bench.json",
    "llmperf.json",
    "points.csv",
)


def imported(
    *files: str | Path, declared: Declared | None = None
) -> tuple[RunManifest, ImportedPoints, list[str]]:
    """The manifest, the points and the notes of an import; names are samples."""
    paths = [DATA / file for file in files]
    found, sources, notes = read_files(paths)
    manifest, levels = assembled(
        found, sources, declared or Declared(), now_unix_s=1.8e9, notes=notes
    )
    return manifest, levels, notes


def points(*files: str | Path, declared: Declared | None = None) -> list[OperatingPoint]:
    """The operating points of some files."""
    return list(imported(*files, declared=declared)[1].points())
