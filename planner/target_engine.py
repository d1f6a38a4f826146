"""The engine that is simulated for a target: its slots, its queue and its KV cache."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.errors import Refused
from planner.records import ENGINES, KV_BLOCK, KV_TOKENS
from planner.simulation.engine import Engine
from planner.slots import FEWEST, unqueued

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.records import TargetInfo
    from planner.steptime import StepTime
    from planner.summary import LevelSample

__all__ = ["engine_of", "has_room", "refuse_unknown_memory", "slots_to_simulate"]

BATCH_TOKENS = 2048
"""Of a step: vLLM's default."""
MOST_BLOCK_TOKENS = 65_536
FULL = 0.9
"""Share of the KV cache from which on requests may have waited for room in it."""


def slots_to_simulate(target: TargetInfo, in_flight: int) -> int:
    """Its slots; where they are not known, as many as are enough that nobody waits for one.

    They are enough for as many as were seen to run at once, and where the KV cache was seen to keep
    others waiting: then it does so before the slots would.

    Args:
        target: the target.
        in_flight: so many requests at most are on a replica at once.

    Raises:
        Refused: they are not known, and not known to be enough.
    """
    if target.slots is not None:
        return target.slots
    seen = target.slots_seen
    enough = 0 if seen is None else unqueued(seen)
    if in_flight <= enough:
        return enough
    if seen is not None and seen.full >= FEWEST and _kv_cache(target) is not None:
        return in_flight
    why = "the server does not say how many requests it answers at once"
    remedy = f"give --slots {target.name}=NUMBER"
    if seen is None:  # nor how many run
        raise Refused(f"{why}: {remedy}")
    raise Refused(
        f"{why}: {remedy}, or measure more in flight than it answers at once ({seen.most_running} "
        f"were seen to run, and up to {in_flight} would be in flight)"
    )


def refuse_unknown_memory(target: TargetInfo, curve: Iterable[LevelSample], in_flight: int) -> None:
    """Refuse to simulate as many in flight as filled a KV cache whose size nobody tells.

    Raises:
        Refused: with the lowest such level.
    """
    seen = target.slots_seen
    full = min((s.point.load for s in curve if not has_room(s)), default=math.inf)
    if seen is None or seen.full < FEWEST or in_flight < full or _kv_cache(target) is not None:
        return
    raise Refused(
        f"with {full:g} in flight the KV cache was full and kept requests waiting, and the server "
        f"does not tell its size"
    )


def engine_of(target: TargetInfo, slots: int, step: StepTime) -> Engine:
    """The engine, with the queue and the KV cache that its server tells of."""
    limit = target.limits.queue_limit
    engine = Engine(
        step=step,
        slots=slots,
        batch_tokens=BATCH_TOKENS + slots,
        queue_limit=None if limit is None else max(limit, 0),
    )
    cache = _kv_cache(target)
    if cache is None:
        return engine
    return replace(engine, kv_tokens=cache[0], kv_block_tokens=cache[1])


def has_room(sample: LevelSample) -> bool:
    """Whether the KV cache held all that was in flight, so that none of it waited for room."""
    server = sample.point.server
    return server is None or (server.kv_usage_max or 0.0) < FULL


def _kv_cache(target: TargetInfo) -> tuple[int, int] | None:
    """Tokens of the KV cache that all its requests share, and of a block of it."""
    tokens, block, engines = (_count(target, name) for name in (KV_TOKENS, KV_BLOCK, ENGINES))
    if tokens is None or block is None or not 1 <= block <= min(tokens, MOST_BLOCK_TOKENS):
        return None
    return tokens * (engines or 1), block


def _count(target: TargetInfo, name: str) -> int | None:
    """A setting that is a number."""
    text = target.settings.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None
