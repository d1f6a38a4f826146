"""JSON documents that one command prints and another reads."""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec

from planner.errors import InputError

__all__ = ["decode_document"]


class _Versioned(Protocol):
    @property
    def schema(self) -> int: ...


Document = TypeVar("Document", bound=_Versioned)


def decode_document(
    data: bytes, kind: type[Document], newest: int, *, command: str, what: str
) -> Document:
    """Read what a command printed with ``--json``.

    Args:
        data: the document.
        kind: its type.
        newest: the newest schema of it that this Headroom knows.
        command: the command that prints it.
        what: its name for messages, such as the file's.

    Raises:
        InputError: no such document, or one of a newer Headroom.
    """
    try:
        report = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            f"{what} is not what {command} --json prints: {str(error)[:200]}"
        ) from error
    if report.schema > newest:
        raise InputError(
            f"{what} has schema {report.schema}; this Headroom reads up to {newest}: update it"
        )
    return report
