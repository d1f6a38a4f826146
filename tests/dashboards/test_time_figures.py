"""Distributions and the timeline, against values counted by hand or by another formula."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dashboards.distributions import distribution_figure, ecdf, level_ecdfs
from dashboards.timeline import timeline, timeline_figure
from planner.table import RequestTable
from tests.dashboards import fabricate
from tests.planner.examples import request


@pytest.fixture(scope="module")
def table() -> RequestTable:
    """The requests of the fabricated run."""
    return RequestTable.from_records(fabricate.fabricated_run()[1])


@given(hnp.arrays(float, st.integers(1, 3000), elements=st.floats(1e-3, 1e3)))
def test_ecdf_steps_are_exact(values: npt.NDArray[np.float64]) -> None:
    """Each kept step is the true share of values at or below it, and both ends are kept."""
    value, share = ecdf(values, len(values))
    assert len(value) <= 400 + 4
    assert value[-1] == values.max()
    assert share[-1] == 1.0
    for v, s in zip(value[::37], share[::37], strict=True):
        assert np.mean(values < v) < s <= np.mean(values <= v) + 1e-12


def test_ecdf_of_a_million_stays_small_and_keeps_its_tail() -> None:
    """A million values give some 400 steps, among them the 99.9th percentile."""
    values = np.random.default_rng(1).permutation(np.arange(1, 1_000_001, dtype=float))
    value, share = ecdf(values, len(values))
    assert len(value) <= 404
    assert 999_000 in value
    np.testing.assert_allclose(share * 1e6, value)


def test_failures_keep_a_distribution_below_one() -> None:
    """Two of ten requests failed: the line ends at 80 %."""
    assert ecdf(np.arange(1.0, 9.0), 10)[1][-1] == pytest.approx(0.8)


def test_levels_use_their_steady_window_and_not_what_was_cancelled(table: RequestTable) -> None:
    """The values are those that a plain loop over the records finds in a shortened window."""
    _, records = fabricate.fabricated_run()
    points = [
        msgspec.structs.replace(p, window_end_s=(p.window_end_s or 0) - 4)
        for p in fabricate.points()
    ]
    levels = level_ecdfs(table, points, "e2e")
    assert len(levels) == len(points)
    for point, level in zip(points, levels, strict=True):
        start, end = point.window_start_s or 0, point.window_end_s or 0
        own = [r for r in records if r.stage == point.stage and start < r.ended_s <= end]
        done = [r.ended_s - r.scheduled_s for r in own if r.status == "ok"]
        assert level.n == len(done)
        np.testing.assert_allclose(level.value, sorted(done))


def test_a_timeout_keeps_its_level_below_one(table: RequestTable) -> None:
    """A request that timed out counts among all, but never as finished."""
    point = fabricate.points()[4]
    late = table.status.copy()
    inside = (table.stage == 4) & (table.ended_s > 150) & (table.status == 0)
    late[np.flatnonzero(inside)[:1]] = 2
    (level,) = level_ecdfs(dataclasses.replace(table, status=late), [point], "e2e")
    assert level.share[-1] == pytest.approx(1 - 1 / level.n)


def test_distribution_rows_show_the_objective(table: RequestTable) -> None:
    """One row per target, a line per level, and the corner of the objective in each row."""
    levels = level_ecdfs(table, fabricate.points(), "ttft")
    figure = distribution_figure(levels, "ttft", slo=fabricate.slo_ttft())
    assert len(figure.data) == 2 * len(fabricate.LEVELS)
    assert {t.xaxis for t in figure.data} == {"x", "x2"}
    assert [s.x0 for s in figure.layout.shapes if s.x0 == s.x1] == [1.0, 1.0]
    assert [s.y0 for s in figure.layout.shapes if s.y0 == s.y1] == [0.95, 0.95]


def test_timeline_conserves_requests_and_time(table: RequestTable) -> None:
    """The bins hold every request once, and the time in flight equals the sum of latencies."""
    line = timeline(table)
    width = np.diff(line.edge_s)
    assert (line.completed_per_s * width).sum() == pytest.approx((table.status == 0).sum())
    assert (line.failed_per_s * width).sum() == pytest.approx((table.status == 1).sum())
    assert (line.in_flight * width).sum() == pytest.approx((table.ended_s - table.sent_s).sum())
    assert line.in_flight.max() == pytest.approx(16)


def test_timeline_of_a_million_requests_is_small() -> None:
    """The number of bins does not grow with the run."""
    n = 1_000_000
    sent = np.sort(np.random.default_rng(0).uniform(0, 36_000, n))
    columns = {
        name: np.full(n, np.nan)
        for name in RequestTable.__dataclass_fields__
        if name not in ("stage", "user", "status", "gaps_s", "gap_offsets")
    } | {"scheduled_s": sent, "sent_s": sent, "ended_s": sent + 1.5}
    many = RequestTable(
        **columns,
        stage=np.zeros(n, dtype=np.int32),
        user=np.zeros(n, dtype=np.int32),
        status=np.zeros(n, dtype=np.uint8),
        gaps_s=np.zeros(0, dtype=np.float32),
        gap_offsets=np.zeros(n + 1, dtype=np.int64),
    )
    line = timeline(many)
    assert len(line.in_flight) <= 601
    assert line.in_flight[300] == pytest.approx(1.5 * n / 36_000, rel=0.05)


def test_an_empty_run_has_a_timeline() -> None:
    """A run killed before its first request ended still draws."""
    line = timeline(RequestTable.from_records(()))
    assert timeline_figure(line, fabricate.fabricated_run()[0].stages).layout.height > 0


def test_stages_are_shaded_and_warm_up_is_hatched(table: RequestTable) -> None:
    """Each stage has its tint; what lies before its window is one hatched area."""
    manifest, _ = fabricate.fabricated_run()
    figure = timeline_figure(timeline(table), manifest.stages, fabricate.points())
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [
        (s.started_s, s.ended_s) for s in manifest.stages
    ]
    (hatched,) = [t for t in figure.data if t.fill == "toself"]
    assert hatched.x[:2] == (1.0, 1.0 + fabricate.WARMUP_S)
    assert hatched.x.count(None) == len(manifest.stages)


def test_names_of_stages_that_start_together_stand_apart() -> None:
    """Three short stages of three targets within a long run: each name begins behind the last."""
    manifest, _ = fabricate.fabricated_run()
    stages = [
        msgspec.structs.replace(
            manifest.stages[0], index=i, target=f"target-{i}", started_s=i * 1.0, ended_s=i + 0.9
        )
        for i in range(3)
    ]
    stages.append(msgspec.structs.replace(stages[0], index=3, started_s=5.0, ended_s=300.0))
    table = RequestTable.from_records(
        [request(s.started_s, s.ended_s or 0.0, stage=s.index) for s in stages]
    )
    figure = timeline_figure(timeline(table), stages, ())
    names = [a for a in figure.layout.annotations if a.text.startswith("<b>target")]
    starts = [a.x / 300.0 * 900.0 + a.xshift for a in names]
    assert len(names) == 3
    assert all(later - earlier > 60 for earlier, later in pairwise(starts))
