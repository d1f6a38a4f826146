"""Latency distributions: one empirical distribution per target and level, on a log axis.

A percentile is read straight off an empirical distribution: nothing is smoothed, no tail is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from dashboards.text import count_text, figure_name, figure_text, tick_text
from dashboards.theme import (
    INK,
    PAPER,
    TargetStyle,
    blank_figure,
    nice_ticks,
    target_styles,
    with_alpha,
)
from planner.resample import metric_values
from planner.steady import Window, within
from planner.units import percentile_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.records import OperatingPoint, Slo
    from planner.table import Floats, RequestTable

__all__ = ["Ecdf", "distribution_figure", "ecdf", "level_ecdfs"]

_ROW_PX = 210
_MOST_STEPS = 400
_TAIL = np.array([0.9975, 0.999, 0.9995, 0.9999])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ecdf:
    """The empirical distribution of one latency at one level of load.

    Attributes:
        target, load: which level.
        value: (m,) increasing, in seconds.
        share: (m,) share of the ``n`` requests that took at most ``value``. It ends below 1 when
            requests timed out: how long those would have taken is not known.
        n: answered and timed-out requests of the level's steady window.
    """

    target: str
    load: float
    value: Floats
    share: Floats
    n: int


def ecdf(values: Floats, n: int) -> tuple[Floats, Floats]:
    """The steps of an empirical distribution, thinned to a few hundred that keep the tail.

    Args:
        values: (k,) finite values, in any order, of ``n >= k`` requests.
        n: what the shares are of.

    Returns:
        (value, share), each (m,): the share of requests at or below each value.
    """
    ordered = np.sort(values)
    k = len(ordered)
    if k > _MOST_STEPS:
        grid = np.union1d(np.linspace(1 / k, 1, _MOST_STEPS - len(_TAIL)), _TAIL)
        rank = np.unique(np.ceil(grid * k - 1e-9).astype(np.int64))
    else:
        rank = np.arange(1, k + 1)
    return ordered[rank - 1], rank / n


def level_ecdfs(
    requests: RequestTable, points: Sequence[OperatingPoint], metric: str
) -> tuple[Ecdf, ...]:
    """The distribution of a metric in the steady window of each usable point of one run.

    The values are those behind the point's percentiles: good answers, and timeouts as lower bounds.

    Args:
        requests: of the run that the points were made from.
        points: those with a stage and a window.
        metric: ``ttft``, ``tpot`` or ``e2e``.
    """
    levels = []
    for point in points:
        if point.window_start_s is None or point.window_end_s is None or not point.usable:
            continue
        window = Window(point.window_start_s, point.window_end_s)
        rows = requests.where((requests.stage == point.stage) & within(requests, window))
        found = metric_values(rows, metric)
        finished = np.sort(found.values)[: len(found.values) - found.censored]
        if len(finished):
            n = len(found.values)
            value, share = ecdf(finished, n)
            levels.append(Ecdf(target=point.target, load=point.load, value=value, share=share, n=n))
    return tuple(levels)


def distribution_figure(
    levels: Sequence[Ecdf],
    metric: str,
    *,
    slo: Slo | None = None,
    styles: Mapping[str, TargetStyle] | None = None,
) -> go.Figure:
    """One row per target, one line per level (the paler, the lighter the load).

    With an objective on a percentile, its bound and its percentile cross: a level meets the
    objective when its line passes above that corner.
    """
    styles = styles or target_styles(e.target for e in levels)
    targets = [name for name in styles if any(e.target == name for e in levels)]
    rows = max(1, len(targets))
    margin = {"t": 26, "b": 50, "r": 20}
    canvas = blank_figure(_ROW_PX * rows + margin["t"] + margin["b"], margin=margin)
    bound = slo if slo is not None and slo.figure.startswith(f"{metric}_") else None
    ticks, limits = _shared_axis(levels, bound)
    title = {"standoff": 10, "font": {"size": 12.5}}
    shares = (0, 0.5, 0.95) if rows > 1 else (0, 0.25, 0.5, 0.75, 0.95)
    for row, name in enumerate(targets):
        key = "" if row == 0 else str(row + 1)
        top = 1 - row / rows
        last = row == rows - 1
        canvas.update_layout(
            {
                f"xaxis{key}": {
                    **canvas.layout.xaxis.to_plotly_json(),
                    "type": "log",
                    "range": limits,
                    "tickvals": ticks,
                    "ticktext": [tick_text(f"{metric}_s", t) for t in ticks],
                    "showticklabels": last,
                    "anchor": f"y{key}",
                    "title": {**title, "text": figure_name(metric) if last else ""},
                },
                f"yaxis{key}": {
                    **canvas.layout.yaxis.to_plotly_json(),
                    "domain": [top - (1 / rows) * 0.86, top],
                    "range": [0, 1.04],
                    "tickvals": shares,
                    "ticktext": [f"{share:.0%}".replace("%", " %") for share in shares],
                    "anchor": f"x{key}",
                    "title": {**title, "text": "share of requests" if row == 0 else ""},
                },
            }
        )
        own = sorted((e for e in levels if e.target == name), key=lambda e: e.load)
        _add_levels(canvas, own, metric, styles[name], key)
        if bound is not None:
            _add_corner(canvas, bound, key)
        canvas.add_annotation(
            text=f"<b>{styles[name].label}</b>",
            font={"color": styles[name].colour},
            x=0,
            xref="paper",
            xanchor="left",
            y=top,
            yref="paper",
            yanchor="bottom",
            yshift=2,
            showarrow=False,
        )
    return canvas


def _shared_axis(levels: Sequence[Ecdf], slo: Slo | None) -> tuple[list[float], list[float]]:
    """Ticks in seconds and the log10 range that all rows share."""
    ends = [float(v) for e in levels for v in (e.value[0], e.value[-1]) if v > 0]
    ends += [slo.bound] if slo else []
    low, high = (min(ends) / 1.25, max(ends) * 1.25) if ends else (0.01, 1.0)
    return nice_ticks(low, high, log=True, most=5), [math.log10(low), math.log10(high)]


def _add_levels(
    canvas: go.Figure, levels: Sequence[Ecdf], metric: str, style: TargetStyle, key: str
) -> None:
    """The lines of one target; each carries its load at a height of its own, so none overlap."""
    for i, level in enumerate(levels):
        weight = 0.3 + 0.7 * (i + 1) / len(levels)
        name = f"<b>{style.label}</b> at {count_text(level.load)}"
        canvas.add_trace(
            go.Scatter(
                x=level.value.astype(np.float32),
                y=level.share.astype(np.float32),
                mode="lines",
                name=name,
                line={
                    "color": with_alpha(style.colour, round(weight, 2)),
                    "width": 2,
                    "shape": "hv",
                },
                xaxis=f"x{key}",
                yaxis=f"y{key}",
                customdata=[figure_text(f"{metric}_s", float(v)) for v in level.value],
                hovertemplate=f"{name}<br>%{{y:.1%}} of {count_text(level.n)} requests "
                "took at most <b>%{customdata}</b><extra></extra>",
            )
        )
        height = 0.2 + 0.6 * (i + 0.5) / len(levels)
        at = level.value[min(len(level.value) - 1, int(np.searchsorted(level.share, height)))]
        canvas.add_annotation(
            x=math.log10(max(float(at), 1e-9)),
            y=height,
            xref=f"x{key}",
            yref=f"y{key}",
            text=count_text(level.load),
            font={"color": style.colour, "size": 12},
            bgcolor=PAPER,
            borderpad=0,
            xanchor="left",
            xshift=3,
            showarrow=False,
        )


def _add_corner(canvas: go.Figure, slo: Slo, key: str) -> None:
    """The bound, and the percentile that it is asked of."""
    line = {"color": INK, "width": 1.2, "dash": "dash"}
    x, y = f"x{key}", f"y{key}"
    canvas.add_shape(
        type="line", x0=slo.bound, x1=slo.bound, y0=0, y1=1, xref=x, yref=f"{y} domain", line=line
    )
    share = percentile_of(slo.figure)
    if share is not None:
        canvas.add_shape(
            type="line", x0=0, x1=1, y0=share, y1=share, xref=f"{x} domain", yref=y, line=line
        )
