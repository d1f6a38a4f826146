"""Gaps between content events: read a batch at a time, counted in bins, as right as promised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import RunFolderError
from planner.gaps import RELATIVE_ERROR, GapHistogram
from planner.resample import Cells
from planner.runfolder import RunWriter, read_run
from planner.steady import Window
from planner.summary import level_samples, operating_points
from planner.table import GapBatch, RequestTable
from tests.planner.examples import manifest, records, request, run_of, stage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from planner.records import RequestRecord, RunManifest

SHARES = (0.01, 0.5, 0.9, 0.95, 0.99)


def told(gaps_s: Iterable[float]) -> bytes:
    """Gaps as a record holds them."""
    return np.array(list(gaps_s), dtype="<f4").tobytes()


def joined(batches: Iterable[GapBatch]) -> tuple[list[int], bytes]:
    """All counts and all gaps."""
    parts = list(batches)
    return (
        [count for part in parts for count in part.counts.tolist()],
        b"".join(part.gaps_s.tobytes() for part in parts),
    )


def saved(path: Path, facts: RunManifest, *sittings: list[RequestRecord]) -> Path:
    """A run folder; all sittings but the last one stand in its Parquet file."""
    for number, rows in enumerate(sittings):
        writer = RunWriter.resume(path) if number else RunWriter.create(path, facts)
        for row in rows:
            writer.append(row)
        if number < len(sittings) - 1:
            writer.finish(facts)
        writer.close()
    return path


@given(st.lists(records(), max_size=6), st.integers(0, 6), st.integers(1, 5))
def test_batches_hold_every_gap_once(rows: list[RequestRecord], start: int, most: int) -> None:
    """However small the batches and wherever they start, they are the records' gaps in order."""
    table = RequestTable.from_records(rows)
    counts, gaps = joined(table.gap_batches(min(start, len(rows)), most=most))
    assert counts == [len(row.gaps_s) // 4 for row in rows[start:]]
    assert gaps == b"".join(row.gaps_s for row in rows[start:])


def test_gaps_left_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    """In a folder with a Parquet file and a journal beside it, each request keeps its gaps."""
    rows = [
        request(i, i + 1.0, id=i, gaps_s=told(0.01 * i + 0.1 for _ in range(i))) for i in (3, 0, 2)
    ]
    more = [request(9.0, 10.0, id=9, gaps_s=told([0.25]))]
    path = saved(tmp_path / "run", manifest(stage(1, end=11.0)), rows, more)
    lazy, whole = read_run(path, gaps=False), read_run(path)
    assert lazy.gaps_on_disk == 3
    assert whole.gaps_on_disk == 0
    assert joined(lazy.gap_batches()) == joined(whole.gap_batches())
    assert joined(lazy.gap_batches())[0] == [3, 0, 2, 1]


@given(
    st.lists(st.floats(2.0**-16, 2.0**14) | st.floats(0.1, 0.11), min_size=1, max_size=300),
    st.integers(1, 50),
    st.floats(1, 3),
)
def test_percentiles_are_off_by_at_most_the_stated_error(
    values: list[float], size: int, power: float
) -> None:
    """Of any sample, cut into any batches: order statistics to 0.4 %, the mean to rounding."""
    sample = (np.array(values) ** (1 / power)).astype(np.float32)
    cells = some_cells(len(sample))
    histogram = GapHistogram(cells.count)
    for start in range(0, len(sample), size):
        part = sample[start : start + size]
        cell = cells.cell_of_row[start : start + size].astype(np.int32)
        histogram.add(cell, GapBatch(np.ones(len(part), dtype=np.int64), part))
    assert len(histogram) == histogram.requests == len(sample)
    assert histogram.ordered() == pytest.approx(np.sort(sample), rel=RELATIVE_ERROR)
    assert histogram.means(cells)[0] == pytest.approx(sample.mean(dtype=np.float64))
    drawn = histogram.distribution(cells).quantiles(np.array(SHARES))
    exact = np.quantile(sample, SHARES, method="inverted_cdf")
    assert drawn[0] == pytest.approx(exact, rel=RELATIVE_ERROR)


def some_cells(count: int) -> Cells:
    """The cells of so many requests that end one second after another."""
    rows = RequestTable.from_records([request(float(i), i + 1.0) for i in range(count)])
    return Cells(rows, Window(0.0, count + 1.0), draws=20, rng=np.random.default_rng(1))


def test_resamples_of_the_histogram_are_those_of_the_values() -> None:
    """A bin for each value: the resamples hold as many of each as the resampled values do."""
    values = np.random.default_rng(4).choice([0.01, 0.02, 0.04, 0.08], 200).astype(np.float32)
    cells = some_cells(200)
    histogram = GapHistogram(cells.count)
    histogram.add(cells.cell_of_row.astype(np.int32), GapBatch(np.ones(200, np.int64), values))
    found = histogram.distribution(cells)
    for weights, row in zip(cells.weights, found.weights @ found.below, strict=True):
        sample = np.repeat(values, weights[cells.cell_of_row].astype(int))
        assert row.tolist() == [np.count_nonzero(sample <= edge * 1.01) for edge in found.edges]


def test_zeros_and_giants_stand_at_the_ends() -> None:
    """Gaps below a microsecond and beyond a day share a bin, and nothing is lost."""
    values = np.array([0.0, 1e-9, 0.5, 2e5, 9e8], dtype=np.float32)
    cells = some_cells(5)
    histogram = GapHistogram(cells.count)
    histogram.add(cells.cell_of_row.astype(np.int32), GapBatch(np.ones(5, np.int64), values))
    assert histogram.ordered()[[0, 2]] == pytest.approx([5e-10, 0.5])
    assert len(histogram) == 5


def test_interleaved_stages_keep_their_own_gaps(tmp_path: Path) -> None:
    """Two levels whose requests alternate, read from disk: each has the ITL of its own window."""
    rng = np.random.default_rng(2)
    rows = [
        request(
            i * 0.5, (i + 1) * 0.5, id=2 * i + level, stage=level,
            gaps_s=told(rng.lognormal(-3 + level, 0.5, 10)),
            status="error" if i % 40 == 7 else "ok",
        )
        for i in range(200) for level in (0, 1)
    ]  # fmt: skip
    stages = (stage(1, end=100.0), stage(1, end=100.0, index=1))
    path = saved(tmp_path / "run", manifest(*stages), rows, [])
    points = operating_points(read_run(path, gaps=False))
    for level, point in enumerate(points):
        assert point.window_start_s is not None
        inside = np.concatenate(
            [
                np.frombuffer(row.gaps_s, "<f4")
                for row in rows
                if row.stage == level and row.status == "ok" and row.ended_s > point.window_start_s
            ]
        )
        figure = point.figures["itl_p95_s"]
        exact = np.quantile(inside, 0.95, method="inverted_cdf")
        assert figure.value == pytest.approx(exact, rel=RELATIVE_ERROR)
        assert figure.n == len(inside) // 10
        assert point.figures["itl_mean_s"].value == pytest.approx(inside.mean(), rel=1e-6)
    assert operating_points(read_run(path)) == points


def test_other_metrics_do_not_depend_on_the_gaps() -> None:
    """The same random draws with and without ITL: the other figures stay as they are."""
    rows = [request(float(i), i + 1.0, id=i, gaps_s=told([0.1] * 5)) for i in range(100)]
    run = run_of(rows, stage(1, end=100.0))
    with_itl, without = (
        level_samples(run, draws=20, rng=np.random.default_rng(3), metrics=metrics)[0]
        for metrics in (("ttft", "itl"), ("ttft",))
    )
    assert with_itl.quantiles["ttft"].tolist() == without.quantiles["ttft"].tolist()
    assert set(with_itl.quantiles) == {"ttft", "itl"}


@pytest.mark.parametrize("gap", [-0.5, float("nan"), float("inf"), 2e9])
def test_gaps_that_no_measurement_has_are_refused(tmp_path: Path, gap: float) -> None:
    """One line, instead of a percentile that is wrong."""
    rows = [request(0.0, 1.0, gaps_s=told([0.1, gap]))]
    path = saved(tmp_path / "run", manifest(stage(1, end=2.0)), rows, [])
    with pytest.raises(RunFolderError, match="has a gap between content events that is negative"):
        list(read_run(path, gaps=False).gap_batches())


def test_a_resample_without_any_value_is_the_sample() -> None:
    """Where few blocks hold answers, some resamples hold none; no figure comes of nothing."""
    values = np.array([0.01, 0.02, 0.03], dtype=np.float32)
    cells = some_cells(100)
    histogram = GapHistogram(cells.count)
    cell = cells.cell_of_row[:3].astype(np.int32)  # all in the first blocks
    histogram.add(cell, GapBatch(np.ones(3, np.int64), values))
    found = histogram.distribution(cells)
    assert (found.weights[1:] @ found.below[:, -1] == 0).any()
    assert np.isfinite(found.quantiles()).all()
