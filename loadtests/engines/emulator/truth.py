"""The truth that an emulator served, as lines of JSON: one that says what it was, one a request."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import msgspec

from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Truth", "TruthFile", "read_truth"]


class Truth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request as the emulator saw and served it. Moments count seconds from its arrival.

    Attributes:
        arrival_unix_s: when its last byte was read.
        output_tokens: tokens that it was to get.
        scheduled_s: when it was let into the batch; its prompt is read from then on.
        due_s: for each token, when the step that made it ended.
        sent_s: for each token, when it was written to the socket.
        outcome: ``finished``, ``refused`` (status 4xx or 5xx), ``gone`` (the client left before
            the end) or ``fault``.
        fault: the fault that it met.
    """

    path: str
    arrival_unix_s: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    scheduled_s: float | None = None
    due_s: tuple[float, ...] = ()
    sent_s: tuple[float, ...] = ()
    outcome: str
    fault: str | None = None


class TruthFile:
    """Writes the truth. Nothing is written where there is no path."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        """Begin the file with what is emulated.

        Raises:
            InputError: the file cannot be written.
        """
        self._file: IO[bytes] | None = None
        if path is None:
            return
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise InputError(f"the truth cannot be written to {path}: {error.strerror}") from error
        self._write(about)
        self.flush()

    @property
    def wanted(self) -> bool:
        """Whether anybody wants it."""
        return self._file is not None

    def add(self, truth: Truth) -> None:
        """Write one request."""
        self._write(truth)

    def flush(self) -> None:
        """Make what was written readable for others."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Write the rest."""
        if self._file is not None:
            self._file.close()

    def _write(self, document: object) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(document) + b"\n")


def read_truth(path: Path) -> list[Truth]:
    """The requests of a file of truth, in the order in which they ended.

    Raises:
        InputError: it is none; the message has the line.
    """
    lines = path.read_bytes().splitlines()[1:]
    found = []
    for number, line in enumerate(lines, start=2):
        try:
            found.append(msgspec.json.decode(line, type=Truth))
        except msgspec.DecodeError as error:
            raise InputError(f"{path}:{number} is no truth of an emulator: {error}") from error
    return found
