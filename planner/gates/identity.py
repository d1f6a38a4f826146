"""What two runs must share for their figures to be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from planner.errors import InputError
from planner.records import EngineLimits, Name, Record, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.records import RunManifest, TargetInfo

__all__ = ["Identity", "identities", "is_local", "matched"]

_LOOPBACK = ("127.", "localhost", "::1")


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


def identities(manifest: RunManifest) -> dict[str, Identity]:
    """The targets of a run by name."""
    return {target.name: _identity(target, manifest) for target in manifest.targets}


def is_local(url: str) -> bool:
    """Whether a server is on the machine that made the load."""
    try:
        return (urlsplit(url).hostname or "").startswith(_LOOPBACK)
    except ValueError:  # an address in brackets that are not closed
        return False


def _identity(target: TargetInfo, manifest: RunManifest) -> Identity:
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
        if is_local(target.url)
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
