"""A worker's own copy of its records, in case the process that drives the run dies.

Where that process has its run folder on this machine the copy lies there, and is read with it.
Elsewhere it lies in the directory that ``HEADROOM_JOURNALS`` names, or in a temporary one. Copied
into the run folder it adds what never arrived, and nothing twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import HeadroomError
from planner.journal import JournalWriter
from planner.runfolder import next_journal

if TYPE_CHECKING:
    from planner.records import RequestRecord

__all__ = ["DIRECTORY", "OwnJournal", "own_directory"]

DIRECTORY = "HEADROOM_JOURNALS"
"""The environment variable that names a directory for the journals of a worker."""

_LOG = logging.getLogger("headroom")


def own_directory(started_unix_s: float) -> Path:
    """A directory for the journals of one run, made if need be.

    Raises:
        OSError: it cannot be made.
    """
    given = os.environ.get(DIRECTORY)
    base = Path(given) if given else Path(tempfile.mkdtemp(prefix="headroom-"))
    started = datetime.fromtimestamp(started_unix_s, UTC)
    path = base / f"run-{started:%Y%m%dT%H%M%SZ}"
    path.mkdir(parents=True, exist_ok=True)
    return path


class OwnJournal:
    """Keeps what it can: a disk that is full must not end the load."""

    def __init__(self, folder: str | None, started_unix_s: float, worker: int) -> None:
        """Begin a journal.

        Args:
            folder: the run folder, where it is on this machine.
            started_unix_s: when the run started.
            worker: this process's number.
        """
        self._writer: JournalWriter | None = None
        self._path: Path | None = None
        self._own = folder is None  # its directory
        try:
            path = Path(folder) if folder else own_directory(started_unix_s)
            self._path = next_journal(path, worker)
            self._writer = JournalWriter(self._path)
        except (OSError, ValueError, OverflowError, HeadroomError) as error:
            self._give_up(error)
        else:
            if folder is None:
                _LOG.info("worker %d keeps a copy of its records in %s", worker, self._path)

    def append(self, record: RequestRecord) -> None:
        """Add one record to the buffer."""
        if self._writer is not None:
            try:
                self._writer.append(record)
            except OSError as error:
                self._give_up(error)

    def flush(self) -> None:
        """Make what was appended survive a kill of this process."""
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """End the journal; it stays."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()

    def remove(self) -> None:
        """End the journal and delete it, and the directory of its run where that is empty then."""
        self.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                if self._own:
                    self._path.parent.rmdir()

    def _give_up(self, error: Exception) -> None:
        """Say it once, and keep no copy from here on."""
        self.close()
        _LOG.warning("this worker keeps no copy of its records: %s", error)
