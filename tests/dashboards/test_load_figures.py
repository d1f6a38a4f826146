"""Figures against load hold the measured values, the objective and its crossing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.capacity import CapacityCurve, capacity_figure
from dashboards.curves import Curve, crossing
from dashboards.figures import load_figure
from dashboards.theme import nice_ticks, target_styles
from planner.records import Estimate
from tests.dashboards import fabricate

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAMES = tuple(fabricate.SLOTS)


def markers(figure: go.Figure) -> dict[str, Any]:
    """The measured traces by target."""
    return {trace.name: trace for trace in figure.data if trace.mode == "markers"}


def test_every_point_is_drawn_with_its_interval() -> None:
    """X is the load, y the value, and the error bars reach the interval's ends."""
    points = fabricate.points()
    found = markers(load_figure(points, "output_tokens_per_s"))
    assert set(found) == set(NAMES)
    for name, trace in found.items():
        own = [p for p in points if p.target == name]
        estimates = [p.figures["output_tokens_per_s"] for p in own]
        np.testing.assert_allclose(trace.x, [p.load for p in own])
        np.testing.assert_allclose(trace.y, [e.value for e in estimates])
        high = np.array([e.high for e in estimates], dtype=float)
        low = np.array([e.low for e in estimates], dtype=float)
        np.testing.assert_allclose(trace.y + np.array(trace.error_y.array), high)
        np.testing.assert_allclose(trace.y - np.array(trace.error_y.arrayminus), low)
        assert f"n = {own[0].completed}" in trace.customdata[0]


def test_an_unbounded_end_has_no_bar_and_is_said() -> None:
    """A percentile that the sample cannot bound from above gets no upper bar."""
    point = fabricate.points()[0]
    open_ended = Estimate(value=0.05, low=0.04, high=None, n=9)
    point = msgspec.structs.replace(point, figures={"ttft_p95_s": open_ended})
    (trace,) = markers(load_figure([point], "ttft_p95_s")).values()
    assert list(trace.error_y.array) == [0.0]
    assert "at least 40.0 ms" in trace.customdata[0]


def test_unusable_points_are_hollow_and_say_why() -> None:
    """A point that failed a gate is seen as such and does not carry the guide line."""
    first, second, bad = fabricate.points()[:3]
    bad = msgspec.structs.replace(bad, problems=("errors 4 % <b>",))
    figure = load_figure([first, second, bad], "ttft_p95_s")
    solid, hollow = markers(figure).values()
    assert (solid.marker.symbol, hollow.marker.symbol) == ("circle", "circle-open")
    assert (list(solid.x), list(hollow.x)) == ([1, 2], [4])
    assert "not used: errors 4 &#37; &lt;b&gt;" in hollow.customdata[0]
    (guide,) = [t for t in figure.data if t.mode == "lines"]
    assert list(guide.x) == [1, 2]


def test_where_the_planner_refuses_a_guide_leads_on_and_may_cross() -> None:
    """The curve ends at 8, four slots miss 1 s at 16: the ring lies on the guide between them."""
    load = np.array([1.0, 4.0, 8.0, 12.0])
    value = np.array([0.05, 0.05, 0.6, np.nan])
    curve = Curve(
        target=NAMES[1], figure="ttft_p95_s", load=load, value=value, low=value, high=value
    )
    points = [p for p in fabricate.points() if p.target == NAMES[1]]
    figure = load_figure(points, "ttft_p95_s", slo=fabricate.slo_ttft(), curves=[curve])
    (guide,) = [t for t in figure.data if t.line.dash == "dot"]
    assert list(guide.x) == [8, 16]
    (ring,) = [t for t in figure.data if t.name and t.name.endswith("crosses")]
    assert 8 < ring.x[0] < 16


def test_the_objective_is_a_line_at_its_bound() -> None:
    """The objective's line stands at its bound, in the figure that it bounds and in no other."""
    slo = fabricate.slo_ttft()
    with_line = load_figure(fabricate.points(), "ttft_p95_s", slo=slo)
    without = load_figure(fabricate.points(), "tpot_p95_s", slo=slo)
    assert [(s.y0, s.y1) for s in with_line.layout.shapes] == [(1.0, 1.0)]
    assert not without.layout.shapes


