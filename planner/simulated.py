"""The second road to an answer: its demand simulated request by request.

The curves of ``planner.predict`` interpolate measured percentiles. Here the step times that the
same levels show, the lengths of single requests, the slots and the routing make the percentiles
anew, with nothing of those curves in them; where the two disagree one of them is wrong. Before it
is believed the simulation is put to measured levels: what it misses there widens its interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from planner.arrivals import OpenReplica, batches_of, dispersion_at, split_dispersion
from planner.errors import Refused
from planner.fleet import MOST_REPLICAS, SIMULATED, FleetReplica
from planner.level_steps import learn_steps, lengths_of
from planner.phrases import figure_name, interval
from planner.predict import Load
from planner.records import Estimate, Simulated
from planner.refusals import measure_rate_command, measure_users_command
from planner.simulate import simulate
from planner.simulation.outcome import METRICS
from planner.simulation.traffic import ClosedUsers, OpenArrivals, batch_arrivals
from planner.staffing import response_s
from planner.steptime import NORMAL_MAD
from planner.summary import QUANTILE_LEVELS
from planner.target_engine import (
    engine_of,
    has_room,
    refuse_unknown_memory,
    slots_to_simulate,
)
from planner.units import format_declared, metric_of, percentile_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from planner.level_steps import LearntSteps
    from planner.pooling import Evidence
    from planner.predict import Replica
    from planner.question import Question
    from planner.records import Predicted, Slo, TargetInfo
    from planner.simulation.engine import Engine
    from planner.simulation.traffic import Lengths, Source
    from planner.steptime import StepTime
    from planner.summary import LevelSample

    Array = npt.NDArray[np.float64]

__all__ = ["disagreements_of", "is_bound", "simulated_beside"]

DRAWS = 10
MOST_IN_FLIGHT = 400
"""On all replicas that are simulated together: the answer must come within a second."""
MOST_USERS = 20_000
ROUNDS, LEAST_REQUESTS, MOST_REQUESTS = 6, 1000, 1500
"""Requests of a draw for each one in flight, within these numbers."""
TIMES = 4
"""So many times as many for the best guess, whose value is told."""
CALIBRATED = 3
"""Levels that are simulated to see what the simulation misses."""
CREDIBLE = 1.3
"""What misses the measured levels themselves by more than this factor tells nothing."""
CONFIDENCE = 0.9


@dataclass(frozen=True, kw_only=True)
class _Fleet:
    """What is simulated: replicas and who sends requests to all of them.

    ``in_flight`` bounds how many requests there are at once.
    """

    in_flight: int
    lengths: Lengths
    load: Load
    batches: tuple[float, float] | None = None  # per second, and the chance that another follows
    replicas: int = 1
    routing: str = "random"

    def source(self, count: int, rng: np.random.Generator) -> Source:
        """So many requests."""
        if self.batches is None:
            return ClosedUsers(
                self.load.users, self.load.think_time_s, self.lengths, requests=count, rng=rng
            )
        moments = batch_arrivals(*self.batches, count, rng)
        return OpenArrivals(moments, self.lengths.draw(count, rng))


def simulated_beside(
    target: TargetInfo,
    evidence: Evidence,
    replica: Replica,
    question: Question,
    needed: int,
    *,
    rng: np.random.Generator,
) -> Simulated:
    """The objectives' figures of a recommended target, simulated.

    With users who stay on their replica, and with arrivals that are split at random, each replica
    is a queue of its own, and one with the most that any of them gets is simulated.

    Args:
        target: the target.
        evidence: its usable levels.
        replica: the model of one of the needed replicas.
        question: what is asked.
        needed: replicas without spares.
        rng: source of randomness.
    """
    try:
        road = _road_of(target, evidence, replica, question, needed, rng=rng)
    except Refused as refusal:
        return Simulated(why_not=str(refusal))
    return road.simulated()


def disagreements_of(
    target: TargetInfo,
    predicted: Mapping[str, Predicted],
    simulated: Simulated,
    question: Question,
    load: Load,
    *,
    bound: bool = False,
) -> tuple[str, ...]:
    """A warning for each objective on which the curves and the simulation disagree.

    They do where their intervals do not meet, or where only one of them meets the objective.

    Args:
        target: the recommended target.
        predicted: by its curves.
        simulated: the same a second way.
        question: what is asked.
        load: of one replica.
        bound: whether the curves only bound the figures from above.
    """
    why = "the load that the curves and the simulation disagree on"
    rate = question.rate(load.users)
    command = (
        measure_users_command(target, load.users, load.think_time_s, why)
        if rate is None
        else measure_rate_command(target, rate, why)
    )
    found = []
    for slo in question.slo:
        curves, second = predicted.get(slo.figure), simulated.figures.get(slo.figure)
        if curves is None or second is None or not _disagree(slo, curves, second, bound):
            continue
        missed = not slo.met(second.value)
        found.append(
            f"{target.name}: {figure_name(slo.figure)} is {interval(slo.figure, curves)} by the "
            f"measured levels, but {interval(slo.figure, second)} when {question.told(load.users)} "
            f"on a replica are simulated request by request"
            + (f", which misses {format_declared(slo.figure, slo.bound)}" if missed else "")
            + f": measure that load before you rely on either: {command}"
        )
    return tuple(found)


def _road_of(
    target: TargetInfo,
    evidence: Evidence,
    replica: Replica,
    question: Question,
    needed: int,
    *,
    rng: np.random.Generator,
) -> _Road:
    """What is to be simulated.

    Raises:
        Refused: it cannot be, or not in the time that an answer may take.
    """
    figures = [s.figure for s in question.slo if metric_of(s.figure) in METRICS]
    if not figures:
        raise Refused("no objective is on a figure that the simulation gives")
    lengths = lengths_of(evidence.curve)
    if lengths is None:
        raise Refused("the lengths of single requests are not known")
    fleet = _fleet_of(replica, evidence, question, needed, lengths)
    if fleet.batches is None and fleet.load.users > MOST_USERS:
        raise Refused(
            f"{fleet.load.users} users are on a replica, and at most {MOST_USERS} are simulated, "
            f"so that the answer comes within a second"
        )
    if fleet.in_flight > MOST_IN_FLIGHT:
        raise Refused(
            f"up to {fleet.in_flight} requests are in flight at once, and at most "
            f"{MOST_IN_FLIGHT} are simulated, so that the answer comes within a second"
        )
    in_flight = fleet.in_flight // fleet.replicas
    slots = slots_to_simulate(target, in_flight)
    refuse_unknown_memory(target, evidence.curve, in_flight)
    steps = learn_steps([s for s in evidence.curve if has_room(s)], slots, draws=DRAWS, rng=rng)
    engine = engine_of(target, slots, steps.step)
    return _Road(engine, evidence, fleet, steps, figures, rng)


def is_bound(replica: Replica, question: Question) -> bool:
    """Whether a model at random stands for a routing that can only do better."""
    return question.routing in SIMULATED and not isinstance(replica, FleetReplica)


def _disagree(slo: Slo, curves: Predicted, second: Estimate, bound: bool) -> bool:
    if curves.value is None or second.low is None or second.high is None:
        return False
    if curves.label == "measured":
        return False  # then there is nothing more to measure, and the simulation is the guess
    if slo.met(curves.value) and not slo.met(second.value):
        return True
    low = curves.value if curves.low is None else curves.low
    high = curves.value if curves.high is None else curves.high
    return second.low > high or (second.high < low and not bound)


def _fleet_of(
    replica: Replica, evidence: Evidence, question: Question, needed: int, lengths: Lengths
) -> _Fleet:
    """One replica as a queue of its own, or those among which the routing chooses."""
    load = question.load(needed)
    together = needed > 1 and question.routing in SIMULATED
    count = min(needed, MOST_REPLICAS) if together else 1
    batches = None
    stream = question.demand.arrivals
    if stream is not None and isinstance(replica, OpenReplica):
        share = min(count / needed, 1.0)
        dispersion = dispersion_at(stream, response_s(evidence))
        batches = batches_of(stream.rate_per_s * share, split_dispersion(dispersion, share))
    return _Fleet(
        replicas=count,
        routing=(question.routing or "random") if together else "random",
        in_flight=count * replica.span(load)[1],
        lengths=lengths,
        load=load,
        batches=batches,
    )


class _Road:
    """The simulations of one target."""

    def __init__(
        self,
        engine: Engine,
        evidence: Evidence,
        fleet: _Fleet,
        steps: LearntSteps,
        figures: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        self._engine, self._evidence, self._fleet, self._steps = engine, evidence, fleet, steps
        self._figures, self._rng = tuple(figures), rng

    def simulated(self) -> Simulated:
        """Each figure with its interval, or why there is none."""
        best = self._figures_of(self._fleet, self._steps.step, TIMES)
        drawn = [self._figures_of(self._resampled(), step) for step in self._steps.draws]
        missed = self._missed()
        found: dict[str, Estimate] = {}
        wrong: list[str] = []
        for figure in self._figures:
            values = np.array([one[figure][0] for one in drawn])
            value, n = best[figure]
            if not n or not (values > 0).all():
                wrong.append(f"no simulated request has a {figure_name(figure)}")
            elif not missed[figure] <= math.log(CREDIBLE):  # it may be no number
                wrong.append(
                    f"the measured levels themselves would have a {figure_name(figure)} "
                    f"{math.exp(missed[figure]):.2g} times off: this server does not work as it is "
                    f"simulated"
                )
            else:
                factor = math.exp(_half_width(np.log(values), missed[figure]))
                found[figure] = Estimate(value=value, low=value / factor, high=value * factor, n=n)
        return Simulated(figures=found, why_not="; ".join(wrong) or None)

    def _resampled(self) -> _Fleet:
        """The same demand with other lengths of the same population."""
        lengths = self._fleet.lengths
        return replace(self._fleet, lengths=lengths.draw(lengths.prompt_tokens.size, self._rng))

    def _figures_of(
        self, fleet: _Fleet, step: StepTime, times: int = 1
    ) -> dict[str, tuple[float, int]]:
        """The figures (seconds), and how many requests they rest on.

        Neither those count that begin together, nor the last of a closed loop, when fewer and fewer
        are in flight.
        """
        count = times * min(max(ROUNDS * fleet.in_flight, LEAST_REQUESTS), MOST_REQUESTS)
        last = count if fleet.batches else count - min(fleet.in_flight, count // 3)
        kept = slice(min(2 * fleet.in_flight, count // 3), last)
        outcome = simulate(
            replace(self._engine, step=step),
            fleet.source(count, self._rng),
            rng=self._rng,
            replicas=fleet.replicas,
            routing=fleet.routing,
        )
        return {
            figure: _figure(outcome.latency_s(metric_of(figure))[kept], figure)
            for figure in self._figures
        }

    def _missed(self) -> dict[str, float]:
        """By figure, by how much the simulation misses measured levels: median |log ratio|.

        Only levels up to the slots are tried, and the median of them counts, so that one wrong
        level does not hide itself.
        """
        levels = [s for s in self._evidence.curve if s.point.load <= self._engine.slots]
        which = np.unique(np.linspace(0, len(levels) - 1, CALIBRATED).round().astype(int))
        off: dict[str, list[float]] = {figure: [] for figure in self._figures}
        for sample in (levels[i] for i in which):
            users = round(sample.point.load)
            alone = _Fleet(in_flight=users, lengths=self._fleet.lengths, load=Load(users, 0.0))
            for figure, (value, _) in self._figures_of(alone, self._steps.step).items():
                measured = _measured(sample, figure)
                off[figure].append(abs(math.log(value / measured)) if measured > 0 else math.inf)
        return {figure: float(np.median(values)) for figure, values in off.items()}


def _figure(values: Array, figure: str) -> tuple[float, int]:
    """A figure of simulated requests, and their number; those refused have none."""
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan, 0
    share = percentile_of(figure)
    if share is None:
        return float(values.mean()), values.size
    return float(np.quantile(values, share, method="inverted_cdf")), values.size


def _measured(sample: LevelSample, figure: str) -> float:
    share, metric = percentile_of(figure), metric_of(figure)
    if share is None:
        return float(sample.means[metric][0])
    return float(np.interp(share, QUANTILE_LEVELS, sample.quantiles[metric][0]))


def _half_width(logs: Array, missed: float) -> float:
    """Half of an interval of log seconds: the spread of the draws, and what the levels show."""
    spread = float(special.stdtrit(logs.size - 1, (1 + CONFIDENCE) / 2)) * float(logs.std(ddof=1))
    systematic = float(special.ndtri((1 + CONFIDENCE) / 2)) * missed * NORMAL_MAD
    return math.hypot(spread, systematic)
