"""Warm-up, steady windows and the live verdict."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.steady import (
    Window,
    in_flight_mean,
    little_ratio,
    mser5,
    stage_verdict,
    steady_window,
)
from planner.table import RequestTable
from tests.planner.examples import closed_loop, request, stage


def table_until(moment: float, users: int = 4, slots: int = 4, seed: int = 1) -> RequestTable:
    """What a driver knows of a closed loop at a moment."""
    rows = closed_loop(users, slots, 200.0, np.random.default_rng(seed))
    return RequestTable.from_records([row for row in rows if row.ended_s <= moment])


def test_mser5_drops_the_transient() -> None:
    """A mean that starts three times too high is dropped to within a batch or two of its end."""
    rng = np.random.default_rng(2)
    series = rng.gamma(20, 0.05, size=1000)
    series[:150] *= np.linspace(3, 2, 150)
    assert 145 <= mser5(series) <= 175


@given(st.lists(st.floats(0, 1e3), max_size=400).map(np.array))
def test_mser5_minimises_its_formula(series: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """The cut has the least standard error of all cuts up to the half, by the formula itself."""
    cut = mser5(series)
    batches = series[: len(series) // 5 * 5].reshape(-1, 5).mean(axis=1)
    if len(batches) < 20:
        assert cut == 0
        return
    errors = [
        np.sum((batches[d:] - batches[d:].mean()) ** 2) / (len(batches) - d) ** 2
        for d in range(len(batches) // 2 + 1)
    ]
    assert errors[cut // 5] == pytest.approx(min(errors), rel=1e-6, abs=1e-6)


def test_the_first_wave_is_excluded() -> None:
    """The window begins when each of the users has finished its first request."""
    waves = [(0.0, 5.0), (5.0, 6.0), (6.0, 7.0)]
    rows = [request(a, b + user / 10, user=user) for a, b in waves for user in range(3)]
    window = steady_window(RequestTable.from_records(rows), stage(3, end=8.0), now_s=8.0)
    assert window == Window(5.2, 8.0)


def test_a_missing_user_keeps_the_stage_from_counting() -> None:
    """Until every user has finished a request there is no steady window."""
    table = RequestTable.from_records([request(0.0, 1.0, user=k) for k in range(3)])
    window = steady_window(table, stage(8, end=None), now_s=2.0)
    assert window.reason == "5 of 8 users have not finished a request yet"


def test_open_arrivals_exclude_what_began_before_the_first_answer() -> None:
    """With a rate the first wave is all that was in flight at the first answer."""
    rows = [request(0.0, 4.0), request(1.0, 2.0), request(1.5, 3.0), request(3.0, 9.0)]
    table = RequestTable.from_records(rows)
    window = steady_window(table, stage(1, end=10.0, load_kind="rate"), now_s=10.0)
    assert window == Window(4.0, 10.0)


def test_an_overloaded_open_loop_is_not_steady() -> None:
    """At a rate above capacity the latency climbs, and the window says from where to where."""
    rows = [request(i * 0.9, (i + 1) * 1.0, id=i, user=i) for i in range(200)]
    window = steady_window(
        RequestTable.from_records(rows), stage(1 / 0.9, end=200.0, load_kind="rate"), now_s=200.0
    )
    assert window.reason is not None
    assert window.reason.startswith("not steady: the mean E2E latency went from")


def test_a_steady_loop_seldom_looks_unsteady() -> None:
    """Of 100 stationary stages at most 4 are called drifting (level 1 %, and only above 20 %)."""
    rng = np.random.default_rng(3)
    reasons = []
    for _ in range(100):
        table = RequestTable.from_records(closed_loop(2, 2, 60.0, rng))
        reasons.append(steady_window(table, stage(2, end=60.0), now_s=60.0).reason)
    assert sum(reason is not None for reason in reasons) <= 4


def test_the_window_of_a_running_stage_ends_now() -> None:
    """Requests of the future do not count, and the end of a finished stage wins over now."""
    table = table_until(50.0)
    assert steady_window(table, stage(4, end=None), now_s=50.0).end_s == 50.0
    assert steady_window(table, stage(4, end=40.0), now_s=50.0).end_s == 40.0


def test_no_requests_are_no_window() -> None:
    """An empty stage says so."""
    window = steady_window(RequestTable.from_records([]), stage(1, end=None), now_s=3.0)
    assert window.reason == "no request has ended yet"


def test_in_flight_is_the_integral_of_the_overlaps() -> None:
    """Requests that reach over the window's edges count by the part inside."""
    rows = [request(0.0, 10.0), request(4.0, 6.0), request(5.0, 20.0), request(30.0, 31.0)]
    table = RequestTable.from_records(rows)
    assert in_flight_mean(table, Window(5.0, 15.0)) == pytest.approx((5 + 1 + 10) / 10)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 100))
