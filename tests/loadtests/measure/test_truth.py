"""The comparison of what a client saw with what the reference server said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.measure.truth import Observed, compare

TICKS = st.lists(st.integers(1, 10**8), min_size=1, max_size=20).map(
    lambda gaps: [10**12 + sum(gaps[:i]) for i in range(1, len(gaps) + 1)]
)


def observed(received: int, sent: list[int], seen: list[float], sent_at: float) -> Observed:
    """A request whose text says when it was received and when its events were sent."""
    text = f" R{received:016d}" + "".join(f" T{ns:016d}" for ns in sent)
    return Observed(sent_at, np.array(seen, dtype=np.float64), text)


@given(TICKS, st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_constant_delay_is_the_arrival_error(sent: list[int], delay_ns: int, way_ns: int) -> None:
    """Seen d later, arrivals are off by d and gaps by nothing; TTFT is off by both ways."""
    received = sent[0] - 10**6
    seen = [float(ns + delay_ns) for ns in sent]
    errors = compare([observed(received, sent, seen, received - way_ns)])
    assert (errors.requests, errors.chunks, errors.wrong) == (1, len(sent), 0)
    assert errors.arrival.max_s == pytest.approx(delay_ns * 1e-9, abs=1e-12)
    assert errors.ttft.p50_s == pytest.approx((delay_ns + way_ns) * 1e-9, abs=1e-12)
    if len(sent) > 1:
        assert errors.itl.max_s == pytest.approx(0, abs=1e-12)


def test_events_seen_together_are_coalesced() -> None:
    """Two of three events at one moment: one of three is coalesced."""
    errors = compare([observed(1, [10, 20, 30], [25.0, 25.0, 35.0], 0)])
    assert errors.coalesced_share == pytest.approx(1 / 3)
    assert errors.itl.max_s == pytest.approx(10e-9)


def test_a_request_with_other_events_is_wrong() -> None:
    """A lost event, or a text without the truth, is counted and compared with nothing."""
    errors = compare(
        [observed(1, [10, 20], [25.0], 0), Observed(0, np.array([1.0]), " no truth in here")]
    )
    assert (errors.wrong, errors.requests, errors.chunks) == (2, 0, 0)
    assert (errors.arrival.p50_s, errors.coalesced_share) == (None, None)


def test_what_is_seen_while_stopping_is_left_out() -> None:
    """Only events up to the given moment are compared."""
    cut = observed(1, [10, 20], [15.0, 999.0], 0)
    errors = compare([cut, observed(1, [500], [600.0], 0)], until_ns=100)
    assert (errors.requests, errors.chunks, errors.wrong) == (1, 1, 0)
    assert errors.arrival.max_s == pytest.approx(5e-9)
