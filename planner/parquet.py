"""``requests.parquet``: records to rows and back, checked, and loud about what is wrong.

pyarrow is imported on use: it takes a fifth of a second that most commands do not need.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from planner.errors import RunFolderError
from planner.records import SCHEMA, RequestRecord
from planner.table import STATUS, GapBatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["absorbed_journals", "parquet_records", "read_columns", "read_gaps", "write_parquet"]

_TYPES = {
    "id": "int64",
    "stage": "int32",
    "target": "string",
    "backend": "string",
    "user": "int32",
    "turn": "int32",
    "worker": "int32",
    "scheduled_s": "float64",
    "sent_s": "float64",
    "connect_s": "float64",
    "connect_ahead_s": "float64",
    "headers_s": "float64",
    "first_token_s": "float64",
    "ended_s": "float64",
    "gaps_s": "gaps",
    "prompt_tokens": "int64",
    "output_tokens": "int64",
    "cached_tokens": "int64",
    "token_source": "string",
    "status": "string",
    "http_status": "int32",
    "finish_reason": "string",
    "error_kind": "string",
    "error": "string",
    "coalesced_share": "float64",
    "server_queue_s": "float64",
    "server_prompt_s": "float64",
    "server_decode_s": "float64",
}
_REQUIRED = tuple(f.name for f in msgspec.structs.fields(RequestRecord) if f.required)
_REPEATED = ["target", "backend", "token_source", "status", "finish_reason", "error_kind", "error"]
_BATCH_ROWS = 2**15
_BATCH_GAPS = 2**19
_MAX_ROWS = 50_000_000
_MAX_MOMENT_S = 1e9
_SCHEMA_KEY, _JOURNALS_KEY = b"headroom.schema", b"headroom.journals"


def write_parquet(
    path: Path, records: Iterable[RequestRecord], *, earlier: Path | None, journals: Sequence[str]
) -> None:
    """Write the rows of ``earlier`` and the records, beside ``path``, and rename into place.

    Args:
        path: the file to make or replace.
        records: the rows to add, in order.
        earlier: a request file whose rows come first.
        journals: names of the journals that the file now contains.

    Raises:
        RunFolderError: ``earlier`` cannot be read.
        OSError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    facts = {_SCHEMA_KEY: str(SCHEMA).encode(), _JOURNALS_KEY: "\n".join(journals).encode()}
    schema = _schema().with_metadata(facts)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with pq.ParquetWriter(
            beside, schema, compression="zstd", use_dictionary=_REPEATED
        ) as writer:
            for table in _tables(earlier, records):
                writer.write_table(table.replace_schema_metadata(facts))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_columns(path: Path, names: Sequence[str]) -> Any:
    """The named columns as a ``pyarrow.Table``, checked; texts are dictionary-encoded.

    Raises:
        RunFolderError: torn, foreign, of a newer schema, without a needed column, or with values
            that no measurement has.
    """
    with _translated(path), _opened(path) as file:
        present = [name for name in names if name in file.schema_arrow.names]
        return _conformed(path, file.read(columns=present), names)


def read_gaps(path: Path) -> Iterator[GapBatch]:
    """The gaps between content events of every row, in order, a batch of bounded size at a time.

    Raises:
        RunFolderError: as ``read_columns``, or a gap that no measurement has.
    """
    with _translated(path), _opened(path) as file:
        if "gaps_s" not in file.schema_arrow.names:
            yield GapBatch(np.zeros(file.metadata.num_rows, np.int64), np.zeros(0, np.float32))
            return
        for batch in file.iter_batches(_rows_per_batch(file.metadata), columns=["gaps_s"]):
            lists = batch.column(0)
            counts = np.asarray(lists.value_lengths().fill_null(0), dtype=np.int64)
            gaps_s = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
            if gaps_s.size and not (gaps_s.min() >= 0 and gaps_s.max() <= _MAX_MOMENT_S):
                raise RunFolderError(
                    f"{path} has a gap between content events that is negative, not a number or "
                    f"beyond {_MAX_MOMENT_S:.0e} seconds"
                )
            yield GapBatch(counts, gaps_s)


