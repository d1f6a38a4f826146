"""One look for every figure: the colour of a target, the axes, the ticks."""

from __future__ import annotations

import html
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboards.text import plotly_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "FONT",
    "INK",
    "PAPER",
    "TargetStyle",
    "blank_figure",
    "label_margin",
    "log_axis",
    "nice_ticks",
    "target_styles",
    "with_alpha",
]

# Okabe and Ito (2008), "Color Universal Design": told apart with any kind of colour vision. Black
# and yellow are left out: each vanishes on one of the two backgrounds that the report has.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
_LABEL_LENGTH = 22
_LETTER_PX = 7.9  # of bold 12 px text in the widest of the usual fonts
_TAG = re.compile(r"<[^>]*>")

FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif"
INK, PAPER, GRID = "#4a5260", "#fefefe", "rgba(128,138,152,0.22)"
"""The page swaps the first two for its own in the dark; the grid is seen on both."""


@dataclass(frozen=True, slots=True)
class TargetStyle:
    """How a target looks, in every figure and table of a report."""

    colour: str
    symbol: str
    dash: str
    label: str  # safe for plotly, short enough for the end of a line


def target_styles(names: Iterable[str]) -> dict[str, TargetStyle]:
    """A style for each target, by order of first appearance; the first six differ in colour."""
    styles: dict[str, TargetStyle] = {}
    for name in names:
        if name not in styles:
            lap, turn = divmod(len(styles), len(_COLOURS))
            styles[name] = TargetStyle(
                colour=_COLOURS[turn],
                symbol=_SYMBOLS[(turn + lap) % len(_SYMBOLS)],
                dash=_DASHES[lap % len(_DASHES)],
                label=plotly_text(name, _LABEL_LENGTH),
            )
    return styles


def with_alpha(colour: str, alpha: float) -> str:
    """``#rrggbb`` as ``rgba(…)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def blank_figure(height: int, *, margin: Mapping[str, int] | None = None) -> go.Figure:
    """An empty figure in the report's look: no background, quiet grid, no legend.

    The page repaints ink and grid for a dark screen, so no trace may set them itself.
    """
    figure = go.Figure()
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "",
        "automargin": False,
        "title": {"standoff": 10, "font": {"size": 12.5}},
        "fixedrange": True,
        "tickangle": 0,
    }
    figure.update_layout(
        template=None,
        height=height,
        margin={"l": 78, "r": 20, "t": 18, "b": 50, **(margin or {})},
        font={"family": FONT, "size": 12.5, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"family": FONT, "size": 12.5}},
        showlegend=False,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        xaxis=axis,
        yaxis=axis,
    )
    return figure


def label_margin(texts: Iterable[str]) -> int:
    """Pixels that names beside a plot need, its gap included."""
    longest = max((len(html.unescape(_TAG.sub("", text))) for text in texts), default=0)
    return 20 + math.ceil(_LETTER_PX * longest)


def nice_ticks(low: float, high: float, *, log: bool, most: int = 7) -> list[float]:
    """Round tick positions within ``[low, high]``: 1-2-5 steps, or 1-2-5 of each decade."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
            if len(ticks) <= most:
                return ticks
        return ticks[:: math.ceil(len(ticks) / most)]
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_axis(**extra: Any) -> dict[str, Any]:
    """Settings that make an axis logarithmic without plotly's minor labels."""
    return {"type": "log", "minor": {"ticks": ""}, **extra}
