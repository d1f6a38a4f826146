"""Request records to operating points: one per stage, over its steady window, with intervals.

Rates count the requests that completed in the window. Tokens are counted where they were made: a
request's tokens are spread evenly from its first token to its end, and those inside the window
count, whichever side of its edge the request began or ended on. With few rounds of long requests
this is far less noisy than tokens of completed requests, and an uneven pace inside one request
moves it only at the two edges.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planner.crowding import WAITING, crowded
from planner.gaps import GapHistogram
from planner.imported import mean_replicates, quantile_replicates, rate_replicates
from planner.parts import mean_of, part_of, parts_in_flight, pooled_parts, put_together
from planner.records import Estimate, OperatingPoint
from planner.resample import (
    METRICS,
    QUANTILE_LEVELS,
    Cells,
    Distribution,
    metric_values,
)
from planner.server_view import server_view
from planner.simulation.traffic import Lengths
from planner.table import ERROR, OK, TIMEOUT
from planner.uncertainty import (
    order_statistic_interval,
    replicate_interval,
    share_interval,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from planner.imported import ImportedLevel
    from planner.parts import Part
    from planner.runfolder import Run
    from planner.table import Floats, GapBatch, RequestTable
    from planner.telemetry import Telemetry

__all__ = [
    "LENGTHS_KEPT",
    "PERCENTILES",
    "QUANTILE_LEVELS",
    "LevelSample",
    "imported_sample",
    "level_samples",
    "operating_points",
    "unanswered_points",
]

PERCENTILES = (0.5, 0.9, 0.95, 0.99)
"""Reported of every metric, beside those that are asked for."""

LENGTHS_KEPT = 1000
"""Pairs of prompt and output tokens that a level keeps, for simulations to draw from."""

_DRAWS = 400


@dataclass(frozen=True, slots=True, eq=False)
class LevelSample:
    """One stage with block-bootstrap replicates; row 0 of every array is the sample itself.

    All figures of a row come from the same resampled requests.

    Attributes:
        point: the level's operating point; see whether it is usable.
        stages: those that it is made of; several where one alone had too few answers.
        requests_per_s: (1 + B,)
        output_tokens_per_s: (1 + B,); NaN when the server did not report tokens.
        quantiles: metric -> (1 + B, K) seconds at ``QUANTILE_LEVELS``, non-decreasing along K. A
            metric that was not reported is absent.
        means: metric -> (1 + B,) seconds.
        lengths: of some of its answered requests, at most ``LENGTHS_KEPT``; ``None``: not known.
    """

    point: OperatingPoint
    requests_per_s: Floats
    output_tokens_per_s: Floats
    quantiles: dict[str, Floats]
    means: dict[str, Floats]
    stages: tuple[int, ...] = ()
    lengths: Lengths | None = None


def operating_points(
    run: Run, *, quantiles: Sequence[float] = (), metrics: Sequence[str] = METRICS
) -> tuple[OperatingPoint, ...]:
    """One operating point per stage, in the manifest's order.

    Args:
        run: the run.
        quantiles: quantiles that must be known: they are added to the figures, and a stage that
            cannot bound them from above is not usable.
        metrics: those that are wanted.

    The bootstrap of means and rates is seeded by the run's own seed: the same folder always gives
    the same intervals.
    """
    if run.imported is not None:
        return run.imported.points()
    rng = np.random.default_rng(abs(run.manifest.seed))
    parts = ((part_of(run, stage),) for stage in run.manifest.stages)
    levels = _levels(run, parts, draws=_DRAWS, rng=rng, metrics=metrics)
    return tuple(level.point(tuple(quantiles)) for level in levels)


def level_samples(
    run: Run,
    *,
    draws: int,
    rng: np.random.Generator,
    quantiles: Sequence[float] = (),
    metrics: Sequence[str] = METRICS,
) -> tuple[LevelSample, ...]:
    """Bootstrap replicates of each level at which at least one request was answered.

    A level that was measured several times, since one stage had too few answers, is one level.

    Args:
        run: the run.
        draws: number of resamples B.
        rng: source of randomness; always advanced alike, whatever the metrics.
        quantiles: as for ``operating_points``.
        metrics: those that are wanted; the others cost time and are left out.
    """
    if run.imported is not None:
        return tuple(
            imported_sample(level, draws=draws, rng=rng, metrics=metrics)
            for level in run.imported.levels
        )
    parts = pooled_parts(run, tuple(quantiles))
    levels = _levels(run, parts, draws=draws, rng=rng, metrics=metrics)
    return tuple(level.sample(tuple(quantiles)) for level in levels if level.answers)


def unanswered_points(run: Run) -> tuple[OperatingPoint, ...]:
    """The points of the stages of which there is no sample, since no request was answered.

    Together with ``level_samples`` they are what ``operating_points`` gives, for less work.
    """
    if run.imported is not None:
        return ()
    rng = np.random.default_rng(0)  # never drawn from
    parts = ((part_of(run, stage),) for stage in run.manifest.stages)
    levels = _levels(run, parts, draws=0, rng=rng, metrics=())
    return tuple(level.point(()) for level in levels if not level.answers)


def imported_sample(
    level: ImportedLevel, *, draws: int, rng: np.random.Generator, metrics: Sequence[str] = METRICS
) -> LevelSample:
    """Replicates of a level that another tool summarised (``planner.imported``).

    A metric of which only the mean was told has means and no quantiles.
    """
    streams = dict(zip(METRICS, rng.spawn(len(METRICS)), strict=True))
    quantiles, means = {}, {}
    for metric, latency in sorted(level.latencies.items()):
        if metric not in metrics and metric != "e2e":
            continue
        found = quantile_replicates(latency, QUANTILE_LEVELS, draws, streams[metric])
        if found is not None:
            quantiles[metric] = found
        mean = mean_replicates(latency, draws, streams[metric])
        if mean is not None:
            means[metric] = mean
    figures, stage = level.point.figures, level.point.stage
    rates = {
        name: rate_replicates(
            figures[name].value if name in figures else None, means.get("e2e"), draws
        )
        for name in ("requests_per_s", "output_tokens_per_s")
    }
    return LevelSample(
        point=level.point,
        quantiles=quantiles,
        means=means,
        stages=() if stage is None else (stage,),
        lengths=None,
        **rates,
    )


def _levels(
    run: Run,
    parts: Iterable[tuple[Part, ...]],
    *,
    draws: int,
    rng: np.random.Generator,
    metrics: Sequence[str],
) -> Iterator[_Level]:
    """The levels, one at a time where the gaps, which are read in one pass, are not wanted."""
    telemetry = run.telemetry()
    levels = (_Level(run, some, telemetry, draws=draws, rng=rng, metrics=metrics) for some in parts)
    if "itl" not in metrics:
        yield from levels
        return
    held = deque(levels)
    _count_gaps(run.gap_batches(), held, len(run.requests))
    while held:  # a level is let go of as soon as it is done with
        yield held.popleft()


def _count_gaps(batches: Iterator[GapBatch], levels: Sequence[_Level], requests: int) -> None:
    """Hand every request's gaps to the level that it counts in."""
    level_of_row = np.full(requests, -1, dtype=np.int32)
    cell_of_row = np.full(requests, -1, dtype=np.int32)
    for number, level in enumerate(levels):
        if level.cells is not None:
            good = (level.rows.status == OK) | (level.rows.status == TIMEOUT)
            rows = np.concatenate([part.row_numbers for part in level.parts])
            level_of_row[rows[good]] = number
            cell_of_row[rows] = level.cells.cell_of_row
    row = 0
    for batch in batches:
        here = slice(row, row + len(batch.counts))
        row = here.stop
        for number in np.unique(level_of_row[here]).tolist():
            if number >= 0:
                mine = level_of_row[here] == number
                levels[number].gaps.add(np.where(mine, cell_of_row[here], -1), batch)


