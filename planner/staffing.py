"""How many replicas of one target carry a demand: the model of a replica put to a question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.arrivals import OpenReplica, dispersion_at
from planner.capacity import Capacity
from planner.predict import Replica
from planner.prior import family_of
from planner.summary import QUANTILE_LEVELS

if TYPE_CHECKING:
    import numpy as np

    from planner.pooling import Evidence
    from planner.question import Question
    from planner.records import TargetInfo

__all__ = ["capacity_of", "replica_of", "response_s"]


def replica_of(
    target: TargetInfo, evidence: Evidence, question: Question, *, rng: np.random.Generator
) -> Replica:
    """The model of one replica under the kind of demand that is asked about.

    Args:
        target: the target.
        evidence: its usable levels, at least one of them on the curve.
        question: what is asked.
        rng: source of randomness of the model error.
    """
    stream = question.demand.arrivals
    # What the server says it is counts for more than which dialect it speaks.
    family = family_of(target.engine or target.backend)
    if stream is None:
        return Replica(
            evidence.curve,
            evidence.thinking,
            quantile_levels=QUANTILE_LEVELS,
            slots=target.limits.slots,
            family=family,
            rng=rng,
        )
    return OpenReplica(
        evidence.curve,
        rate_per_s=stream.rate_per_s,
        dispersion=dispersion_at(stream, response_s(evidence)),
        quantile_levels=QUANTILE_LEVELS,
        slots=target.limits.slots,
        family=family,
        rng=rng,
    )


def response_s(evidence: Evidence) -> float:
    """Mean time of a request at the highest level measured, where it is longest: N / X."""
    top = evidence.curve[-1]
    return top.point.load / float(top.requests_per_s[0])


def capacity_of(replica: Replica, question: Question) -> Capacity:
    """How much of the demand one replica carries, and how sure that is."""
    return Capacity(replica, question.slo, question.think_time_s)
