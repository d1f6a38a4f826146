"""Predicted curves as figures draw them, and where a line crosses an objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import OperatingPoint, Slo
    from planner.table import Floats

__all__ = ["Curve", "crossing", "known_part", "points_beyond"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """A predicted figure against load.

    Attributes:
        target, figure: what it predicts.
        load: (m,) increasing, in the unit of ``OperatingPoint.load``.
        value, low, high: (m,) in the figure's unit; NaN where the planner refuses.
    """

    target: str
    figure: str
    load: Floats
    value: Floats
    low: Floats
    high: Floats


def known_part(curve: Curve) -> Curve:
    """The part of a curve that the planner does not refuse."""
    known = np.isfinite(curve.value)
    return replace(
        curve,
        load=curve.load[known],
        value=curve.value[known],
        low=curve.low[known],
        high=curve.high[known],
    )


def points_beyond(
    points: Sequence[OperatingPoint], curve: Curve | None
) -> tuple[list[OperatingPoint], list[OperatingPoint]]:
    """The usable points up to where a curve begins and from where it ends; all, where none runs."""
    usable = [p for p in points if p.usable]
    if curve is None:
        return usable, []
    first, last = curve.load[0], curve.load[-1]
    return [p for p in usable if p.load <= first], [p for p in usable if p.load >= last]


def crossing(load: Sequence[float], value: Sequence[float], slo: Slo) -> float | None:
    """The load at which a figure stops meeting its objective: linear in value over log load.

    Returns:
        ``None`` when the first value already breaks the objective or none does.
    """
    for (n0, y0), (n1, y1) in pairwise(zip(load, value, strict=True)):
        if slo.met(y0) and not slo.met(y1) and n1 > n0:
            share = (slo.bound - y0) / (y1 - y0)
            return float(n0 * (n1 / n0) ** share)
        if not slo.met(y0):
            return None
    return None
