"""Reading what claims are judged by: the catalogue that ships, a user's own, doctor and parity."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from planner.claims.catalogue import Claim, claims_of
from planner.diagnosis import Diagnosis, decode_doctor
from planner.errors import InputError
from planner.parity_records import ParityReport, decode_parity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["builtin_claims", "read_claims", "read_doctors", "read_parities"]

_MOST_BYTES = 32 * 2**20
_MOST_CATALOGUE_BYTES = 2**20


@cache
def builtin_claims() -> dict[str, Claim]:
    """What ships with Headroom: ``data/claims.toml``."""
    text = files("planner").joinpath("data", "claims.toml").read_text(encoding="utf-8")
    return claims_of(tomllib.loads(text), what="claims.toml")


def read_claims(path: Path) -> dict[str, Claim]:
    """A user's catalogue.

    Raises:
        InputError: missing, too large, not TOML, or not a catalogue of claims.
    """
    data = _read(path, "claims", _MOST_CATALOGUE_BYTES)
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"claims {path} is no TOML: {str(error)[:200]}") from error
    return claims_of(document, what=f"claims {path}")


def read_doctors(paths: Iterable[Path]) -> tuple[Diagnosis, ...]:
    """What ``headroom doctor --json`` printed into files."""
    found = [
        decode_doctor(_read(path, "doctor", _MOST_BYTES), what=f"doctor {path}") for path in paths
    ]
    return tuple(diagnosis for report in found for diagnosis in report.diagnoses)


def read_parities(paths: Iterable[Path]) -> tuple[ParityReport, ...]:
    """What ``headroom parity --json`` printed into files."""
    return tuple(
        decode_parity(_read(path, "parity", _MOST_BYTES), what=f"parity {path}") for path in paths
    )


def _read(path: Path, kind: str, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{kind} {path}: {error.strerror or error}") from error
    if len(data) > most:
        raise InputError(f"{kind} {path} is too large: at most {most} bytes are read")
    return data
