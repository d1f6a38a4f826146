"""What an option draws: power between the levels at which the servers' GPUs were watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.pooling import Evidence
    from planner.predict import Load, Replica

__all__ = ["JOULES_PER_KWH", "tokens_mean", "watts_at"]

JOULES_PER_KWH = 3.6e6


def watts_at(evidence: Evidence, replica: Replica, load: Load) -> float | None:
    """Mean power of one replica's GPUs under a load, in watts.

    The mean over the numbers in flight of the measured power, which is taken as straight in their
    logarithm between two levels. Below the lowest level it stays as there, so that an idle replica
    counts as one that serves: an upper bound, as what it draws when idle was not measured.

    Args:
        evidence: the levels, some of which tell their power.
        replica: the model of one replica, from those levels.
        load: what it gets.

    Returns:
        ``None`` where no level tells, or where more are in flight than at any that does.
    """
    known = [
        (sample.point.load, sample.point.server.power_w_mean)
        for sample in evidence.curve
        if sample.point.server is not None and sample.point.server.power_w_mean is not None
    ]
    if not known or replica.span(load)[1] > known[-1][0]:
        return None
    levels, watts = np.array(known).T
    share = replica.in_flight(load)[0]
    n = np.maximum(np.arange(share.size), 1)
    return float(share @ np.interp(np.log(n), np.log(levels), watts))


def tokens_mean(evidence: Evidence) -> float | None:
    """Mean output tokens of an answer over all levels; ``None`` where the server does not tell."""
    known = [
        (point.output_tokens_mean, point.completed)
        for point in (sample.point for sample in evidence.curve)
        if point.output_tokens_mean is not None and point.completed
    ]
    tokens = sum(mean * count for mean, count in known)
    return tokens / sum(count for _, count in known) if tokens else None
