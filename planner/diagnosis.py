"""What ``headroom doctor`` found out about servers: the records of its JSON, and their reader."""

from __future__ import annotations

from typing import Annotated

import msgspec

from planner.documents import decode_document
from planner.records import Name, Record, TargetInfo

__all__ = [
    "DOCTOR_SCHEMA",
    "Capability",
    "Caution",
    "Diagnosis",
    "DoctorReport",
    "Undiagnosed",
    "decode_doctor",
]

DOCTOR_SCHEMA = 1
"""Version of the document. A newer one is refused."""


Line = Annotated[str, msgspec.Meta(max_length=2000)]
"""One line for people."""


class Capability(Record, frozen=True, kw_only=True):
    """One thing that an API client may rely on, and whether this server has it."""

    name: Name  # chat, streaming, tools, ...
    supported: bool | None  # None: the server's answer does not tell
    status: int | None = None  # of the HTTP answer that decided; None: there was none
    evidence: Line


class Caution(Record, frozen=True, kw_only=True):
    """Something that would spoil a measurement, and what to do about it."""

    kind: Name  # one_slot, busy, prefix_cache, ...
    message: Line
    remedy: Line


class Diagnosis(Record, frozen=True, kw_only=True):
    """One server: what it is, what it can, what to mind."""

    target: TargetInfo
    models: tuple[Name, ...] = ()  # those that it lists, at most some dozens
    capabilities: tuple[Capability, ...] = ()
    cautions: tuple[Caution, ...] = ()

    def can(self, name: str) -> bool | None:
        """Whether the server has a capability; ``None``: not told, or not asked."""
        return next((c.supported for c in self.capabilities if c.name == name), None)


class Undiagnosed(Record, frozen=True, kw_only=True):
    """A target that could not be looked at, and why."""

    name: Name
    url: Name
    why: Line


class DoctorReport(Record, frozen=True, kw_only=True):
    """The document that ``headroom doctor --json`` prints."""

    schema: int = DOCTOR_SCHEMA
    headroom_version: Name
    diagnoses: tuple[Diagnosis, ...] = ()
    failures: tuple[Undiagnosed, ...] = ()


def decode_doctor(data: bytes, *, what: str) -> DoctorReport:
    """Read what ``headroom doctor --json`` printed.

    Args:
        data: the document.
        what: its name for messages, such as the file's.

    Raises:
        InputError: no such document, or one of a newer Headroom.
    """
    return decode_document(data, DoctorReport, DOCTOR_SCHEMA, command="headroom doctor", what=what)
