"""A kept run that goes on: what must be as before, and what was declared once and for all."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.records import PlanContext, RunManifest, TargetInfo, Workload

__all__ = ["continued"]


def continued(
    kept: RunManifest,
    infos: tuple[TargetInfo, ...],
    workload: Workload,
    plan: PlanContext | None,
) -> RunManifest:
    """The manifest of a kept run that goes on: same workload, perhaps more targets.

    Args:
        kept: the manifest as it is kept.
        infos: the targets as they were found now.
        workload: as it was asked for now.
        plan: as it was asked for now; ``None`` keeps the former.

    Raises:
        InputError: the workload or a target is another one.
    """
    if kept.workload != workload:
        raise InputError(
            "the kept run was measured with another workload "
            f"(prompts {kept.workload.prompt_tokens}, outputs {kept.workload.output_tokens}): "
            "name a new folder, or give the same --prompt-tokens and --output-tokens"
        )
    targets = {info.name: info for info in kept.targets}
    notes = list(kept.notes)
    for info in infos:
        before = targets.setdefault(info.name, info)
        declared = {"hardware": before.hardware, "gpus_per_replica": before.gpus_per_replica}
        if info.hardware is None and info.gpus_per_replica is None:  # declared once is enough
            info = msgspec.structs.replace(info, **declared)  # noqa: PLW2901 - the same, completed
        if info.slots_given is None:
            info = msgspec.structs.replace(info, slots_given=before.slots_given)  # noqa: PLW2901
        if (change := _difference(before, info)) is not None:
            raise InputError(
                f"target {info.name!r} of the kept run is not the same any more ({change}): its "
                f"curve cannot be continued; name a new folder, or give the target another name, "
                f"as in {info.backend}-b:{info.backend}={info.url}"
            )
        if before.hardware is not None and _declared(before) != _declared(info):
            notes.append(
                f"target {info.name}: {_declared(before)} was declared before, {_declared(info)} "
                f"later, which counts for all its levels: where it is other hardware, and no "
                f"correction, measure into a new folder"
            )
        targets[info.name] = info
    return msgspec.structs.replace(
        kept,
        state="running",
        targets=tuple(targets.values()),
        plan=plan or kept.plan,
        notes=tuple(notes),
    )


def _declared(info: TargetInfo) -> str:
    """What one replica was said to run on: ``2 × H100``."""
    count = "" if info.gpus_per_replica is None else f"{info.gpus_per_replica} × "
    return f"{count}{info.hardware}"


def _difference(before: TargetInfo, now: TargetInfo) -> str | None:
    """What makes two looks at a target two servers; a port does not."""
    for what, old, new in (
        ("kind", before.backend, now.backend),
        ("API", before.api or now.api, now.api),
        ("host", urlsplit(before.url).hostname, urlsplit(now.url).hostname),
        ("model", before.model, now.model),
        ("version", before.engine_version, now.engine_version),
        ("slots", before.limits.slots, now.limits.slots),
        ("context", before.limits.context_tokens, now.limits.context_tokens),
        ("settings", before.settings, now.settings),
    ):
        if old != new:
            return f"{what} was {old}, is {new}"
    return None
