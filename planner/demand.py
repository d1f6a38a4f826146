"""The demand as it is asked for on the command line: users, a rate, or a recorded trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.records import Arrivals, Demand, PlanContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.records import Slo
    from planner.traces import Trace

__all__ = ["arrivals_demand", "busiest_minute", "dispersion_of", "question_of"]

WINDOWS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""As long as requests usually take."""
LEAST_WINDOWS = 20
_MINUTE_S = 60.0


def arrivals_demand(
    rate_per_s: float | None, trace: Trace | None = None, *, name: str = "trace"
) -> tuple[Demand, tuple[str, ...]]:
    """Requests that wait for nobody, and what must be told about them.

    Args:
        rate_per_s: mean arrivals per second; with a trace, the rate to which it is brought.
        trace: recorded traffic, which gives the rate, the bursts and the lengths; ``None``: Poisson
            arrivals.
        name: of the trace.

    Raises:
        InputError: a rate of zero, or a trace that holds no rate.
    """
    if trace is None:
        if not rate_per_s:
            raise InputError("--rate 0 is no demand: give more than 0/s")
        return Demand(arrivals=Arrivals(rate_per_s=rate_per_s)), ()
    if rate_per_s is not None:
        trace = trace.at_rate(rate_per_s)
    own_rate, scv = trace.rate_per_s, trace.gap_scv
    if own_rate is None or scv is None:
        raise InputError(f"trace {name} has no rate: it needs three arrivals at two moments")
    demand = Demand(
        arrivals=Arrivals(
            rate_per_s=own_rate,
            dispersion=dispersion_of(trace),
            gap_scv=scv,
            source=name[:300],
        ),
        prompt_tokens_mean=float(trace.prompt_tokens.mean()),
        output_tokens_mean=float(trace.output_tokens.mean()),
    )
    peak = busiest_minute(trace)
    warning = (
        f"{name}: its busiest minute brings {peak / own_rate:.3g} times its mean rate "
        f"of {own_rate:.3g}/s; the plan is for that mean and for bursts as long as one request; "
        f"--rate {peak:.3g}/s without the trace plans for the minute"
    )
    return demand, (warning,) if peak > 1.5 * own_rate else ()


def question_of(
    plans: Sequence[PlanContext | None],
    users: int | None,
    think_time_s: float | None,
    slo: Sequence[Slo],
    *,
    confidence: float | None,
    spare: int | None,
    gpu_cost: Mapping[str, float],
) -> PlanContext:
    """The question on the command line, completed by the one that the last run was made for.

    Args:
        plans: the questions of the runs, where they had one.
        users: people to serve; this and all others: ``None`` or empty where nothing was typed.
        think_time_s: their mean pause.
        slo: objectives.
        confidence: how sure the answer must be.
        spare: replicas that may fail.
        gpu_cost: prices by hardware or target, beside those of the last run's question.

    Raises:
        InputError: neither typed nor asked before: users, objectives.
    """
    asked = [plan for plan in plans if plan is not None]
    plan = asked[-1] if asked else None
    if users is None and plan is None:
        raise InputError(
            "--users is missing: these runs were not made for a number of users (or give --rate)"
        )
    if not slo and plan is None:
        raise InputError("--slo is missing: give at least one objective, as --slo 'ttft_p95<=1s'")
    if plan is None:
        plan = PlanContext(users=users or 1, think_time_s=0.0, slo=(), confidence=0.9)
    return PlanContext(
        users=plan.users if users is None else users,
        think_time_s=plan.think_time_s if think_time_s is None else think_time_s,
        slo=tuple(objective.text for objective in slo) or plan.slo,
        confidence=plan.confidence if confidence is None else confidence,
        spare=plan.spare if spare is None else spare,
        gpu_cost={**plan.gpu_cost, **gpu_cost},
    )


def dispersion_of(trace: Trace) -> tuple[tuple[float, float], ...]:
    """Variance over mean of the number of arrivals, by length of the window in seconds.

    Of windows that fit into the trace often enough to have a variance.
    """
    found = []
    for seconds in WINDOWS_S:
        whole = int(trace.arrival_s[-1] // seconds)
        if whole >= LEAST_WINDOWS:
            places = (trace.arrival_s // seconds).astype(np.int64)
            counts = np.bincount(places[places < whole], minlength=whole)
            if counts.any():
                found.append((seconds, float(counts.var(ddof=1) / counts.mean())))
    return tuple(found)


def busiest_minute(trace: Trace) -> float:
    """The most arrivals in any minute that begins with one, per second."""
    ends = np.searchsorted(trace.arrival_s, trace.arrival_s + _MINUTE_S)
    return float((ends - np.arange(ends.size)).max()) / _MINUTE_S
