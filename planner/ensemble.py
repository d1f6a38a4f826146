"""A curve drawn by several members, each trusted as far as leaving levels out bears it out.

Every level but the lowest is left out in turn and predicted from the others: inner levels judge
the members that interpolate, the highest those that extrapolate. A member's own error on this
curve is shrunk towards its typical error on published curves of the same family, because three or
four levels say little; the result is the median of the members, weighted by the inverse of their
errors. No member is ever judged on a level that it was fitted to. Where a TTFT holds the wait for a
slot, the members draw what is left of it, and the wait is added to each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.members import members_beyond, members_inside
from planner.waiting import queue_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planner.prior import FamilyPrior
    from planner.waiting import Occupancy

__all__ = ["BEYOND", "INSIDE", "Drawn", "Ensemble", "Regime", "draw"]

Array = npt.NDArray[np.float64]

FLOOR = 0.003
"""Log error that no member is trusted to stay below."""
BOUND = 3.0
"""Log error that counts as hopeless; more changes nothing."""
POWER = 3
"""Of the inverse error that a member is weighted by: between voting and choosing the best."""


@dataclass(frozen=True)
class Regime:
    """Where a prediction lies, and what is drawn there.

    Attributes:
        prior_levels: how many left-out levels the typical error of a member counts for.
        draw: the members.
    """

    prior_levels: float
    draw: Callable[[bool, Array, Array, Array, FamilyPrior], dict[str, Array]]


INSIDE = Regime(prior_levels=1.0, draw=members_inside)
BEYOND = Regime(prior_levels=8.0, draw=members_beyond)


@dataclass(frozen=True)
class Drawn:
    """What the ensemble says at m concurrencies, for B curves.

    Attributes:
        log: (B, m) log value.
        spread: (B, m) weighted mean absolute deviation of the members from it.
        doubt: (B,) weighted mean of the members' errors.
    """

    log: Array
    spread: Array
    doubt: Array


class Ensemble:
    """B curves on the same levels."""

    def __init__(
        self,
        *,
        throughput: bool,
        levels: Array,
        logs: Array,
        prior: FamilyPrior,
        occupancy: Occupancy | None = None,
    ) -> None:
        """Keep the levels.

        Args:
            throughput: as for ``planner.members``.
            levels: (L,) concurrencies, increasing, at least two.
            logs: (B, L) log values.
            prior: of the engine's family.
            occupancy: as for ``draw``.
        """
        self.throughput, self.levels, self.logs, self.prior = throughput, levels, logs, prior
        self.occupancy = occupancy

    def inside(self, n: Array) -> Drawn:
        """Between the lowest and the highest level, (m,) concurrencies."""
        left_out = range(1, self.levels.size - 1)
        return self._combine(INSIDE, self.prior.inside.errors, left_out, n)

    def beyond(self, n: Array) -> Drawn:
        """Above the highest level, (m,) concurrencies."""
        left_out = range(max(self.levels.size - 1, 2), self.levels.size)
        return self._combine(BEYOND, self.prior.beyond.errors, left_out, n)

    def _combine(
        self, regime: Regime, typical: Mapping[str, float], left_out: range, n: Array
    ) -> Drawn:
        drawn = draw(regime, self.throughput, self.levels, self.logs, n, self.prior, self.occupancy)
        names = list(drawn)
        own = self._own_errors(regime, names, left_out)
        prior = np.array([[typical[name]] for name in names]) * regime.prior_levels
        error = (prior + own) / (regime.prior_levels + len(left_out))
        weight = (error + FLOOR) ** -POWER
        weight /= weight.sum(axis=0)
        values = np.stack([drawn[name] for name in names])
        middle = weighted_median(values, weight[..., None])
        spread = (weight[..., None] * np.abs(values - middle)).sum(axis=0)
        return Drawn(log=middle, spread=spread, doubt=(weight * error).sum(axis=0))

    def _own_errors(self, regime: Regime, names: list[str], left_out: range) -> Array:
        """Sum over the left-out levels of each member's absolute log error, (M, B)."""
        total = np.zeros((len(names), self.logs.shape[0]))
        for i in left_out:
            kept = np.arange(self.levels.size) != i
            drawn = draw(
                regime, self.throughput, self.levels[kept], self.logs[:, kept], self.levels[[i]],
                self.prior, None if self.occupancy is None else self.occupancy.at(kept),
            )  # fmt: skip
            errors = np.stack([drawn[name][:, 0] - self.logs[:, i] for name in names])
            total += np.minimum(np.abs(errors), BOUND)
        return total


def draw(
    regime: Regime,
    throughput: bool,
    levels: Array,
    logs: Array,
    n: Array,
    prior: FamilyPrior,
    occupancy: Occupancy | None = None,
) -> dict[str, Array]:
    """Member -> (B, m) log values; a wait for a slot is drawn apart.

    Args:
        regime: whose members.
        throughput: as for ``planner.members``, like the next four.
        levels: (L,)
        logs: (B, L)
        n: (m,)
        prior: of the family.
        occupancy: at the levels; for a TTFT, where it is known.
    """
    if occupancy is None:
        return regime.draw(throughput, levels, logs, n, prior)
    queue = queue_of(levels, logs, occupancy)
    drawn = regime.draw(throughput, levels, queue.rest, n, prior)
    wait = queue.log_wait(n)
    return {name: np.logaddexp(rest, wait) for name, rest in drawn.items()}


def weighted_median(values: Array, weights: Array) -> Array:
    """Median over the first axis of ``values`` (M, ...) with ``weights`` that broadcast to it.

    Between two members it is interpolated by weight, so that it moves smoothly with them.
    """
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    weight = np.take_along_axis(np.broadcast_to(weights, values.shape), order, axis=0)
    middle = (np.cumsum(weight, axis=0) - weight / 2) / weight.sum(axis=0)
    left = np.clip((middle < 0.5).sum(axis=0) - 1, 0, len(values) - 2)[None]  # noqa: PLR2004 - half
    low, high = (np.take_along_axis(ranked, left + i, axis=0)[0] for i in (0, 1))
    start, end = (np.take_along_axis(middle, left + i, axis=0)[0] for i in (0, 1))
    share = np.clip((0.5 - start) / (end - start), 0.0, 1.0)
    return np.asarray(low + share * (high - low))
