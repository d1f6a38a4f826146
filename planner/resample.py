"""Block-bootstrap replicates of one stage's figures, in bounded memory whatever its size.

The requests, in the order in which they ended, are cut into at most 512 cells of consecutive
requests; a resample is a set of circular blocks of cells (``moving_block_indices``). With fewer
requests than that a cell is one request and nothing is approximated. Each cell keeps sums and, for
each metric, a histogram over at most about 2,000 bins whose edges are order statistics of the
sample, dense in the tail. A resample is then one row of a matrix product, and all figures of a
resample come from the same requests, so their correlation is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.table import OK, TIMEOUT, Floats, RequestTable
from planner.uncertainty import (
    BODY,
    CONFIDENCE,
    covering_block,
    drawn_shares,
    effective_number,
    moving_block_indices,
    share_limits,
)

if TYPE_CHECKING:
    from planner.steady import Window

__all__ = ["METRICS", "QUANTILE_LEVELS", "Cells", "Distribution", "Values", "metric_values"]

METRICS = ("ttft", "tpot", "itl", "e2e")

QUANTILE_LEVELS: Floats = np.round(
    np.concatenate([np.arange(1, 198) * 0.005, np.arange(986, 1000) * 0.001, [0.9995]]), 4
)
"""(K,) levels at which the distributions of replicates are given."""

_MAX_CELLS = 512
_MAX_EXACT = 2048  # distinct values up to which a histogram has one bin for each
_MAX_FOR_EDGES = 2**20
_TAIL = 0.9  # from here on a distribution is taken to fall off as an exponential does
_RAREST = 0.02  # of that tail: what comes once in fifty such samples
_LEAST_DRAWS = 2  # rows, the sample included, that show no spread yet


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """One metric of a window.

    Attributes:
        values: (m,) seconds; those of censored requests are lower bounds.
        owner: (m,) the row of the request that each belongs to.
        censored: number of values that are only lower bounds.
    """

    values: Floats
    owner: npt.NDArray[np.int64]
    censored: int = 0


def metric_values(rows: RequestTable, metric: str) -> Values:
    """TTFT, TPOT or E2E of the given requests: what is reported of good answers and of timeouts.

    A request that timed out before its first token has waited for it at least until its end, so it
    stands with that wait: leaving it out would make an overloaded server look good. Failed requests
    have no latency; they count in the error rate.
    """
    ok, late = rows.status == OK, rows.status == TIMEOUT
    if metric == "tpot":
        values, bounds = np.where(ok, rows.tpot_s, np.nan), np.zeros(len(rows), dtype=bool)
    elif metric == "ttft":
        bounds = late & np.isnan(rows.first_token_s)
        values = np.where(bounds, rows.e2e_s, np.where(ok | late, rows.ttft_s, np.nan))
    else:
        bounds, values = late, np.where(ok | late, rows.e2e_s, np.nan)
    kept = ~np.isnan(values)
    return Values(values[kept], np.flatnonzero(kept), int(np.count_nonzero(bounds & kept)))


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """Resampled distributions of one metric.

    Attributes:
        edges: (bins,) upper ends of the bins in seconds, ascending.
        weights: (1 + B, cells) how often each cell stands in each resample; row 0 is the sample.
        below: (cells, bins) how many values of each cell lie in a bin or before it.
        independent: requests behind the values: many values of one request are one observation.
        blocks: independent blocks behind a resample.
    """

    edges: Floats
    weights: npt.NDArray[np.float32]
    below: npt.NDArray[np.float32]
    independent: int
    blocks: float

    def quantiles(self, levels: Floats = QUANTILE_LEVELS) -> Floats:
        """(1 + B, K) quantiles at (K,) ascending levels, seconds; a row never falls.

        Row 0 is the sample: the least value that enough of it does not exceed. The others spread
        about it as widely as the truth may lie from it (``planner.uncertainty.drawn_shares``),
        beyond the largest value along the sample's own tail.
        """
        at = self._bins(levels)
        sample = self.edges[at]
        if len(self.weights) <= _LEAST_DRAWS:
            return np.repeat(sample[np.newaxis], len(self.weights), axis=0)
        shares, body = self._shares(at)
        drawn = drawn_shares(levels, shares, body, independent=self.independent, blocks=self.blocks)
        rows = np.maximum.accumulate(self._at(drawn), axis=1)
        return np.concatenate([sample[np.newaxis], rows])

    def intervals(self, levels: Floats, confidence: float = CONFIDENCE) -> Floats:
        """(2, K) both ends of the quantiles at (K,) ascending levels, seconds.

        What the replicates of ``quantiles`` spread by, without the chance of drawing them.
        """
        at = self._bins(levels)
        if len(self.weights) <= _LEAST_DRAWS:
            return np.repeat(self.edges[at][np.newaxis], 2, axis=0)
        shares, body = self._shares(at)
        effective = effective_number(
            levels, shares, body, independent=self.independent, blocks=self.blocks
        )
        return self._at(share_limits(levels, effective, confidence))

    def _bins(self, levels: Floats) -> npt.NDArray[np.int64]:
        """(K,) the bins in which the sample's quantiles lie."""
        below = self._below
        found = np.searchsorted(below, below[-1] * levels - 1e-6)
        return np.asarray(np.minimum(found, self.edges.size - 1))

    def _shares(self, bins: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """(B, K) shares of each resample in these bins or before, and (B, J) in the body's."""
        columns = [*bins, *self._bins(BODY), -1]
        # Only these columns are resampled: all of them cost ten times as much.
        counts = (self.weights[1:] @ self.below[:, columns]).astype(np.float64)
        # A resample without any value says nothing of them: the sample stands in for it.
        counts = np.where(counts[:, -1:] > 0, counts, self._below[columns])
        shares = counts[:, :-1] / counts[:, -1:]
        return shares[:, : bins.size], shares[:, bins.size :]

    @property
    def _below(self) -> Floats:
        """(bins,) of the sample itself."""
        return np.asarray(self.below.sum(axis=0, dtype=np.float64))

    def _at(self, shares: Floats) -> Floats:
        """Quantiles of the sample at shares of any shape, its tail drawn on as an exponential."""
        counts = self._below
        total = float(counts[-1])
        at = np.searchsorted(counts, shares * total - 1e-6)
        values = self.edges[np.minimum(at, self.edges.size - 1)]
        start = np.searchsorted(counts, _TAIL * total - 1e-6)
        known = 1 - 0.5 / self.independent  # where the largest of so many stands on average
        if known <= _TAIL:
            return np.asarray(values)
        rise = (self.edges[-1] - self.edges[start]) / math.log((1 - _TAIL) / (1 - known))
        beyond = np.log((1 - known) / np.maximum(1 - shares, _RAREST / self.independent))
        return np.asarray(values + rise * np.maximum(beyond, 0.0))


class Cells:
    """The requests that completed in a window, cut into cells to be resampled.

    Attributes:
        blocks: how many blocks a resample consists of.
        count: how many cells there are.
        cell_of_row: (rows,) the cell of each request.
        weights: (1 + B, cells) how often each cell stands in each resample; row 0 is the sample.
    """

    def __init__(
        self, rows: RequestTable, window: Window, *, draws: int, rng: np.random.Generator
    ) -> None:
        """Cut and draw.

        Args:
            rows: completed requests, at least one.
            window: the window that they completed in.
            draws: number of resamples B.
            rng: source of randomness.
        """
        size = math.ceil(len(rows) / _MAX_CELLS)
        cells = np.arange(len(rows)) // size
        count = self.count = int(cells[-1]) + 1
        order = np.argsort(rows.ended_s, kind="stable")
        self.cell_of_row = np.empty_like(cells)
        self.cell_of_row[order] = cells
        ended = rows.ended_s[order]
        waits = np.diff(ended, prepend=window.start_s)
        waits[-1] += window.end_s - ended[-1]
        self._seconds: Floats = np.bincount(cells, waits).astype(np.float64)
        together = float(np.count_nonzero(rows.sent_s < ended[0]))
        first = np.where(np.isnan(rows.first_token_s), rows.e2e_s, rows.ttft_s)
        length = covering_block(
            (rows.e2e_s[order], first[order], waits), least=min(2 * together, len(rows) / 8)
        )
        block = max(1, min(round(length / size), count))
        self.blocks = count / block
        self.weights = _weights(count, block, draws, rng)

    def rate(self, amounts: Floats) -> Floats:
        """(1 + B,) sums of a (rows,) amount per second."""
        sums = np.bincount(self.cell_of_row, amounts)
        return self.ratio(np.asarray(sums, dtype=np.float64), self._seconds)

    def mean(self, metric: Values) -> Floats:
        """(1 + B,) means of a metric."""
        cells, count = self.cell_of_row[metric.owner], len(self._seconds)
        sums = np.bincount(cells, metric.values, minlength=count).astype(np.float64)
        return self.ratio(sums, np.bincount(cells, minlength=count).astype(np.float64))

    def distribution(self, metric: Values) -> Distribution:
        """The resampled distributions of a metric."""
        edges = _edges(metric.values)
        bins = np.searchsorted(edges, metric.values)
        flat = self.cell_of_row[metric.owner] * len(edges) + bins
        shape = (len(self._seconds), len(edges))
        counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
        return Distribution(
            edges,
            self.weights,
            np.cumsum(counts, axis=1, dtype=np.float32),
            independent=1 + int(np.count_nonzero(np.diff(metric.owner))),
            blocks=self.blocks,
        )

    def ratio(self, above: Floats, below: Floats) -> Floats:
        """(1 + B,) ratios of resampled sums; one without a denominator repeats the sample's.

        Args:
            above: (cells,) the sums of the numerator.
            below: (cells,) the sums of the denominator.
        """
        sums, counts = (self.weights @ column for column in (above, below))
        empty = counts <= 0
        sums[empty], counts[empty] = sums[0], counts[0]
        return np.asarray(sums / counts, dtype=np.float64)


def _weights(
    count: int, block: int, draws: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    indices = moving_block_indices(count, block, draws, rng)
    flat = indices + np.arange(draws)[:, np.newaxis] * count
    drawn = np.bincount(flat.ravel(), minlength=draws * count).reshape(draws, count)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float32)


def _edges(values: Floats) -> Floats:
    """Upper bin edges: every distinct value, or order statistics dense in the tail."""
    if len(values) > _MAX_FOR_EDGES:
        step = math.ceil(len(values) / _MAX_FOR_EDGES)
        values = np.append(values[::step], values.max())
    ordered: Floats = np.sort(values)
    distinct = ordered[np.append(ordered[1:] != ordered[:-1], [True])]
    if len(distinct) <= _MAX_EXACT:
        return np.asarray(distinct)
    tail = 1 - np.geomspace(1 / len(ordered), 1e-2, 512)
    levels = np.concatenate([np.linspace(0, 1, 1025)[1:], QUANTILE_LEVELS, tail])
    ranks = np.ceil(np.round(levels * len(ordered), 6)).astype(np.int64)
    return np.unique(ordered[np.clip(ranks - 1, 0, len(ordered) - 1)])
