"""How many replicas of one target carry a demand: the model of a replica put to a question."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from planner.arrivals import OpenReplica, dispersion_at
from planner.capacity import Capacity
from planner.fleet import EVENTS, SIMULATED, FleetReplica
from planner.levels import is_closed_loop
from planner.predict import Replica, share_met
from planner.prior import family_of
from planner.summary import QUANTILE_LEVELS

if TYPE_CHECKING:
    from planner.pooling import Evidence
    from planner.question import Question
    from planner.records import TargetInfo

__all__ = ["Fleet", "capacity_of", "replica_of", "response_s"]


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
            slots=_ends_at(target, evidence),
            family=family,
            rng=rng,
        )
    return OpenReplica(
        evidence.curve,
        rate_per_s=stream.rate_per_s,
        dispersion=dispersion_at(stream, response_s(evidence)),
        quantile_levels=QUANTILE_LEVELS,
        slots=_ends_at(target, evidence),
        family=family,
        rng=rng,
    )


def _ends_at(target: TargetInfo, evidence: Evidence) -> int | None:
    """Requests in flight beyond which no curve is continued; ``None``: nothing tells an end.

    The slots; or the highest level of the curve where a higher one was tried and must not be used:
    whatever was wrong there may begin just beyond.
    """
    top, slots = round(evidence.curve[-1].point.load), target.slots
    tried = (sample.point for sample, _ in evidence.rejected)
    if any(is_closed_loop(one) and not one.together and one.load > top for one in tried):
        return top
    return slots


def response_s(evidence: Evidence) -> float:
    """Mean time of a request at the highest level measured, where it is longest: N / X."""
    top = evidence.curve[-1]
    return top.point.load / float(top.requests_per_s[0])


def capacity_of(replica: Replica, question: Question) -> Capacity:
    """How much of the demand one replica carries, and how sure that is."""
    return Capacity(replica, question.slo, question.think_time_s)


class Fleet:
    """How many replicas are needed, and what each of them feels, under the routing asked for.

    Users who stay on their replica, and arrivals that go to any, make of each replica a queue of
    its own: what one carries alone it carries among others. Otherwise the replicas are simulated
    together, for a number of them at a time.
    """

    def __init__(
        self,
        alone: Replica,
        question: Question,
        *,
        rng: np.random.Generator,
        events: int = EVENTS,
    ) -> None:
        """Take the model of a replica on its own.

        Args:
            alone: the replica.
            question: what is asked.
            rng: whose child is the source of randomness of the simulations.
            events: of each simulated chain.
        """
        self._alone, self._question, self._events = alone, question, events
        self._seed = int(rng.spawn(1)[0].integers(2**32))
        self._known: dict[int, Replica] = {}

    def at(self, replicas: int) -> Replica:
        """One of so many replicas."""
        if replicas not in self._known:
            self._known[replicas] = self._made(replicas)
        return self._known[replicas]

    def probability(self, replicas: int) -> float:
        """P(every objective is met) on each of so many replicas, which share the whole demand."""
        replica, load = self.at(replicas), self._question.load(replicas)
        if replica.label(load) == "refused":
            return 0.0
        met = [replica.met(load, slo) for slo in self._question.slo]
        return share_met(np.logical_and.reduce(met))

    def needed(self, at_most: int) -> int:
        """The fewest replicas that are enough at the asked confidence.

        Args:
            at_most: how many are enough where each is a queue of its own. None of the other ways
                needs more.
        """
        if self._question.routing not in SIMULATED:
            return at_most
        least, enough = self._too_few(), at_most
        while enough - least > 1:
            middle = (least + enough) // 2
            if self.probability(middle) >= self._question.confidence:
                enough = middle
            else:
                least = middle
        if enough == at_most:
            self._known[enough] = self._alone  # exact, and a bound: no simulation is needed
        return enough

    def _too_few(self) -> int:
        """So many replicas cannot serve as much as is asked, by any routing."""
        total = self._question.rate(self._question.amount)
        assert total is not None  # noqa: S101 - only arrivals are simulated
        return math.ceil(total / float(self._alone.rates[0].max())) - 1

    def _made(self, replicas: int) -> Replica:
        routing = self._question.routing
        if routing is None or routing not in SIMULATED or replicas == 1:
            return self._alone
        assert isinstance(self._alone, OpenReplica)  # noqa: S101 - only arrivals are routed so
        rng = np.random.default_rng(self._seed)
        return FleetReplica(self._alone, replicas, routing, rng, self._events)
