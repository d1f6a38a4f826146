"""How many users one replica carries, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.predict import Load, share_met

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.predict import Replica
    from planner.records import Slo

__all__ = ["Capacity"]

MOST_USERS = 1_000_000
"""No replica is asked to carry more users than this."""
DENSE = 16
"""Numbers of users up to which every one is tried before the grid widens by steps of 15 %."""
TAIL, REFINED = 0.05, 11
"""Numbers of users tried anew between the draws' 5 % and 95 % quantiles."""


class Capacity:
    """Probability that one replica meets every objective, by its number of users.

    Of a stream of arrivals "users" are the equal parts that it is cut into (``planner.arrivals``).

    A draw counts for a number of users only if it met the objectives for every smaller number
    that was tried, so the probability never rises with load.

    Attributes:
        limit: the most users for which anything is predicted; 0 when nothing is.
    """

    def __init__(self, replica: Replica, objectives: Sequence[Slo], think_time_s: float) -> None:
        """Find the range of users and try a coarse grid of it.

        Args:
            replica: predicts the figures of one replica.
            objectives: all of them must hold at once.
            think_time_s: mean pause of a user, seconds.
        """
        self._replica, self._objectives = replica, tuple(objectives)
        self._think_time_s = think_time_s
        self._met: dict[int, npt.NDArray[np.bool_]] = {}
        self.limit = self._find_limit()
        self._grid = self._users_to_try()
        self._alive = self._survivors(self._grid)

    def load(self, users: int) -> Load:
        """The load that a number of users makes."""
        return Load(users, self._think_time_s)

    def probability(self, users: int) -> float:
        """P(every objective is met) with a number of users on one replica; 0 beyond the limit."""
        if users > self.limit:
            return 0.0
        before = int(np.searchsorted(self._grid, users, side="right")) - 1
        if before < 0:
            return share_met(self._all_met(int(users)))
        if self._grid[before] == users:
            return share_met(self._alive[before])
        return share_met(self._alive[before] & self._all_met(int(users)))

    def at(self, confidence: float) -> int:
        """The most users with P(every objective is met) >= ``confidence``; 0 when not even one."""
        enough = [i for i, alive in enumerate(self._alive) if share_met(alive) >= confidence]
        if not enough:
            return 0
        low = int(self._grid[enough[-1]])
        high = int(self._grid[enough[-1] + 1]) if enough[-1] + 1 < self._grid.size else low + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.probability(middle) >= confidence:
                low = middle
            else:
                high = middle
        return low

    def drawn(self) -> npt.NDArray[np.int64]:
        """The most users by bootstrap draw, (R - 1,), to a tenth of the spread; 0: not even one."""
        low, high = self.at(1 - TAIL), self.at(TAIL)
        between = np.unique(np.linspace(low, high, REFINED).round()).astype(np.int64)
        grid = np.union1d(self._grid, between[between > 0])
        alive = self._survivors(grid)
        alive = alive[:, 1:] if alive.shape[-1] > 1 else alive
        return np.where(alive.any(axis=0), grid[alive.sum(axis=0) - 1], 0).astype(np.int64)

    def _survivors(self, grid: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """By number of users and draw, whether all objectives held up to there."""
        alive = np.zeros((grid.size, self._replica.rows), dtype=bool)
        for i, users in enumerate(grid):
            alive[i] = self._all_met(int(users)) & (alive[i - 1] if i else True)
            if not alive[i].any():
                break  # nor does any hold beyond
        return alive

    def _all_met(self, users: int) -> npt.NDArray[np.bool_]:
        if users not in self._met:
            met = [self._replica.met(self.load(users), slo) for slo in self._objectives]
            self._met[users] = np.asarray(np.logical_and.reduce(met))
        return self._met[users]

    def _known(self, users: int) -> bool:
        return self._replica.label(self.load(users)) != "refused"

    def _find_limit(self) -> int:
        if not self._known(1):
            return 0
        low, high = 1, 2
        while high <= MOST_USERS and self._known(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._known(middle) else (low, middle)
        return min(low, MOST_USERS)

    def _users_to_try(self) -> npt.NDArray[np.int64]:
        """A grid that is dense where one user more or less matters, with every measured load."""
        if self.limit == 0:
            return np.empty(0, dtype=np.int64)
        steps = max(2, int(np.log(max(self.limit / DENSE, 1.0)) / np.log(1.15)) + 2)
        sparse = np.geomspace(min(DENSE, self.limit), self.limit, steps)
        measured = [sample.point.load for sample in self._replica.thinking]
        if self._think_time_s == 0:
            measured += list(self._replica.levels)
        grid = np.unique(np.round(np.concatenate([np.arange(1, DENSE + 1), sparse, measured])))
        return grid[grid <= self.limit].astype(np.int64)
