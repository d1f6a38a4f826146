"""Sort the measured levels of one target into what its curve is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from planner.levels import is_closed_loop

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from planner.summary import LevelSample

__all__ = ["Evidence", "evidence_of"]

MOST_IN_FLIGHT = 10_000
"""The model holds every concurrency for every draw, so a load needs a bound."""


@dataclass(frozen=True)
class Evidence:
    """What may carry a prediction for one target.

    Attributes:
        curve: usable closed-loop levels, one per concurrency, ascending.
        thinking: usable levels of users with think time.
        rejected: (level, why) of what may not.
    """

    curve: tuple[LevelSample, ...]
    thinking: tuple[LevelSample, ...]
    rejected: tuple[tuple[LevelSample, str], ...]


def evidence_of(samples: Iterable[LevelSample]) -> Evidence:
    """Sort the levels of one target; levels measured twice are pooled."""
    by_level: dict[float, list[LevelSample]] = {}
    thinking, rejected = [], []
    for sample in samples:
        point = sample.point
        if point.together:
            with_whom = ", ".join(point.together)
            rejected.append((sample, f"{with_whom} was loaded at the same time"))
        elif not point.usable:
            rejected.append((sample, "; ".join(point.problems)))
        elif not 1 <= point.load <= MOST_IN_FLIGHT:
            rejected.append((sample, f"loads from 1 to {MOST_IN_FLIGHT:,} are modelled"))
        elif is_closed_loop(point):
            by_level.setdefault(point.load, []).append(sample)
        elif point.load_kind == "users":
            thinking.append(sample)
        else:
            rejected.append((sample, "arrivals that wait for nobody say nothing about users"))
    curve = tuple(_pool(by_level[level]) for level in sorted(by_level))
    return Evidence(curve, tuple(thinking), tuple(rejected))


def _pool(samples: Sequence[LevelSample]) -> LevelSample:
    """One level from several measurements of it, each counting by its number of requests.

    Quantiles are averaged level by level (Vincent, Psychological Review 19, 1912), which keeps
    the shape of the distribution where pooling the requests would blur it.
    """
    if len(samples) == 1:
        return samples[0]
    largest = max(samples, key=lambda sample: sample.point.completed)
    completed = [sample.point.completed for sample in samples]
    rows = min(sample.requests_per_s.shape[0] for sample in samples)

    def mean(arrays: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        return np.average([array[:rows] for array in arrays], axis=0, weights=completed)

    metrics = [
        metric for metric in largest.quantiles if all(metric in s.quantiles for s in samples)
    ]
    # A percentile that one part could not bound may be bounded by all parts together.
    imported = largest.point.source != "measured"  # and has no intervals
    bounded = {k: v for k, v in largest.point.figures.items() if v.high is not None or imported}
    point = msgspec.structs.replace(
        largest.point,
        completed=sum(completed),
        failed=sum(sample.point.failed for sample in samples),
        censored=sum(sample.point.censored for sample in samples),
        figures=bounded,
    )
    return replace(
        largest,
        point=point,
        requests_per_s=mean([sample.requests_per_s for sample in samples]),
        output_tokens_per_s=mean([sample.output_tokens_per_s for sample in samples]),
        quantiles={m: mean([sample.quantiles[m] for sample in samples]) for m in metrics},
        means={m: mean([sample.means[m] for sample in samples]) for m in metrics},
    )