def test_the_crossing_is_marked_between_its_neighbours() -> None:
    """Four slots keep 1 s at 8 requests in flight and break it at 16; one slot between 2 and 4."""
    figure = load_figure(fabricate.points(), "ttft_p95_s", slo=fabricate.slo_ttft())
    rings = {t.name: t for t in figure.data if t.name and t.name.endswith("crosses")}
    one, four = (rings[f"{name} crosses"] for name in NAMES)
    assert 2 < one.x[0] < 4
    assert 8 < four.x[0] < 16
    assert list(one.y) == list(four.y) == [1.0]


@given(st.floats(0.11, 0.99), st.floats(1, 50), st.floats(1.1, 8))
def test_crossing_inverts_its_own_interpolation(bound: float, load: float, ratio: float) -> None:
    """At the crossing, linear interpolation over log load gives the bound."""
    slo = msgspec.structs.replace(fabricate.slo_ttft(), bound=bound)
    at = crossing([load, load * ratio], [0.1, 1.0], slo)
    assert at is not None
    assert 0.1 + 0.9 * np.log(at / load) / np.log(ratio) == pytest.approx(bound)


@pytest.mark.parametrize("values", [[2.0, 3.0], [0.1, 0.2]])
def test_no_crossing_without_a_change(values: list[float]) -> None:
    """A figure that always or never meets the objective crosses nothing."""
    assert crossing([1, 2], values, fabricate.slo_ttft()) is None


def test_predictions_are_lines_with_bands_and_replace_the_guide() -> None:
    """A curve runs through its values; its band goes along the top and back below."""
    load = np.array([1.0, 4.0, 16.0])
    curve = Curve(
        target=NAMES[0], figure="ttft_p95_s", load=load, value=load, low=load * 0.9, high=load * 1.1
    )
    figure = load_figure(fabricate.points(), "ttft_p95_s", curves=[curve])
    (line,) = [t for t in figure.data if t.name == f"{NAMES[0]} (predicted)"]
    np.testing.assert_allclose(line.y, load)
    (band,) = [t for t in figure.data if t.fill == "toself"]
    np.testing.assert_allclose(band.y, [1.1, 4.4, 17.6, 14.4, 3.6, 0.9])
    assert len([t for t in figure.data if t.line.dash == "dot"]) == 1, (
        "only the other target's guide"
    )


def test_load_is_logarithmic_only_over_a_wide_range() -> None:
    """Levels 1 to 16 are read on a log axis with ticks at powers of two, 1 to 4 on a linear one."""
    wide = load_figure(fabricate.points(), "ttft_p95_s").layout.xaxis
    narrow = load_figure(fabricate.points()[:3], "ttft_p95_s").layout.xaxis
    assert (wide.type, list(wide.ticktext)) == ("log", ["1", "2", "4", "8", "16"])
    assert narrow.type != "log"


@given(st.floats(1e-4, 1e4), st.floats(1.05, 1e5), st.booleans())
def test_ticks_are_few_and_inside(low: float, ratio: float, log: bool) -> None:
    """Ticks lie within the axis and never crowd it."""
    high = low * ratio
    ticks = nice_ticks(low, high, log=log)
    assert len(ticks) <= 7
    assert all(low * (1 - 1e-6) <= t <= high * (1 + 1e-6) for t in ticks)
    assert ticks == sorted(set(ticks))


def test_names_at_line_ends_do_not_overlap() -> None:
    """Names of lines that end at the same height are pushed apart."""
    points = [
        msgspec.structs.replace(p, target=f"t{i}") for i in range(4) for p in fabricate.points()[:5]
    ]
    figure = load_figure(points, "output_tokens_per_s")
    labels = [a for a in figure.layout.annotations if a.name == "end label"]
    plot = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    heights = sorted(a.y * plot + a.yshift for a in labels)
    assert len(heights) == 4
    assert min(np.diff(heights)) >= 15


def test_styles_differ() -> None:
    """Any two of thirty targets differ in colour, symbol or dash; the first six in colour."""
    styles = list(target_styles(f"t{i}" for i in range(30)).values())
    assert len({(s.colour, s.symbol, s.dash) for s in styles}) == 30
    assert len({s.colour for s in styles[:6]}) == 6


def test_capacity_marks_the_users_at_the_asked_confidence() -> None:
    """The number beside a line is the most users at which the asked confidence still holds."""
    curve = CapacityCurve(
        target="a",
        users=np.array([1.0, 5.0, 9.0, 13.0]),
        probability=np.array([1, 0.95, 0.91, 0.2]),
    )
    figure = capacity_figure([curve], confidence=0.9)
    assert "<b>9</b>" in [a.text for a in figure.layout.annotations]
    np.testing.assert_allclose(figure.data[0].y, curve.probability)
