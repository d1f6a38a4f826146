"""The fleet tells tokens at the moments at which the planner's simulator has them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.engines.emulator.fleet import Fleet
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import Lengths, OpenArrivals
from planner.steptime import StepTime

STEP = StepTime(
    base_s=0.01, per_sequence_s=0.0013, per_context_token_s=1.7e-5, per_prompt_token_s=1.1e-4
)


@dataclass(eq=False)
class Heard:
    """A job that writes down what it is told."""

    prompt: int
    output: int
    session: int | None = None
    prefix: int = 0
    scheduled_s: float = math.nan
    due_s: list[float] = field(default_factory=list)

    def scheduled(self, at: float, cached: int) -> None:
        """Let in."""
        assert math.isnan(self.scheduled_s)
        assert cached < self.prompt
        self.scheduled_s = at

    def token(self, due: float) -> None:
        """A token."""
        self.due_s.append(due)


@st.composite
def engines_(draw: st.DrawFn) -> Engine:
    """Engines of every shape."""
    slots = draw(st.integers(1, 6))
    return Engine(
        step=STEP,
        slots=slots,
        batch_tokens=slots + draw(st.sampled_from([1, 30, 500])),
        chunked_prefill=draw(st.booleans()),
        kv_tokens=draw(st.none() | st.integers(130, 400)),
        runs_ahead=draw(st.booleans()),
        load_s=draw(st.sampled_from([0.0, 0.3])),
        keep_alive_s=draw(st.sampled_from([0.1, math.inf])),
    )


arrivals_ = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=20
).map(sorted)


def drive(fleet: Fleet, until: float) -> None:
    """Tell all steps that end by then, as the server does."""
    while fleet.due <= until:
        fleet.tick()


def run_dry(fleet: Fleet) -> None:
    """Tell all steps."""
    while fleet.due < math.inf:
        fleet.tick()


@settings(max_examples=150, deadline=None)
@given(engine=engines_(), arrivals=arrivals_)
def test_same_moments_as_the_simulator(
    engine: Engine, arrivals: list[tuple[float, int, int]]
) -> None:
    """Start, first and last token of every request are the simulator's; no token is lost."""
    columns = np.array(arrivals)
    lengths = Lengths(
        prompt_tokens=columns[:, 1].astype(np.int64), output_tokens=columns[:, 2].astype(np.int64)
    )
    truth = simulate(engine, OpenArrivals(columns[:, 0], lengths), rng=np.random.default_rng(0))
    fleet = Fleet(engine, 1, np.random.default_rng(0))
    jobs = [Heard(prompt, output) for _, prompt, output in arrivals]
    for (at, _, _), job in zip(arrivals, jobs, strict=True):
        while fleet.due < at:  # at one moment, the simulator takes arrivals first
            fleet.tick()
        assert fleet.offer(at, job)
    run_dry(fleet)
    assert [len(job.due_s) for job in jobs] == [job.output for job in jobs]
    assert [job.scheduled_s for job in jobs] == pytest.approx(truth.scheduled_s, rel=1e-9)
    assert [job.due_s[0] for job in jobs] == pytest.approx(truth.first_token_s, rel=1e-9)
    assert [job.due_s[-1] for job in jobs] == pytest.approx(truth.ended_s, rel=1e-9)
    assert all(np.diff(job.due_s).min(initial=1) > 0 for job in jobs)
    assert (fleet.in_flight, fleet.running, fleet.kv_share) == (0, 0, 0)
    assert fleet.preemptions == truth.preemptions.sum()


@settings(max_examples=150, deadline=None)
@given(
    engine=engines_(),
    arrivals=arrivals_,
    leaving=st.lists(st.tuples(st.floats(0, 4), st.integers(0, 19)), max_size=12),
    replicas=st.integers(1, 3),
)
def test_clients_that_leave(
    engine: Engine,
    arrivals: list[tuple[float, int, int]],
    leaving: list[tuple[float, int]],
    replicas: int,
) -> None:
    """Who leaves hears no more, all others get every token, and nothing stays held."""
    fleet = Fleet(engine, replicas, np.random.default_rng(0))
    jobs = [Heard(prompt, output) for _, prompt, output in arrivals]
    events = [(at, True, i) for i, (at, _, _) in enumerate(arrivals)]
    events += [(at, False, i) for at, i in leaving if i < len(jobs) and at >= arrivals[i][0]]
    silent: dict[int, int] = {}
    for at, comes, index in sorted(events, key=lambda event: (event[0], not event[1])):
        drive(fleet, at)
        if comes:
            assert fleet.offer(at, jobs[index])
        else:
            fleet.withdraw(at, jobs[index])
            silent.setdefault(index, len(jobs[index].due_s))
    run_dry(fleet)
    for index, job in enumerate(jobs):
        assert len(job.due_s) == silent.get(index, job.output)
    assert (fleet.in_flight, fleet.running, fleet.kv_share) == (0, 0, 0)


def test_leaving_frees_the_slot_for_the_next() -> None:
    """With one slot, the second request starts at the step boundary after the first has left."""
    fleet = Fleet(Engine(step=StepTime(base_s=0.1), slots=1), 1, np.random.default_rng(0))
    first, second = Heard(5, 100), Heard(5, 2)
    assert fleet.offer(0.0, first)
    drive(fleet, 0.05)
    assert fleet.offer(0.05, second)
    drive(fleet, 0.95)
    fleet.withdraw(0.95, first)
    run_dry(fleet)
    assert second.scheduled_s == pytest.approx(1.0)
    assert second.due_s == pytest.approx([1.1, 1.2])


def test_least_loaded_replica_gets_the_request() -> None:
    """Two requests at once on two replicas of one slot run side by side."""
    fleet = Fleet(Engine(step=StepTime(base_s=0.1), slots=1), 2, np.random.default_rng(0))
    jobs = [Heard(5, 3), Heard(5, 3)]
    for job in jobs:
        assert fleet.offer(0.0, job)
    run_dry(fleet)
    assert [job.due_s for job in jobs] == [pytest.approx([0.1, 0.2, 0.3])] * 2


def test_places_are_used_again() -> None:
    """A server that has answered a thousand requests holds no more than those in flight."""
    fleet = Fleet(Engine(step=StepTime(base_s=0.1), slots=2), 1, np.random.default_rng(0))
    for second in range(1000):
        drive(fleet, float(second))
        assert fleet.offer(float(second), Heard(5, 2))
    run_dry(fleet)
    assert len(fleet._lanes[0].log.arrival_s) <= 3
    assert not fleet._where


def test_loading() -> None:
    """The first request loads the model, and the first after the keep-alive loads it again."""
    engine = Engine(step=StepTime(base_s=0.1), slots=1, load_s=2.0, keep_alive_s=5.0)
    fleet = Fleet(engine, 1, np.random.default_rng(0))
    jobs = [Heard(5, 1) for _ in range(3)]
    seen = []
    for at, job in zip((0.0, 4.0, 20.0), jobs, strict=True):
        drive(fleet, at)
        seen.append(fleet.loaded(at))
        assert fleet.offer(at, job)
        seen.append(fleet.loaded(at))
    run_dry(fleet)
    assert [job.due_s[0] for job in jobs] == pytest.approx([2.1, 4.1, 22.1])
    assert seen == [False, False, True, True, False, False]
