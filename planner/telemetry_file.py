"""``telemetry.parquet`` and its journal: what servers told of themselves while they were loaded.

Long format, one figure a row: ``time_s`` (seconds since the run's start, as in the requests),
``target``, ``source``, ``name``, ``value``. The journal holds ``TelemetrySample`` as MessagePack,
in frames as the requests' journal does.
"""

from __future__ import annotations

import itertools
import os
import re
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from planner.errors import RunFolderError
from planner.journal import Damage, FrameWriter, read_frames
from planner.records import SCHEMA, TelemetrySample
from planner.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["TelemetryJournal", "finish_telemetry", "read_telemetry"]

PARQUET = "telemetry.parquet"
_JOURNAL = re.compile(r"telemetry-(\d{1,9})\.journal")
_MAGIC = b"headtele"
_SCHEMA_KEY, _JOURNALS_KEY = b"headroom.schema", b"headroom.journals"
_TEXTS = ("target", "source", "name")
_MAX_ROWS = 100_000_000
_MAX_MOMENT_S = 1e9
_BATCH_SAMPLES = 2**12

_decoder = msgspec.msgpack.Decoder(TelemetrySample)


class TelemetryJournal(FrameWriter):
    """Appends samples to a new journal in a run folder."""

    def __init__(self, folder: Path) -> None:
        """Create the next journal of the folder.

        Raises:
            RunFolderError: the folder's telemetry file cannot be read.
        """
        names = [*_absorbed(folder / PARQUET), *(file.name for file in _journals(folder))]
        used = [int(match[1]) for name in names if (match := _JOURNAL.fullmatch(name))]
        super().__init__(folder / f"telemetry-{max(used, default=-1) + 1}.journal", _MAGIC)

    def append(self, sample: TelemetrySample) -> None:
        """Write one sample into the buffer."""
        self.write(msgspec.msgpack.encode(sample))


def finish_telemetry(folder: Path, notes: list[str]) -> None:
    """Turn the folder's telemetry journals into its telemetry file; without any do nothing.

    Args:
        folder: of the run.
        notes: takes a line for each loss.

    Raises:
        RunFolderError: an earlier telemetry file or a journal cannot be read; nothing is removed.
        OSError: the file cannot be written.
    """
    journals = _journals(folder)
    if not journals:
        return
    path = folder / PARQUET
    absorbed = _absorbed(path)
    fresh = [file for file in journals if file.name not in absorbed]
    names = sorted({*absorbed, *(file.name for file in journals)})
    _write(path, _samples(fresh, notes), names)
    for file in journals:
        file.unlink(missing_ok=True)


def read_telemetry(folder: Path) -> Telemetry:
    """All samples of a run, finished or killed; empty where nobody looked.

    Raises:
        RunFolderError: torn, foreign, of a newer schema, or with values that nobody measured.
    """
    path = folder / PARQUET
    table = _table(path) if path.exists() else None
    absorbed = _absorbed(path)
    fresh = [file for file in _journals(folder) if file.name not in absorbed]
    telemetry = Telemetry.from_samples(_samples(fresh, []))
    if table is None:
        return telemetry
    texts = [table.column(name).combine_chunks() for name in _TEXTS]
    stored = Telemetry.from_columns(
        table.column("time_s").to_numpy(),
        [(t.dictionary.to_pylist(), t.indices.to_numpy(zero_copy_only=False)) for t in texts],
        table.column("value").to_numpy(),
    )
    return stored.joined(telemetry)


