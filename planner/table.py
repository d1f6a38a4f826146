"""Request records as columns: the working form of a run, one numpy array per field.

A million records as Python objects cost a gigabyte; as columns they cost a tenth of that and every
figure is one vector operation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from planner.records import RequestRecord, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "CANCELLED",
    "ERROR",
    "OK",
    "STATUS",
    "TIMEOUT",
    "Floats",
    "GapBatch",
    "Mask",
    "RequestTable",
]

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]

STATUS: tuple[Status, ...] = get_args(Status)
"""The text of each status code."""

OK, ERROR, TIMEOUT, CANCELLED = range(len(STATUS))


class GapBatch(NamedTuple):
    """The gaps of consecutive requests.

    Attributes:
        counts: (k,) gaps of each request.
        gaps_s: (g,) seconds, request after request.
    """

    counts: npt.NDArray[np.int64]
    gaps_s: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RequestTable:
    """Columns of ``n`` requests. NaN in a float column means "not reported".

    Attributes:
        stage: (n,) index into ``RunManifest.stages``.
        user: (n,) the user who sent it, unique within its stage.
        scheduled_s, sent_s, ended_s: (n,) moments in seconds since the run's start; never NaN.
        connect_s: (n,) duration of the connect in seconds.
        connect_ahead_s: (n,) what of it lay before the intended start, in seconds.
        headers_s, first_token_s: (n,) moments in seconds since the run's start.
        prompt_tokens, output_tokens, cached_tokens: (n,) counts.
        status: (n,) codes into ``STATUS``.
        gaps_s: (g,) gaps between content events in seconds, request after request.
        gap_offsets: (n + 1,) request ``i`` owns ``gaps_s[gap_offsets[i]:gap_offsets[i + 1]]``.
    """

    stage: Ints
    user: Ints
    scheduled_s: Floats
    sent_s: Floats
    connect_s: Floats
    connect_ahead_s: Floats
    headers_s: Floats
    first_token_s: Floats
    ended_s: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    cached_tokens: Floats
    status: npt.NDArray[np.uint8]
    gaps_s: npt.NDArray[np.float32]
    gap_offsets: npt.NDArray[np.int64]

    @classmethod
    def from_records(cls, records: Iterable[RequestRecord]) -> RequestTable:
        """Columns from records, in their order."""
        rows = list(records)
        sizes = [len(row.gaps_s) // _GAP_BYTES for row in rows]
        code = {text: number for number, text in enumerate(STATUS)}
        return cls(
            **{
                name: np.array([getattr(row, name) for row in rows], dtype=dtype)
                for name, dtype in _COLUMNS.items()
            },
            status=np.array([code[row.status] for row in rows], dtype=np.uint8),
            gaps_s=np.frombuffer(b"".join(row.gaps_s for row in rows), dtype="<f4"),
            gap_offsets=_offsets(np.array(sizes, dtype=np.int64)),
        )

    @classmethod
    def from_arrow(cls, table: Any) -> RequestTable:
        """Columns from a ``pyarrow.Table`` with the columns of ``requests.parquet``.

        A missing ``gaps_s`` column gives a table without gaps.
        """
        columns = {name: _column(table.column(name), dtype) for name, dtype in _COLUMNS.items()}
        sizes = np.zeros(table.num_rows, dtype=np.int64)
        gaps = np.zeros(0, dtype=np.float32)
        if "gaps_s" in table.column_names:
            chunks = table.column("gaps_s").chunks
            parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
            gaps = np.concatenate([gaps, *parts], dtype=np.float32)
            lengths = [np.asarray(chunk.value_lengths().fill_null(0)) for chunk in chunks]
            sizes = np.concatenate([sizes[:0], *lengths], dtype=np.int64)
        return cls(
            **columns,
            status=_codes(table.column("status")),
            gaps_s=gaps,
            gap_offsets=_offsets(sizes),
        )

    @classmethod
    def concat(cls, tables: Sequence[RequestTable]) -> RequestTable:
        """One table of all rows, in order. No tables give an empty one."""
        if len(tables) < 2:  # noqa: PLR2004 - nothing to put together
            return tables[0] if tables else cls.from_records(())
        sizes = np.concatenate([np.diff(table.gap_offsets) for table in tables])
        return cls(
            **{
                field.name: np.concatenate([getattr(table, field.name) for table in tables])
                for field in fields(cls)
                if field.name != "gap_offsets"
            },
            gap_offsets=_offsets(sizes),
        )

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.stage)

    def where(self, mask: Mask) -> RequestTable:
        """The rows at which the (n,) mask is true; views, not copies, where they are in a row."""
        rows = np.flatnonzero(mask)  # found once: a mask is scanned anew for each column
        chosen: slice | npt.NDArray[np.int64] = rows
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            chosen = slice(rows[0], rows[-1] + 1)
        gaps_s = self.gaps_s
        if gaps_s.size:
            gaps_s = gaps_s[np.repeat(mask, np.diff(self.gap_offsets))]
        sizes = self.gap_offsets[1:][chosen] - self.gap_offsets[:-1][chosen]
        return RequestTable(
            **{name: getattr(self, name)[chosen] for name in (*_COLUMNS, "status")},
            gaps_s=gaps_s,
            gap_offsets=_offsets(sizes),
        )

    def gap_batches(self, start: int = 0, *, most: int = 2**19) -> Iterator[GapBatch]:
        """The gaps from the request ``start`` on, in batches of at most about ``most`` gaps."""
        steps = np.arange(self.gap_offsets[start], self.gap_offsets[-1], most)
        cuts = np.maximum(np.searchsorted(self.gap_offsets, steps), start)
        for first, end in pairwise(np.unique([start, *cuts, len(self)]).tolist()):
            offsets = self.gap_offsets[first : end + 1]
            yield GapBatch(np.diff(offsets), self.gaps_s[offsets[0] : offsets[-1]])

    @property
    def due_s(self) -> Floats:
        """(n,) moment from which latencies count, as ``RequestRecord.due_s``."""
        connecting_s = np.nan_to_num(self.connect_s) - np.nan_to_num(self.connect_ahead_s)
        return self.scheduled_s + connecting_s

    @property
    def ttft_s(self) -> Floats:
        """(n,) time to first token from the intended start, connecting left out."""
        return self.first_token_s - self.due_s

    @property
    def ttft_from_send_s(self) -> Floats:
        """(n,) time to first token from the moment of sending."""
        return self.first_token_s - self.sent_s

    @property
    def e2e_s(self) -> Floats:
        """(n,) time from the intended start to the end, connecting left out.

        A lower bound if censored.
        """
        return self.ended_s - self.due_s

    @property
    def tpot_s(self) -> Floats:
        """(n,) time per output token: (e2e - TTFT) / (output tokens - 1); NaN below two tokens."""
        steps = np.where(self.output_tokens >= 2, self.output_tokens - 1, np.nan)  # noqa: PLR2004
        return (self.ended_s - self.first_token_s) / steps

    @property
    def send_lag_s(self) -> Floats:
        """(n,) how late each request was sent: a figure of the client, not of the server."""
        return self.sent_s - self.scheduled_s


_GAP_BYTES = 4
_COLUMNS: dict[str, type[np.generic]] = {
    field.name: np.int32 if field.name in ("stage", "user") else np.float64
    for field in fields(RequestTable)
    if field.name not in ("status", "gaps_s", "gap_offsets")
}


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n + 1,) running total of (n,) sizes."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _column(column: Any, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A numeric Arrow column as numpy; null becomes NaN."""
    return np.asarray(column.to_numpy(), dtype=dtype)


def _codes(column: Any) -> npt.NDArray[np.uint8]:
    """Status texts, plain or dictionary-encoded, as codes.

    Raises:
        ValueError: a text that is no status.
    """
    parts = [np.zeros(0, dtype=np.uint8)]
    for chunk in column.dictionary_encode().chunks:
        known = [STATUS.index(text) for text in chunk.dictionary.to_pylist()]
        parts.append(np.array(known, dtype=np.uint8)[chunk.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)
