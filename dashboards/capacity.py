"""The chance that every objective is met, against the users that one replica serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dashboards.text import count_text
from dashboards.theme import INK, TargetStyle, blank_figure, label_margin, target_styles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.table import Floats

__all__ = ["CapacityCurve", "capacity_figure"]

HEIGHT = 340


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CapacityCurve:
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
    capacities: Sequence[CapacityCurve],
    *,
    confidence: float,
    styles: Mapping[str, TargetStyle] | None = None,
) -> go.Figure:
    """P(every objective is met) by one replica against the users it serves, per target.

    Args:
        capacities: one curve per target.
        confidence: the probability asked for, drawn as a line.
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
    line, asked = {"color": INK, "width": 1.2, "dash": "dash"}, f"{confidence * 100:g} % asked"
    canvas.add_hline(y=confidence, line=line)
    canvas.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=asked))
    canvas.add_annotation(
        name="end label",
        x=1,
        xref="paper",
        xanchor="left",
        xshift=8,
        y=confidence,
        text=asked,
        showarrow=False,
        font={"size": 12},
    )
    canvas.update_layout(showlegend=True, margin_r=label_margin([asked]), margin_t=34)
    return canvas