def _rows_per_batch(footer: Any) -> int:
    """So many rows hold about ``_BATCH_GAPS`` gaps."""
    names = [footer.schema.column(i).path for i in range(len(footer.schema))]
    place = next(i for i, name in enumerate(names) if name.partition(".")[0] == "gaps_s")
    groups = range(footer.num_row_groups)
    gaps: int = sum(footer.row_group(i).column(place).num_values for i in groups)
    rows: int = footer.num_rows
    return max(1, min(_BATCH_ROWS, _BATCH_GAPS * rows // max(gaps, 1)))


def parquet_records(path: Path) -> Iterator[RequestRecord]:
    """Every row as a record, in order, a batch at a time.

    Raises:
        RunFolderError: as ``read_columns``, or a row that is not a record.
    """
    for table in _stored(path):
        gaps = table.column("gaps_s").combine_chunks()
        offsets = np.concatenate([[0], np.cumsum(gaps.value_lengths().to_numpy())]) * 4
        values = gaps.flatten().to_numpy().astype("<f4").tobytes()
        bounds = itertools.pairwise(offsets.tolist())
        rows = table.drop_columns("gaps_s").to_pylist()
        for row, (start, end) in zip(rows, bounds, strict=True):
            try:
                yield msgspec.convert(row | {"gaps_s": values[start:end]}, RequestRecord)
            except msgspec.ValidationError as error:
                raise RunFolderError(f"{path} holds a row that is no request: {error}") from error


def absorbed_journals(path: Path) -> tuple[str, ...]:
    """Names of the journals whose records the file contains; empty if there is no file.

    Raises:
        RunFolderError: torn, foreign, or of a newer schema.
    """
    if not path.exists():
        return ()
    with _translated(path), _opened(path) as file:
        names = file.schema_arrow.metadata.get(_JOURNALS_KEY, b"").decode()
    return tuple(names.split("\n")) if names else ()


def _schema() -> Any:
    import pyarrow as pa

    types = {"gaps": pa.list_(pa.float32())}
    return pa.schema(
        [
            pa.field(name, types.get(kind) or pa.type_for_alias(kind), name not in _REQUIRED)
            for name, kind in _TYPES.items()
        ]
    )


def _tables(earlier: Path | None, records: Iterable[RequestRecord]) -> Iterator[Any]:
    """Arrow tables of the earlier file's rows and of the records, in batches of bounded size."""
    if earlier is not None:
        yield from _stored(earlier)
    source = iter(records)
    while batch := list(itertools.islice(source, _BATCH_ROWS)):
        yield _table(batch)


def _table(records: list[RequestRecord]) -> Any:
    import pyarrow as pa

    schema = _schema()
    columns = []
    for field in schema:
        values = [getattr(record, field.name) for record in records]
        columns.append(
            _gap_lists(values) if field.name == "gaps_s" else pa.array(values, field.type)
        )
    return pa.table(columns, schema=schema)


def _gap_lists(values: list[bytes]) -> Any:
    import pyarrow as pa

    ends = np.cumsum([0] + [len(value) // 4 for value in values], dtype=np.int32)
    gaps = np.frombuffer(b"".join(values), dtype="<f4")
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(gaps))


def _stored(path: Path) -> Iterator[Any]:
    """The whole file in batches, with the schema that this code writes."""
    import pyarrow as pa

    with _translated(path), _opened(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            yield _conformed(path, pa.table(batch), tuple(_TYPES)).cast(_schema())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open ``pyarrow.parquet.ParquetFile`` of a schema and size that this code reads."""
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    repeated = [name for name in _REPEATED if name in footer.schema.names]
    with pq.ParquetFile(path, metadata=footer, read_dictionary=repeated) as file:
        facts = file.schema_arrow.metadata or {}
        schema = facts.get(_SCHEMA_KEY, b"")
        if not schema.isdigit():
            raise RunFolderError(f"{path} was not written by Headroom: it names no schema version")
        if int(schema) > SCHEMA:
            raise RunFolderError(
                f"{path} has schema {int(schema)}, this Headroom reads up to {SCHEMA}: "
                f"upgrade Headroom"
            )
        if file.metadata.num_rows > _MAX_ROWS:
            raise RunFolderError(
                f"{path} holds {file.metadata.num_rows} requests, the bound is {_MAX_ROWS}: "
                f"split the run"
            )
        yield file


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what Arrow and the file system raise into one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise RunFolderError(
            f"{path} cannot be read as Parquet (torn, or not written by Headroom): {reason}"
        ) from error


def _conformed(path: Path, table: Any, names: Sequence[str]) -> Any:
    """The named columns in our types, absent optional ones as nulls, values checked."""
    import pyarrow as pa

    schema = _schema()
    columns = {}
    for name in names:
        field = schema.field(name)
        if name in table.column_names:
            columns[name] = _typed(table.column(name), field.type)
        elif name in _REQUIRED:
            raise RunFolderError(f"{path} has no column {name}, which every request needs")
        else:
            columns[name] = pa.nulls(len(table), field.type)
        _check_values(path, name, columns[name])
    table = pa.table(columns)
    _check_order(path, table)
    return table


def _check_order(path: Path, table: Any) -> None:
    """Refuse a request that ended before it was sent.

    Raises:
        RunFolderError: there is one.
    """
    if {"sent_s", "ended_s"} <= set(table.column_names):
        wrong = table.column("ended_s").to_numpy() < table.column("sent_s").to_numpy()
        if wrong.any():
            raise RunFolderError(f"{path}: row {int(np.argmax(wrong))} ended before it was sent")


def _typed(column: Any, wanted: Any) -> Any:
    """The column in the wanted type; a dictionary of texts stays as it is."""
    import pyarrow as pa

    if pa.types.is_string(wanted) and pa.types.is_dictionary(column.type):
        return column
    return column if column.type == wanted else column.cast(wanted)


def _check_values(path: Path, name: str, column: Any) -> None:
    """Refuse values that no measurement has.

    Raises:
        RunFolderError: a missing required value, an unknown status, a moment out of range.
    """
    import pyarrow.compute as pc

    if name in _REQUIRED and column.null_count:
        raise RunFolderError(f"{path} has rows without {name}, which every request needs")
    if name == "status":
        unknown = set(pc.unique(column).to_pylist()) - set(STATUS)
        if unknown:
            raise RunFolderError(
                f"{path} has the unknown status {min(unknown)!r}: known are {', '.join(STATUS)}"
            )
    if _TYPES[name] != "float64":
        return
    values = column.drop_null().to_numpy()
    if not np.all(np.abs(values) <= _MAX_MOMENT_S):
        raise RunFolderError(
            f"{path} has a {name} that is not a number or beyond {_MAX_MOMENT_S:.0e} seconds"
        )
