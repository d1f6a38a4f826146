"""Reading what claims are judged by: the catalogue that ships, a user's own, doctor and parity."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from planner.claims.catalogue import Claim, claims_of
from planner.diagnosis import Diagnosis, decode_doctor
from planner.errors import InputError
from planner.files import read_bounded
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
    data = read_bounded(path, _MOST_CATALOGUE_BYTES, "claims")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"claims {path} is no TOML: {str(error)[:200]}") from error
    return claims_of(document, what=f"claims {path}")


def read_doctors(paths: Iterable[Path]) -> tuple[Diagnosis, ...]:
    """What ``headroom doctor --json`` printed into files."""
    found = [
        decode_doctor(read_bounded(path, _MOST_BYTES, "doctor"), what=f"doctor {path}")
        for path in paths
    ]
    return tuple(diagnosis for report in found for diagnosis in report.diagnoses)


def read_parities(paths: Iterable[Path]) -> tuple[ParityReport, ...]:
    """What ``headroom parity --json`` printed into files."""
    return tuple(
        decode_parity(read_bounded(path, _MOST_BYTES, "parity"), what=f"parity {path}")
        for path in paths
    )
