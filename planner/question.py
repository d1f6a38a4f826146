"""What is asked of every target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.arrivals import STEPS
from planner.predict import Load
from planner.units import format_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.hardware import Catalogue
    from planner.records import Demand, Slo

__all__ = ["Question"]


@dataclass(frozen=True)
class Question:
    """What is asked of every target.

    Attributes:
        demand: users and think time, or arrivals; lengths.
        slo: objectives that must hold at once.
        confidence: probability that they hold, at least.
        spare: replicas that may fail; ``None`` means one wherever more than one is needed.
        gpu_cost: price per hour by hardware or target name.
        catalogue: of hardware, to see what fits into memory; ``None``: nothing is known.
        routing: how requests are spread over replicas; ``None``: users stay on theirs, arrivals go
            to any.
    """

    demand: Demand
    slo: tuple[Slo, ...]
    confidence: float
    spare: int | None
    gpu_cost: Mapping[str, float]
    catalogue: Catalogue | None = None
    routing: str | None = None

    @property
    def amount(self) -> int:
        """The whole demand: users, or the parts that a stream of arrivals is cut into."""
        return STEPS if self.demand.users is None else self.demand.users

    @property
    def think_time_s(self) -> float:
        """Mean pause of a user; infinite for arrivals, which do not come back."""
        return math.inf if self.demand.users is None else self.demand.think_time_s

    def needed(self, capacity: int) -> int:
        """Replicas without spares, if each carries ``capacity`` of the demand."""
        return math.ceil(self.amount / capacity)

    def load(self, replicas: int) -> Load:
        """The most that one of so many replicas gets."""
        return Load(math.ceil(self.amount / replicas), self.think_time_s)

    def rate(self, amount: float) -> float | None:
        """A part of the demand as requests per second; ``None`` where it is users."""
        stream = self.demand.arrivals
        return stream.rate_per_s * amount / STEPS if stream else None

    def told(self, amount: int) -> str:
        """A part of the demand for people: ``50 users``, ``2.5 requests/s``."""
        rate = self.rate(amount)
        if rate is not None:
            return f"{format_rate(rate)} requests/s"
        return f"{amount} user{'s' if amount != 1 else ''}"

    @property
    def least(self) -> str:
        """The least that can be asked of a replica, for people."""
        return "one user" if self.demand.users is not None else "a trickle of requests"
