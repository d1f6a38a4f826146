"""What is asked of every target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.predict import Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planner.records import Demand, Slo

__all__ = ["Question"]


@dataclass(frozen=True)
class Question:
    """What is asked of every target.

    Attributes:
        demand: users, think time, lengths.
        slo: objectives that must hold at once.
        confidence: probability that they hold, at least.
        spare: replicas that may fail; ``None`` means one wherever more than one is needed.
        gpu_cost: price per hour by hardware or target name.
    """

    demand: Demand
    slo: tuple[Slo, ...]
    confidence: float
    spare: int | None
    gpu_cost: Mapping[str, float]

    def needed(self, capacity: int) -> int:
        """Replicas without spares, if each carries ``capacity`` users."""
        return math.ceil(self.demand.users / capacity)

    def load(self, replicas: int) -> Load:
        """The most users that one of so many replicas gets."""
        return Load(math.ceil(self.demand.users / replicas), self.demand.think_time_s)
