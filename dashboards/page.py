"""The report as one self-contained HTML page: the answer first, its evidence below.

The page fetches nothing: plotly.js, styles and data are inside, and its content security policy
names the two scripts that it holds by their digests, so that no other script can run, whatever a
server called its model.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from dashboards import content, evidence
from dashboards.cards import figure_groups
from dashboards.claims import claim_rows
from dashboards.serverview import server_tables
from dashboards.sidebyside import side_by_side_of
from dashboards.text import figure_name, keep_together, plain
from dashboards.theme import INK, PAPER, target_styles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboards.answer import Answer, Measured
    from dashboards.cards import Card
    from planner.claims.records import ClaimVerdict
    from planner.records import Recommendation

__all__ = ["render"]


@dataclass(frozen=True, slots=True)
class _DrawnCard:
    """A figure as the template embeds it."""

    id: str
    title: str
    caption: str
    wide: bool
    height: int
    json: Markup


def render(
    measured: Sequence[Measured], answer: Answer, verdicts: Sequence[ClaimVerdict] = ()
) -> str:
    """The whole page as text.

    Args:
        measured: the runs with their operating points.
        answer: what the planner says about them.
        verdicts: on published claims.
    """
    names = [t.name for m in measured for t in m.run.manifest.targets]
    styles = target_styles(names)
    plotly_js, report_js = _script(get_plotlyjs()), _script(_template_text("report.js"))
    columns = evidence.point_columns(answer.recommendation)
    headline, reason = _headline(answer)
    groups = figure_groups(measured, answer, styles)
    return _template().render(
        policy=_policy(plotly_js, report_js),
        plotly_js=plotly_js,
        report_js=report_js,
        css=Markup(_template_text("report.css")),  # noqa: S704 - our own file
        ink=INK,
        paper=PAPER,
        version=measured[0].run.manifest.headroom_version,
        title=f"Headroom: {plain(answer.sentence, 90)}",
        subtitle=_subtitle(measured),
        emulated=[plain(line) for line in evidence.emulated(m.run.manifest for m in measured)],
        question=answer.question,
        sentence=headline,
        reason=reason,
        styles=styles,
        groups=[
            {"title": g.title, "lead": g.lead, "cards": [_drawn(card) for card in g.cards]}
            for g in groups
        ],
        level_figures=[evidence.column_name(name) for name in columns],
        levels=evidence.point_groups([(m.run, m.points) for m in measured], columns),
        servers=server_tables(point for m in measured for point in m.points),
        runs=[evidence.run_facts(m.run) for m in measured],
        next_measurements=[content.step_of(step) for step in answer.next_measurements],
        warnings=[plain(warning) for warning in answer.warnings],
        beside=side_by_side_of(measured, answer.recommendation),
        claims=claim_rows(verdicts),
        **_answer_context(answer.recommendation),
    )


def _answer_context(recommendation: Recommendation | None) -> dict[str, object]:
    """What the template shows of a recommendation; nothing without one."""
    if recommendation is None:
        return {"tiles": (), "options": (), "capacity": ((), ()), "crossovers": (), "what_ifs": ()}
    figures = list(dict.fromkeys(s.figure for s in recommendation.slo))
    options = recommendation.options
    return {
        "tiles": content.tiles(recommendation),
        "options": content.option_rows(recommendation, figures),
        "option_figures": [figure_name(name) for name in figures],
        "any_gpus": any(option.gpus is not None for option in options),
        "any_cost": any(option.cost_per_hour is not None for option in options),
        "routing": f"Assumed: {plain(recommendation.routing)}." if recommendation.routing else "",
        "second_road": content.second_road(recommendation),
        "carried": "Users" if recommendation.demand.users is not None else "Requests per second",
        "capacity": content.capacity_rows(options),
        "crossovers": content.crossover_rows(recommendation),
        "what_ifs": content.what_if_rows(recommendation),
    }


def _headline(answer: Answer) -> tuple[str, str]:
    """The sentence in two sizes: what to do, and after its last colon what that will give."""
    text = keep_together(plain(answer.sentence))
    if answer.recommendation is None or answer.recommendation.recommended is None:
        return text, ""
    head, colon, rest = text.rpartition(": ")
    return (f"{head}:", rest) if colon else (text, "")


def _subtitle(measured: Sequence[Measured]) -> str:
    moment = evidence.moment_text(min(m.run.manifest.started_unix_s for m in measured))
    requests = sum(len(m.run.requests) for m in measured)
    return f"{moment} · {requests:,} requests"


def _drawn(card: Card) -> _DrawnCard:
    figure = card.figure
    # to_json_plotly writes "<", ">" and "/" as escapes, and all that is not ASCII with the json
    # engine, so no text can end the script element that holds it.
    data = to_json_plotly({"data": figure.data, "layout": figure.layout}, engine="json")
    return _DrawnCard(
        card.id,
        card.title,
        card.caption,
        card.wide,
        int(figure.layout.height),
        Markup(data),  # noqa: S704 - see above
    )


def _script(source: str) -> Markup:
    """A script of ours for use inside a script element, from which it must not break out."""
    if "</script" in source.lower() or "<!--" in source:
        source = source.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    return Markup(source)  # noqa: S704 - plotly's or our own file


def _policy(*scripts: str) -> str:
    """A content security policy that lets these scripts run and nothing be fetched."""
    digests = (hashlib.sha256(s.encode()).digest() for s in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dashboards"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template() -> jinja2.Template:
    return _environment().get_template("report.html.j2")


def _template_text(name: str) -> str:
    loader = _environment().loader
    assert loader is not None  # noqa: S101 - set three lines above
    return loader.get_source(_environment(), name)[0]
