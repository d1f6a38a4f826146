"""A tab of Locust's web UI: the stages so far, with TTFT and TPOT of each.

Locust's own rows are of the whole test; a number of users that came before the last one stays in
their percentiles.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from loadtests.histograms import FIGURES
from loadtests.measure.progress import describe_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Response
    from locust.web import WebUI

    from loadtests.histograms import StageHistograms
    from planner.records import StageInfo

__all__ = ["StageTab"]

_KEY = "stages"
_PATH = "/stats/requests"
_PERCENTS = (50, 95, 99)
_MOST_STAGES = 100  # the last ones: the page asks every two seconds
_COLUMNS = {
    "target": "Target",
    "load": "Load",
    "completed": "# requests",
    "failed": "# failed",
    **{
        f"{figure}_p{percent}": f"{figure.upper()} p{percent} (ms)"
        for figure in FIGURES
        for percent in _PERCENTS
    },
    "invalid": "Not to be used because",
}


class StageTab:
    """The tab, and the rows that Locust's page asks for."""

    def __init__(self, figures: Callable[[], Iterable[tuple[StageInfo, StageHistograms]]]) -> None:
        """Show these stages, whatever they are by then."""
        self._figures = figures

    def add_to(self, web_ui: WebUI) -> None:
        """Put the tab into a UI that does not serve yet."""
        structure = [{"key": key, "title": title} for key, title in _COLUMNS.items()]
        web_ui.template_args |= {
            "extended_tabs": [{"title": "Stages", "key": _KEY}],
            "extended_tables": [{"key": _KEY, "structure": structure}],
        }
        assert web_ui.app is not None  # noqa: S101 - for the types
        web_ui.app.after_request(self._extend)

    def _extend(self, response: Response) -> Response:
        """Add the rows to what the page asks for."""
        from flask import request

        if request.path.endswith(_PATH) and response.is_json:
            rows = [_row(stage, figures) for stage, figures in self._figures()]
            found = {"key": _KEY, "data": rows[-_MOST_STAGES:]}
            response.set_data(json.dumps({**response.get_json(), "extended_stats": [found]}))
        return response


def _row(stage: StageInfo, figures: StageHistograms) -> dict[str, Any]:
    row: dict[str, Any] = {
        "target": stage.target,
        "load": describe_load(stage),
        "completed": figures.completed,
        "failed": figures.failed,
        "invalid": stage.invalid or "",
    }
    for figure in FIGURES:
        for percent in _PERCENTS:
            value_s = figures.quantile(figure, percent / 100)
            row[f"{figure}_p{percent}"] = "" if value_s is None else f"{value_s * 1e3:.3g}"
    return row
