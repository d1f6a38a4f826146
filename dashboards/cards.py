"""Which figures a report shows, in which order, and how each is to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.capacity import capacity_figure
from dashboards.distributions import distribution_figure, level_ecdfs
from dashboards.figures import load_figure
from dashboards.text import figure_name, plain
from dashboards.timeline import timeline, timeline_figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import plotly.graph_objects as go

    from dashboards.answer import Answer, Measured
    from dashboards.theme import TargetStyle
    from planner.records import OperatingPoint, Slo

__all__ = ["Card", "Group", "figure_groups"]

_METRICS = ("ttft", "tpot", "e2e")
_DEFAULT_STATISTIC = "p95"
_MEANINGS = {
    "ttft": "How long a user waits for the first word.",
    "tpot": "The pace at which the words then come; lower is faster.",
    "e2e": "From the request to the last word of its answer.",
    "itl": "The pause between two pieces of an answer.",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A figure with its title and how to read it."""

    id: str
    title: str
    caption: str
    figure: go.Figure
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Figures under one heading; empty groups are left out."""

    title: str
    lead: str
    cards: tuple[Card, ...]


def figure_groups(
    measured: Sequence[Measured], answer: Answer, styles: Mapping[str, TargetStyle]
) -> list[Group]:
    """All figures of a report, grouped."""
    points = [p for m in measured for p in m.points if not p.together]
    groups = (
        Group(
            "What users feel, as load grows",
            "Marks are measurements with their intervals; a hollow one failed a validity check and "
            "is not used. A solid line with its band is predicted; a dotted one leads the eye.",
            tuple(_latency_cards(points, answer, styles)),
        ),
        Group(
            "What the servers deliver",
            "Throughput over the steady part of each level.",
            tuple(_rate_cards(points, answer, styles)),
        ),
        Group(
            "How sure, for how many users",
            "From the same measurements, for people who pause to think between requests.",
            tuple(_capacity_cards(answer, styles)),
        ),
        Group(
            "How latencies spread",
            "One line per level, named by its load; the darker, the heavier. Nothing is smoothed "
            "and no tail is cut.",
            tuple(_distribution_cards(measured, answer.slo, styles)),
        ),
        Group(
            "How the run went",
            "Each tinted stripe is one level, its load above it. Hatched time is not used: "
            "warm-up before the steady part, and what follows it.",
            tuple(_timeline_cards(measured, styles)),
        ),
    )
    return [group for group in groups if group.cards]


def _latency_cards(
    points: Sequence[OperatingPoint], answer: Answer, styles: Mapping[str, TargetStyle]
) -> Iterator[Card]:
    """Every objective's figure, then the customary ones that no objective names."""
    bounds: dict[str, Slo] = {s.figure: s for s in answer.slo}
    named = {figure.partition("_")[0] for figure in bounds}
    usual = [f"{m}_{_DEFAULT_STATISTIC}_s" for m in _METRICS if m not in named]
    for name in (*bounds, *usual):
        if not any(name in p.figures for p in points):
            continue
        slo = bounds.get(name)
        caption = _MEANINGS.get(name.partition("_")[0], "Failed requests as a share of all.")
        if slo is not None:
            caption += " A ring marks the load at which the objective is crossed."
        figure = load_figure(points, name, slo=slo, curves=answer.curves, styles=styles)
        yield Card(_id("load", name), figure_name(name), caption, figure)


def _rate_cards(
    points: Sequence[OperatingPoint], answer: Answer, styles: Mapping[str, TargetStyle]
) -> Iterator[Card]:
    for name, caption in (
        ("output_tokens_per_s", "All users together. Where it flattens, the engine is full."),
        ("requests_per_s", "Answers finished per second, all users together."),
    ):
        if any(name in p.figures for p in points):
            figure = load_figure(points, name, curves=answer.curves, styles=styles)
            title = figure_name(name)
            yield Card(_id("load", name), title[0].upper() + title[1:], caption, figure)


def _capacity_cards(answer: Answer, styles: Mapping[str, TargetStyle]) -> Iterator[Card]:
    if answer.capacities and answer.recommendation is not None:
        figure = capacity_figure(
            answer.capacities, confidence=answer.recommendation.confidence, styles=styles
        )
        caption = "The number beside each line: users on one replica at the confidence asked."
        yield Card("capacity", "Chance that every objective is met", caption, figure, wide=True)


def _distribution_cards(
    measured: Sequence[Measured], slo: Iterable[Slo], styles: Mapping[str, TargetStyle]
) -> Iterator[Card]:
    bounds = {s.figure.partition("_")[0]: s for s in slo}
    for metric in _METRICS:
        levels = [e for m in measured for e in level_ecdfs(m.run.requests, m.points, metric)]
        if not levels:
            continue
        bound = bounds.get(metric)
        caption = "Share of requests that took at most so long."
        if bound is not None:
            caption += " A level meets the objective when its line passes above the dashed corner."
        figure = distribution_figure(levels, metric, slo=bound, styles=styles)
        yield Card(_id("spread", metric), figure_name(metric), caption, figure)


def _timeline_cards(
    measured: Sequence[Measured], styles: Mapping[str, TargetStyle]
) -> Iterator[Card]:
    for number, m in enumerate(measured):
        if len(m.run.requests) == 0:
            continue
        stages = m.run.manifest.stages
        figure = timeline_figure(timeline(m.run.requests), stages, m.points, styles=styles)
        title = f"Run {plain(m.run.path.name, 60)}"
        caption = "In flight, completed and failed."
        if any(stage.together for stage in stages):
            caption += " Where stripes lie on each other, targets were loaded together."
        yield Card(f"timeline-{number}", title, caption, figure, wide=True)


def _id(kind: str, name: str) -> str:
    """An element's id: objectives are validated, but a run folder's plan is not ours."""
    return f"{kind}-{''.join(c if c.isalnum() and c.isascii() else '-' for c in name)}"
