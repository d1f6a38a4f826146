"""Levels as OpenMetrics text, for a Pushgateway or a node exporter's textfile collector.

All are gauges: a level is a finished measurement. ``bound`` tells an estimate from the ends of its
90 % interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.export.exported import figure_order
from planner.phrases import one_line
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

    from planner.export.exported import Exported
    from planner.records import Estimate

__all__ = ["openmetrics_text"]

_LABELS = ("run", "target", "backend", "model", "hardware", "source", "load_kind", "load", "stage")
_COUNTED = {
    "requests_per_s": ("headroom_request_rate", "Requests answered per second."),
    "output_tokens_per_s": ("headroom_output_token_rate", "Output tokens per second."),
    "error_rate": ("headroom_error_ratio", "Share of the requests that failed."),
}
_LATENCIES = {
    "ttft": "Time to first token.",
    "tpot": "Time per output token after the first.",
    "itl": "Gap between two content events.",
    "e2e": "End-to-end latency.",
}


def openmetrics_text(levels: Sequence[Exported]) -> str:
    """The levels' figures as OpenMetrics 1.0 text."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(levels))
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()


class _Collected:
    """The levels as a collector of prometheus_client's."""

    def __init__(self, levels: Sequence[Exported]) -> None:
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        for name, (family, text) in _COUNTED.items():
            yield self._gauge(family, text, "", [(name, "")])
        for metric, text in _LATENCIES.items():
            names = [n for n in figure_order([level.point for level in self._levels])
                     if n.startswith(f"{metric}_")]  # fmt: skip
            told = [(name, _statistic(name)) for name in names]
            yield self._gauge(f"headroom_{metric}_seconds", text, "seconds", told)
        yield from self._states()

    def _gauge(
        self, family: str, text: str, unit: str, figures: Sequence[tuple[str, str]]
    ) -> Metric:
        """A family of figures, each told by a statistic where it has several."""
        from prometheus_client.core import GaugeMetricFamily

        several = any(statistic for _, statistic in figures)
        labels = (*_LABELS, *(("statistic",) if several else ()), "bound")
        gauge = GaugeMetricFamily(family, text, labels=labels, unit=unit)
        for level in self._levels:
            for name, statistic in figures:
                estimate = level.point.figures.get(name)
                for bound, value in () if estimate is None else _ends(estimate):
                    told = (statistic, bound) if several else (bound,)
                    gauge.add_metric([*_labels(level), *told], value)
        return gauge

    def _states(self) -> Iterator[Metric]:
        """Whether the levels may be used, and how many requests each rests on."""
        from prometheus_client.core import GaugeMetricFamily

        usable = GaugeMetricFamily(
            "headroom_level_usable", "Whether the level passed every gate.", labels=_LABELS
        )
        requests = GaugeMetricFamily(
            "headroom_level_requests", "Requests of the level by outcome.",
            labels=(*_LABELS, "outcome"),
        )  # fmt: skip
        for level in self._levels:
            usable.add_metric(_labels(level), float(level.point.usable))
            for outcome in ("completed", "failed", "censored"):
                count = float(getattr(level.point, outcome))
                requests.add_metric([*_labels(level), outcome], count)
        yield usable
        yield requests


def _labels(level: Exported) -> list[str]:
    point, target = level.point, level.target
    told = (
        level.run, point.target, point.backend, target.model, target.hardware, point.source,
        point.load_kind, f"{point.load:g}", point.stage,
    )  # fmt: skip
    return ["" if value is None else one_line(str(value)) for value in told]


def _statistic(name: str) -> str:
    share = percentile_of(name)
    return "mean" if share is None else f"p{share * 100:g}"


def _ends(estimate: Estimate) -> Iterator[tuple[str, float]]:
    yield "estimate", estimate.value
    if estimate.low is not None:
        yield "low", estimate.low
    if estimate.high is not None:
        yield "high", estimate.high