@dataclass(frozen=True, slots=True, eq=False)
class _Resampled:
    """One metric of a stage.

    Attributes:
        means: (1 + B,) seconds.
        distribution: of each resample.
        ordered: (m,) the sample in ascending order; censored values, which are lower bounds, are
            infinite, so that they rank last.
        independent: how many independent observations that is worth. The gaps of one request are
            far from independent, so as many count as there are requests.
    """

    means: Floats
    distribution: Distribution
    ordered: npt.NDArray[np.floating]
    independent: int


class _Level:
    """The windows of a level, the requests in them, and their resamples."""

    def __init__(
        self,
        run: Run,
        parts: tuple[Part, ...],
        telemetry: Telemetry,
        *,
        draws: int,
        rng: np.random.Generator,
        metrics: Sequence[str],
    ) -> None:
        self.parts, self.stage, self.telemetry = parts, parts[0].stage, telemetry
        target = next(t for t in run.manifest.targets if t.name == self.stage.target)
        self.backend, self.emulated = target.backend, target.emulated
        self.rows, self.window = put_together(parts)
        self.answers = sum(part.answers for part in parts)
        self.wanted, self.draws, self.rng = metrics, draws, rng

    @functools.cached_property
    def cells(self) -> Cells | None:
        """The resamples, which cost most of the time; none without a good answer."""
        return (
            Cells(self.rows, self.window, draws=self.draws, rng=self.rng) if self.answers else None
        )

    @functools.cached_property
    def crowded(self) -> str | None:
        """Why the waits of an open loop cannot be bounded from above; ``None`` where they can."""
        if self.stage.load_kind != "rate" or not self.answers:
            return None
        return crowded(self.rows, self.window)

    @functools.cached_property
    def gaps(self) -> GapHistogram:
        """The gaps of the requests in the window, once they were counted."""
        assert self.cells is not None  # noqa: S101 - there are answers
        return GapHistogram(self.cells.count)

    @functools.cached_property
    def metrics(self) -> dict[str, _Resampled]:
        """What is known of each metric that was reported."""
        if self.cells is None:
            return {}
        found = {name: self._resampled(name, self.cells) for name in self.wanted}
        return {name: metric for name, metric in found.items() if metric is not None}

    def _resampled(self, name: str, cells: Cells) -> _Resampled | None:
        if name == "itl":
            if not self.gaps.requests:
                return None
            return _Resampled(
                self.gaps.means(cells),
                self.gaps.distribution(cells),
                self.gaps.ordered(),
                self.gaps.requests,
            )
        found = metric_values(self.rows, name)
        if not len(found.values):
            return None
        ordered = np.sort(found.values)
        ordered[len(ordered) - found.censored :] = np.inf
        return _Resampled(cells.mean(found), cells.distribution(found), ordered, len(found.values))

    def point(self, quantiles: tuple[float, ...]) -> OperatingPoint:
        """The operating point."""
        ok = self.rows.status == OK
        return OperatingPoint(
            target=self.stage.target,
            backend=self.backend,
            stage=self.stage.index if len(self.parts) == 1 else None,
            load_kind=self.stage.load_kind,
            load=self.stage.load,
            think_time_s=self.stage.think_time_s,
            in_flight_mean=parts_in_flight(self.parts) if self.answers else None,
            window_start_s=self.parts[0].window.start_s,
            window_end_s=self.parts[-1].window.end_s,
            completed=self.answers,
            failed=int(np.count_nonzero(self.rows.status == ERROR)),
            censored=int(np.count_nonzero(self.rows.status == TIMEOUT)),
            prompt_tokens_mean=mean_of(self.rows.prompt_tokens[ok]),
            output_tokens_mean=mean_of(self.rows.output_tokens[ok]),
            figures=self._figures(quantiles),
            source=f"emulated: {self.emulated}" if self.emulated else "measured",
            problems=self._problems(quantiles),
            notes=() if self.crowded is None else (self.crowded,),
            server=server_view(self.telemetry, self.parts),
            together=self.stage.together,
        )

    def _problems(self, quantiles: tuple[float, ...]) -> tuple[str, ...]:
        """What is wrong with any part; that all have too few answers is told once."""
        last = self.parts[-1]  # pooled parts have no fault of their own
        return last.problems(quantiles, others=self.answers - last.answers)

    def sample(self, quantiles: tuple[float, ...]) -> LevelSample:
        """The operating point with its replicates."""
        assert self.cells is not None  # noqa: S101 - the caller asked for answers first
        return LevelSample(
            point=self.point(quantiles),
            requests_per_s=self._requests_per_s(self.cells),
            output_tokens_per_s=self._output_tokens_per_s(self.cells),
            quantiles={
                name: found.distribution.quantiles() for name, found in self.metrics.items()
            },
            means={
                name: widened(found.means, self.cells.blocks)
                for name, found in self.metrics.items()
            },
            stages=tuple(part.stage.index for part in self.parts),
            lengths=_lengths(self.rows),
        )

    def _figures(self, quantiles: tuple[float, ...]) -> dict[str, Estimate]:
        figures = {}
        failed = len(self.rows) - self.answers
        if len(self.rows):
            low, high = share_interval(failed, len(self.rows))
            share = failed / len(self.rows)
            figures["error_rate"] = Estimate(value=share, low=low, high=high, n=len(self.rows))
        if self.cells is None:
            return figures
        rates = {
            "requests_per_s": self._requests_per_s(self.cells),
            "output_tokens_per_s": self._output_tokens_per_s(self.cells),
        }
        for name, replicates in rates.items():
            if not np.isnan(replicates[0]):
                figures[name] = self._smooth(replicates, self.answers)
        for name, found in self.metrics.items():
            figures[f"{name}_mean_s"] = self._smooth(found.means, len(found.ordered))
            asked = sorted({*PERCENTILES, *quantiles})
            bounded = self.crowded is None or name not in WAITING
            figures |= _percentiles(name, found, asked, bounded=bounded)
        return figures

    def _smooth(self, replicates: Floats, n: int) -> Estimate:
        """A mean or a rate with its interval; no figure of ours is negative."""
        assert self.cells is not None  # noqa: S101 - there are replicates
        low, high = replicate_interval(replicates, self.cells.blocks)
        bounded = np.isfinite(high)
        return Estimate(
            value=float(replicates[0]),
            low=max(low, 0.0) if bounded else None,
            high=high if bounded else None,
            n=n,
        )

    def _requests_per_s(self, cells: Cells) -> Floats:
        return cells.rate((self.rows.status == OK).astype(np.float64))

    def _output_tokens_per_s(self, cells: Cells) -> Floats:
        """Replicates by completed requests, scaled to the tokens made inside the window."""
        tokens = np.where(self.rows.status == OK, np.nan_to_num(self.rows.output_tokens), 0.0)
        replicates = cells.rate(tokens)
        told = [part.tokens_made() for part in self.parts]
        made = sum(tokens for tokens in told if tokens is not None)
        if None in told or not replicates[0] > 0:
            return np.full_like(replicates, np.nan)
        scale = made / (self.window.end_s - self.window.start_s) / float(replicates[0])
        return np.asarray(replicates * scale)


