"""The request table: columns, derived figures, selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.table import STATUS, RequestTable
from tests.planner.examples import records, request

if TYPE_CHECKING:
    from planner.records import RequestRecord


def columns(table: RequestTable) -> dict[str, list[Any]]:
    """All columns as lists, NaN as None."""
    return {
        name: [None if np.isnan(value) else value for value in getattr(table, name).tolist()]
        for name in RequestTable.__slots__
    }


@given(st.lists(records(), max_size=6))
def test_columns_hold_the_records(rows: list[RequestRecord]) -> None:
    """Every column has the records' values in order; what was not reported is NaN."""
    table = RequestTable.from_records(rows)
    assert len(table) == len(rows)
    assert table.stage.tolist() == [row.stage for row in rows]
    assert [STATUS[code] for code in table.status] == [row.status for row in rows]
    for name in ("connect_s", "first_token_s", "output_tokens"):
        assert columns(table)[name] == [getattr(row, name) for row in rows]
    for i, row in enumerate(rows):
        mine = table.gaps_s[table.gap_offsets[i] : table.gap_offsets[i + 1]]
        assert mine.tobytes() == row.gaps_s


@given(st.lists(st.tuples(records(), st.booleans()), max_size=6))
def test_where_keeps_the_masked_rows_with_their_gaps(
    rows: list[tuple[RequestRecord, bool]],
) -> None:
    """Selecting rows of a table is the table of the selected rows."""
    table = RequestTable.from_records([row for row, _ in rows])
    mask = np.array([kept for _, kept in rows], dtype=bool)
    expected = RequestTable.from_records([row for row, kept in rows if kept])
    assert columns(table.where(mask)) == columns(expected)


@given(st.lists(st.lists(records(), max_size=3), max_size=4))
def test_concat_is_one_table_of_all_rows(parts: list[list[RequestRecord]]) -> None:
    """Joining tables is the table of the joined records."""
    joined = RequestTable.concat([RequestTable.from_records(part) for part in parts])
    expected = RequestTable.from_records([row for part in parts for row in part])
    assert columns(joined) == columns(expected)


def test_derived_figures_follow_their_definitions() -> None:
    """TTFT and E2E count from the intended start; TPOT = (E2E - TTFT) / (tokens - 1)."""
    row = request(10.0, 13.0, sent_s=10.25, first_token_s=11.0, output_tokens=5)
    table = RequestTable.from_records([row])
    assert table.ttft_s.tolist() == [1.0]
    assert table.ttft_from_send_s.tolist() == [0.75]
    assert table.e2e_s.tolist() == [3.0]
    assert table.send_lag_s.tolist() == [0.25]
    assert table.tpot_s == pytest.approx([(3.0 - 1.0) / 4])
    assert table.gaps_s.tobytes() == row.gaps_s


@pytest.mark.parametrize(
    "changes", [{"output_tokens": 1}, {"output_tokens": None}, {"first_token_s": None}]
)
def test_tpot_of_fewer_than_two_tokens_is_not_reported(changes: dict[str, Any]) -> None:
    """One token has no time per further token, and an unknown number has none either."""
    table = RequestTable.from_records([request(0.0, 1.0, **changes)])
    assert np.isnan(table.tpot_s).all()


def test_connecting_is_no_part_of_a_latency() -> None:
    """TTFT and E2E count from the intended start less the connecting; TPOT is unchanged by it."""
    plain, slow = (
        RequestTable.from_records(
            [request(0.0, 3.0 + connect, first_token_s=1.0 + connect, connect_s=connect or None)]
        )
        for connect in (0.0, 0.5)
    )
    assert slow.ttft_s == pytest.approx(plain.ttft_s)
    assert slow.e2e_s == pytest.approx(plain.e2e_s)


def test_connecting_ahead_delays_nothing() -> None:
    """What of connecting lay before the intended start is not taken off a latency; the rest is."""
    row = request(0.0, 3.0, first_token_s=1.0, connect_s=0.5, connect_ahead_s=0.4)
    table = RequestTable.from_records([row])
    assert table.due_s == pytest.approx([0.1])
    assert table.ttft_s == pytest.approx([0.9])
    assert row.due_s == pytest.approx(0.1)
