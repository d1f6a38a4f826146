"""What users of one replica feel, predicted from the levels measured on it.

A request that finds n others in flight is served as at concurrency n + 1, so the latency of users
who think is a mixture of the measured distributions, weighted by how often each concurrency is
met (``planner.queueing``). Between levels the quantiles themselves are interpolated, one curve
per quantile: a percentile is never scaled from a mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.curves import latency_curve, throughput_curve
from planner.model_error import draw_model_error
from planner.queueing import in_flight, in_flight_seen, throughput
from planner.records import Predicted
from planner.uncertainty import CONFIDENCE, needed_for_percentile
from planner.units import metric_of, percentile_of
from planner.waiting import Occupancy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Label, Slo
    from planner.summary import LevelSample

__all__ = ["Load", "Replica", "share_met"]

Array = npt.NDArray[np.float64]

SAME_LEVEL = 0.05
"""Loads this near to a measured one count as measured."""
REACH = 2
"""How far beyond the top level anything is predicted, as a factor."""
BEYOND = 1.25
"""How far beyond its reach the model counts requests, as a factor, only to refuse them."""
MASS = 0.999
"""Share of requests whose concurrency must lie in a range for the range to describe them."""
DENSE = 64
"""Up to this concurrency the latency is evaluated at every integer, above at 5 % steps."""
TAIL, THIN = 0.9, 6
"""Quantiles from ``TAIL`` on are all used, of those below one in ``THIN``: objectives are about
tails, and the shape of the rest only weighs in a mixture."""
EVERY, SAMPLE = slice(None), slice(1)
"""All draws, or only the sample itself."""
LEAST_S = 1e-6
"""Latencies are taken as at least a microsecond, so that their logarithm exists."""


@dataclass(frozen=True)
class Load:
    """Users on one replica, and how long they think on average (seconds)."""

    users: int
    think_time_s: float


class Replica:
    """Predicts the figures of one replica under a load, for every bootstrap draw at once.

    Rows of all results are draws: row 0 is the sample itself, the others are replicates that
    carry the noise of the measurement and a draw of the model error.
    """

    def __init__(
        self,
        curve: Sequence[LevelSample],
        thinking: Sequence[LevelSample] = (),
        *,
        quantile_levels: npt.ArrayLike,
        slots: int | None,
        family: str = "serving",
        rng: np.random.Generator,
    ) -> None:
        """Draw the curves.

        Args:
            curve: usable closed-loop levels, one per concurrency, at least one.
            thinking: usable levels of users with think time: direct evidence for that load.
            quantile_levels: (K,) shares at which the samples' quantiles stand, increasing.
            slots: sequences the engine decodes at once, where it tells.
            family: of engines, whose published curves tell how wrong these may be.
            rng: source of randomness for the model error and the error rate.
        """
        self.curve = sorted(curve, key=lambda sample: sample.point.load)
        self.thinking = tuple(thinking)
        self.levels = np.array([sample.point.load for sample in self.curve], dtype=float)
        self.rows = min(sample.requests_per_s.size for sample in (*self.curve, *self.thinking))
        top = round(self.levels[-1])
        self.reach = top if self.levels.size == 1 else REACH * top
        if slots is not None and top <= slots < self.reach:
            self.reach = slots  # beyond it requests wait, which no measured level shows
        # The chain of the think-time model goes on beyond the reach, to see who would be there.
        n = np.arange(1, math.ceil(BEYOND * self.reach) + 16)
        self._error = draw_model_error(self.rows - 1, rng)
        rates = self._stack([sample.requests_per_s for sample in self.curve])
        self._family = family
        self._occupancy = self._seen_decoding()
        carried = throughput_curve(self.levels, rates, family=family)
        self.rates = np.exp(self._error.perturbed("throughput", carried, n))
        self._failures = self._draw_failures(rng)
        self._nodes = self._place_nodes(int(n[-1]))
        self._to_nodes = _linear_weights(n, self._nodes)
        share = np.asarray(quantile_levels, dtype=float)
        self._kept = np.flatnonzero((np.arange(share.size) % THIN == 0) | (share >= TAIL))
        # Shares as those of an exponential distribution, which makes tails nearly straight.
        self._exponent = -np.log1p(-share[self._kept])
        self._quantiles: dict[str, Array] = {}
        self._within: dict[tuple[str, float], Array] = {}
        self._last: tuple[Load, Array] | None = None

    def reports(self, figure: str) -> bool:
        """Whether every level reported what the figure needs."""
        metric = metric_of(figure)
        if figure == "error_rate":
            return True
        of_mean = percentile_of(figure) is None
        return all(
            metric in known and bool(np.isfinite(known[metric]).all())
            for sample in self.curve
            for known in ((sample.means,) if of_mean else (sample.quantiles, sample.means))
        )

    def concurrency(self, load: Load, rows: slice = EVERY) -> Array:
        """Distribution of the concurrency that a request is served at: (R, m) for 1..m."""
        rates = self.rates[rows]
        most = rates.shape[-1]
        served = np.zeros_like(rates)
        if load.think_time_s == 0:
            served[:, min(load.users, most) - 1] = 1.0
            return served
        seen = in_flight_seen(load.users, load.think_time_s, rates)
        served[:, : seen.shape[-1]] = seen[:, :most]
        served[:, -1] += seen[:, most:].sum(axis=-1)
        return served

    def in_flight(self, load: Load) -> Array:
        """Share of the time with 0, 1, ... requests in flight, (R, up to m + 1)."""
        return in_flight(load.users, load.think_time_s, self.rates)

    def requests_per_s(self, load: Load) -> Array:
        """Throughput of the replica, (R,)."""
        return throughput(self.in_flight(load), self.rates)

    def met(self, load: Load, objective: Slo) -> npt.NDArray[np.bool_]:
        """By draw, whether the objective holds for a load, (R,)."""
        share = percentile_of(objective.figure)
        if share is None or self._direct(load) is not None:
            return np.asarray(self.figure(load, objective.figure) <= objective.bound)
        key = (metric_of(objective.figure), objective.bound)
        if key not in self._within:
            bound = np.full(self.rows, math.log(objective.bound))
            at_nodes = self._share_below(self._log_quantiles(objective.figure), bound)
            self._within[key] = at_nodes @ self._to_nodes.T  # per concurrency: tried for many loads
        if self._last is None or self._last[0] != load:
            self._last = load, self.concurrency(load)  # of a load every objective is asked in turn
        within = np.einsum("rm,rm->r", self._last[1], self._within[key])
        return np.asarray(within >= share - 1e-12)

    def figure(self, load: Load, figure: str) -> Array:
        """A figure of an ``OperatingPoint`` predicted for a load, by draw, (R,)."""
        direct = self._direct(load)
        share, metric = percentile_of(figure), metric_of(figure)
        if direct is not None and figure != "error_rate":
            if share is None:
                return direct.means[metric][: self.rows]
            return self._direct_quantile(direct.quantiles[metric][: self.rows, self._kept], share)
        weights = self.concurrency(load) @ self._to_nodes
        if share is not None:
            return self._mixture_quantile(weights, self._log_quantiles(figure), share)
        if figure == "error_rate":
            return np.asarray((weights * self._failures_at(self._nodes)).sum(axis=-1))
        means = np.exp(self._log_latency(metric, [sample.means[metric] for sample in self.curve]))
        return np.asarray((weights * means).sum(axis=-1))

    def label(self, load: Load) -> Label:
        """How far a load stands from what was measured."""
        if self._direct(load) is not None:
            return "measured"
        near = np.abs(self.levels - load.users) <= SAME_LEVEL * self.levels
        if load.think_time_s == 0 and near.any():
            return "measured"
        low, high = self.span(load)
        if high > self.reach:
            return "refused"
        return (
            "interpolated" if self.levels[0] <= low and high <= self.levels[-1] else "extrapolated"
        )

    def span(self, load: Load) -> tuple[int, int]:
        """The concurrencies that all but a thousandth of the requests are served at."""
        cumulative = np.cumsum(self.concurrency(load, SAMPLE)[0])
        low, high = np.searchsorted(cumulative, [(1 - MASS) / 2, (1 + MASS) / 2])
        return int(low) + 1, min(int(high), cumulative.size - 1) + 1

    def unbounded_at(self, load: Load, figure: str) -> LevelSample | None:
        """The level that must bound a percentile at this load but has too few requests.

        Latency grows with load, so the level at or above the mean concurrency bounds it.
        """
        share = percentile_of(figure)
        if share is None:
            return None
        sample = self._direct(load)
        if sample is None:
            served = self.concurrency(load, SAMPLE)[0]
            mean = float(served @ np.arange(1, served.size + 1))
            at = min(int(np.searchsorted(self.levels, mean - 1e-9)), self.levels.size - 1)
            sample = self.curve[at]
        point = sample.point
        estimate = point.figures.get(figure)
        if estimate is not None:
            # What was imported has no intervals: the number of requests says what it can bound.
            imported = point.source != "measured" and estimate.n >= needed_for_percentile(share)
            bounded = estimate.high is not None or imported
        else:
            seen = point.completed + point.censored
            bounded = point.completed >= max(needed_for_percentile(share), share * seen)
        return None if bounded else sample

    def predict(self, load: Load, figure: str) -> Predicted:
        """A figure with its 90 % interval and its label."""
        label = self.label(load)
        if label == "refused" or not self.reports(figure) or self.unbounded_at(load, figure):
            return Predicted(value=None, low=None, high=None, label="refused")
        values = self.figure(load, figure)
        if self.rows == 1:
            return Predicted(value=float(values[0]), low=None, high=None, label=label)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(values[1:], [tail, 1 - tail])
        value = float(values[0])
        return Predicted(
            value=value, low=min(float(low), value), high=max(float(high), value), label=label
        )

    def _stack(self, arrays: Sequence[Array]) -> Array:
        """Per-level rows (R, ...) to (R, ..., L)."""
        return np.stack([array[: self.rows] for array in arrays], axis=-1)

    def _direct(self, load: Load) -> LevelSample | None:
        """A level measured with these users and this think time."""
        for sample in self.thinking:
            users = abs(sample.point.load - load.users) <= SAME_LEVEL * load.users
            think = abs(sample.point.think_time_s - load.think_time_s)
            if users and load.think_time_s > 0 and think <= SAME_LEVEL * load.think_time_s:
                return sample
        return None

    def _place_nodes(self, most: int) -> Array:
        dense = np.arange(1, min(most, DENSE) + 1)
        steps = math.ceil(math.log(max(most, DENSE) / DENSE) / math.log(1.05)) + 1
        sparse = np.round(np.geomspace(DENSE, max(most, DENSE), steps))
        nodes = np.unique(np.concatenate([dense, sparse, np.round(self.levels)]))
        return nodes[nodes <= most].astype(float)

    def _seen_decoding(self) -> Occupancy | None:
        """What each level shows of the engine beside its TTFT; ``None`` where one does not."""
        told = [(sample.means.get("ttft"), sample.means.get("tpot")) for sample in self.curve]
        seen = [
            (float(sample.requests_per_s[0] * ttft[0]), float(tpot[0]))
            for sample, (ttft, tpot) in zip(self.curve, told, strict=True)
            if ttft is not None and tpot is not None
        ]
        if len(seen) < len(told):
            return None
        # By Little's law, of the time before the first token.
        before_first, step = np.array(seen).T
        decoding = self.levels - before_first
        if not (np.isfinite(step).all() and (step > 0).all() and (decoding > 0).all()):
            return None
        return Occupancy(decoding=decoding, step=step)

    def _log_quantiles(self, figure: str) -> Array:
        """Log quantiles of a metric at the nodes, (R, J, K), increasing in K."""
        metric = metric_of(figure)
        if metric not in self._quantiles:
            kept = [sample.quantiles[metric][:, self._kept] for sample in self.curve]
            logs = np.swapaxes(self._log_latency(metric, kept), 1, 2)
            self._quantiles[metric] = np.maximum.accumulate(logs, axis=-1)
        return self._quantiles[metric]

    def _log_latency(self, metric: str, levels: Sequence[Array]) -> Array:
        """Log seconds at the nodes (R, ..., J) from rows per level (R, ...)."""
        values = np.maximum(self._stack(levels), LEAST_S)
        # Of other families only static batches were published, whose TTFT is another thing.
        family = "serving" if metric == "ttft" else self._family
        curve = latency_curve(
            self.levels, values, metric=metric, family=family, occupancy=self._occupancy
        )
        return self._error.perturbed(metric, curve, self._nodes)

    def _share_below(self, log_quantiles: Array, log_bound: Array) -> Array:
        """Share of requests faster than a bound (R,), per node: (R, J)."""
        bound = log_bound[:, None, None]
        last = self._exponent.size - 2
        left = np.clip((log_quantiles <= bound).sum(axis=-1) - 1, 0, last)[..., None]
        x0 = np.take_along_axis(log_quantiles, left, -1)
        x1 = np.take_along_axis(log_quantiles, left + 1, -1)
        y0, y1 = self._exponent[left], self._exponent[left + 1]
        slope = (y1 - y0) / np.maximum(x1 - x0, 1e-9)
        exponent = np.maximum(y0 + (bound - x0) * slope, 0.0)
        return np.asarray(-np.expm1(-exponent))[..., 0]

    def _mixture_quantile(self, weights: Array, log_quantiles: Array, share: float) -> Array:
        """Invert the mixture's distribution by bisection in log seconds, (R,)."""
        used = (weights > 1e-9).any(axis=0)  # noqa: PLR2004 - nodes that nobody meets cost time
        weights, log_quantiles = weights[:, used], log_quantiles[:, used]
        low = log_quantiles.min(axis=(1, 2)) - 1.0
        high = log_quantiles.max(axis=(1, 2)) + 1.0
        for _ in range(30):
            middle = (low + high) / 2
            enough = (weights * self._share_below(log_quantiles, middle)).sum(axis=-1) >= share
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.asarray(np.exp(high))

    def _direct_quantile(self, quantiles: Array, share: float) -> Array:
        logs = np.maximum.accumulate(np.log(np.maximum(quantiles, LEAST_S)), axis=-1)
        return self._mixture_quantile(np.ones((self.rows, 1)), logs[:, None, :], share)

    def _draw_failures(self, rng: np.random.Generator) -> Array:
        """Error rate of each level, (R, L): Jeffreys' posterior, since rates near 0 are skewed."""
        points = [sample.point for sample in self.curve]
        failed = np.array([point.failed for point in points], dtype=float)
        done = np.array([point.completed for point in points], dtype=float)
        drawn = rng.beta(failed + 0.5, done + 0.5, size=(self.rows - 1, failed.size))
        return np.concatenate([(failed / np.maximum(failed + done, 1.0))[None], drawn])

    def _failures_at(self, n: Array) -> Array:
        """Error rate between levels: the worse neighbour's, (R, n). It is no smooth curve."""
        right = np.clip(np.searchsorted(self.levels, n), 0, self.levels.size - 1)
        left = np.clip(np.searchsorted(self.levels, n, side="right") - 1, 0, None)
        return np.maximum(self._failures[:, left], self._failures[:, right])


def share_met(met: npt.NDArray[np.bool_]) -> float:
    """Share of the draws in which something holds; without draws, what the sample says."""
    return float(met[1:].mean()) if met.size > 1 else float(met[0])


def _linear_weights(n: npt.NDArray[np.int64], nodes: Array) -> Array:
    """Weights (m, J) that share each concurrency out between the two nodes around it."""
    if nodes.size == 1:
        return np.ones((n.size, 1))
    left = np.clip(np.searchsorted(nodes, n, side="right") - 1, 0, nodes.size - 2)
    part = (n - nodes[left]) / (nodes[left + 1] - nodes[left])
    weights = np.zeros((n.size, nodes.size))
    weights[np.arange(n.size), left] = 1 - part
    weights[np.arange(n.size), left + 1] = part
    return weights