def _journals(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [(m, file) for file in folder.iterdir() if (m := _JOURNAL.fullmatch(file.name))]
    return [file for _, file in sorted(found, key=lambda item: int(item[0][1]))]


def _samples(journals: Sequence[Path], notes: list[str]) -> Iterator[TelemetrySample]:
    """The intact samples of some journals, in order, one at a time: a day's would fill a memory."""
    for file in journals:
        damage = Damage()
        for payload in read_frames(file, damage, _MAGIC):
            if (sample := _decode(payload)) is not None:
                yield sample
            else:
                damage.bad_records += 1
        if damage.torn_bytes:
            notes.append(f"{file.name}: torn tail, {damage.torn_bytes} bytes dropped")
        if damage.bad_records:
            notes.append(f"{file.name}: {damage.bad_records} damaged samples dropped")


def _decode(payload: bytes) -> TelemetrySample | None:
    """The sample in a frame, or None if it is not what a writer wrote."""
    try:
        sample = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    sane = abs(sample.time_s) <= _MAX_MOMENT_S and all(map(isfinite, sample.values.values()))
    return sample if sane else None


def _schema() -> Any:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    types = {"time_s": pa.float64(), **dict.fromkeys(_TEXTS, text), "value": pa.float64()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def _write(path: Path, samples: Iterator[TelemetrySample], journals: Sequence[str]) -> None:
    """Write the rows that the file has and those of the samples, beside it, and rename."""
    import pyarrow.parquet as pq

    facts = {_SCHEMA_KEY: str(SCHEMA).encode(), _JOURNALS_KEY: "\n".join(journals).encode()}
    schema = _schema().with_metadata(facts)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            if path.exists():
                writer.write_table(_table(path).replace_schema_metadata(facts))
            while batch := list(itertools.islice(samples, _BATCH_SAMPLES)):
                writer.write_table(_rows(batch).replace_schema_metadata(facts))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _rows(samples: Sequence[TelemetrySample]) -> Any:
    """Samples in long format."""
    import pyarrow as pa

    rows = [
        (sample.time_s, sample.target, sample.source, name, value)
        for sample in samples
        for name, value in sample.values.items()
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(_schema())
    arrays = [pa.array(list(c), f.type) for c, f in zip(columns, _schema(), strict=True)]
    return pa.table(arrays, schema=_schema())


def _absorbed(path: Path) -> tuple[str, ...]:
    """Names of the journals whose samples the file contains; empty if there is no file."""
    if not path.exists():
        return ()
    names = _facts(path).get(_JOURNALS_KEY, b"").decode("ascii", "replace")
    return tuple(names.split("\n")) if names else ()


def _facts(path: Path) -> dict[bytes, bytes]:
    """The metadata of a file that this code reads.

    Raises:
        RunFolderError: torn, foreign, too large, or of a newer schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    facts: dict[bytes, bytes] = footer.metadata or {}
    schema = facts.get(_SCHEMA_KEY, b"")
    missing = [name for name in _schema().names if name not in footer.schema.names]
    if missing or not schema.isdigit():
        lacks = f"it has no column {missing[0]}" if missing else "it names no schema version"
        raise RunFolderError(f"{path} was not written by Headroom: {lacks}")
    if int(schema) > SCHEMA:
        raise RunFolderError(
            f"{path} has schema {int(schema)}, this Headroom reads up to {SCHEMA}: upgrade Headroom"
        )
    if footer.num_rows > _MAX_ROWS:
        raise RunFolderError(
            f"{path} holds {footer.num_rows} figures, the bound is {_MAX_ROWS}: move it away"
        )
    return facts


def _table(path: Path) -> Any:
    """The file's columns, checked.

    Raises:
        RunFolderError: as ``_facts``, or with a cell that nobody wrote.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    _facts(path)
    try:
        table = pq.read_table(path, columns=_schema().names, read_dictionary=list(_TEXTS))
        table = table.cast(_schema()).unify_dictionaries()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if any(table.column(name).null_count for name in table.column_names):
        raise RunFolderError(f"{path} has a row with an empty cell")
    sane = np.abs(table.column("time_s").to_numpy()) <= _MAX_MOMENT_S
    if not (sane & np.isfinite(table.column("value").to_numpy())).all():
        raise RunFolderError(f"{path} has a time or a value that is not a number or out of range")
    return table


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    reason = str(error).split("\n", 1)[0]
    return RunFolderError(
        f"{path} cannot be read as Parquet (torn, or not written by Headroom): {reason}; "
        "move it away to go on without the server's own figures"
    )
