"""Records that stand in the driver's journal and in a worker's are read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.journal import JournalWriter
from planner.runfolder import RunWriter, next_journal, read_records, read_run
from tests.planner.examples import manifest, request

if TYPE_CHECKING:
    from pathlib import Path


def _journal(path: Path, worker: int, *ids: int) -> None:
    journal = JournalWriter(next_journal(path, worker))
    for number in ids:
        journal.append(request(0.0, 1.0, id=number, worker=worker))
    journal.close()


def test_each_once_whatever_stage_the_folder_is_in(tmp_path: Path) -> None:
    """Left by a kill, finished, and with a journal that was copied in afterwards."""
    path = tmp_path / "run"
    driver = RunWriter.create(path, manifest())
    for number in (11, 21):
        driver.append(request(0.0, 1.0, id=number, worker=number // 10))
    driver.flush()
    _journal(path, 1, 11, 12)
    _journal(path, 2, 21)
    assert sorted(r.id for r in read_records(path)) == [11, 12, 21]
    assert len(read_run(path).requests) == 3
    driver.finish(manifest())
    assert sorted(r.id for r in read_records(path)) == [11, 12, 21]
    _journal(path, 2, 21, 22)
    assert next_journal(path, 2).name == "requests-2-2.journal"  # 2-0 is in the request file
    assert sorted(r.id for r in read_records(path)) == [11, 12, 21, 22]
    RunWriter.resume(path).finish(manifest())
    assert sorted(r.id for r in read_records(path)) == [11, 12, 21, 22]


def test_the_drivers_own_records_are_never_dropped(tmp_path: Path) -> None:
    """Older folders numbered requests anew after a kill: only workers' copies are compared."""
    path = tmp_path / "run"
    for _ in range(2):
        writer = RunWriter.resume(path) if path.exists() else RunWriter.create(path, manifest())
        writer.append(request(0.0, 1.0, id=5))
        writer.close()
    _journal(path, 1, 5, 7)
    assert [r.id for r in read_records(path)] == [5, 5, 7]
