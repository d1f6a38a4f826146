"""Live figures: as near to the truth as they say, mergeable, and with the planner's definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.histograms import ACCURACY, FIGURES, StageHistograms
from planner.table import RequestTable
from tests.planner.examples import request

if TYPE_CHECKING:
    from planner.records import RequestRecord

RELATIVE = ACCURACY * 1.001  # rounding of floats on top


def seen(records: list[RequestRecord]) -> StageHistograms:
    """The histograms of these requests."""
    found = StageHistograms()
    for record in records:
        found.see(record)
    return found


def lasting(seconds: float) -> RequestRecord:
    """A request that lasts so long."""
    return request(0.0, seconds, first_token_s=seconds / 2, output_tokens=11)


@given(
    values=st.lists(st.floats(1e-6, 3600.0), min_size=1, max_size=200),
    quantile=st.floats(0.0, 1.0),
)
def test_quantiles_are_within_their_accuracy(values: list[float], quantile: float) -> None:
    """A quantile is within the stated share of the sample's own."""
    found = seen([lasting(value) for value in values])
    truth = float(np.quantile(values, quantile, method="lower"))
    for figure, share in (("e2e", 1.0), ("ttft", 0.5), ("tpot", 0.05)):
        value_s = found.quantile(figure, quantile)  # type: ignore[arg-type]
        near = {float(v) for v in values if abs(v - truth) <= 1e-9 * truth} | {truth}
        assert any(value_s == pytest.approx(v * share, rel=RELATIVE) for v in near)


@given(
    parts=st.lists(st.lists(st.floats(1e-4, 100.0), max_size=30), min_size=1, max_size=5),
    quantile=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_merging_loses_nothing(parts: list[list[float]], quantile: float) -> None:
    """Histograms of parts, merged, are the histogram of all."""
    merged = StageHistograms()
    for part in parts:
        merged.merge(seen([lasting(value) for value in part]))
    whole = seen([lasting(value) for part in parts for value in part])
    assert (merged.completed, merged.failed) == (whole.completed, whole.failed)
    for figure in FIGURES:
        assert merged.quantile(figure, quantile) == whole.quantile(figure, quantile)


def test_figures_are_defined_as_the_planner_does() -> None:
    """From the intended start, without connecting, and per token after the first."""
    record = request(
        1.0, 3.5, scheduled_s=0.75, connect_s=0.125, first_token_s=1.5, output_tokens=9
    )
    table, found = RequestTable.from_records([record]), seen([record])
    for figure in FIGURES:
        expected = float(getattr(table, f"{figure}_s")[0])
        assert found.quantile(figure, 0.5) == pytest.approx(expected, rel=RELATIVE)


def test_only_good_requests_are_timed() -> None:
    """Failures are counted, cut-off requests are not, and neither has a time."""
    statuses = ("error", "timeout", "cancelled", "cancelled")
    found = seen([request(0.0, 9.0, status=status) for status in statuses])
    assert (found.completed, found.failed) == (0, 2)
    assert [found.quantile(figure, 0.5) for figure in FIGURES] == [None] * 3
    assert found.told() == ""
    found.see(request(0.0, 2.0, first_token_s=None, output_tokens=None))
    assert (found.completed, found.quantile("ttft", 0.5)) == (1, None)
    found.see(request(0.0, 2.0, first_token_s=1.0, output_tokens=1))
    assert found.quantile("tpot", 0.5) is None
    found.see(request(0.0, 2.0, first_token_s=1.0, output_tokens=201))
    assert found.told().startswith("TTFT p95 ")
    assert "TPOT p95 5.0" in found.told()
