"""Every error that Headroom raises on purpose, in one tree.

::

    HeadroomError
    ├── InputError           what the user gave cannot be used                     exit 2
    │   ├── RunFolderError   a run folder is missing, torn, foreign or too new     exit 2
    │   ├── TargetError      a server is unreachable, of another kind, lacks the
    │   │                    model, wants a key, or cannot hold the prompts        exit 2
    │   └── EngineError      a local engine cannot be started                      exit 2
    ├── WireError            bytes from a server break its protocol (becomes the
    │                        ``error_kind`` of a request record, never a crash)    exit 2
    └── Refused              the data cannot carry the answer: says what to
                             measure                                               exit 3

A message is one line: what is wrong, where, the value, the bound, and the remedy.
"""

from __future__ import annotations

__all__ = [
    "EngineError",
    "HeadroomError",
    "InputError",
    "Refused",
    "RunFolderError",
    "TargetError",
    "WireError",
]


class HeadroomError(Exception):
    """Base of the tree. ``exit_code`` is what a command ends with when it is not caught."""

    exit_code = 2


class InputError(HeadroomError):
    """What the user gave cannot be used: an option, a file, a unit, an objective."""


class RunFolderError(InputError):
    """A run folder is missing, empty, torn beyond its tail, foreign, or of a newer schema."""


class TargetError(InputError):
    """A server cannot be measured as given."""


class EngineError(InputError):
    """A local engine is not installed, or did not become ready."""


class WireError(HeadroomError):
    """Bytes from a server break its protocol.

    Attributes:
        kind: the short machine name that goes into ``RequestRecord.error_kind``
            (``bad_json``, ``bad_http``, ``too_large``, ...).
    """

    def __init__(self, kind: str, message: str) -> None:
        """Keep the kind beside the message."""
        super().__init__(message)
        self.kind = kind


class Refused(HeadroomError):  # noqa: N818 - a refusal is an answer, not a fault
    """The data at hand cannot carry the answer; the message names what to measure.

    Attributes:
        next_measurements: commands or levels that would lift the refusal, best first.
    """

    exit_code = 3

    def __init__(self, message: str, next_measurements: tuple[str, ...] = ()) -> None:
        """Keep the remedies beside the message."""
        super().__init__(message)
        self.next_measurements = next_measurements
