"""What options cost, and from how many users on which one costs least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.records import Crossover

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from planner.records import Option

__all__ = ["Contender", "confidence_key", "crossovers", "prices_of", "replicas_for", "spares_of"]

MAX_CROSSOVERS = 12
"""More changes of the best answer than this are rounding of replicas, which no one plans by."""
COMPARED_DRAWS, COMPARED_REACH = 100, 5
"""Draws behind the interval of a crossover, and how far beyond it, as a factor, one is sought."""
TAIL = 0.05


@dataclass(frozen=True)
class Contender:
    """One target as the comparison over many numbers of users sees it.

    Attributes:
        target: its name.
        capacity: users that one replica carries at the asked confidence, at least 1.
        price: what one replica costs, in the unit that all contenders share.
        drawn: (B,) the capacity in each bootstrap draw; 0: not even one user.
    """

    target: str
    capacity: int
    price: float
    drawn: npt.NDArray[np.int64] | None = None


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


def spares_of(needed: int, spare: int | None) -> int:
    """Replicas beside the needed ones that may fail; ``spare`` as for ``replicas_for``."""
    return int(needed > 1) if spare is None else spare


def crossovers(
    contenders: Sequence[Contender], spare: int | None, up_to: int
) -> tuple[Crossover, ...]:
    """From how many users on another target costs less, over 1 to ``up_to`` users.

    The interval of each is that of the two targets it lies between. At equal price the one whose
    replicas carry more users is better: it has more headroom. The first entry says who is best for
    one user.
    """
    if not contenders:
        return ()
    users = np.arange(1, up_to + 1)
    ordered = sorted(contenders, key=lambda c: (-c.capacity / c.price, -c.capacity, c.target))
    changes = _changes(ordered, [c.capacity for c in ordered], spare, users)
    found = []
    for before, (from_users, target) in zip(
        [None, *changes], changes[:MAX_CROSSOVERS], strict=False
    ):
        low, high = None, None
        if before is not None:
            low, high = _interval(before[1], target, from_users, contenders, spare, users)
        found.append(Crossover(from_users=from_users, target=target, low=low, high=high))
    return tuple(found)


def _changes(
    ordered: Sequence[Contender],
    capacities: Sequence[int],
    spare: int | None,
    users: npt.NDArray[np.int64],
) -> list[tuple[int, str]]:
    """Where the cheapest of some contenders changes: (from how many users on, who)."""
    prices = np.stack(
        [
            contender.price * replicas_for(users, capacity, spare)
            for contender, capacity in zip(ordered, capacities, strict=True)
        ]
    )
    best = np.argmin(np.round(prices, 9), axis=0)  # the first of equals, hence the order
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    return [(int(users[i]), ordered[best[i]].target) for i in starts]


def _interval(
    before: str,
    target: str,
    from_users: int,
    contenders: Sequence[Contender],
    spare: int | None,
    users: npt.NDArray[np.int64],
) -> tuple[int | None, int | None]:
    """The 90 % interval of one change over the bootstrap draws, of these two contenders alone.

    In each draw the change nearest to the one found counts: the rounding of replicas makes several.
    A draw in which ``target`` is always, or never, the better one has it before the first user, or
    beyond the last one compared: that end of the interval is then open.
    """
    pair = [next(c for c in contenders if c.target == name) for name in (before, target)]
    drawn = [contender.drawn for contender in pair]
    if drawn[0] is None or drawn[1] is None:
        return None, None
    seen = users[: min(users.size, COMPARED_REACH * from_users)]
    starts = []
    for capacities in list(zip(*drawn, strict=False))[:COMPARED_DRAWS]:
        if min(capacities) < 1:
            starts.append(math.inf if capacities[1] < 1 else -math.inf)
            continue
        order = sorted(
            zip(pair, capacities, strict=True),
            key=lambda one: (-one[1] / one[0].price, -one[1], one[0].target),
        )
        changes = _changes([c for c, _ in order], [int(n) for _, n in order], spare, seen)
        nearest = [start for start, name in changes[1:] if name == target]
        if nearest:
            starts.append(min(nearest, key=lambda start: abs(math.log(start / from_users))))
        else:
            starts.append(-math.inf if changes[0][1] == target else math.inf)
    ends = np.quantile(starts, [TAIL, 1 - TAIL], method="inverted_cdf")
    low, high = min(float(ends[0]), from_users), max(float(ends[1]), from_users)
    return (
        int(low) if math.isfinite(low) else None,
        int(high) if math.isfinite(high) else None,
    )
