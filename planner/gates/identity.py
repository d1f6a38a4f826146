"""What two runs must share for their figures to be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from planner.errors import InputError
from planner.records import EngineLimits, Name, Record, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from planner.records import RunManifest, TargetInfo

__all__ = ["Identity", "check_comparable", "identities", "matched"]

_LOOPBACK = ("127.", "localhost", "::1")
_MAX_TOLD = 5


class Identity(Record, frozen=True, kw_only=True):
    """One target as it was measured.

    The engine's version is kept to be told, not to be compared: whether a new version is slower is
    what a gate is for. An engine on the machine that made the load has that machine's processor.
    """

    name: Name
    backend: Name
    api: Name | None = None
    model: Name | None = None
    engine: Name | None = None
    engine_version: Name | None = None
    limits: EngineLimits = EngineLimits()
    hardware: Name | None = None
    gpus_per_replica: int | None = None
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    emulated: Name | None = None
    processor: Name | None = None  # of an engine on the client's own machine
    workload: Workload


_COMPARED = {
    "backend": "backend",
    "api": "API",
    "model": "model",
    "engine": "engine",
    "limits": "engine limits",
    "hardware": "hardware",
    "gpus_per_replica": "GPUs per replica",
    "settings": "engine settings",
    "emulated": "emulated profile",
    "processor": "processor",
    "workload": "workload",
}
"""Field -> how a message calls it."""


def identities(manifest: RunManifest) -> dict[str, Identity]:
    """The targets of a run by name."""
    return {target.name: _identity(target, manifest) for target in manifest.targets}


def _identity(target: TargetInfo, manifest: RunManifest) -> Identity:
    host = urlsplit(target.url).hostname or ""
    client = manifest.client
    return Identity(
        name=target.name,
        backend=target.backend,
        api=target.api,
        model=target.model,
        engine=target.engine,
        engine_version=target.engine_version,
        limits=target.limits,
        hardware=target.hardware,
        gpus_per_replica=target.gpus_per_replica,
        settings=target.settings,
        emulated=target.emulated,
        processor=f"{client.cpu_count} × {client.cpu_model or client.platform}"
        if host.startswith(_LOOPBACK)
        else None,
        # How an API was named in the workload is superseded by the target's own.
        workload=msgspec.structs.replace(manifest.workload, api="openai"),
    )


def matched(name: str, run: Mapping[str, Identity], baseline: Mapping[str, Identity]) -> str:
    """The baseline's name of a target: the same, or where each has one target, that one.

    Raises:
        InputError: the baseline has no such target.
    """
    if name in baseline:
        return name
    if len(run) == len(baseline) == 1:
        return next(iter(baseline))
    known = ", ".join(repr(other) for other in baseline)
    raise InputError(f"the baseline has no target {name!r}: it has {known}")


def check_comparable(names: Iterable[str], run: Mapping[str, Identity],
                     baseline: Mapping[str, Identity], what: str) -> tuple[str, ...]:  # fmt: skip
    """Refuse to compare what differs in more than the engine's version.

    Args:
        names: targets of the run that are to be compared.
        run: its targets.
        baseline: the other's.
        what: the baseline, for messages.

    Returns:
        What a reader must be told: other versions.

    Raises:
        InputError: a target is missing, or model, engine settings, hardware or workload differ.
    """
    notes = []
    for name in names:
        try:
            other = baseline[matched(name, run, baseline)]
        except InputError as error:
            raise InputError(f"{what} cannot be compared: {error}") from error
        mine = run[name]
        differing = [
            f"{told} {_shown(getattr(other, field))} there, {_shown(getattr(mine, field))} here"
            for field, told in _COMPARED.items()
            if getattr(other, field) != getattr(mine, field)
        ]
        if differing:
            more = len(differing) - _MAX_TOLD
            listed = "; ".join(differing[:_MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")
            raise InputError(
                f"{what} cannot be compared with this run: target {name!r}: {listed}: measure a "
                f"baseline anew, or this run as the baseline was"
            )
        if mine.engine_version != other.engine_version:
            notes.append(
                f"{name}: {mine.engine or mine.backend} {mine.engine_version or '?'} is compared "
                f"with {other.engine_version or '?'}"
            )
    return tuple(notes)


def _shown(value: object) -> str:
    """A value for a message: short, one line, and of a record only what it states."""
    if value is None:
        return "not known"
    if isinstance(value, msgspec.Struct):
        stated = msgspec.structs.asdict(value).items()
        value = ", ".join(f"{key} {told}" for key, told in stated if told is not None) or "none"
    elif isinstance(value, dict):
        value = ", ".join(f"{key} {told}" for key, told in sorted(value.items())) or "none"
    text = str(value)
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= 120 else f"{clean[:117]}..."  # noqa: PLR2004 - readable
