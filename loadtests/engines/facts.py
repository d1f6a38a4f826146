"""What a running engine is: the same facts of each kind, by its own account."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import psutil

from loadtests.measure.inspect import inspect
from loadtests.targets import parse_target

if TYPE_CHECKING:
    from loadtests.engines.base import LiveEngine

__all__ = ["EngineFacts", "engine_facts", "memory_bytes"]


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """``None``: neither the server nor its start tells.

    Attributes:
        version: the release that was started, where its start tells; else as the server says it.
        model: the name by which requests ask for it.
        context_tokens: prompt and answer that one request may hold.
        slots: sequences decoded at once.
        queue_limit: requests that may wait before it refuses.
        quantization: how the weights are kept.
        memory_bytes: resident memory of the engine's processes, each page counted where it is
            mapped.
    """

    engine: str | None
    version: str | None
    model: str | None
    context_tokens: int | None
    slots: int | None
    queue_limit: int | None
    quantization: str | None
    memory_bytes: int | None


def engine_facts(engine: LiveEngine, backend: str) -> EngineFacts:
    """Ask a running engine what it is, in the terms of the backend that it is or emulates.

    Raises:
        TargetError: it does not answer.
    """
    info = inspect(parse_target(f"{backend}={engine.url}#{engine.model}"))
    started_with = engine.facts
    return EngineFacts(
        engine=info.engine,
        version=started_with.get("release") or info.engine_version,
        model=info.model,
        context_tokens=info.limits.context_tokens or _number(started_with.get("context_per_slot")),
        slots=info.limits.slots or _number(started_with.get("slots")),
        queue_limit=info.limits.queue_limit,
        quantization=info.settings.get("quantization"),
        memory_bytes=None if engine.pid is None else memory_bytes(engine.pid),
    )


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process and its descendants; ``None`` once it is gone."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    total = 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
