"""Files that a user names, read whole and never beyond a bound."""

from __future__ import annotations

from pathlib import Path

from planner.errors import InputError

__all__ = ["read_bounded"]


def read_bounded(path: str | Path, most: int, what: str) -> bytes:
    """The bytes of a file.

    Args:
        path: the file.
        most: bytes that are read at most.
        what: the kind of file, for messages.

    Raises:
        InputError: it cannot be read, or is larger.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{what} {path}: {error.strerror or error}") from error
    if len(data) > most:
        raise InputError(f"{what} {path} is too large: at most {most} bytes are read")
    return data
