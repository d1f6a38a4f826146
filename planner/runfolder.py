"""The only reader and writer of run folders.

::

    manifest.json                     RunManifest, rewritten whole; see planner.manifest
    requests-<worker>-<n>.journal     while running: one per process and sitting
    points.json                       in place of requests: what was imported (planner.imported)
    requests.parquet                  at the end: one row per request, columns named as its fields
    telemetry-<n>.journal             while running: what the servers told of themselves ...
    telemetry.parquet                 ... and at the end; see planner.telemetry_file
    .lock                             while one process writes all this

The process that drives a run is worker 0. What others send it stands in its journal and in theirs,
under one id, and is read once: the driver's copy, or where that is lost, theirs.

A file that replaces another is written beside it and renamed. ``requests.parquet`` names the
journals that it has taken in, so a kill between the rename and their removal counts nothing twice.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from planner.errors import InputError, RunFolderError
from planner.imported import ImportedPoints
from planner.journal import Damage, JournalWriter, read_journal
from planner.lock import LOCK_FILE, FolderLock
from planner.manifest import MANIFEST, read_manifest, write_manifest
from planner.parquet import (
    absorbed_journals,
    parquet_records,
    read_columns,
    read_gaps,
    write_parquet,
)
from planner.table import ERROR, TIMEOUT, RequestTable
from planner.telemetry_file import TelemetryJournal, finish_telemetry, read_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planner.records import RequestRecord, RunManifest, TelemetrySample
    from planner.table import GapBatch
    from planner.telemetry import Telemetry

__all__ = [
    "Run",
    "RunWriter",
    "check_new",
    "next_journal",
    "read_records",
    "read_run",
    "write_imported",
]

_PARQUET = "requests.parquet"
_POINTS = "points.json"
_JOURNAL = re.compile(r"requests-(\d{1,6})-(\d{1,9})\.journal")
_MAX_POINTS_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run as read from its folder.

    Attributes:
        path: the folder.
        manifest: everything that is not a request.
        requests: the requests as columns.
        errors: stage -> error kind -> count, of the requests that failed or timed out.
        notes: what a reader of the figures must be told about the folder, for example that it was
            killed and how much of its tail is lost.
        gaps_on_disk: of so many requests, the first ones, the gaps were not loaded.
        imported: the points of a run that another tool measured; it has no requests.
    """

    path: Path
    manifest: RunManifest
    requests: RequestTable
    errors: dict[int, dict[str, int]]
    notes: tuple[str, ...] = ()
    gaps_on_disk: int = 0
    imported: ImportedPoints | None = None

    def gap_batches(self) -> Iterator[GapBatch]:
        """The gaps between content events of all requests, in their order, a batch at a time.

        Raises:
            RunFolderError: the folder can no longer be read.
        """
        if self.gaps_on_disk:
            yield from read_gaps(self.path / _PARQUET)
        yield from self.requests.gap_batches(self.gaps_on_disk)

    def telemetry(self) -> Telemetry:
        """What the servers told of themselves meanwhile, as it stands on the disk.

        Raises:
            RunFolderError: it cannot be read.
        """
        return read_telemetry(self.path)


