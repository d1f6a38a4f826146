"""Offsets from round trips: the true one is always within the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.clocksync import DRIFT, Offset, better, measured, on_the_other_clock
from planner.records import RequestRecord

seconds = st.floats(min_value=0, max_value=10)
moments = st.floats(min_value=-1e5, max_value=1e5)


@given(ahead_s=moments, start_s=moments, there_s=seconds, back_s=seconds)
def test_the_truth_is_within_the_bound(
    ahead_s: float, start_s: float, there_s: float, back_s: float
) -> None:
    """However unequal the two ways are, half the round trip covers the error."""
    found = measured(
        sent_s=start_s + ahead_s,
        other_s=start_s + there_s,
        received_s=start_s + there_s + back_s + ahead_s,
    )
    assert abs(found.offset_s - ahead_s) <= found.bound_s + 1e-9
    assert found.bound_s == pytest.approx((there_s + back_s) / 2, abs=1e-9)


def test_equal_ways_are_exact() -> None:
    """A question of 1 ms and an answer of 1 ms show the offset itself."""
    found = measured(sent_s=7.0, other_s=0.001, received_s=7.002)
    assert found.offset_s == pytest.approx(7.0)
    assert found.bound_s == pytest.approx(0.001)


def test_the_shortest_round_trip_is_kept_until_drift_outgrows_it() -> None:
    """A better reading replaces a worse one; a slightly worse one only when the old is stale."""
    short = Offset(offset_s=1.0, bound_s=0.001, taken_s=0.0)
    longer = Offset(offset_s=2.0, bound_s=0.0011, taken_s=1.0)
    assert better(None, longer) is longer
    assert better(longer, short) is short
    assert better(short, longer) is short
    later = Offset(offset_s=2.0, bound_s=0.0011, taken_s=0.00011 / DRIFT)
    assert better(short, later) is later
    assert short.bound_at(100.0) == pytest.approx(0.001 + 100 * DRIFT)


@given(by_s=moments)
def test_a_record_moves_as_a_whole(by_s: float) -> None:
    """Moments move by the offset, durations not at all, and what is unknown stays unknown."""
    record = RequestRecord(
        id=1, stage=0, target="a", backend="openai", user=0, scheduled_s=1.0, sent_s=1.5,
        connect_s=0.25, headers_s=None, first_token_s=2.0, ended_s=4.0, status="ok",
    )  # fmt: skip
    moved = on_the_other_clock(record, Offset(offset_s=by_s, bound_s=0.0, taken_s=0.0))
    assert moved.sent_s == pytest.approx(1.5 - by_s)
    assert moved.ended_s - moved.scheduled_s == pytest.approx(3.0, abs=1e-9)
    assert moved.first_token_s is not None
    assert moved.first_token_s - moved.sent_s == pytest.approx(0.5, abs=1e-9)
    assert (moved.connect_s, moved.headers_s) == (0.25, None)
