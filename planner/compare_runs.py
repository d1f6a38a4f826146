"""From run folders to what is compared: each level of a run with what its intervals rest on."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from planner.compare import LevelData
from planner.dependence import long_run
from planner.parts import part_of, put_together
from planner.records import Estimate
from planner.resample import METRICS, Cells, metric_values
from planner.summary import level_samples
from planner.table import ERROR, OK, TIMEOUT
from planner.uncertainty import replicate_interval, share_interval
from planner.units import metric_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planner.records import LoadKind, Slo
    from planner.runfolder import Run
    from planner.summary import LevelSample
    from planner.table import Floats, RequestTable

__all__ = ["DRAWS", "LevelKey", "level_data"]

DRAWS = 400


class LevelKey(NamedTuple):
    """What two measurements must share to be of one level."""

    target: str
    load_kind: LoadKind
    load: float
    think_time_s: float
    arrivals: str | None
    together: tuple[str, ...] = ()  # the targets that were loaded beside it


def level_data(
    run: Run,
    *,
    quantiles: Sequence[float] = (),
    slo: Sequence[Slo] = (),
    metrics: Sequence[str] = METRICS,
    draws: int = DRAWS,
) -> dict[LevelKey, tuple[LevelData, ...]]:
    """The levels of a run; several measurements of one level, long enough each, are repeats.

    Levels at which no request was answered are left out. The bootstrap is seeded by the run's own
    seed, so the same folder always gives the same intervals.

    Args:
        run: the run.
        quantiles: percentiles wanted beside the usual ones.
        slo: objectives; with some, the figures ``goodput_per_s`` and ``goodput_share`` (requests
            that met them all, per second and of those that ended) are added. ITL is one of many
            gaps of a request and cannot be an objective of it.
        metrics: those that are wanted.
        draws: replicates of the bootstrap.
    """
    rng = np.random.default_rng([abs(run.manifest.seed), 2])
    found: dict[LevelKey, list[LevelData]] = defaultdict(list)
    samples = level_samples(run, draws=draws, rng=rng, quantiles=quantiles, metrics=metrics)
    stages = {stage.index: stage for stage in run.manifest.stages}
    for sample in samples:
        point = sample.point
        mine = [stages[index] for index in sample.stages]
        key = LevelKey(
            point.target,
            point.load_kind,
            point.load,
            point.think_time_s,
            mine[0].arrivals if mine else None,
            tuple(sorted(point.together)),
        )
        if run.imported is not None:
            # Of other tools' points there are no requests, only what the file says of them.
            found[key].append(LevelData(point=point))
            continue
        rows, window = put_together([part_of(run, stage) for stage in mine])
        cells = Cells(rows, window, draws=draws, rng=rng)
        found[key].append(_data(sample, rows, cells, slo))
    return {key: tuple(levels) for key, levels in found.items()}


def _data(sample: LevelSample, rows: RequestTable, cells: Cells, slo: Sequence[Slo]) -> LevelData:
    point = sample.point
    order = np.argsort(rows.ended_s, kind="stable")
    worth: dict[str, _Worth] = {}
    for metric in ("ttft", "tpot", "e2e"):
        found = metric_values(rows, metric)
        if len(found.values) > 1:
            of_row = np.full(len(rows), np.nan)
            of_row[found.owner] = found.values
            in_order = of_row[order]
            series = in_order[np.isfinite(in_order)]
            worth[metric] = _worth_of(series, cells.mean(found), cells.blocks)
    if whole := worth.get("e2e"):
        # The server's state is the same for all that its requests show. TTFT varies too much by
        # itself to show it, so the whole stands in; TPOT, a mean of many steps, shows it best.
        worth = {m: one if m == "tpot" else one.at_least(whole) for m, one in worth.items()}
        worth["requests"] = whole
    if point.load_kind == "rate":
        waits = np.diff(rows.ended_s[order])
        worth["requests"] = _worth_of(waits, cells.rate(np.ones(len(rows))), cells.blocks)
    if "itl" in sample.means and (nearest := worth.get("tpot", worth.get("e2e"))):
        worth["itl"] = nearest
    if slo:
        good = _met(rows, slo)
        shares = _shares(cells, good)
        figures = point.figures | _goodput(good, shares, cells)
        point = msgspec.structs.replace(point, figures=figures)
        own = _worth_of(good[order], shares, cells.blocks)
        worth["goodput"] = own.at_least(worth["requests"]) if "requests" in worth else own
    failed = ((rows.status == ERROR) | (rows.status == TIMEOUT)).astype(np.float64)
    return LevelData(
        point=point,
        blocks=cells.blocks,
        effective={metric: one.effective for metric, one in worth.items()},
        inflation={metric: one.inflation for metric, one in worth.items()},
        freedom={name: one.freedom for name, one in worth.items() if math.isfinite(one.freedom)},
        error_inflation=len(failed) / _worth(failed, _shares(cells, failed)),
    )


class _Worth(NamedTuple):
    """What a series of requests is worth: see ``LevelData``."""

    effective: float
    inflation: float
    freedom: float

    def at_least(self, other: _Worth) -> _Worth:
        """No surer than another series of the same requests is."""
        inflation = max(self.inflation, other.inflation)
        return _Worth(
            max(self.effective * self.inflation / inflation, 1.0),
            inflation,
            min(self.freedom, other.freedom),
        )


def _worth_of(series: Floats, replicates: Floats, blocks: float) -> _Worth:
    """Compare the block bootstrap of a mean with an autoregression of batch means.

    Args:
        series: (n,) in the order of time.
        replicates: (1 + B,) of its mean, or of its inverse.
        blocks: that a resample consists of.
    """
    n = len(series)
    mean, variance = float(series.mean()), float(np.var(series, ddof=1))
    # A figure that is nothing (a TPOT of 0 from answers in one chunk) has no relative spread.
    known = replicates[0] > 0 and math.isfinite(replicates[0])
    relative = replicates[1:] / replicates[0] if known else replicates[:0]
    factor = blocks / (blocks - 1) if blocks > 1 else 1.0
    drawn = float(np.var(relative, ddof=1)) * factor * mean**2 if len(relative) > 1 else 0.0
    extrapolated = long_run(series)
    if extrapolated is None or not drawn > 0:
        return _Worth(float(n), 1.0, math.inf if extrapolated is None else extrapolated.freedom)
    error = max(drawn, extrapolated.variance)
    return _Worth(
        effective=min(max(variance / error, 1.0), float(n)),
        inflation=error / drawn,
        freedom=extrapolated.freedom,
    )


def _shares(cells: Cells, amounts: Floats) -> Floats:
    """(1 + B,) resampled means of a (rows,) amount."""
    sums = np.bincount(cells.cell_of_row, amounts, minlength=cells.count)
    counts = np.bincount(cells.cell_of_row, minlength=cells.count)
    return cells.ratio(sums.astype(np.float64), counts.astype(np.float64))


def _worth(values: Floats, means: Floats) -> float:
    """How many independent observations have a mean that varies as the resampled means do."""
    error = float(np.var(means[1:], ddof=1)) if len(means) > 2 else 0.0  # noqa: PLR2004 - a spread
    if not error > 0:
        return float(len(values))
    return min(max(float(np.var(values, ddof=1)) / error, 1.0), float(len(values)))


def _met(rows: RequestTable, slo: Iterable[Slo]) -> Floats:
    """(rows,) 1 where a request met every objective, else 0."""
    met = rows.status == OK
    for objective in slo:
        values = getattr(rows, f"{metric_of(objective.figure)}_s")
        met &= values <= objective.bound if objective.op == "<=" else values >= objective.bound
    return np.asarray(met, dtype=np.float64)


def _goodput(good: Floats, share: Floats, cells: Cells) -> dict[str, Estimate]:
    """Requests that met every objective, per second and of those that ended in the window.

    Args:
        good: (rows,) as ``_met`` gives it.
        share: (1 + B,) its resampled means.
        cells: of the rows.
    """
    rate = cells.rate(good)
    low, high = replicate_interval(rate, cells.blocks)
    worth = _worth(good, share)
    count = len(good)
    least, most = share_interval(round(share[0] * worth), max(round(worth), 1))
    if not rate[0]:
        # Resamples of nothing are nothing: how much there may be is known from the share alone.
        high = most * float(cells.rate(np.ones(count))[0])
    return {
        "goodput_per_s": Estimate(value=float(rate[0]), low=max(low, 0.0), high=high, n=count),
        "goodput_share": Estimate(
            value=float(share[0]),
            low=min(least, float(share[0])),
            high=max(most, float(share[0])),
            n=count,
        ),
    }
