"""Telemetry in a run folder: kept through a kill, read by any Parquet reader, loud when damaged."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import RunFolderError
from planner.records import TelemetrySample
from planner.runfolder import RunWriter, read_run
from planner.telemetry import Telemetry
from planner.telemetry_file import TelemetryJournal, finish_telemetry, read_telemetry
from tests.planner.test_telemetry import RUN

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = RUN.manifest


def sample(time_s: float, **values: float) -> TelemetrySample:
    """A sample of one page."""
    return TelemetrySample(time_s=time_s, target="a", source="/metrics", values=values)


def same(left: Telemetry, right: Telemetry) -> bool:
    """Whether two telemetries hold the same figures."""
    return {k: (s.time_s.tolist(), s.value.tolist()) for k, s in left.series.items()} == {
        k: (s.time_s.tolist(), s.value.tolist()) for k, s in right.series.items()
    }


def kept(path: Path, samples: list[TelemetrySample]) -> RunWriter:
    """A new run folder whose writer has taken some samples."""
    writer = RunWriter.create(path, MANIFEST)
    for one in samples:
        writer.sample(one)
    writer.flush()
    return writer


SAMPLES = [sample(float(t), running=t % 4.0, waiting=1.0, output_tokens_total=t * 9.5)
           for t in range(200)]  # fmt: skip


def test_any_reader_of_parquet_reads_it(tmp_path: Path) -> None:
    """The file has five plain columns, compressed by zstd, and one row for each figure."""
    kept(tmp_path / "run", SAMPLES).finish(MANIFEST)
    path = tmp_path / "run" / "telemetry.parquet"
    table = pq.read_table(path)
    assert table.column_names == ["time_s", "target", "source", "name", "value"]
    assert len(table) == 3 * len(SAMPLES)
    running = table.filter(pc.equal(table["name"].cast(pa.string()), "running"))
    assert running["value"].to_pylist() == [s.values["running"] for s in SAMPLES]
    footer = pq.read_metadata(path)
    assert footer.row_group(0).column(0).compression == "ZSTD"
    assert not list((tmp_path / "run").glob("*.journal"))
    assert same(read_run(tmp_path / "run").telemetry(), Telemetry.from_samples(SAMPLES))


def test_a_killed_run_keeps_its_samples(tmp_path: Path) -> None:
    """Without the end of the run the journal is read; a torn tail costs its last sample only."""
    writer = kept(tmp_path / "run", SAMPLES)
    (journal,) = (tmp_path / "run").glob("telemetry-*.journal")
    assert same(read_telemetry(tmp_path / "run"), Telemetry.from_samples(SAMPLES))
    journal.write_bytes(journal.read_bytes()[:-3])
    assert same(read_telemetry(tmp_path / "run"), Telemetry.from_samples(SAMPLES[:-1]))
    notes: list[str] = []
    finish_telemetry(tmp_path / "run", notes)
    assert "torn tail" in notes[0]
    writer.close()


def test_a_run_that_goes_on_adds_to_its_telemetry(tmp_path: Path) -> None:
    """A second sitting's samples stand behind the first's, in the file and before it is made."""
    kept(tmp_path / "run", SAMPLES[:120]).finish(MANIFEST)
    again = RunWriter.resume(tmp_path / "run")
    for one in SAMPLES[120:]:
        again.sample(one)
    again.flush()
    assert same(read_telemetry(tmp_path / "run"), Telemetry.from_samples(SAMPLES))
    again.finish(MANIFEST)
    assert same(read_telemetry(tmp_path / "run"), Telemetry.from_samples(SAMPLES))


def test_a_kill_before_the_journal_is_removed_counts_nothing_twice(tmp_path: Path) -> None:
    """The file names the journals that it has taken in: left ones are not read again."""
    folder = tmp_path / "run"
    writer = kept(folder, SAMPLES)
    (journal,) = folder.glob("telemetry-*.journal")
    whole = journal.read_bytes()
    writer.finish(MANIFEST)
    journal.write_bytes(whole)
    assert same(read_telemetry(folder), Telemetry.from_samples(SAMPLES))
    finish_telemetry(folder, [])
    assert not journal.exists()
    assert same(read_telemetry(folder), Telemetry.from_samples(SAMPLES))
    another = TelemetryJournal(folder)
    another.close()
    assert (folder / "telemetry-1.journal").exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"no MessagePack",
        msgspec.msgpack.encode({"time_s": 1.0}),
        msgspec.msgpack.encode(sample(math.nan, running=1.0)),
        msgspec.msgpack.encode(sample(1.0, running=math.inf)),
    ],
)
def test_a_frame_that_is_no_sample_is_left_out(tmp_path: Path, payload: bytes) -> None:
    """An intact frame of something else, or without numbers, is dropped, counted and told."""
    journal = TelemetryJournal(tmp_path)
    journal.append(SAMPLES[0])
    journal.write(payload)
    journal.append(SAMPLES[1])
    journal.close()
    assert same(read_telemetry(tmp_path), Telemetry.from_samples(SAMPLES[:2]))
    notes: list[str] = []
    finish_telemetry(tmp_path, notes)
    assert notes == ["telemetry-0.journal: 1 damaged samples dropped"]


def test_without_telemetry_there_is_no_file(tmp_path: Path) -> None:
    """A run that looked at no server leaves no telemetry behind."""
    kept(tmp_path / "run", []).finish(MANIFEST)
    assert not list((tmp_path / "run").glob("telemetry*"))
    assert read_telemetry(tmp_path / "run").series == {}


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _not_a_number(path: Path) -> None:
    table = pq.read_table(path)
    column = pa.array([float("nan")] * len(table))
    pq.write_table(table.set_column(4, "value", column), path)


def _newer(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"headroom.schema": b"99"}), path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_foreign, "was not written by Headroom"),
        (_cut, "cannot be read as Parquet"),
        (_not_a_number, "not a number"),
        (_newer, "upgrade Headroom"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, spoil: object, told: str) -> None:
    """What is torn, foreign, newer or absurd is refused by name, in one line."""
    kept(tmp_path / "run", SAMPLES).finish(MANIFEST)
    path = tmp_path / "run" / "telemetry.parquet"
    assert callable(spoil)
    spoil(path)
    with pytest.raises(RunFolderError, match=told) as caught:
        read_telemetry(tmp_path / "run")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300), st.booleans())
def test_no_journal_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, tail: bytes,
                                       head: bool) -> None:  # fmt: skip
    """Any bytes behind a journal's header, or in its place, give samples or one error."""
    folder = tmp_path_factory.mktemp("any")
    start = struct.pack("<8sI", b"headtele", 1) if head else b""
    (folder / "telemetry-0.journal").write_bytes(start + tail)
    try:
        assert isinstance(read_telemetry(folder), Telemetry)
    except RunFolderError:
        assert not head
