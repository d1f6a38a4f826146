"""The chance that every objective is met, against the users that one replica serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dashboards.text import count_text
from dashboards.theme import INK, TargetStyle, blank_figure, target_styles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.table import Floats

__all__ = ["Capacity", "capacity_figure"]

HEIGHT = 340


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capacity:
    """How sure one replica of a target is to meet every objective, against users.

    Attributes:
        target: what it predicts.
        users: (m,) increasing.
        probability: (m,) P(every objective is met), NaN where refused.
    """

    target: str
    users: Floats
    probability: Floats


def capacity_figure(
    capacities: Sequence[Capacity],
    *,
    confidence: float,
    users: int | None = None,
    styles: Mapping[str, TargetStyle] | None = None,
) -> go.Figure:
    """P(every objective is met) by one replica against the users it serves, per target.

    Args:
        capacities: one curve per target.
        confidence: the probability asked for, drawn as a line.
        users: the demand, drawn as a line when it lies within the curves.
        styles: how targets look; by default in their order of appearance.
    """
    styles = styles or target_styles(c.target for c in capacities)
    canvas = blank_figure(HEIGHT)
    canvas.update_xaxes(title_text="users on one replica", rangemode="tozero")
    canvas.update_yaxes(
        title_text="P(every objective is met)",
        range=[-0.03, 1.06],
        tickvals=[0, 0.25, 0.5, 0.75, 1],
        ticktext=["0 %", "25 %", "50 %", "75 %", "100 %"],
    )
    last = max((float(c.users[-1]) for c in capacities), default=1.0)
    for capacity in capacities:
        style = styles[capacity.target]
        canvas.add_trace(
            go.Scatter(
                x=capacity.users,
                y=capacity.probability,
                mode="lines",
                name=style.label,
                line={"color": style.colour, "width": 2.5, "dash": style.dash},
                hovertemplate=f"<b>{style.label}</b><br>%{{x:,.0f}} users on one replica: "
                "%{y:.1%}<extra></extra>",
            )
        )
        held = capacity.users[capacity.probability >= confidence]
        if len(held):
            canvas.add_annotation(
                x=float(held[-1]),
                y=confidence,
                text=f"<b>{count_text(float(held[-1]))}</b>",
                font={"color": style.colour},
                showarrow=False,
                xanchor="left",
                xshift=6,
                yshift=10,
            )
    canvas.add_hline(y=confidence, line={"color": INK, "width": 1.2, "dash": "dash"})
    _right_note(canvas, confidence, f"{confidence * 100:g} % asked")
    if users is not None and users <= last:
        canvas.add_vline(x=users, line={"color": INK, "width": 1.2, "dash": "dot"})
    canvas.update_layout(showlegend=True)
    return canvas


def _right_note(canvas: go.Figure, y: float, text: str) -> None:
    """A quiet note to the right of the plot, at a height of the y axis."""
    canvas.add_annotation(
        x=1,
        xref="paper",
        xanchor="left",
        xshift=8,
        y=y,
        text=text,
        showarrow=False,
        font={"size": 12},
    )
