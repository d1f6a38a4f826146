"""How many requests a server answers at once, where it does not tell: seen in its telemetry.

A server that has slots lets the rest wait. So the limit is the most that ever ran at once, if about
so many ran at half of the looks at which others were kept waiting, and at three at least. What only
looks like it is left out:

- Whoever came during a step waits for its end, so some wait below the limit too. Only looks count
  at which a tenth more were there, running or waiting, than ever ran at once.
- A KV cache that is full keeps others waiting as well. A look at which it had no room for a few
  more requests of the size of those that ran does not count.
- The instant of a look falls between two steps, when some have ended and nobody has taken their
  place. So a look agrees that is at most a twentieth below, or one, from four slots on.
- Where something else is the limit (memory, the prompt tokens of a step) the number that runs goes
  up and down with the lengths, and few looks agree with the highest.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from planner.errors import InputError
from planner.records import MAX_SLOTS, SeenSlots
from planner.telemetry import ENGINE_SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from planner.records import SlotLimit, TargetInfo
    from planner.runfolder import Run
    from planner.table import Floats
    from planner.telemetry import Telemetry

__all__ = [
    "Looks",
    "joined",
    "looks_at",
    "seen_slots",
    "slots_from",
    "slots_of",
    "slots_text",
    "slots_warnings",
    "unqueued",
    "with_seen",
    "with_slots",
]

QUEUE = 0.1
"""More than ever ran at once, as a share of these: fewer may be between two steps."""
BELOW = 0.05
"""So far below the most that ran at once a look still agrees with it ..."""
FEW = 4
"""... and by one where so many ran: between two steps of short answers somebody has often ended."""
ROOM = 4.0
"""Requests of the mean size for which the KV cache must have room."""
FEWEST = 3
"""Looks that must agree ..."""
SHARE = 0.5
"""... and their share of those at which others were kept waiting."""


class Looks(NamedTuple):
    """(n,) what a server said at each look: running, waiting, share of the KV cache in use.

    NaN: not told.
    """

    running: Floats
    waiting: Floats
    kv_usage: Floats


def seen_slots(looks: Looks) -> SeenSlots | None:
    """The limit that some looks show, or at least how many ran at once.

    Returns:
        ``None`` where nothing was ever seen to run.
    """
    running, waiting, kv_usage = looks
    known = (running > 0) & (running <= MAX_SLOTS)  # whatever else a server may say
    running, waiting, kv_usage = running[known], waiting[known], kv_usage[known]
    if not running.size:
        return None
    most = int(running.max())
    full = kv_usage * (1 + ROOM / running) >= 1  # false where it is not told
    crowded = (waiting >= 1) & (running + waiting >= (1 + QUEUE) * most)
    queued = crowded & ~full
    slack = max(int(BELOW * most), int(most >= FEW))
    agreeing = int((queued & (running >= most - slack)).sum())
    sure = agreeing >= max(FEWEST, SHARE * queued.sum())
    return SeenSlots(
        most_running=most,
        limit=most if sure else None,
        agreeing=agreeing,
        queued=int(queued.sum()),
        full=int((crowded & full).sum()),
    )


def unqueued(seen: SeenSlots) -> int:
    """Requests of which nobody waits for a slot, as far as looks can tell."""
    return int(seen.most_running / (1 - BELOW))


def looks_at(telemetry: Telemetry, target: str) -> Looks:
    """All looks at a target, by the best page that tells how many run."""
    found = (telemetry.find(target, source, "running") for source in ENGINE_SOURCES)
    pages = zip(ENGINE_SOURCES, found, strict=True)
    source, running = next(((s, r) for s, r in pages if len(r.value)), ("", None))
    if running is None:
        return Looks(*(np.zeros(0) for _ in Looks._fields))
    others = []
    for name in ("waiting", "kv_usage"):
        series = telemetry.find(target, source, name)
        values = np.full(len(running.value), np.nan)
        _, mine, theirs = np.intersect1d(running.time_s, series.time_s, return_indices=True)
        values[mine] = series.value[theirs]
        others.append(values)
    return Looks(running.value, *others)


def joined(looks: Iterable[Looks]) -> Looks:
    """The looks of several runs at one target."""
    return Looks(*(np.concatenate(column) for column in zip(*looks, strict=True)))


def slots_of(run: Run, target: TargetInfo) -> int | None:
    """Requests that a target of a run answers at once: as given, told, or seen so far."""
    return with_seen(target, run.telemetry()).slots


def with_seen(target: TargetInfo, telemetry: Telemetry) -> TargetInfo:
    """A target with what its telemetry shows of its slots."""
    seen = seen_slots(looks_at(telemetry, target.name))
    return msgspec.structs.replace(target, slots_seen=seen)


def with_slots(
    runs: Sequence[Run], given: Mapping[str, int], *, declared: Mapping[str, int]
) -> list[Run]:
    """Runs whose targets have the slots that the user says, by the targets' names.

    Args:
        runs: the runs.
        given: by target; each must be one of a run.
        declared: the same of targets in general.

    Raises:
        InputError: no run has a target of a name that is given.
    """
    names = {target.name: None for run in runs for target in run.manifest.targets}
    for name, slots in given.items():
        if name not in names:
            raise InputError(
                f"--slots {name}={slots} names no target that was measured: there are "
                f"{', '.join(names)}"
            )
    return [_with_slots(run, {**declared, **given}) for run in runs]


def _with_slots(run: Run, given: Mapping[str, int]) -> Run:
    targets = tuple(
        msgspec.structs.replace(target, slots_given=given.get(target.name, target.slots_given))
        for target in run.manifest.targets
    )
    manifest = msgspec.structs.replace(run.manifest, targets=targets)
    return dataclasses.replace(run, manifest=manifest)


def slots_text(slots: int) -> str:
    """``1 slot``, ``256 slots``."""
    return f"{slots:,} slot{'' if slots == 1 else 's'}"


def slots_from(limit: SlotLimit) -> str:
    """Who says how many slots there are, as a clause behind their number."""
    if limit.source == "told":
        return "as the server says"
    if limit.source == "given":
        return "as given"
    return (
        f"as seen: never more ran at once, and about so many did at {limit.agreeing} of "
        f"{limit.queued} looks at which others waited"
    )


def slots_warnings(target: TargetInfo) -> tuple[str, ...]:
    """Where what was told, given and seen of a target's slots differ."""
    used, seen = target.slot_limit, target.slots_seen
    if used is None or used.source == "seen":
        return ()
    who = "it was given" if used.source == "given" else "it says that it has"
    whose = f"{target.name}: {who} {slots_text(used.slots)}"
    found = []
    told = target.limits.slots
    if used.source == "given" and told not in {None, used.slots}:
        found.append(f"{whose}, but it says that it has {told}; what is given counts")
    if seen is not None and seen.most_running > used.slots:
        found.append(f"{whose}, but {seen.most_running} ran at once by its own metrics")
    elif seen is not None and seen.limit is not None and seen.limit < used.slots * (1 - BELOW):
        found.append(
            f"{whose}, but while others waited no more than {seen.limit} ran at once, at "
            f"{seen.agreeing} of {seen.queued} looks"
        )
    return tuple(found)
