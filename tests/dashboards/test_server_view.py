"""The server's view in a report: the two views side by side, disagreements, hostile names."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dashboards.answer import Answer, Measured
from dashboards.page import render
from dashboards.serverview import server_tables
from planner.records import OperatingPoint, ServerView
from planner.runfolder import Run
from planner.table import RequestTable
from tests.dashboards import fabricate
from tests.dashboards.test_report_page import Page

NAMES = tuple(fabricate.SLOTS)
VIEW = ServerView(
    samples=25, missed=2, running_mean=4.0, waiting_mean=3.5, client_in_flight_mean=8.0,
    ttft_mean_s=0.25, client_ttft_mean_s=0.81, queue_mean_s=0.2, output_tokens_per_s=1234.0,
    client_output_tokens_per_s=1200.0, power_w_mean=312.0, joules_per_output_token=0.26,
    disagreements=(f"{fabricate.HOSTILE}: the server counted 9",),
)  # fmt: skip


def points(view: ServerView | None) -> list[OperatingPoint]:
    """The fabricated points, of which the fourth has a server's view."""
    made = list(fabricate.points(NAMES))
    made[3] = msgspec.structs.replace(made[3], server=view)
    return made


def page_of(view: ServerView | None) -> str:
    """The page of the fabricated run with that view."""
    manifest, records = fabricate.fabricated_run(NAMES)
    run = Run(Path("runs/a"), manifest, RequestTable.from_records(records), {})
    return render(
        [Measured(run, tuple(points(view)))], Answer(question="50 users", sentence="None.")
    )


def test_both_views_stand_beside_each_other() -> None:
    """Each figure has the client's and the server's column, with unit and detail."""
    views, resources = server_tables(points(VIEW))
    ((target, _, (row,)),) = views.groups
    assert target == NAMES[0]
    assert row.load == "8 in flight"
    assert dict(zip(views.columns, row.cells, strict=True)) == {
        "In flight, client": ("8", ""),
        "In flight, server": ("7.5", "4 running, 3.5 waiting"),
        "TTFT mean, client": ("810 ms", ""),
        "TTFT mean, server": ("250 ms", "200 ms of it in its queue"),
        "Output, client": ("1,200 tok/s", ""),
        "Output, server": ("1,234 tok/s", ""),
        "Looks": ("25", "2 missed"),
    }
    ((_, _, (row,)),) = resources.groups
    assert dict(zip(resources.columns, row.cells, strict=True)) == {
        "Power": ("312 W", ""),
        "Energy per token": ("0.26 J", ""),
    }


def test_the_page_tells_of_disagreement_harmlessly() -> None:
    """The section stands in the page, its warning below the level, hostile names as text."""
    html = page_of(VIEW)
    assert "<script>alert(1)" not in html
    words = Page(html).words
    assert "What the servers said of themselves" in words
    assert "disagreement: <script>alert(1)" in words
    assert "the server counted 9" in words


def test_without_a_view_there_is_no_section() -> None:
    """Where nobody looked the page has no empty table; figures that nobody told no column."""
    assert server_tables(points(None)) == ()
    (views,) = server_tables(points(ServerView(samples=3)))
    assert views.columns == ("Looks",)
    assert "What the servers said" not in Page(page_of(None)).words
