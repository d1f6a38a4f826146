"""How wrong the planner would have been: published curves predicted from some of their points."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from planner.curves import latency_curve, throughput_curve
from planner.forms import FORMS, fit, pchip
from planner.prior_table import PRIOR
from planner.waiting import Occupancy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from planner.points import PointCurve
    from planner.prior import Prior

__all__ = ["METRICS", "SPLITS", "Errors", "Missed", "by_ensemble", "by_form", "errors_of",
           "occupancy_of", "splits"]  # fmt: skip

Array = npt.NDArray[np.float64]

METRICS = ("throughput", "ttft", "tpot")
SPLITS = ("low-half", "leave-one-out", "spread3")
FEWEST_FITTED = 3


@dataclass(frozen=True)
class Missed:
    """One point of a curve predicted from others.

    Attributes:
        curve: that it belongs to.
        n: its concurrency.
        fitted: (L,) concurrencies that it was predicted from.
        log_error: log of predicted over published value.
        half_width: of the 90 % band, as a log ratio; ``None``: the model has no bands.
    """

    curve: PointCurve
    n: float
    fitted: Array
    log_error: float
    half_width: float | None

    @property
    def ape(self) -> float:
        """Absolute percentage error."""
        return 100 * abs(math.expm1(min(self.log_error, 50.0)))


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of a number of points.

    Attributes:
        n: points.
        median_ape: percent; ``None`` without points.
        p90_ape: percent.
        coverage90: share of the points within their 90 % band; ``None`` without bands.
    """

    n: int
    median_ape: float | None
    p90_ape: float | None
    coverage90: float | None


def splits(n: Array, split: str) -> list[tuple[list[int], list[int]]]:
    """What of a curve is fitted and what is predicted.

    Args:
        n: (L,) concurrencies, increasing, at least five.
        split: ``low-half``: fit the ceil(L/2), at least three, lowest and predict the rest;
            ``leave-one-out``: predict each inner point from all others; ``spread3``: fit the
            lowest, the highest and the inner one nearest to their geometric mean.

    Returns:
        Pairs of indices to fit and to predict.
    """
    every = range(n.size)
    if split == "low-half":
        kept = max(FEWEST_FITTED, math.ceil(n.size / 2))
        return [(list(every[:kept]), list(every[kept:]))]
    if split == "leave-one-out":
        return [([j for j in every if j != i], [i]) for i in every[1:-1]]
    middle = 1 + int(np.argmin(np.abs(np.log(n[1:-1] ** 2 / (n[0] * n[-1])))))
    fitted = [0, middle, n.size - 1]
    return [(fitted, [i for i in every if i not in fitted])]


def by_ensemble(
    curves: Iterable[PointCurve], split: str, metric: str, prior: Prior = PRIOR
) -> list[Missed]:
    """Predict by the planner's own curve; curves with the same levels are drawn together."""
    alike: dict[tuple[str, bytes, bytes, bool], list[tuple[PointCurve, list[int], list[int]]]]
    alike = defaultdict(list)
    for curve in curves:
        for fitted, left in splits(curve.n, split):
            known = curve.occupancy is not None
            key = (curve.family, curve.n[fitted].tobytes(), curve.n[left].tobytes(), known)
            alike[key].append((curve, fitted, left))
    missed: list[Missed] = []
    for (family, *_), cases in alike.items():
        first, fitted, left = cases[0]
        levels, at = first.n[fitted], first.n[left]
        values = np.stack([curve.values[kept] for curve, kept, _ in cases])[None]
        if metric == "throughput":
            drawn = throughput_curve(levels, values, family=family, prior=prior)
        else:
            drawn = latency_curve(
                levels, values, metric=metric, family=family, prior=prior,
                occupancy=occupancy_of([(curve, kept) for curve, kept, _ in cases]),
            )  # fmt: skip
        logs, bands = drawn.log_with_band(at)
        for (curve, _, out), log, band in zip(cases, logs[0], bands, strict=True):
            errors = log - np.log(curve.values[out])
            missed += [
                Missed(curve, *case)
                for case in zip(
                    at.tolist(), [levels] * at.size, errors.tolist(), band.tolist(), strict=True
                )
            ]
    return missed


def occupancy_of(cases: Sequence[tuple[PointCurve, list[int]]]) -> Occupancy | None:
    """Of curves at some of their levels, as many for each; ``None`` where it is not known."""
    known = [(c.occupancy, kept) for c, kept in cases if c.occupancy is not None]
    if len(known) < len(cases):
        return None
    return Occupancy(
        decoding=np.stack([found.decoding[kept] for found, kept in known]),
        step=np.stack([found.step[kept] for found, kept in known]),
    )


def by_form(curves: Iterable[PointCurve], split: str, metric: str, name: str) -> list[Missed]:
    """Predict by one form alone, for comparison; a latency through N / latency.

    Args:
        curves: to predict.
        split: as for ``splits``.
        metric: one of ``METRICS``.
        name: key of ``FORMS``, or ``pchip``.
    """
    draw: Callable[[Array, Array], Callable[[Array], Array]]
    draw = pchip if name == "pchip" else lambda n, y: fit(FORMS[name], n, y)
    missed = []
    for curve in curves:
        rate = curve.values if metric == "throughput" else curve.n / curve.values
        sign = 1 if metric == "throughput" else -1
        for fitted, left in splits(curve.n, split):
            drawn = draw(curve.n[fitted], rate[fitted])(curve.n[left])
            errors = sign * np.log(drawn / rate[left])
            missed += [
                Missed(curve, n, curve.n[fitted], error, None)
                for n, error in zip(curve.n[left].tolist(), errors.tolist(), strict=True)
            ]
    return missed


def errors_of(missed: Sequence[Missed]) -> Errors:
    """Summarise."""
    if not missed:
        return Errors(n=0, median_ape=None, p90_ape=None, coverage90=None)
    apes = [point.ape for point in missed]
    within = [
        abs(point.log_error) <= point.half_width for point in missed if point.half_width is not None
    ]
    return Errors(
        n=len(apes),
        median_ape=float(np.median(apes)),
        p90_ape=float(np.percentile(apes, 90)),
        coverage90=float(np.mean(within)) if within else None,
    )
