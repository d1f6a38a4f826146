"""Figures against load, from operating points and predicted curves.

Markers are measurements, with their intervals. A line is a prediction between them where the
planner gives one; without one, a thin dotted line only leads the eye.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from dashboards.axes import load_axis, value_axis
from dashboards.curves import Curve, crossing, known_part, points_beyond
from dashboards.text import (
    count_text,
    figure_name,
    figure_text,
    interval_text,
    plotly_text,
    tick_text,
)
from dashboards.theme import (
    INK,
    TargetStyle,
    blank_figure,
    label_margin,
    target_styles,
    with_alpha,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.records import OperatingPoint, Slo

__all__ = ["load_figure"]

HEIGHT = 340
_LABEL_GAP = 17  # pixels between the names at the ends of two lines


def load_figure(
    points: Sequence[OperatingPoint],
    figure: str,
    *,
    slo: Slo | None = None,
    curves: Sequence[Curve] = (),
    styles: Mapping[str, TargetStyle] | None = None,
) -> go.Figure:
    """One figure of every operating point against load, a colour per target.

    Args:
        points: those without the figure are left out; unusable ones are drawn hollow.
        figure: a name as in ``OperatingPoint.figures``.
        slo: drawn as a line when it bounds this figure, with each target's crossing marked.
        curves: predictions, drawn as lines with bands where they are of this figure.
        styles: how targets look; by default in their order of appearance.
    """
    shown = [p for p in points if figure in p.figures]
    styles = styles or target_styles(p.target for p in shown)
    known = (known_part(curve) for curve in curves if curve.figure == figure)
    drawn = {curve.target: curve for curve in known if curve.load.size}
    bound = slo if slo is not None and slo.figure == figure else None
    canvas = blank_figure(HEIGHT)
    y_range = value_axis(canvas, figure, shown, list(drawn.values()), bound)
    load_axis(canvas, shown)
    ends: list[tuple[float, str, str]] = []
    for target, style in styles.items():
        own = sorted((p for p in shown if p.target == target), key=_load)
        if not own:
            continue
        curve = drawn.get(target)
        if curve is not None:
            _add_curve(canvas, curve, style)
        _add_guide(canvas, own, curve, figure, style)
        _add_points(canvas, [p for p in own if p.usable], figure, style)
        _add_points(canvas, [p for p in own if not p.usable], figure, style)
        ends.append((own[-1].figures[figure].value, f"<b>{style.label}</b>", style.colour))
    if bound is not None:
        _add_bound(canvas, bound)
        ends.append((bound.bound, _bound_text(bound), INK))
        for target, style in styles.items():
            own = sorted((p for p in shown if p.target == target and p.load > 0), key=_load)
            _add_crossing(canvas, own, drawn.get(target), bound, style)
    _add_end_labels(canvas, ends, y_range)
    return canvas


def _load(point: OperatingPoint) -> float:
    return point.load


def _hover(point: OperatingPoint, figure: str, style: TargetStyle) -> str:
    """What a measured point says under the pointer."""
    estimate = point.figures[figure]
    lines = [
        f"<b>{style.label}</b> at {count_text(point.load)}",
        f"{figure_name(figure)}: <b>{figure_text(figure, estimate.value)}</b>",
        f"interval: {interval_text(figure, estimate.low, estimate.high)}",
        f"n = {count_text(estimate.n)}",
        *(f"not used: {plotly_text(problem, 90)}" for problem in point.problems),
    ]
    return "<br>".join(lines)


def _add_points(
    canvas: go.Figure, points: Sequence[OperatingPoint], figure: str, style: TargetStyle
) -> None:
    """Measured points with their intervals, all usable or all not; the latter are hollow."""
    if not points:
        return
    usable = points[0].usable
    estimates = [p.figures[figure] for p in points]
    up = [0.0 if e.high is None else max(0.0, e.high - e.value) for e in estimates]
    down = [0.0 if e.low is None else max(0.0, e.value - e.low) for e in estimates]
    canvas.add_trace(
        go.Scatter(
            x=[p.load for p in points],
            y=[e.value for e in estimates],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": up,
                "arrayminus": down,
                "color": style.colour,
                "thickness": 1.4,
                "width": 4,
            },
            mode="markers",
            name=style.label if usable else f"{style.label} (not used)",
            showlegend=usable,
            marker={
                "color": style.colour,
                "size": 9,
                "line": {"color": style.colour, "width": 1.6},
                "symbol": style.symbol if usable else f"{style.symbol}-open",
            },
            customdata=[_hover(p, figure, style) for p in points],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )


def _add_guide(
    canvas: go.Figure,
    points: Sequence[OperatingPoint],
    curve: Curve | None,
    figure: str,
    style: TargetStyle,
) -> None:
    """Thin dotted lines between usable points where no prediction runs: an aid to the eye."""
    for side in points_beyond(points, curve):
        if len(side) > 1:
            canvas.add_trace(
                go.Scatter(
                    x=[p.load for p in side],
                    y=[p.figures[figure].value for p in side],
                    mode="lines",
                    line={"color": style.colour, "width": 1.2, "dash": "dot"},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )


def _add_curve(canvas: go.Figure, curve: Curve, style: TargetStyle) -> None:
    """A predicted curve over its band."""
    known = np.isfinite(curve.low) & np.isfinite(curve.high)
    canvas.add_trace(
        go.Scatter(
            x=np.concatenate([curve.load[known], curve.load[known][::-1]]),
            y=np.concatenate([curve.high[known], curve.low[known][::-1]]),
            fill="toself",
            fillcolor=with_alpha(style.colour, 0.13),
            mode="none",
            hoverinfo="skip",
            showlegend=False,
        )
    )
    canvas.add_trace(
        go.Scatter(
            x=curve.load,
            y=curve.value,
            mode="lines",
            line={"color": style.colour, "width": 2.2, "dash": style.dash},
            name=f"{style.label} (predicted)",
            showlegend=False,
            customdata=[
                f"<b>{style.label}</b> at {count_text(float(n))}, predicted<br>"
                f"{figure_name(curve.figure)}: <b>{figure_text(curve.figure, float(v))}</b>"
                for n, v in zip(curve.load, curve.value, strict=True)
            ],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )


def _add_bound(canvas: go.Figure, slo: Slo) -> None:
    """The objective as a dashed line, with a name for the legend of narrow screens."""
    line = {"color": INK, "width": 1.4, "dash": "dash"}
    canvas.add_hline(y=slo.bound, line=line)
    canvas.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=_bound_text(slo)))


def _bound_text(slo: Slo) -> str:
    return f"objective ≤ {tick_text(slo.figure, slo.bound)}"


def _add_crossing(
    canvas: go.Figure,
    points: Sequence[OperatingPoint],
    curve: Curve | None,
    slo: Slo,
    style: TargetStyle,
) -> None:
    """A ring where a target's line crosses the objective, with the load beside it."""
    left, right = (
        [(p.load, p.figures[slo.figure].value) for p in side]
        for side in points_beyond(points, curve)
    )
    between = [] if curve is None else np.column_stack([curve.load, curve.value]).tolist()
    line = [*left, *between, *right]
    at = crossing([n for n, _ in line], [y for _, y in line], slo)
    if at is None:
        return
    canvas.add_trace(
        go.Scatter(
            x=[at],
            y=[slo.bound],
            mode="markers+text",
            text=[f"<b>{count_text(float(f'{at:.2g}'))}</b>"],
            textposition="bottom right",
            textfont={"color": style.colour, "size": 13},
            marker={
                "symbol": "circle-open",
                "size": 14,
                "color": style.colour,
                "line": {"width": 2.4, "color": style.colour},
            },
            name=f"{style.label} crosses",
            hovertemplate=f"<b>{style.label}</b> crosses {figure_name(slo.figure)} ≤ "
            f"{tick_text(slo.figure, slo.bound)} at about {at:.3g}<extra></extra>",
            showlegend=False,
        )
    )


def _add_end_labels(
    canvas: go.Figure, ends: Sequence[tuple[float, str, str]], y_range: tuple[float, float, bool]
) -> None:
    """(value, text, colour) at the height of each value, pushed apart where they would overlap."""
    low, high, log = y_range
    plot_px = HEIGHT - canvas.layout.margin.t - canvas.layout.margin.b
    floor = -math.inf
    for value, text, colour in sorted(ends):
        if log:
            share = math.log(value / low) / math.log(high / low) if value > 0 else 0.0
        else:
            share = value / high
        wanted = share * plot_px
        floor = max(wanted, floor + _LABEL_GAP)
        canvas.add_annotation(
            name="end label",
            x=1,
            xref="paper",
            xanchor="left",
            xshift=8,
            y=share,
            yref="paper",
            yanchor="middle",
            yshift=floor - wanted,
            text=text,
            font={"color": colour, "size": 12},
            showarrow=False,
        )
    canvas.update_layout(margin_r=label_margin(text for _, text, _ in ends))
