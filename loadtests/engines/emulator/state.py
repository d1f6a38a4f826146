"""What an emulated server counts of itself, for its pages of metrics."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from itertools import count

    from loadtests.engines.emulator.fleet import Fleet
    from loadtests.engines.emulator.generation import Generation
    from loadtests.engines.emulator.speakers.common import Figures

__all__ = ["Histogram", "State"]

# The bounds of vLLM's own histograms.
_FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_BETWEEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_WHOLE = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


class Histogram:
    """A Prometheus histogram."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Empty."""
        self.bounds = np.array(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add_all(self, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
        """Count many values."""
        for bucket, n in zip(
            *np.unique(np.searchsorted(self.bounds, values), return_counts=True), strict=True
        ):
            self.counts[int(bucket)] += int(n)
        self.total += float(values.sum())

    def lines(self, name: str, labels: str) -> list[str]:
        """In the text format; ``labels`` without braces, ``le`` put where vLLM has it."""
        engine, _, model = labels.partition(",")
        lines, below = [f"# TYPE {name} histogram"], 0
        for bound, n in zip([*map(float, self.bounds), "+Inf"], self.counts, strict=True):
            below += n
            lines.append(f'{name}_bucket{{{engine},le="{bound}",{model}}} {float(below)}')
        lines.append(f"{name}_count{{{labels}}} {float(below)}")
        lines.append(f"{name}_sum{{{labels}}} {self.total}")
        return lines


class State:
    """Counters of one server, and what is in flight.

    Attributes:
        active: generations that have their place in the batch, the earliest first.
    """

    def __init__(self, fleet: Fleet, numbers: count[int], now: Callable[[], float]) -> None:
        """Nothing has happened. ``now`` reads the fleet's clock."""
        self.now = now
        self.fleet = fleet
        self.numbers = numbers
        self.active: dict[Generation, None] = {}
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.prompt_s = self.decode_s = 0.0
        self.longest = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.ttft = Histogram(_FIRST)
        self.itl = Histogram(_BETWEEN)
        self.e2e = Histogram(_WHOLE)
        self.queue = Histogram(_WHOLE)
        self.prefill = Histogram(_WHOLE)
        self.decode = Histogram(_WHOLE)

    def count(
        self, figures: Figures, finish: str, dues: np.ndarray[tuple[int], np.dtype[np.float64]]
    ) -> None:
        """Add an answer that has ended well."""
        self.finished[finish] += 1
        self.prompt_tokens += figures.prompt
        self.cached_tokens += figures.cached
        self.output_tokens += figures.output
        self.prompt_s += figures.prompt_s
        self.decode_s += figures.decode_s
        self.longest = max(self.longest, figures.prompt + figures.output)
        self.ttft.add(figures.load_s + figures.queue_s + figures.prompt_s)
        self.itl.add_all(np.diff(dues))
        self.e2e.add(figures.total_s)
        self.queue.add(figures.load_s + figures.queue_s)
        self.prefill.add(figures.prompt_s)
        self.decode.add(figures.decode_s)
