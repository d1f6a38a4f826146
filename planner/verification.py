"""Predicted beside measured: did the prediction hold?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from planner.records import Estimate, Name, Predicted, Record

if TYPE_CHECKING:
    from planner.records import OperatingPoint, Option, Slo

__all__ = ["Comparison", "Verdict", "Verification", "verified"]

Verdict = Literal["inside", "compatible", "outside", "unknown"]
"""``inside``: the measured value lies in the predicted interval. ``compatible``: it does not, but
its own interval reaches into it, so that noise alone may be the reason. ``outside``: the prediction
was wrong, on whichever side. ``unknown``: one of the two is missing."""


class Comparison(Record, frozen=True, kw_only=True):
    """One objective's figure, predicted and measured."""

    objective: Name
    figure: Name
    predicted: Predicted
    measured: Estimate | None
    verdict: Verdict
    met: bool | None  # whether the measured value meets the objective


class Verification(Record, frozen=True, kw_only=True):
    """What a measurement at the recommended load says about the recommendation."""

    schema: int = 1
    target: Name
    users: int
    think_time_s: float
    comparisons: tuple[Comparison, ...]
    problems: tuple[str, ...] = ()  # why the measurement cannot be used
    run: str | None = None  # the folder of the measurement
    emulated: Name | None = None  # the profile, where an emulator answered: no server was measured

    @property
    def held(self) -> bool | None:
        """Whether no figure is outside its prediction; ``None`` when that cannot be told."""
        verdicts = {comparison.verdict for comparison in self.comparisons}
        if self.problems or "unknown" in verdicts:
            return None
        return "outside" not in verdicts


def verified(
    option: Option, slo: tuple[Slo, ...], point: OperatingPoint, *, run: str | None = None
) -> Verification:
    """Compare what was predicted for one replica with what was measured on it.

    Args:
        option: the option, with its predictions.
        slo: the objectives.
        point: the measurement at its load.
        run: folder of the measurement.
    """
    return Verification(
        target=option.target,
        users=round(point.load),
        think_time_s=point.think_time_s,
        comparisons=tuple(_compared(objective, option, point) for objective in slo),
        problems=point.problems,
        run=run,
    )


def _compared(objective: Slo, option: Option, point: OperatingPoint) -> Comparison:
    predicted = option.predicted[objective.figure]
    measured = point.figures.get(objective.figure)
    return Comparison(
        objective=objective.text,
        figure=objective.figure,
        predicted=predicted,
        measured=measured,
        verdict=_verdict(predicted, measured),
        met=None if measured is None else objective.met(measured.value),
    )


def _verdict(predicted: Predicted, measured: Estimate | None) -> Verdict:
    if measured is None or predicted.low is None or predicted.high is None:
        return "unknown"
    if predicted.low <= measured.value <= predicted.high:
        return "inside"
    above = measured.value > predicted.high
    near = measured.low if above else measured.high
    if near is None:  # not bounded on that side: it may reach anywhere
        return "compatible"
    reaches = near <= predicted.high if above else near >= predicted.low
    return "compatible" if reaches else "outside"
