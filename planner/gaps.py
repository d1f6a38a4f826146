"""The gaps between content events as histograms, in memory that does not grow with their number.

A run of a million answers has a hundred million gaps. They are read once, a batch at a time, and
counted by cell of requests (``planner.resample``) and by bin. A bin holds the gaps whose float32
agree in the exponent and the first 8 bits of the mantissa, so it is at most 2^-8 = 0.4 % wide, and
it stands for the mean of the gaps in it: a percentile is off by at most 0.4 %, and not at all where
a bin holds one value. (The bins of HdrHistogram; Masson, Rim & Lee, *DDSketch*, VLDB 2019, show
that bins of constant relative width bound the relative error of every quantile.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.resample import Distribution
from planner.table import GapBatch

if TYPE_CHECKING:
    from planner.resample import Cells
    from planner.table import Floats

__all__ = ["RELATIVE_ERROR", "GapHistogram"]

RELATIVE_ERROR = 2.0**-8
"""Bound of the relative error of a percentile, beside the true one of the sample."""

_SHIFT = 15  # of the 23 bits of the mantissa of a float32, 8 stay
_PER_OCTAVE = 2 ** (23 - _SHIFT)


def _code(seconds: float) -> int:
    return int(np.float32(seconds).view(np.uint32) >> _SHIFT)


_LEAST, _MOST = _code(2.0**-20), _code(2.0**17)  # a microsecond; a day and a half


class GapHistogram:
    """The gaps of one stage, counted by cell and bin.

    Attributes:
        requests: how many requests had a gap at all.
    """

    def __init__(self, cells: int) -> None:
        """Begin with nothing.

        Args:
            cells: how many cells the requests are cut into.
        """
        self.requests = 0
        self._first = _LEAST  # the bin of column 0
        self._counts = np.zeros((cells, 0), dtype=np.int32)
        self._sums = np.zeros(0)

    def add(self, cell_of_row: npt.NDArray[np.int32], batch: GapBatch) -> None:
        """Count a batch.

        Args:
            cell_of_row: (k,) the cell of each request; negative: the request does not count.
            batch: the gaps of those requests.
        """
        kept = (cell_of_row >= 0) & (batch.counts > 0)
        if not kept.any():
            return
        gaps_s = batch.gaps_s
        if not kept.all():
            gaps_s = gaps_s[np.repeat(kept, batch.counts)]
            cell_of_row, batch = cell_of_row[kept], GapBatch(batch.counts[kept], gaps_s)
        self.requests += len(cell_of_row)
        codes = np.clip(gaps_s.view(np.uint32) >> _SHIFT, _LEAST, _MOST).astype(np.int64)
        self._reach(int(codes.min()), int(codes.max()))
        codes -= self._first
        cells, width = self._counts.shape
        self._sums += np.bincount(codes, gaps_s, minlength=width)
        flat = np.repeat(cell_of_row.astype(np.int64) * width, batch.counts) + codes
        self._counts += np.bincount(flat, minlength=cells * width).reshape(cells, width)

    def __len__(self) -> int:
        """Number of gaps."""
        return int(self._counts.sum(dtype=np.int64))

    def ordered(self) -> npt.NDArray[np.float32]:
        """(g,) all gaps in ascending order, each as the mean of its bin, seconds."""
        return np.repeat(self._middles().astype(np.float32), self._totals()[self._occupied()])

    def means(self, cells: Cells) -> Floats:
        """(1 + B,) means of the resamples, seconds; the first is exact."""
        counts = self._counts[:, self._occupied()].astype(np.float64)
        return cells.ratio(counts @ self._middles(), counts.sum(axis=1))

    def distribution(self, cells: Cells) -> Distribution:
        """The resampled distributions."""
        return Distribution(
            self._middles(),
            cells.weights,
            np.cumsum(self._counts[:, self._occupied()], axis=1, dtype=np.float32),
            independent=self.requests,
            blocks=cells.blocks,
        )

    def _reach(self, least: int, most: int) -> None:
        """Have columns for these bins, in whole octaves."""
        width = self._counts.shape[1]
        if width and self._first <= least and most < self._first + width:
            return
        if width:
            least, most = min(least, self._first), max(most, self._first + width - 1)
        first = least // _PER_OCTAVE * _PER_OCTAVE
        end = (most // _PER_OCTAVE + 1) * _PER_OCTAVE
        before = self._first - first if width else 0
        more = (before, end - first - before - width)
        self._counts = np.pad(self._counts, ((0, 0), more))
        self._sums = np.pad(self._sums, more)
        self._first = first

    def _totals(self) -> npt.NDArray[np.int64]:
        return np.asarray(self._counts.sum(axis=0, dtype=np.int64))

    def _occupied(self) -> npt.NDArray[np.bool_]:
        return self._totals() > 0

    def _middles(self) -> Floats:
        """(bins,) what the occupied bins stand for: the means of the gaps in them, seconds."""
        occupied = self._occupied()
        return np.asarray(self._sums[occupied] / self._totals()[occupied])
