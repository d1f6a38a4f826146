"""The axes of figures against load: what is logarithmic, how far it reaches, where it has ticks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dashboards.text import count_text, figure_name, tick_text
from dashboards.theme import log_axis, nice_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from dashboards.curves import Curve
    from planner.records import OperatingPoint, Slo

__all__ = ["load_axis", "value_axis"]

_LOG_FROM_RATIO = 8.0  # a range of loads this wide is read on a log axis
_LOG_LATENCY_RATIO = 12.0


def load_axis(canvas: go.Figure, points: Sequence[OperatingPoint]) -> None:
    """Log when the levels span a wide range, with ticks at powers of two; else linear from zero."""
    kinds = {p.load_kind for p in points}
    title = {
        "concurrency": "concurrency (requests in flight)",
        "users": "users",
        "rate": "arrivals (requests per second)",
    }
    loads = [p.load for p in points if p.load > 0] or [1.0]
    low, high = min(loads), max(loads)
    canvas.update_xaxes(title_text=" / ".join(title[k] for k in title if k in kinds) or "load")
    if high / low < _LOG_FROM_RATIO:
        canvas.update_xaxes(range=[0, high * 1.06])
        return
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    stride = max(1, math.ceil((last - first) / 9))
    ticks = [2.0**k for k in range(first, last + 1, stride)]
    pad = 0.05 * math.log10(high / low)
    canvas.update_xaxes(
        **log_axis(
            range=[math.log10(low) - pad, math.log10(high) + pad],
            tickvals=ticks,
            ticktext=[count_text(t) for t in ticks],
        )
    )


def value_axis(
    canvas: go.Figure,
    figure: str,
    points: Sequence[OperatingPoint],
    curves: Sequence[Curve],
    slo: Slo | None,
) -> tuple[float, float, bool]:
    """Set the y axis; return (low, high, log) in the figure's unit."""
    ends = [
        v
        for p in points
        for e in (p.figures[figure],)
        for v in (e.value, e.low, e.high)
        if v is not None
    ]
    ends += [
        float(v) for c in curves for v in (np.nanmax(c.value), np.nanmin(c.value)) if np.isfinite(v)
    ]
    ends += [slo.bound] if slo else []
    finite = [v for v in ends if math.isfinite(v)] or [0.0, 1.0]
    positive = [v for v in finite if v > 0]
    log = figure.endswith("_s") and not figure.endswith("per_s") and len(positive) == len(finite)
    log = log and max(finite) / min(finite) > _LOG_LATENCY_RATIO
    low, high = (
        (min(positive) / 1.3, max(positive) * 1.45) if log else (0.0, max(finite) * 1.1 or 1.0)
    )
    ticks = nice_ticks(low, high, log=log)
    canvas.update_yaxes(
        title_text=figure_name(figure),
        tickvals=ticks,
        ticktext=[tick_text(figure, t) for t in ticks],
        range=[math.log10(low), math.log10(high)] if log else [low, high],
        type="log" if log else "linear",
    )
    return low, high, log
