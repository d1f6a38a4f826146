"""Run folders: what is written is read, after a kill too; bad ones are refused in one line."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import lock, runfolder
from planner.errors import InputError, RunFolderError
from planner.lock import LOCK_FILE
from planner.manifest import is_run, read_manifest
from planner.records import SCHEMA, RequestRecord
from planner.runfolder import RunWriter, read_records, read_run
from tests.planner.examples import manifest, records, request, stage

if TYPE_CHECKING:
    from collections.abc import Callable


def written(path: Path, rows: list[RequestRecord], *, finish: bool = False) -> Path:
    """A run folder with these requests."""
    writer = RunWriter.create(path, manifest(stage(1, end=9.0)))
    for row in rows:
        writer.append(row)
    if finish:
        writer.finish(manifest(stage(1, end=9.0)))
    writer.close()
    return path


def some(count: int) -> list[RequestRecord]:
    """Distinct requests."""
    return [request(float(i), i + 1.5, id=i) for i in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.lists(records(), max_size=5), st.lists(records(), max_size=5))
def test_records_survive_journal_and_parquet(
    first: list[RequestRecord], more: list[RequestRecord]
) -> None:
    """What was appended is read, from the journal, from Parquet, and after a second sitting."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "run", first)
        assert list(read_records(path)) == first
        RunWriter.resume(path).finish(manifest())
        assert list(read_records(path)) == first
        writer = RunWriter.resume(path)
        for row in more:
            writer.append(row)
        writer.finish(manifest(state="interrupted"))
        assert list(read_records(path)) == first + more
        assert len(read_run(path).requests) == len(first + more)
        assert read_manifest(path) == manifest(state="interrupted")
        assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "requests.parquet"]


def test_journal_and_parquet_give_the_same_table(tmp_path: Path) -> None:
    """A killed run and a finished one are read alike, error kinds included."""
    rows = [*some(3), request(1.0, 2.0, status="error", error_kind="http_500", first_token_s=None)]
    killed = read_run(written(tmp_path / "killed", rows))
    finished = read_run(written(tmp_path / "finished", rows, finish=True))
    assert killed.errors == finished.errors == {0: {"http_500": 1}}
    for name in killed.requests.__slots__:
        assert (
            getattr(killed.requests, name).tobytes() == getattr(finished.requests, name).tobytes()
        )
    assert finished.notes == ()
    assert "killed or still runs: 4 requests" in killed.notes[0]


def test_gaps_may_be_left_unread(tmp_path: Path) -> None:
    """Without gaps the rest of the table is there."""
    run = read_run(written(tmp_path / "run", some(3), finish=True), gaps=False)
    assert len(run.requests) == 3
    assert not run.requests.gap_offsets.any()