class RunWriter:
    """Writes one run folder. One process calls ``update`` and ``finish``; workers only append.

    That one, worker 0, holds the folder's lock until it closes or finishes.
    """

    def __init__(self, path: Path, worker: int, lock: FolderLock | None) -> None:
        """Open this process's next journal in a run folder; use ``create`` or ``resume``."""
        self.path = path
        self._lock = lock
        self._journal = JournalWriter(next_journal(path, worker))
        self._telemetry: TelemetryJournal | None = None  # from the first sample on

    @classmethod
    def create(cls, path: Path | str, manifest: RunManifest, *, worker: int = 0) -> RunWriter:
        """Begin a run in a new or empty folder.

        Raises:
            InputError: the folder holds something, or cannot be made.
        """
        path = Path(path)
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
            check_new(path)
            lock = FolderLock(path) if worker == 0 else None
            with _unlocked_on_failure(lock):
                check_new(path)  # again: who held the lock before may have written a run
                write_manifest(path, manifest)
                return cls(path, worker, lock)

    @classmethod
    def resume(
        cls, path: Path | str, *, worker: int = 0, lock: FolderLock | None = None
    ) -> RunWriter:
        """Go on with a kept run, or join it as one more worker. What is there stays.

        Args:
            path: the folder.
            worker: number of this process.
            lock: of the folder, where worker 0 has taken it already.

        Raises:
            RunFolderError: not a run folder that can be read.
            InputError: it cannot be written, or another process writes it.
        """
        path = Path(path)
        if read_manifest(path).sources:
            raise InputError(f"{path} was imported: measure into another folder, and give both")
        with _writing(path):
            lock = lock or (FolderLock(path) if worker == 0 else None)
            with _unlocked_on_failure(lock):
                return cls(path, worker, lock)

    def append(self, record: RequestRecord) -> None:
        """Add one request to the journal's buffer."""
        with _writing(self.path):
            self._journal.append(record)

    def sample(self, sample: TelemetrySample) -> None:
        """Add what a server told of itself to the telemetry's journal."""
        with _writing(self.path):
            if self._telemetry is None:
                self._telemetry = TelemetryJournal(self.path)
            self._telemetry.append(sample)

    def flush(self) -> None:
        """Make all that was appended survive a kill of this process. Call it each second."""
        with _writing(self.path):
            self._journal.flush()
            if self._telemetry is not None:
                self._telemetry.flush()

    def update(self, manifest: RunManifest) -> None:
        """Replace the manifest in one step: a reader sees the old one or the new one."""
        with _writing(self.path):
            write_manifest(self.path, manifest)

    def close(self) -> None:
        """End this process's journal: all that a worker does at its end."""
        with _writing(self.path):
            try:
                self._close_journals()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def finish(self, manifest: RunManifest) -> tuple[str, ...]:
        """Turn all journals, every worker's, into ``requests.parquet`` and write the manifest.

        Returns:
            What was lost on the way, one line each; also added to the manifest's notes.

        Raises:
            RunFolderError: an earlier request file or a journal cannot be read; nothing is removed.
        """
        with contextlib.closing(self):
            return self._finish(manifest)

    def _finish(self, manifest: RunManifest) -> tuple[str, ...]:
        with _writing(self.path):
            self._close_journals()
        parquet = self.path / _PARQUET
        absorbed = absorbed_journals(parquet)
        journals = _journals(self.path)
        notes: list[str] = []
        fresh = [file for file in journals if file.name not in absorbed]
        with _writing(self.path):
            write_parquet(
                parquet,
                _journal_records(fresh, notes),
                earlier=parquet if parquet.exists() else None,
                journals=sorted({*absorbed, *(file.name for file in journals)}),
            )
            finish_telemetry(self.path, notes)
            noted = msgspec.structs.replace(manifest, notes=(*manifest.notes, *notes))
            write_manifest(self.path, noted)
            for file in journals:
                file.unlink(missing_ok=True)
        return tuple(notes)

    def _close_journals(self) -> None:
        self._journal.close()
        if self._telemetry is not None:
            self._telemetry.close()


def next_journal(path: Path, worker: int) -> Path:
    """A name for one more journal of a worker, in a run folder or in another directory.

    Raises:
        RunFolderError: the folder's request file cannot be read.
    """
    names = [*absorbed_journals(path / _PARQUET), *(file.name for file in _journals(path))]
    mine = [int(m[2]) for name in names if (m := _JOURNAL.fullmatch(name)) and int(m[1]) == worker]
    return path / f"requests-{worker}-{max(mine, default=-1) + 1}.journal"


def check_new(path: Path) -> None:
    """See to it that a run can be begun in this folder.

    Raises:
        InputError: it is a file, cannot be read, or holds something.
    """
    if not path.exists():
        return
    with _writing(path):
        held = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK_FILE)
    if held:
        what = "a run already" if MANIFEST in held else f"other files ({held[0]})"
        raise InputError(f"{path} holds {what}: name a new or an empty folder")


def read_run(path: Path | str, *, gaps: bool = True) -> Run:
    """Everything in a run folder, finished or killed.

    Args:
        path: the folder.
        gaps: whether to load the gaps between content events, by far the largest column.

    Raises:
        RunFolderError: as ``read_manifest``, or a request file that cannot be read.
    """
    path = Path(path)
    manifest = read_manifest(path)
    parquet = path / _PARQUET
    tables, errors, notes = [], Counter[tuple[int, str]](), list[str]()
    gaps_on_disk = 0
    if parquet.exists():
        arrow = read_columns(parquet, _TABLE_COLUMNS if gaps else _TABLE_COLUMNS[:-1])
        tables.append(RequestTable.from_arrow(arrow))
        errors.update(_arrow_errors(arrow, tables[0]))
        gaps_on_disk = 0 if gaps else len(tables[0])
    absorbed = absorbed_journals(parquet)
    journals = [file for file in _journals(path) if file.name not in absorbed]
    records = list(_journal_records(journals, notes))
    if journals:
        notes.insert(
            0, f"this run was killed or still runs: {len(records)} requests are from its journal"
        )
        errors.update(_record_errors(records))
        tables.append(RequestTable.from_records(records))
    return Run(
        path,
        manifest,
        RequestTable.concat(tables),
        _by_stage(errors),
        tuple(notes),
        gaps_on_disk,
        _read_points(path, manifest) if manifest.sources else None,
    )


