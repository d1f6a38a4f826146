"""Operating points in the formats that other programs read."""

from __future__ import annotations

from planner.export.exported import Exported, exported_of
from planner.export.openmetrics import openmetrics_text
from planner.export.serving_bench import serving_bench_results
from planner.export.tables import csv_text, json_bytes, parquet_bytes

__all__ = [
    "Exported",
    "csv_text",
    "exported_of",
    "json_bytes",
    "openmetrics_text",
    "parquet_bytes",
    "serving_bench_results",
]
