"""The demand as it is asked for on the command line: users, a rate, or a recorded trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError
from planner.records import Arrivals, Demand
from planner.traces import read_trace

if TYPE_CHECKING:
    from pathlib import Path

    from planner.traces import Trace

__all__ = ["arrivals_demand", "busiest_minute"]

_MINUTE_S = 60.0


def arrivals_demand(
    rate_per_s: float | None, trace_path: Path | None
) -> tuple[Demand, tuple[str, ...]]:
    """Requests that wait for nobody, and what must be told about them.

    Args:
        rate_per_s: mean arrivals per second; with a trace, the rate to which it is brought.
        trace_path: a recorded trace, which gives the rate, the bursts and the lengths; ``None``:
            Poisson arrivals.

    Raises:
        InputError: a rate of zero, or a trace that cannot be read or holds no rate.
    """
    if trace_path is None:
        if not rate_per_s:
            raise InputError("--rate 0 is no demand: give more than 0/s")
        return Demand(arrivals=Arrivals(rate_per_s=rate_per_s)), ()
    trace = _read(trace_path)
    if rate_per_s is not None:
        trace = trace.at_rate(rate_per_s)
    own_rate, scv = trace.rate_per_s, trace.gap_scv
    if own_rate is None or scv is None:
        raise InputError(f"trace {trace_path} has no rate: it needs three arrivals at two moments")
    demand = Demand(
        arrivals=Arrivals(rate_per_s=own_rate, gap_scv=scv, source=trace_path.name[:300]),
        prompt_tokens_mean=float(trace.prompt_tokens.mean()),
        output_tokens_mean=float(trace.output_tokens.mean()),
    )
    peak = busiest_minute(trace)
    warning = (
        f"{trace_path.name}: its busiest minute brings {peak / own_rate:.3g} times its mean rate "
        f"of {own_rate:.3g}/s; the plan is for that mean and for bursts of C² = {scv:.3g}; "
        f"--rate {peak:.3g}/s without the trace plans for the minute"
    )
    return demand, (warning,) if peak > 1.5 * own_rate else ()


def busiest_minute(trace: Trace) -> float:
    """The most arrivals in any minute that begins with one, per second."""
    ends = np.searchsorted(trace.arrival_s, trace.arrival_s + _MINUTE_S)
    return float((ends - np.arange(ends.size)).max()) / _MINUTE_S


def _read(path: Path) -> Trace:
    try:
        with path.open(encoding="utf-8") as file:
            return read_trace(file, what=f"trace {path}")
    except OSError as error:
        raise InputError(f"trace {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"trace {path} is no text: {error.reason}") from error
