"""The same prompts to one server, over and over: one at a time, and in company."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gevent.pool import Pool

from planner.errors import TargetError
from planner.parity import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from planner.parity import Answers

__all__ = ["Collected", "Plan", "collect"]

_MOST_FAILURES = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of every server.

    Attributes:
        repeat: answers to each prompt, alone and again in company.
        company: requests in flight while in company; 0: never.
    """

    prompts: tuple[str, ...]
    repeat: int
    company: int


@dataclass(kw_only=True)
class Collected:
    """The answers of one server.

    Attributes:
        failures: why some requests have none.
    """

    alone: Answers
    company: Answers | None
    failures: list[str] = field(default_factory=list)


def collect(
    name: str,
    ask: Callable[[str], Answer | str],
    plan: Plan,
    *,
    rng: np.random.Generator,
    on_round: Callable[[str], None] = lambda _: None,
) -> Collected:
    """Ask in rounds: every prompt once, in a new order each time, so that repeats lie apart.

    Args:
        name: the target's, for messages.
        ask: one prompt to an answer, or to why there is none.
        plan: what to ask.
        rng: for the orders.
        on_round: told what begins.

    Raises:
        TargetError: several requests failed.
    """
    failures: list[str] = []

    def one(prompt: str) -> Answer | None:
        found = ask(prompt)
        if isinstance(found, Answer):
            return found
        failures.append(found)
        return None

    def rounds(in_flight: int, words: str) -> Answers:
        kept: list[list[Answer]] = [[] for _ in plan.prompts]
        for number in range(plan.repeat):
            on_round(f"{name}: {words}, round {number + 1} of {plan.repeat}")
            order = rng.permutation(len(plan.prompts))
            for index, answer in zip(order, _ask_all(plan, order, one, in_flight), strict=True):
                kept[index] += [] if answer is None else [answer]
            if len(failures) > _MOST_FAILURES:
                raise TargetError(f"target {name!r} fails {len(failures)} chats ({failures[-1]})")
        return tuple(map(tuple, kept))

    alone = rounds(1, "one at a time")
    company = rounds(plan.company, f"{plan.company} in flight") if plan.company else None
    return Collected(alone=alone, company=company, failures=failures)


def _ask_all(
    plan: Plan,
    order: Sequence[int] | np.ndarray,
    one: Callable[[str], Answer | None],
    in_flight: int,
) -> list[Answer | None]:
    prompts = [plan.prompts[index] for index in order]
    if in_flight == 1:
        return [one(prompt) for prompt in prompts]
    found: list[Answer | None] = Pool(in_flight).map(one, prompts)
    return found
