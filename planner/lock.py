"""One writer for a run folder: a lock that vanishes with the process that holds it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCK_FILE", "FolderLock"]

LOCK_FILE = ".lock"
"""Its name in the folder. One that a killed process left behind locks nobody out."""


class FolderLock:
    """The right to write a folder's manifest and to finish it, from construction to release."""

    def __init__(self, folder: Path) -> None:
        """Take it.

        Raises:
            InputError: another process holds it, or the folder cannot be written.
        """
        self._path = folder / LOCK_FILE
        try:
            self._fd: int | None = _open_locked(self._path)
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error

    def release(self) -> None:
        """Let others write; more than once is fine."""
        if self._fd is not None:
            # Removed while it is held: who has opened this very file by now sees that it is gone.
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None


def _open_locked(path: Path) -> int:
    """The file, open and locked by us alone.

    Raises:
        InputError: another process has locked it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except FileNotFoundError:
            pass  # its last holder has removed it since we opened it
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(
                f"{path.parent} is being written by another process: wait for its end, or name "
                "another folder"
            ) from None
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file against other processes, where this system can.

    Raises:
        BlockingIOError: another holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: runs are read there, not made
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