def test_any_cut_of_the_last_record_keeps_the_earlier_ones(tmp_path: Path) -> None:
    """Truncated at every byte of its last record, a journal gives all records before it."""
    rows = some(3)
    path = written(tmp_path / "run", rows)
    journal = path / "requests-0-0.journal"
    whole = journal.read_bytes()
    last = 8 + len(msgspec.msgpack.encode(rows[-1]))
    for cut in range(1, last + 1):
        journal.write_bytes(whole[:-cut])
        assert list(read_records(path)) == rows[:-1]
        notes = read_run(path).notes
        torn = (
            [f"requests-0-0.journal: torn tail, {last - cut} bytes dropped"] if cut < last else []
        )
        assert list(notes[1:]) == torn


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damage_never_invents_a_record(data: st.DataObject) -> None:
    """Any flipped bit loses some records, says so, and never changes one."""
    rows = some(4)
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "run", rows)
        journal = path / "requests-0-0.journal"
        content = bytearray(journal.read_bytes())
        at = data.draw(st.integers(12, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        journal.write_bytes(content)
        found = list(read_records(path))
        assert len(found) < len(rows)
        assert all(row in rows for row in found)
        assert len(read_run(path).notes) > 1


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_arbitrary_bytes_after_the_header_are_survived(tail: bytes) -> None:
    """A journal that goes on with rubbish gives the records before it and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder) / "run", some(2))
        with (path / "requests-0-0.journal").open("ab") as file:
            file.write(tail)
        assert list(read_records(path)) == some(2)


@pytest.mark.parametrize(
    "changes",
    [
        *({"ended_s": float("nan")}, {"sent_s": 1e12}, {"stage": -1}, {"user": 2**40}),
        *({"gaps_s": b"abc"}, {"output_tokens": -5}, {"first_token_s": float("inf")}),
        {"ended_s": -1.0},
    ],
)
def test_impossible_records_are_dropped_and_counted(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A record that no measurement can give, with a right checksum, does not reach the figures."""
    path = written(tmp_path / "run", [*some(1), msgspec.structs.replace(some(1)[0], **changes)])
    run = read_run(path)
    assert len(run.requests) == 1
    assert run.notes[1] == "requests-0-0.journal: 1 damaged records dropped"


def test_overlong_and_broken_texts_of_a_server_are_cut_not_lost(tmp_path: Path) -> None:
    """A server's endless error text costs its tail, not the record."""
    row = request(0.0, 1.0, status="error", error="x" * 10_000, error_kind="\ud800")
    (found,) = read_records(written(tmp_path / "run", [row]))
    assert found.error == "x" * 2000
    assert found.error_kind == "?"


CHILD = """
import sys, time
from pathlib import Path
from planner.runfolder import RunWriter
from tests.planner.examples import manifest, request, stage
writer = RunWriter.create(Path(sys.argv[1]), manifest(stage(1, end=None), state="running"))
for i in range(1000):
    writer.append(request(float(i), i + 1.5, id=i))
writer.flush()
print("flushed", flush=True)
for i in range(1000, 1500):
    writer.append(request(float(i), i + 1.5, id=i))
print("more", flush=True)
time.sleep(60)
"""


def test_a_killed_process_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    """After SIGKILL every flushed record is read, the rest is a clean prefix, and it can go on."""
    path = tmp_path / "run"
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"flushed\n"
        assert child.stdout.readline() == b"more\n"
        with pytest.raises(InputError, match="is being written by another process: wait for"):
            RunWriter.resume(path)
        os.kill(child.pid, signal.SIGKILL)
    found = [row.id for row in read_records(path)]
    assert found == list(range(len(found)))
    assert len(found) >= 1000
    assert read_manifest(path).state == "running"
    writer = RunWriter.resume(path)
    writer.append(request(0.0, 1.0, id=-1))
    writer.finish(manifest(stage(1, end=2000.0)))
    assert [row.id for row in read_records(path)] == [*found, -1]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second writer is turned away with nothing written; a worker and the next one are not."""
    path = tmp_path / "run"
    first = RunWriter.create(path, manifest())
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(InputError, match="is being written by another process"):
        RunWriter.resume(path)
    with pytest.raises(InputError, match="holds a run already"):
        RunWriter.create(path, manifest())
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    RunWriter.resume(path, worker=1).close()
    first.append(request(0.0, 1.0, id=7))
    first.finish(manifest())
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "requests.parquet"]
    RunWriter.resume(path).close()
    RunWriter.resume(path).finish(manifest())
    assert [row.id for row in read_records(path)] == [7]


def test_a_lock_left_behind_locks_nobody_out(tmp_path: Path) -> None:
    """The file of a killed process, in a folder that is new otherwise, is no obstacle."""
    path = tmp_path / "run"
    path.mkdir()
    (path / LOCK_FILE).touch()
    RunWriter.create(path, manifest()).finish(manifest())
    assert not (path / LOCK_FILE).exists()


def test_a_failed_beginning_gives_the_lock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after the lock was taken, a full disk for example, does not keep it."""
    path = written(tmp_path / "run", some(1), finish=True)
    with monkeypatch.context() as patch:
        patch.setattr(runfolder, "JournalWriter", _no_space)
        with pytest.raises(InputError, match="No space left"):
            RunWriter.resume(path)
    RunWriter.resume(path).finish(manifest())


def _no_space(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lock_that_was_removed_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who locks a file that its last holder has removed makes a new one: two never hold it."""
    first = lock.FolderLock(tmp_path)
    locking = lock._lock

    def late(descriptor: int) -> None:
        first.release()  # between the second's opening of the file and its locking
        locking(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(lock, "_lock", late)
        second = lock.FolderLock(tmp_path)
    with pytest.raises(InputError, match="is being written"):
        lock.FolderLock(tmp_path)
    second.release()
    lock.FolderLock(tmp_path).release()


def test_the_torn_tail_is_remembered_after_the_finish(tmp_path: Path) -> None:
    """What was lost stays in the manifest's notes when the journal is gone."""
    path = written(tmp_path / "run", some(2))
    journal = path / "requests-0-0.journal"
    journal.write_bytes(journal.read_bytes()[:-7])
    lost = RunWriter.resume(path).finish(manifest(notes=("before",)))
    assert len(lost) == 1
    assert read_manifest(path).notes == ("before", *lost)


def test_workers_write_their_own_journals(tmp_path: Path) -> None:
    """Several processes' requests end in one file, none twice."""
    path = tmp_path / "run"
    writers = [RunWriter.create(path, manifest())]
    writers += [RunWriter.resume(path, worker=k) for k in (1, 1, 2)]
    for number, writer in enumerate(writers):
        writer.append(request(0.0, 1.0, id=number))
        if number:
            writer.close()
    writers[0].finish(manifest())
    assert sorted(row.id for row in read_records(path)) == [0, 1, 2, 3]


def test_a_kill_between_rename_and_removal_counts_nothing_twice(tmp_path: Path) -> None:
    """Journals that the request file has taken in are ignored, then and after a second sitting."""
    path = written(tmp_path / "run", some(2))
    journal = path / "requests-0-0.journal"
    content = journal.read_bytes()
    RunWriter.resume(path).finish(manifest())
    journal.write_bytes(content)
    assert len(read_run(path).requests) == 2
    writer = RunWriter.resume(path)
    writer.append(request(5.0, 6.0, id=5))
    writer.finish(manifest())
    assert [row.id for row in read_records(path)] == [0, 1, 5]
    assert not journal.exists()


def test_the_request_file_is_plain_parquet(tmp_path: Path) -> None:
    """One row per request, columns named as the record's fields, gaps as lists, zstd, a version."""
    path = written(tmp_path / "run", some(3), finish=True) / "requests.parquet"
    file = pq.ParquetFile(path)
    names = [field.name for field in msgspec.structs.fields(RequestRecord)]
    assert sorted(file.schema_arrow.names) == sorted(names)
    assert file.schema_arrow.field("gaps_s").type == pa.list_(pa.float32())
    assert file.schema_arrow.metadata[b"headroom.schema"] == str(SCHEMA).encode()
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    row = file.read().to_pylist()[1]
    assert row["sent_s"] == 1.0
    assert row["gaps_s"] == pytest.approx([0.135] * 10)
    assert row["error"] is None


@pytest.mark.parametrize("what", ["run", "other"])
def test_create_refuses_a_folder_that_holds_something(tmp_path: Path, what: str) -> None:
    """Neither a kept run nor other files are overwritten."""
    path = tmp_path / "x"
    if what == "run":
        written(path, some(1))
    else:
        path.mkdir()
        (path / "thesis.tex").write_text("dear reader")
    expected = "a run already" if what == "run" else r"other files \(thesis.tex\)"
    with pytest.raises(InputError, match=f"holds {expected}: name a new or an empty folder"):
        RunWriter.create(path, manifest())
    assert is_run(path) == (what == "run")


def test_create_says_why_it_cannot_write(tmp_path: Path) -> None:
    """A file in the way is an input error of one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file/run: Not a directory"):
        RunWriter.create(tmp_path / "file" / "run", manifest())


def edited(path: Path, **changes: Any) -> None:
    """Change top-level fields of a manifest on disk."""
    file = path / "manifest.json"
    document = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(document | changes))


ONE = {"index": 0, "target": "t", "load_kind": "rate", "load": 1, "started_s": 0}
SPOIL: dict[str, Callable[[Path], Any]] = {
    "empty": lambda run: list(map(Path.unlink, run.iterdir())),
    "foreign": lambda run: (run / "manifest.json").rename(run / "package.json"),
    "torn": lambda run: os.truncate(run / "manifest.json", 300),
    "not json": lambda run: (run / "manifest.json").write_bytes(b"\xff\xfe<html>"),
    "wrong type": lambda run: edited(run, stages=[ONE | {"load": "many"}]),
    "no schema": lambda run: edited(run, schema=None),
    "newer": lambda run: edited(run, schema=SCHEMA + 1, state={"a": "shape of the future"}),
    "index": lambda run: edited(run, stages=[ONE | {"index": 3}]),
    "target": lambda run: edited(run, stages=[ONE | {"target": "nobody"}]),
    "load": lambda run: edited(run, stages=[ONE | {"load": 0}]),
    "huge": lambda run: os.truncate(run / "manifest.json", 65 * 2**20),
    "parquet torn": lambda run: os.truncate(run / "requests.parquet", 2000),
    "parquet foreign": lambda run: pq.write_table(pa.table({"a": [1]}), run / "requests.parquet"),
    "journal foreign": lambda run: (run / "requests-0-9.journal").write_bytes(b"Dear diary, today"),
    "journal newer": lambda run: (run / "requests-0-9.journal").write_bytes(b"headroom\t\0\0\0"),
    "column missing": lambda run: respoilt(run, "sent_s", None),
    "nan": lambda run: respoilt(run, "ended_s", [float("nan")] * 2),
    "null": lambda run: respoilt(run, "sent_s", [None, 1.0]),
    "status": lambda run: respoilt(run, "status", ["ok", "splendid"]),
    "type": lambda run: respoilt(run, "sent_s", ["a", "b"]),
    "order": lambda run: respoilt(run, "ended_s", [9.0, 0.5]),
    "rows newer": lambda run: respoilt(run, "error", None, schema=b"7"),
}


def respoilt(run: Path, column: str, values: list[Any] | None, schema: bytes = b"1") -> None:
    """Drop or replace a column of a good request file."""
    table = pq.read_table(run / "requests.parquet").drop_columns([column])
    if values is not None:
        table = table.append_column(column, pa.array(values))
    facts = table.schema.metadata | {b"headroom.schema": schema}
    pq.write_table(table.replace_schema_metadata(facts), run / "requests.parquet")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is not a run folder: it is empty"),
        ("foreign", "is not a run folder: it has no manifest.json"),
        ("torn", "manifest.json is torn or not JSON: "),
        ("not json", "manifest.json is torn or not JSON: "),
        ("wrong type", r"Expected `float`, got `str` - at `\$.stages\[0\].load`"),
        ("no schema", r"Expected `int`, got `null` - at `\$.schema`"),
        ("newer", "has schema 2, this Headroom reads up to 1: upgrade Headroom"),
        ("index", r"stages\[0\] has index 3, not 0"),
        ("target", r"stages\[0\] names no known target: 'nobody'"),
        ("load", r"stages\[0\] has load 0.0"),
        ("huge", "has 68157440 bytes, the bound is 67108864"),
        ("parquet torn", "requests.parquet cannot be read as Parquet"),
        ("parquet foreign", "was not written by Headroom"),
        ("journal foreign", "is not a journal of Headroom: it begins with b'Dear dia'"),
        ("journal newer", "has schema 9, this Headroom reads up to 1: upgrade"),
        ("column missing", "has no column sent_s, which every request needs"),
        ("nan", "has a ended_s that is not a number or beyond"),
        ("null", "has rows without sent_s"),
        ("status", "has the unknown status 'splendid': known are ok, error, timeout, cancelled"),
        ("type", "cannot be read as Parquet"),
        ("order", "row 1 ended before it was sent"),
        ("rows newer", "has schema 7, this Headroom reads up to 1"),
    ],
)
def test_a_bad_folder_is_one_clear_line(tmp_path: Path, kind: str, message: str) -> None:
    """Each fault is named with its place and its bound, in one line."""
    path = written(tmp_path / "run", some(2), finish=True)
    SPOIL[kind](path)
    with pytest.raises(RunFolderError, match=message) as caught:
        read_run(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_folders_and_files_are_told_apart(tmp_path: Path) -> None:
    """A path that is not there, and one that is a file."""
    with pytest.raises(RunFolderError, match=re.escape(f"{tmp_path}/no does not exist")):
        read_run(tmp_path / "no")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file, not a run folder"):
        read_run(tmp_path / "file")


def test_an_older_schema_is_read(tmp_path: Path) -> None:
    """Fields that did not exist yet stand at their defaults."""
    path = written(tmp_path / "run", some(2), finish=True)
    edited(path, schema=0)
    parquet = path / "requests.parquet"
    table = pq.read_table(parquet).drop_columns(["server_queue_s", "cached_tokens", "error_kind"])
    facts = table.schema.metadata | {b"headroom.schema": b"0"}
    pq.write_table(table.replace_schema_metadata(facts), parquet)
    assert len(read_run(path).requests) == 2
    assert list(read_records(path)) == some(2)
    assert read_manifest(path).schema == 0


def test_planner_summary_needs_no_pyarrow() -> None:
    """Only reading and writing Parquet loads pyarrow."""
    code = "import planner.summary, planner.runfolder, sys; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
