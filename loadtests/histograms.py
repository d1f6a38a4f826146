"""Live figures of one stage: histograms that answer at any moment, in bounded memory.

They feed progress lines and Locust's screens; plans use the run folder's records. A DDSketch
(Masson, Rim and Lee, PVLDB 12:12, 2019) keeps a quantile within a fixed share of its value, and two
of them merge without loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ddsketch import DDSketch

from planner.units import format_duration

if TYPE_CHECKING:
    from planner.records import RequestRecord

__all__ = ["ACCURACY", "FIGURES", "Figure", "StageHistograms"]

Figure = Literal["ttft", "tpot", "e2e"]
FIGURES: tuple[Figure, ...] = ("ttft", "tpot", "e2e")

ACCURACY = 0.005
"""A quantile's error at most, as a share of its value: 25 µs of a TPOT of 5 ms."""


class StageHistograms:
    """Counts and histograms of the requests that have ended.

    Attributes:
        completed: requests that ended well. The histograms hold these only.
        failed: requests that failed or timed out.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.completed = 0
        self.failed = 0
        self._sketches = {figure: DDSketch(ACCURACY) for figure in FIGURES}

    def see(self, record: RequestRecord) -> None:
        """Take note of a request that has ended."""
        if record.status in ("error", "timeout"):
            self.failed += 1
        if record.status != "ok":
            return
        self.completed += 1
        due_s = record.due_s
        e2e_s = record.ended_s - due_s
        self._sketches["e2e"].add(e2e_s)
        if record.first_token_s is None:
            return
        ttft_s = record.first_token_s - due_s
        self._sketches["ttft"].add(ttft_s)
        if record.output_tokens is not None and record.output_tokens > 1:
            self._sketches["tpot"].add((e2e_s - ttft_s) / (record.output_tokens - 1))

    def merge(self, other: StageHistograms) -> None:
        """Add what another has seen: another process, or another stage."""
        self.completed += other.completed
        self.failed += other.failed
        for figure, sketch in self._sketches.items():
            sketch.merge(other._sketches[figure])

    def quantile(self, figure: Figure, quantile: float) -> float | None:
        """A quantile in seconds, within ``ACCURACY`` of its value; ``None``: nothing was seen."""
        found = self._sketches[figure].get_quantile_value(quantile)
        return None if found is None else float(found)

    def told(self, *, quantile: float = 0.95) -> str:
        """TTFT and TPOT for a line: ``TTFT p95 132 ms, TPOT p95 5.02 ms``; empty at first."""
        shown: tuple[Figure, ...] = ("ttft", "tpot")
        known = [(figure, self.quantile(figure, quantile)) for figure in shown]
        return ", ".join(
            f"{figure.upper()} p{quantile * 100:g} {format_duration(value_s)}"
            for figure, value_s in known
            if value_s is not None
        )