def _lengths(rows: RequestTable) -> Lengths | None:
    """Lengths of answered requests, evenly over time where there are many."""
    prompt, output = rows.prompt_tokens, rows.output_tokens
    known = np.flatnonzero((rows.status == OK) & (prompt >= 1) & (output >= 1))
    if not len(known):
        return None
    kept = known[np.linspace(0, len(known) - 1, min(len(known), LENGTHS_KEPT)).astype(np.int64)]
    return Lengths(
        prompt_tokens=prompt[kept].astype(np.int64), output_tokens=output[kept].astype(np.int64)
    )


def _percentiles(
    name: str, found: _Resampled, quantiles: list[float], *, bounded: bool
) -> dict[str, Estimate]:
    """Percentiles of one metric; those that lie among censored values are left out.

    The interval is the wider of two at each end: order statistics, which know how little a small
    sample says about a tail, and the effective number of requests, which knows that neighbours
    depend on each other. An end that the order statistics cannot give stays open, and so does each
    upper end where not bounded.
    """
    ordered, independent = found.ordered, found.independent
    ends = found.distribution.intervals(np.array(quantiles)).T
    figures = {}
    for quantile, (bottom, top) in zip(quantiles, ends, strict=True):
        # The inverse of the empirical distribution: the least value that enough do not exceed.
        value = float(ordered[math.ceil(round(quantile * len(ordered), 6)) - 1])
        if not np.isfinite(value):
            continue
        low, high = order_statistic_interval(ordered, quantile, independent=independent)
        if not bounded or high is None or np.isinf(high):
            high = None
        figures[f"{name}_p{quantile * 100:g}_s"] = Estimate(
            value=value,
            low=None if low is None else max(min(low, float(bottom)), 0.0),
            high=None if high is None else max(high, float(top)),
            n=independent,
        )
    return figures
