"""The journal of a running measurement: request records appended one by one, readable after a kill.

Layout: 8 bytes of magic, the schema as a little-endian u32, then frames. A frame is the payload's
length (u32), the CRC-32 of the payload (u32) and the payload: one ``RequestRecord`` as a
MessagePack map. Field names travel with each record, so a reader of another version copes. Other
journals have the same layout and another magic.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from math import isfinite
from typing import IO, TYPE_CHECKING

import msgspec

from planner.errors import RunFolderError
from planner.records import SCHEMA, RequestRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Damage", "FrameWriter", "JournalWriter", "is_sane", "read_frames", "read_journal"]

_MAGIC = b"headroom"
_HEADER = struct.Struct("<8sI")
_FRAME = struct.Struct("<II")
_MAX_PAYLOAD = 64 * 2**20  # 16 million gaps: more than any request can have
_MAX_INT = 2**31 - 1
_MAX_MOMENT_S = 1e9  # thirty years: beyond it a time is garbage
_TEXT_LIMITS = {
    "target": 300,
    "backend": 300,
    "finish_reason": 300,
    "error_kind": 300,
    "error": 2000,
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RequestRecord)


class FrameWriter:
    """Appends payloads to a new journal file."""

    def __init__(self, path: Path, magic: bytes) -> None:
        """Create the file.

        Raises:
            FileExistsError: the journal is there already.
        """
        self._file: IO[bytes] = path.open("xb", buffering=2**18)
        self._file.write(_HEADER.pack(magic, SCHEMA))
        self._file.flush()

    def write(self, payload: bytes) -> None:
        """Write one frame into the buffer."""
        self._file.write(_FRAME.pack(len(payload), zlib.crc32(payload)))
        self._file.write(payload)

    def flush(self) -> None:
        """Hand the buffer to the operating system, where it survives a kill of this process."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close; more than once is fine."""
        self._file.close()


class JournalWriter(FrameWriter):
    """Appends records to a new journal file."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            FileExistsError: the journal is there already.
        """
        super().__init__(path, _MAGIC)

    def append(self, record: RequestRecord) -> None:
        """Write one record into the buffer."""
        self.write(_encoder.encode(_clipped(record)))


@dataclass(slots=True)
class Damage:
    """What could not be read of one journal."""

    torn_bytes: int = 0  # from the first frame that runs over the end of the file
    bad_records: int = 0  # complete frames whose content is not what was written


def read_journal(path: Path, damage: Damage) -> Iterator[RequestRecord]:
    """Every intact record of a journal, in order; ``damage`` is filled on the way.

    Raises:
        RunFolderError: the file is not a journal, or of a newer schema.
    """
    for payload in read_frames(path, damage, _MAGIC):
        record = _decode(payload)
        if record is None:
            damage.bad_records += 1
        else:
            yield record


def read_frames(path: Path, damage: Damage, magic: bytes) -> Iterator[bytes]:
    """The payload of every intact frame of a journal, in order; ``damage`` is filled on the way.

    A frame that runs over the end of the file ends the journal: the writer was killed in it. A
    complete frame with a wrong checksum is skipped.

    Raises:
        RunFolderError: the file is not such a journal, or of a newer schema.
    """
    left = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        left -= len(head)
        if len(head) < _HEADER.size:
            damage.torn_bytes += len(head)
            return
        _check_header(path, head, magic)
        while left:
            size, checksum = _FRAME.unpack(file.read(_FRAME.size).ljust(_FRAME.size, b"\xff"))
            if size > min(_MAX_PAYLOAD, left - _FRAME.size):
                damage.torn_bytes += left
                return
            left -= _FRAME.size + size
            payload = file.read(size)
            if zlib.crc32(payload) == checksum:
                yield payload
            else:
                damage.bad_records += 1


def _check_header(path: Path, head: bytes, expected: bytes) -> None:
    magic, schema = _HEADER.unpack(head)
    if magic != expected:
        raise RunFolderError(f"{path} is not a journal of Headroom: it begins with {head[:8]!r}")
    if schema > SCHEMA:
        raise RunFolderError(
            f"{path} has schema {schema}, this Headroom reads up to {SCHEMA}: upgrade Headroom"
        )


def _decode(payload: bytes) -> RequestRecord | None:
    """The record of a frame, or None if it is not what a writer wrote."""
    try:
        record = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return record if is_sane(record) else None


def is_sane(record: RequestRecord) -> bool:
    """Whether every number is one that a measurement can have."""
    counts = (record.stage, record.user, record.turn, record.worker, record.http_status or 0)
    tokens = (record.prompt_tokens, record.output_tokens, record.cached_tokens)
    moments = (record.scheduled_s, record.sent_s, record.ended_s)
    optional = (record.connect_s, record.connect_ahead_s, record.headers_s, record.first_token_s)
    return (
        all(0 <= count <= _MAX_INT for count in counts)
        and abs(record.id) < 2**63
        and all(count is None or 0 <= count <= _MAX_INT for count in tokens)
        and all(abs(moment) <= _MAX_MOMENT_S for moment in moments)
        and record.ended_s >= record.sent_s
        and all(moment is None or isfinite(moment) for moment in optional)
        and len(record.gaps_s) % 4 == 0
    )


def _clipped(record: RequestRecord) -> RequestRecord:
    """The record with texts cut to what a reader accepts: a server chose some of them."""
    changes = {}
    for name, limit in _TEXT_LIMITS.items():
        text = getattr(record, name)
        if text is not None and (len(text) > limit or not text.isascii()):
            changes[name] = text.encode("utf-8", "replace").decode()[:limit]
    return msgspec.structs.replace(record, **changes) if changes else record
