"""The timeline of a run: what was in flight, what completed, what failed, stage after stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from dashboards.text import count_text
from dashboards.theme import (
    INK,
    TargetStyle,
    blank_figure,
    label_margin,
    target_styles,
    with_alpha,
)
from planner.table import ERROR, OK, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.records import OperatingPoint, StageInfo
    from planner.table import Floats, RequestTable

__all__ = ["Timeline", "timeline", "timeline_figure"]

_USUAL_WIDTH_PX = 900.0  # of the plot's area on a desk's screen
_MOST_BINS = 600
_SHORTEST_BIN_S = 1.0
_ROWS = (
    ("in_flight", "in flight", "%{y:.3g} requests in flight"),
    ("completed_per_s", "completed /s", "%{y:.3g} completed per second"),
    ("failed_per_s", "failed /s", "%{y:.3g} failed per second"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Timeline:
    """A run in equal bins of time.

    Attributes:
        edge_s: (m + 1,) edges of the bins, seconds since the run's start.
        in_flight: (m,) mean number of requests in flight in the bin, exact.
        completed_per_s, failed_per_s: (m,) requests that ended in the bin, per second.
    """

    edge_s: Floats
    in_flight: Floats
    completed_per_s: Floats
    failed_per_s: Floats


def timeline(requests: RequestTable, *, most_bins: int = _MOST_BINS) -> Timeline:
    """Bin a run; a million requests cost no more room than a thousand."""
    if len(requests) == 0:
        return Timeline(
            edge_s=np.array([0.0, 1.0]),
            in_flight=np.zeros(1),
            completed_per_s=np.zeros(1),
            failed_per_s=np.zeros(1),
        )
    start, end = float(requests.sent_s.min()), float(requests.ended_s.max())
    width = max((end - start) / most_bins, _SHORTEST_BIN_S)
    bins = max(1, int(np.ceil((end - start) / width)))
    edge = start + width * np.arange(bins + 1, dtype=np.float64)
    done = requests.ended_s[requests.status == OK]
    lost = requests.ended_s[np.isin(requests.status, (ERROR, TIMEOUT))]
    busy = _seconds_before(edge, requests.sent_s) - _seconds_before(edge, requests.ended_s)
    return Timeline(
        edge_s=edge,
        in_flight=np.diff(busy) / width,
        completed_per_s=np.histogram(done, edge)[0] / width,
        failed_per_s=np.histogram(lost, edge)[0] / width,
    )


def _seconds_before(edge: Floats, moment: Floats) -> Floats:
    """(m,) sum over the moments of ``max(0, edge - moment)``."""
    ordered = np.sort(moment)
    total = np.concatenate([np.zeros(1), np.cumsum(ordered)])
    passed = np.searchsorted(ordered, edge)
    return np.asarray(passed * edge - total[passed], dtype=np.float64)


def timeline_figure(
    line: Timeline,
    stages: Sequence[StageInfo],
    points: Sequence[OperatingPoint] = (),
    *,
    styles: Mapping[str, TargetStyle] | None = None,
) -> go.Figure:
    """Three rows over one time axis, each stage shaded in its target's colour.

    Args:
        line: the run in bins.
        stages: shaded, with their load on top.
        points: what lies in a stage but outside its point's window is hatched: warm-up, not used.
        styles: how targets look; by default in the order of the stages.
    """
    styles = styles or target_styles(s.target for s in stages)
    canvas = blank_figure(430, margin={"t": 44, "r": 20, "b": 48})
    end = float(line.edge_s[-1])
    domains = ([0.52, 1.0], [0.2, 0.46], [0.0, 0.14])
    for row, ((field, title, hover), domain) in enumerate(zip(_ROWS, domains, strict=True)):
        key = "" if row == 0 else str(row + 1)
        values = getattr(line, field)
        canvas.add_trace(
            go.Scatter(
                x=line.edge_s[:-1].astype(np.float32),
                y=values.astype(np.float32),
                mode="lines",
                line={
                    "color": "#D55E00" if field == "failed_per_s" else INK,
                    "width": 1.3,
                    "shape": "hv",
                },
                name=title,
                yaxis=f"y{key}",
                hovertemplate=f"%{{x:,.1f}} s: {hover}<extra></extra>",
            )
        )
        top = float(values.max())
        canvas.update_layout(
            {
                f"yaxis{key}": {
                    **canvas.layout.yaxis.to_plotly_json(),
                    "domain": domain,
                    "range": [0, top * 1.08 if top > 0 else 1.0],
                    "nticks": 3 if row else 6,
                    "rangemode": "tozero",
                    "title": {"text": title, "standoff": 10, "font": {"size": 12.5}},
                }
            }
        )
    canvas.update_xaxes(
        title_text="seconds since the run's start",
        anchor="y3",
        range=[min(0.0, float(line.edge_s[0])), end],
        tickformat=",.0f",
    )
    _add_stages(canvas, stages, end, styles)
    _add_unused(canvas, stages, points, end, float(canvas.layout.yaxis.range[1]))
    return canvas


def _add_stages(
    canvas: go.Figure, stages: Sequence[StageInfo], end_s: float, styles: Mapping[str, TargetStyle]
) -> None:
    """A tint per stage over all rows, its load above it, and each target's name above its first.

    A name that would begin before the one on its left ends stands behind that one.
    """
    named: set[str] = set()
    free_px = 0.0
    for stage in stages:
        style = styles[stage.target]
        stop = end_s if stage.ended_s is None else stage.ended_s
        canvas.add_shape(
            type="rect",
            x0=stage.started_s,
            x1=stop,
            y0=0,
            y1=1,
            yref="paper",
            fillcolor=with_alpha(style.colour, 0.1),
            line={"width": 0},
            layer="below",
        )
        canvas.add_annotation(
            name="stage load",
            x=(stage.started_s + stop) / 2,
            y=1,
            yref="paper",
            yanchor="bottom",
            text=count_text(stage.load),
            font={"color": style.colour, "size": 11.5},
            showarrow=False,
        )
        if stage.target not in named:
            named.add(stage.target)
            start_px = stage.started_s / end_s * _USUAL_WIDTH_PX
            shift_px = max(free_px - start_px, 0.0)
            free_px = start_px + shift_px + label_margin([style.label])
            canvas.add_annotation(
                x=stage.started_s,
                xanchor="left",
                xshift=shift_px,
                y=1,
                yref="paper",
                yanchor="bottom",
                yshift=17,
                text=f"<b>{style.label}</b>",
                font={"color": style.colour},
                showarrow=False,
            )


def _add_unused(
    canvas: go.Figure,
    stages: Sequence[StageInfo],
    points: Sequence[OperatingPoint],
    end_s: float,
    top: float,
) -> None:
    """Hatch what lies in a stage but outside its steady window."""
    windows = {p.stage: (p.window_start_s, p.window_end_s) for p in points}
    x: list[float | None] = []
    y: list[float | None] = []
    for stage in stages:
        start, stop = windows.get(stage.index, (None, None))
        if start is None or stop is None:
            continue
        ended = end_s if stage.ended_s is None else stage.ended_s
        for left, right in ((stage.started_s, start), (stop, ended)):
            if right - left > 1e-3:  # noqa: PLR2004 - a millisecond is no area
                x += [left, right, right, left, left, None]
                y += [0.0, 0.0, top, top, 0.0, None]
    if x:
        canvas.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="none",
                fill="toself",
                fillcolor="rgba(128,138,152,0.55)",
                fillpattern={
                    "shape": "/",
                    "size": 7,
                    "solidity": 0.18,
                    "fgcolor": "#808a98",
                    "bgcolor": "rgba(0,0,0,0)",
                },
                hoverinfo="skip",
                name="not used: warm-up and cool-down",
            )
        )
