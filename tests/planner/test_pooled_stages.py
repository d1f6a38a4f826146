"""Levels that were measured again because each stage alone had too few answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from planner.levels import plan_next
from planner.pooling import evidence_of
from planner.records import Demand, Recommendation
from planner.summary import LevelSample, level_samples
from planner.units import parse_slo
from tests.planner.examples import closed_loop, request, run_of, stage

if TYPE_CHECKING:
    from planner.records import RequestRecord, StageInfo
    from planner.runfolder import Run

PAUSE_S = 100.0
"""Between the starts of two stages."""


def repeated(*counts: int, load: int = 1, **changes: Any) -> Run:
    """Stages of one level on a clockwork server: so many requests of a second each."""
    rows, stages = [], []
    for index, count in enumerate(counts):
        start = index * PAUSE_S
        rows += [request(start + i, start + i + 1, stage=index) for i in range(count)]
        stages.append(stage(load, end=start + count, index=index, started_s=start, **changes))
    return run_of(rows, *stages)


def samples_of(run: Run, **options: Any) -> tuple[LevelSample, ...]:
    """With few draws."""
    return level_samples(run, draws=50, rng=np.random.default_rng(1), **options)


def test_two_short_stages_make_one_usable_level() -> None:
    """Twenty answers each are too few, forty are not; neither warm-ups nor the pause count."""
    (sample,) = samples_of(repeated(20, 22))
    point = sample.point
    assert point.problems == ()
    assert sample.stages == (0, 1)
    assert point.stage is None
    assert point.completed == 19 + 21
    assert point.in_flight_mean == pytest.approx(1)
    assert point.figures["requests_per_s"].value == pytest.approx(1)
    assert sample.requests_per_s == pytest.approx(np.ones(51))  # of every resample
    assert point.figures["output_tokens_per_s"].value == pytest.approx(11)
    for figure, seconds in {"ttft_p50_s": 0.1, "itl_p95_s": 0.09, "e2e_mean_s": 1.0}.items():
        assert point.figures[figure].value == pytest.approx(seconds)
    assert evidence_of([sample]).curve == (sample,)


def test_a_percentile_is_bounded_by_all_stages_together() -> None:
    """For p98 149 answers are needed: 80 and 80 are enough, 80 and 40 are told as 118."""
    (sample,) = samples_of(repeated(80, 80), quantiles=(0.98,))
    assert sample.point.problems == ()
    assert sample.point.figures["e2e_p98_s"].high is not None
    (sample,) = samples_of(repeated(80, 40), quantiles=(0.98,))
    (problem,) = sample.point.problems
    assert problem.startswith("118 answers are too few for p98, which needs 149: measure this")


def test_stages_that_need_no_help_stay_apart() -> None:
    """Two stages with enough answers each are two samples, as are two levels or think times."""
    assert [s.stages for s in samples_of(repeated(40, 50))] == [(0,), (1,)]
    run = repeated(20, 22)
    for change in ({"load": 2}, {"think_time_s": 1.0}, {"load_kind": "users"}, {"arrivals": "x"}):
        first, second = run.manifest.stages
        other = msgspec.structs.replace(second, **change)
        stages: tuple[StageInfo, ...] = (first, other)
        apart = run_of(rows_of(20, 22), *stages)
        assert [s.stages for s in samples_of(apart)] == [(0,), (1,)]


def rows_of(*counts: int) -> list[RequestRecord]:
    """The requests of ``repeated``."""
    return [
        request(index * PAUSE_S + i, index * PAUSE_S + i + 1, stage=index)
        for index, count in enumerate(counts)
        for i in range(count)
    ]


def test_a_stage_with_another_fault_is_not_pooled() -> None:
    """The client was the limit in one of three: the other two are pooled, it is refused alone."""
    run = repeated(20, 22, 24)
    stages = [
        msgspec.structs.replace(s, invalid="the client was the limit" if s.index == 1 else None)
        for s in run.manifest.stages
    ]
    spoilt, pool = samples_of(run_of(rows_of(20, 22, 24), *stages))
    assert spoilt.stages == (1,)
    assert spoilt.point.problems[0] == "the client was the limit"
    assert pool.stages == (0, 2)
    assert pool.point.problems == ()


def test_pooled_pieces_give_what_the_whole_would() -> None:
    """A queue measured in six short pieces: figures within the intervals of one long stage."""
    whole = closed_loop(4, 2, 1200.0, np.random.default_rng(8))
    (long,) = samples_of(run_of(whole, stage(4, end=1200.0)))
    rows, stages = [], []
    for index in range(6):
        start = index * PAUSE_S
        piece = closed_loop(4, 2, 20.0, np.random.default_rng(index))
        rows += [moved(row, start, index) for row in piece]
        stages.append(stage(4, end=start + 20.0, index=index, started_s=start))
    (pooled,) = (s for s in samples_of(run_of(rows, *stages)) if len(s.stages) > 1)
    assert len(pooled.stages) >= 3
    for figure in ("requests_per_s", "e2e_mean_s", "e2e_p50_s", "output_tokens_per_s"):
        estimate = pooled.point.figures[figure]
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < long.point.figures[figure].value < estimate.high
    assert pooled.point.in_flight_mean == pytest.approx(4, rel=0.02)


def moved(row: RequestRecord, later_s: float, index: int) -> RequestRecord:
    """The same request in another stage."""
    moments = {
        name: None if (at := getattr(row, name)) is None else at + later_s
        for name in ("scheduled_s", "sent_s", "first_token_s", "ended_s")
    }
    return msgspec.structs.replace(row, stage=index, **moments)


def test_attempts_count_stages_not_pools() -> None:
    """A level that stays too short is given up after three stages, pooled or not."""
    slo = (parse_slo("ttft_p95<=1s"),)
    nothing = Recommendation(
        demand=Demand(users=5), slo=slo, confidence=0.9, spare=0, routing="", recommended=None,
        options=(),
    )  # fmt: skip
    for counts, gives_up in (((8, 8), False), ((8, 8, 8), True)):
        run = repeated(*counts)
        step = plan_next(nothing, samples_of(run), run.manifest.targets, top=1)
        assert (step is None) == gives_up