def test_littles_law_holds_in_a_long_closed_loop(users: int, slots: int, seed: int) -> None:
    """X·R is the number in flight, within the share of a round at the edges, in any closed loop."""
    rows = closed_loop(users, slots, 400.0, np.random.default_rng(seed))
    window = Window(100.0, 400.0)
    table = RequestTable.from_records(rows)
    assert in_flight_mean(table, window) == pytest.approx(users)
    assert little_ratio(table, window) == pytest.approx(1, abs=0.10)


def test_the_verdict_names_what_is_missing_and_then_nothing() -> None:
    """Early: users, answers, throughput; at the end: steady. The count never falls behind."""
    verdicts = {
        now: stage_verdict(table_until(now), stage(4, end=None), now_s=now, quantile=0.95)
        for now in (0.4, 16.0, 200.0)
    }
    assert "users have not finished a request yet" in verdicts[0.4].reason
    assert "of 59 answers for p95" in verdicts[16.0].reason
    assert "throughput ±" in verdicts[16.0].reason
    assert [verdict.done for verdict in verdicts.values()] == [False, False, True]
    assert verdicts[200.0].reason == "steady"
    assert verdicts[200.0].half_width is not None
    assert verdicts[200.0].half_width <= 0.10


@pytest.mark.parametrize(("quantile", "needed"), [(None, 30), (0.5, 30), (0.95, 59), (0.99, 299)])
def test_the_verdict_needs_enough_answers_for_the_percentile(
    quantile: float | None, needed: int
) -> None:
    """The percentile asked for decides, above a floor."""
    verdict = stage_verdict(table_until(60.0), stage(4, end=None), now_s=60.0, quantile=quantile)
    assert verdict.needed == needed


def test_lock_step_is_not_noise() -> None:
    """Users whose requests all take as long end in rounds; after the last one X is known well."""
    rows = [request(r * 10.0, r * 10 + 10 - u / 50, user=u) for r in range(5) for u in range(32)]
    table = RequestTable.from_records(rows)
    verdict = stage_verdict(table, stage(32, end=None), now_s=50.5, quantile=0.95)
    assert verdict.done, verdict.reason


def test_failures_do_not_count_as_answers() -> None:
    """A stage of nothing but errors is never done."""
    rows = [
        msgspec.structs.replace(row, status="error", output_tokens=None)
        for row in closed_loop(4, 4, 200.0, np.random.default_rng(1))
    ]
    verdict = stage_verdict(
        RequestTable.from_records(rows), stage(4, end=None), now_s=200.0, quantile=None
    )
    assert not verdict.done
    assert verdict.completed == 0


def test_a_window_shorter_than_a_few_requests_goes_on() -> None:
    """Two rounds of 32 users are answers enough for p95, but X·R is not the number in flight."""
    rows = [request(r * 10.0, r * 10 + 10 - u / 50, user=u) for r in range(3) for u in range(32)]
    table = RequestTable.from_records(rows)
    verdict = stage_verdict(table, stage(32, end=None), now_s=35.0, quantile=0.95)
    assert verdict.completed >= 59
    assert "X·R is 78% of the load, wanted 100 ± 10%" in verdict.reason


@pytest.mark.parametrize(("busy", "done"), [(0.1, True), (0.85, False)])
def test_an_open_loop_goes_on_until_its_crowds_are_known(busy: float, done: bool) -> None:
    """A hundred answers of a calm server bound a tail; of a crowded one they are worth a few."""
    rng = np.random.default_rng(3)
    rows, free = [], 0.0
    for sent in np.cumsum(rng.exponential(1.0, size=150)):
        begun = max(free, float(sent))
        free = begun + busy * rng.uniform(0.9, 1.1)
        rows.append(request(float(sent), free, first_token_s=begun + busy / 10))
    table = RequestTable.from_records(rows)
    verdict = stage_verdict(
        table, msgspec.structs.replace(stage(1, end=None), load_kind="rate"),
        now_s=free, quantile=0.95, target_half_width=0.5,
    )  # fmt: skip
    assert verdict.completed >= verdict.needed
    assert verdict.done == done, verdict.reason
    assert ("of 59 independent answers" in verdict.reason) == (not done)
