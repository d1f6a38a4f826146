"""What options cost, and from how many users on which one costs least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.records import Crossover

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from planner.records import Option

__all__ = ["Contender", "confidence_key", "crossovers", "prices_of", "replicas_for"]

MAX_CROSSOVERS = 12
"""More changes of the best answer than this are rounding of replicas, which no one plans by."""


@dataclass(frozen=True)
class Contender:
    """One target as the comparison over many numbers of users sees it.

    Attributes:
        target: its name.
        capacity: users that one replica carries at the asked confidence, at least 1.
        price: what one replica costs, in the unit that all contenders share.
    """

    target: str
    capacity: int
    price: float


def confidence_key(confidence: float) -> str:
    """The key of ``Option.users_per_replica`` for a confidence: ``0.9``, ``0.95``."""
    return f"{confidence:.4g}"


def prices_of(options: Sequence[Option]) -> Mapping[str, float]:
    """By target, one comparable price: cost if all have one, else GPUs if all do, else replicas."""
    feasible = [option for option in options if option.replicas is not None]
    for unit in ("cost_per_hour", "gpus", "replicas"):
        values = {option.target: getattr(option, unit) for option in feasible}
        if all(value is not None for value in values.values()):
            return {target: float(value) for target, value in values.items()}
    return {}


def replicas_for(
    users: npt.NDArray[np.int64] | int, capacity: int, spare: int | None
) -> npt.NDArray[np.int64]:
    """Replicas for a number of users, split evenly, such that ``spare`` of them may fail.

    Args:
        users: numbers of users, any shape.
        capacity: users that one replica carries.
        spare: replicas that may fail; ``None`` means one as soon as more than one is needed.
    """
    needed = -(-np.asarray(users, dtype=np.int64) // capacity)
    return needed + (np.where(needed > 1, 1, 0) if spare is None else spare)


def crossovers(
    contenders: Sequence[Contender], spare: int | None, up_to: int
) -> tuple[Crossover, ...]:
    """From how many users on another target costs less, over 1 to ``up_to`` users.

    At equal price the one whose replicas carry more users is better: it has more headroom. The
    first entry says who is best for one user.
    """
    if not contenders:
        return ()
    ordered = sorted(contenders, key=lambda c: (-c.capacity / c.price, -c.capacity, c.target))
    users = np.arange(1, up_to + 1)
    prices = np.stack([c.price * replicas_for(users, c.capacity, spare) for c in ordered])
    best = np.argmin(np.round(prices, 9), axis=0)  # the first of equals, hence the order above
    changes = np.flatnonzero(np.diff(best, prepend=-1))
    return tuple(
        Crossover(from_users=int(users[i]), target=ordered[best[i]].target)
        for i in changes[:MAX_CROSSOVERS]
    )
