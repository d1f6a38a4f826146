"""What an export tells: the operating points of some runs, and the targets that they are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.summary import operating_points

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.records import Estimate, OperatingPoint, RunManifest, TargetInfo
    from planner.runfolder import Run

__all__ = ["Exported", "exported_of", "figure_order"]

_COUNTED = ("requests_per_s", "output_tokens_per_s", "error_rate")
_METRICS = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One level.

    Attributes:
        run: name of its folder.
        manifest: of its run.
        target: that it is of.
        point: its figures.
    """

    run: str
    manifest: RunManifest
    target: TargetInfo
    point: OperatingPoint

    def figures(self) -> Iterator[tuple[str, Estimate]]:
        """The figures by name, in the order of an export."""
        for name in figure_order([self.point]):
            yield name, self.point.figures[name]


def exported_of(runs: Sequence[Run]) -> list[Exported]:
    """The levels of some runs, in their order, those that must not be used included."""
    found = []
    for run in runs:
        targets = {target.name: target for target in run.manifest.targets}
        found += [
            Exported(
                run=run.path.resolve().name,
                manifest=run.manifest,
                target=targets[point.target],
                point=point,
            )
            for point in operating_points(run)
        ]
    return found


def figure_order(points: Sequence[OperatingPoint]) -> list[str]:
    """The names of all figures: rates, then TTFT, TPOT, ITL and E2E, mean before percentiles."""

    def key(name: str) -> tuple[int, float, str]:
        if name in _COUNTED:
            return -1, _COUNTED.index(name), name
        metric, statistic, *_ = name.split("_")
        first = _METRICS.index(metric) if metric in _METRICS else len(_METRICS)
        return first, float(statistic[1:]) if statistic.startswith("p") else 0.0, name

    return sorted({name for point in points for name in point.figures}, key=key)