def write_imported(path: Path | str, manifest: RunManifest, points: ImportedPoints) -> None:
    """A run folder of points that another tool measured.

    Args:
        path: a new or an empty folder.
        manifest: with the files that the points came from, and one stage for each point.
        points: in the order of the stages.

    Raises:
        InputError: the folder holds something, or cannot be made.
    """
    path = Path(path)
    with _writing(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(path)
        try:
            check_new(path)
            data = msgspec.json.format(msgspec.json.encode(points), indent=1)
            (path / _POINTS).write_bytes(data)
            write_manifest(path, manifest)  # last: without it the folder is no run
        finally:
            lock.release()


def _read_points(path: Path, manifest: RunManifest) -> ImportedPoints:
    """The points of an import.

    Raises:
        RunFolderError: missing, torn, too large, or not of the manifest's stages.
    """
    file = path / _POINTS
    try:
        if (size := file.stat().st_size) > _MAX_POINTS_BYTES:
            raise RunFolderError(f"{file} has {size} bytes, the bound is {_MAX_POINTS_BYTES}")
        points = ImportedPoints.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise RunFolderError(f"{file} cannot be read: {error.strerror or error}") from error
    told = [(level.point.stage, level.point.target) for level in points.levels]
    if told != [(stage.index, stage.target) for stage in manifest.stages]:
        raise RunFolderError(f"{file} has other levels than {MANIFEST}: import the files again")
    return points


def read_records(path: Path | str) -> Iterator[RequestRecord]:
    """Every request of a run as a record, one at a time.

    Raises:
        RunFolderError: as ``read_run``.
    """
    path = Path(path)
    read_manifest(path)
    parquet = path / _PARQUET
    absorbed = absorbed_journals(parquet)
    if parquet.exists():
        yield from parquet_records(parquet)
    yield from _journal_records([j for j in _journals(path) if j.name not in absorbed], [])


_TABLE_COLUMNS = (
    *("stage", "user", "scheduled_s", "sent_s", "connect_s", "connect_ahead_s", "headers_s"),
    *("first_token_s", "ended_s", "prompt_tokens", "output_tokens", "cached_tokens", "status"),
    *("error_kind", "gaps_s"),
)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what the file system raises into one line."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _unlocked_on_failure(lock: FolderLock | None) -> Iterator[None]:
    """Give a lock back where the block does not end well."""
    try:
        yield
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _journals(path: Path) -> list[Path]:
    """The folder's journals by worker and number."""
    found = [(m, file) for file in path.iterdir() if (m := _JOURNAL.fullmatch(file.name))]
    return [file for _, file in sorted(found, key=lambda item: (int(item[0][1]), int(item[0][2])))]


def _journal_records(journals: list[Path], notes: list[str]) -> Iterator[RequestRecord]:
    """The records of some journals, each once; what was lost of each is added to the notes.

    Of worker 0 all are given, whose numbers nobody else uses in its folder; of the others those
    that neither an earlier journal nor the request file has.
    """
    shared = any(_worker_of(file) for file in journals)
    seen = _parquet_ids(journals[0].with_name(_PARQUET)) if shared else set[int]()
    for file in journals:
        damage, joined = Damage(), _worker_of(file) > 0
        for record in read_journal(file, damage):
            if joined and record.id in seen:
                continue
            if shared:
                seen.add(record.id)
            yield record
        if damage.torn_bytes:
            notes.append(f"{file.name}: torn tail, {damage.torn_bytes} bytes dropped")
        if damage.bad_records:
            notes.append(f"{file.name}: {damage.bad_records} damaged records dropped")


def _worker_of(journal: Path) -> int:
    match = _JOURNAL.fullmatch(journal.name)
    return int(match[1]) if match else 0


def _parquet_ids(parquet: Path) -> set[int]:
    """Numbers of the requests that the request file holds."""
    return set(read_columns(parquet, ["id"])["id"].to_pylist()) if parquet.exists() else set()


def _arrow_errors(arrow: Any, table: RequestTable) -> dict[tuple[int, str], int]:
    """Counts of (stage, error kind) over the failed rows."""
    failed = np.flatnonzero((table.status == ERROR) | (table.status == TIMEOUT))
    kinds = arrow.column("error_kind").take(failed).to_pylist()
    return Counter(
        (stage, kind or "unknown")
        for stage, kind in zip(table.stage[failed].tolist(), kinds, strict=True)
    )


def _record_errors(records: list[RequestRecord]) -> dict[tuple[int, str], int]:
    """Counts of (stage, error kind) over the failed records."""
    return Counter(
        (record.stage, record.error_kind or "unknown")
        for record in records
        if record.status in ("error", "timeout")
    )


def _by_stage(counts: Counter[tuple[int, str]]) -> dict[int, dict[str, int]]:
    nested: dict[int, dict[str, int]] = {}
    for (stage, kind), count in counts.most_common():
        nested.setdefault(stage, {})[kind] = count
    return nested
