"""Whether an open loop was measured for long enough to bound how long its requests wait.

In a closed loop at most N requests wait, however unlucky the stage. Requests that wait for nobody
pile up without bound, and near the capacity the crowded moments that make the tail come once in
minutes: a stage without one looks calm, and its percentiles look sure. So such a stage must be
worth as many independent requests as bound p95, whichever percentile is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.dependence import independent_number
from planner.table import OK
from planner.uncertainty import needed_for_percentile
from planner.units import format_duration

if TYPE_CHECKING:
    from planner.steady import Window
    from planner.table import RequestTable

__all__ = ["NEEDED", "WAITING", "crowded", "independent_requests"]

WAITING = ("ttft", "e2e")
"""Metrics that hold the wait for a slot."""

NEEDED = needed_for_percentile(0.95)
"""Independent requests that a stage must be worth."""


def independent_requests(good: RequestTable) -> float:
    """How many independent requests answers are worth, by TTFT or E2E, whichever says fewer."""
    order = np.argsort(good.ended_s, kind="stable")
    return min(independent_number(good.e2e_s[order]), independent_number(good.ttft_s[order]))


def crowded(rows: RequestTable, window: Window) -> str | None:
    """Why the waits of an open loop have no upper bound, and how much longer to measure.

    Args:
        rows: the requests that completed in the window.
        window: the steady part of the stage.

    Returns:
        ``None`` where TTFT and E2E are each worth enough independent requests.
    """
    good = rows.where(rows.status == OK)
    worth = independent_requests(good)
    if worth >= NEEDED:
        return None
    more = (NEEDED / worth - 1) * (window.end_s - window.start_s)
    answers = f"these {len(good):,} answers"
    if round(worth) < len(good):
        answers = (
            f"requests that wait for nobody crowd together, so {answers} are worth {worth:.0f} "
            f"independent ones"
        )
    else:
        answers += " are too few"
    return (
        f"TTFT and E2E have no upper bound: {answers} and {NEEDED} are needed: "
        f"measure this rate for {format_duration(more)} longer, or levels of --concurrency"
    )
