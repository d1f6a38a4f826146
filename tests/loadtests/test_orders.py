"""What travels to workers: the schedule as a whole, numbers that nobody else has."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadtests.orders import ArrivalOrder, Orders
from loadtests.ownjournal import DIRECTORY, OwnJournal
from loadtests.traffic.arrivals import parse_arrivals
from planner.journal import Damage, read_journal
from planner.records import RequestRecord

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


@given(
    spec=st.sampled_from(["constant", "poisson", "gamma:2", "gamma:0.5"]),
    workers=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    rate_per_s=st.floats(0.1, 1e4),
)
def test_shares_are_the_schedule(spec: str, workers: int, seed: int, rate_per_s: float) -> None:
    """Every n-th arrival of each worker's own computation: together the one schedule, exactly."""
    order = ArrivalOrder.of(parse_arrivals(spec), max_in_flight=9)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=ArrivalOrder)

    def schedule() -> list[float]:
        moments = sent.pattern().moments(rate_per_s, np.random.default_rng([seed, 0, 1]))
        return list(itertools.islice(moments, 200))

    alone = parse_arrivals(spec).moments(rate_per_s, np.random.default_rng([seed, 0, 1]))
    shares = [schedule()[place::workers] for place in range(workers)]
    assert sorted(itertools.chain(*shares)) == list(itertools.islice(alone, 200))


def test_a_trace_travels_without_its_file(tmp_path: Path) -> None:
    """The moments are the trace's at any rate, bit for bit."""
    file = tmp_path / "t.jsonl"
    rows = (f'{{"timestamp":{at},"input_length":9,"output_length":9}}\n' for at in (0, 7, 9, 40))
    file.write_text("".join(rows))
    pattern = parse_arrivals(f"trace:{file}")
    order = ArrivalOrder.of(pattern, max_in_flight=9)
    file.unlink()
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=ArrivalOrder).pattern()
    rng = np.random.default_rng(1)
    assert list(sent.moments(3.0, rng)) == list(pattern.moments(3.0, rng))
    assert sent.spec == "trace:t.jsonl"


def test_numbers_meet_nowhere() -> None:
    """Workers of one sitting, and the same worker in a later one, number requests apart."""
    seen: set[int] = set()
    for began_us, worker in itertools.product((0, 5_000_000), range(1, 5)):
        order = Orders(sitting="x", started_unix_s=0.0, first_id=began_us, keep=True)
        mine = set(itertools.islice(order.ids(worker), 1000))
        assert not mine & seen
        assert max(mine) < 2**63
        seen |= mine


def _record(number: int) -> RequestRecord:
    return RequestRecord(
        id=number, stage=0, target="a", backend="openai", user=0, scheduled_s=1.0, sent_s=1.0,
        ended_s=2.0, status="ok",
    )  # fmt: skip


def test_own_journal_can_be_read_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies where the environment says, has what was flushed, and leaves nothing behind."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    journal = OwnJournal(None, 1.7e9, 3)
    journal.append(_record(1))
    journal.append(_record(2))
    journal.flush()
    (file,) = tmp_path.glob("run-20231114T221320Z/requests-3-0.journal")
    assert [record.id for record in read_journal(file, Damage())] == [1, 2]
    journal.remove()
    assert list(tmp_path.iterdir()) == []
    journal.append(_record(3))  # late ones do no harm


def test_own_journal_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says so, and the load goes on."""
    (tmp_path / "file").touch()
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "file"))
    journal = OwnJournal(None, 1.7e9, 1)
    journal.append(_record(1))
    journal.flush()
    journal.remove()
    assert [r.message for r in caplog.records if "keeps no copy" in r.message]
    assert len(caplog.records) == 1
