"""Does a server answer two requests at once? Found out by sending it two.

No server says so: llama.cpp tells its slots, but Ollama keeps OLLAMA_NUM_PARALLEL and vLLM its
``--max-num-seqs`` to itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gevent

from loadtests.dialects import dialect_of
from loadtests.dialects.base import Chat, Message
from loadtests.measure.assemble import RequestLabel, assemble
from loadtests.stream import Clock, StreamClient
from loadtests.targets import api_key
from planner.diagnosis import Capability

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtests.stream import Timeouts
    from loadtests.targets import Target
    from planner.records import RequestRecord

__all__ = ["Spell", "ask_two", "at_once"]

_TRIES = 3
_TOKENS = 16
_PROMPTS = ("Count the boats in the harbour, one by one.", "Name the winds of the sea, one by one.")


@dataclass(frozen=True, kw_only=True)
class Spell:
    """When one answer was sent for, began and ended, in seconds of one clock."""

    sent_s: float
    first_token_s: float
    ended_s: float


def ask_two(target: Target, model: str | None, timeouts: Timeouts) -> Capability:
    """Send two short chats together, at most three times, until their answers overlap."""
    unsure = failed = 0
    for _ in range(_TRIES):
        spells = _two(target, model, timeouts)
        if len(spells) < len(_PROMPTS):
            failed += 1
            continue
        together = at_once(spells)
        if together:
            return _found(True, "the answers to two chats overlap in time")
        unsure += together is None
    if failed == _TRIES:
        return _found(None, "two chats sent together did not both end well")
    if failed or unsure:
        return _found(None, "the answers are too short to tell")
    return _found(False, f"of two chats one waits for the other's end, {_TRIES} times of {_TRIES}")


def at_once(spells: Sequence[Spell]) -> bool | None:
    """Whether two answers came at once.

    Returns:
        ``True``: they overlap. ``False``: the second was already there when the first began, yet
        began only when the first had ended. ``None``: it came too late to tell.
    """
    first, second = sorted(spells, key=lambda spell: spell.first_token_s)
    if second.first_token_s < first.ended_s:
        return True
    return False if second.sent_s < first.first_token_s else None


def _two(target: Target, model: str | None, timeouts: Timeouts) -> list[Spell]:
    clock = Clock()
    jobs = [gevent.spawn(_one, target, model, text, clock, timeouts) for text in _PROMPTS]
    gevent.joinall(jobs, raise_error=True)
    records: list[RequestRecord] = [job.get() for job in jobs]
    return [
        Spell(sent_s=r.sent_s, first_token_s=r.first_token_s, ended_s=r.ended_s)
        for r in records
        if r.status == "ok" and r.first_token_s is not None
    ]


def _one(
    target: Target, model: str | None, text: str, clock: Clock, timeouts: Timeouts
) -> RequestRecord:
    dialect = dialect_of(target.backend, target.api)
    chat = Chat(
        messages=(Message(role="user", content=text),), model=model, max_tokens=_TOKENS,
        temperature=0,
    )  # fmt: skip
    call = dialect.encode(chat, api_key=api_key(target))
    exchange = StreamClient(target.endpoint, clock, timeouts).exchange(call)
    label = RequestLabel(
        id=0, stage=-1, target=target.name, backend=target.backend, user=0, turn=0, scheduled_s=0.0
    )
    return assemble(label, exchange, dialect)


def _found(supported: bool | None, evidence: str) -> Capability:
    return Capability(name="parallel", supported=supported, evidence=evidence)
