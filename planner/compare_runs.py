"""From run folders to what is compared: each level of a run with what its intervals rest on."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from planner.compare import LevelData
from planner.parts import part_of, put_together
from planner.records import Estimate
from planner.resample import METRICS, Cells, metric_values
from planner.summary import level_samples
from planner.table import ERROR, OK, TIMEOUT
from planner.uncertainty import replicate_interval, share_interval

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
        arrivals = stages[sample.stages[0]].arrivals
        key = LevelKey(point.target, point.load_kind, point.load, point.think_time_s, arrivals)
        rows, window = put_together([part_of(run, stages[index]) for index in sample.stages])
        cells = Cells(rows, window, draws=draws, rng=rng)
        found[key].append(_data(sample, rows, cells, slo))
    return {key: tuple(levels) for key, levels in found.items()}


def _data(sample: LevelSample, rows: RequestTable, cells: Cells, slo: Sequence[Slo]) -> LevelData:
    point = sample.point
    if slo:
        figures = point.figures | _goodput(rows, cells, slo)
        point = msgspec.structs.replace(point, figures=figures)
    failed = ((rows.status == ERROR) | (rows.status == TIMEOUT)).astype(np.float64)
    effective = {}
    for metric in ("ttft", "tpot", "e2e"):
        values = metric_values(rows, metric)
        if len(values.values) > 1:
            effective[metric] = _worth(values.values, cells.mean(values))
    if "ttft" in effective and "itl" in sample.means:
        effective["itl"] = effective.get("tpot", effective["ttft"])
    return LevelData(
        point=point,
        blocks=cells.blocks,
        effective=effective,
        error_inflation=len(failed) / _worth(failed, _shares(cells, failed)),
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


def _goodput(rows: RequestTable, cells: Cells, slo: Iterable[Slo]) -> dict[str, Estimate]:
    """Requests that met every objective, per second and of those that ended in the window."""
    met = rows.status == OK
    for objective in slo:
        values = getattr(rows, f"{objective.figure.partition('_')[0]}_s")
        met &= values <= objective.bound if objective.op == "<=" else values >= objective.bound
    good = met.astype(np.float64)
    rate, share = cells.rate(good), _shares(cells, good)
    low, high = replicate_interval(rate, cells.blocks)
    worth = _worth(good, share)
    count = len(good)
    least, most = share_interval(round(share[0] * worth), max(round(worth), 1))
    return {
        "goodput_per_s": Estimate(value=float(rate[0]), low=max(low, 0.0), high=high, n=count),
        "goodput_share": Estimate(
            value=float(share[0]),
            low=min(least, float(share[0])),
            high=max(most, float(share[0])),
            n=count,
        ),
    }
