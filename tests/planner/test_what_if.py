"""Demands by rate, other demands than stated, crossovers with intervals, cost, what to measure."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from rich.console import Console

from planner.answer_tables import print_answer
from planner.errors import InputError
from planner.pooling import evidence_of
from planner.question import Question
from planner.ranking import Contender, crossovers
from planner.recommend import recommend, sentence
from planner.records import Arrivals, Demand
from planner.sensitivity import sensitivity_of
from planner.units import parse_slo
from tests.planner.synthetic import batching_server, level, target
from tests.planner.test_recommend import FAST, SLOW, ask, replicas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Recommendation, Sensitivity
    from planner.summary import LevelSample

SLO = (parse_slo("ttft_p95<=1s"),)


def ask_rate(
    rate_per_s: float, bursts: float = 1.0, samples: Sequence[LevelSample] = FAST
) -> Recommendation:
    """Ask for arrivals that wait for nobody."""
    return recommend(
        samples,
        [target("fast", gpus_per_replica=1)],
        Demand(arrivals=Arrivals(rate_per_s=rate_per_s, dispersion=((1.0, bursts),))),
        SLO,
        rng=np.random.default_rng(5),
    )


def what_if(
    samples: Sequence[LevelSample],
    *,
    think: float = 10.0,
    users: int = 400,
    slots: int | None = None,
) -> dict[str, Sensitivity]:
    """The sensitivity of one target, by what changes."""
    question = Question(
        demand=Demand(users=users, think_time_s=think),
        slo=SLO,
        confidence=0.9,
        spare=None,
        gpu_cost={},
    )
    rng = np.random.default_rng(3)
    facts = target("a", slots=slots, gpus_per_replica=2)
    found = sensitivity_of(
        facts, evidence_of(samples), question, requests_per_s=users / (think + 0.84), rng=rng
    )
    return {case.what.split(" ")[0]: case for case in found}


def test_rate_on_replicas_that_are_known() -> None:
    """X(n) = n/(0.5 + 0.02 n) serves what it must: each replica stays below its crossing at 17."""
    found = ask_rate(60.0)
    assert found.recommended is not None
    carried = found.recommended.rate_per_replica["0.9"]
    # At 17 in flight, where the objective is crossed, a closed loop has 17/0.84 = 20.2 requests/s.
    # Poisson arrivals exceed 17 for p95 long before their mean does.
    assert 8 < carried < 20
    assert found.recommended.replicas == -(-60 // carried) + 1
    assert found.recommended.users_per_replica == {}
    assert found.crossovers == ()
    assert found.routing.startswith("random")
    assert sentence(found).startswith("For 60 requests/s, run fast on ")
    assert found.recommended.notes[0].endswith("requests/s on a replica with 1 replica down")


def test_a_rate_at_the_end_of_knowledge_is_a_lower_bound() -> None:
    """Where the objective holds as far as anything is known the rate says so, in JSON and text."""
    easy = (parse_slo("ttft_p95<=60s"),)
    demand = Demand(arrivals=Arrivals(rate_per_s=500.0))
    found = recommend(FAST, [target("fast")], demand, easy, rng=np.random.default_rng(5), spare=0)
    best = found.recommended
    assert best is not None
    carried = best.rate_per_replica["0.9"]
    assert best.rate_known_to == pytest.approx(carried)
    assert best.is_lower_bound_rate(carried)
    out = io.StringIO()
    print_answer(found, Console(file=out, width=160))
    (row,) = [
        line for line in out.getvalue().splitlines() if line.startswith("fast") and "≥" in line
    ]
    assert row.split() == ["fast", *("≥", f"{carried:.3g}") * 3]
    known = ask_rate(60.0).recommended
    assert known is not None
    assert not known.is_lower_bound_rate(known.rate_per_replica["0.9"])


def test_rate_agrees_with_users_who_hardly_come_back() -> None:
    """Very many users who think for very long are Poisson arrivals (Palm and Khintchine)."""
    few = ask(FAST, users=20_000, think=2000.0)
    assert ask_rate(10.0).recommended is not None
    assert abs(replicas(ask_rate(10.0)) - replicas(few)) <= 1


def test_more_rate_and_more_bursts_need_more() -> None:
    """Replicas never fall with the rate or the variability of its gaps."""
    by_rate = [replicas(ask_rate(rate)) for rate in (1.0, 10.0, 30.0, 100.0)]
    assert by_rate == sorted(by_rate)
    by_burst = [replicas(ask_rate(30.0, bursts)) for bursts in (1.0, 10.0, 100.0)]
    assert by_burst == sorted(by_burst)
    assert by_burst[-1] > by_burst[0]


def test_rate_beyond_a_single_level_is_refused() -> None:
    """One level says nothing about the loads that arrivals make."""
    found = ask_rate(100.0, samples=batching_server((8,), name="fast"))
    assert found.recommended is None
    assert found.next_measurements


@pytest.mark.parametrize(
    ("demand", "says"),
    [
        (Demand(), "either users or arrivals"),
        (Demand(users=3, arrivals=Arrivals(rate_per_s=1.0)), "either users or arrivals"),
        (Demand(arrivals=Arrivals(rate_per_s=0.0)), "rate of 0.0/s"),
        (Demand(arrivals=Arrivals(rate_per_s=float("nan"))), "rate of nan/s"),
        (
            Demand(arrivals=Arrivals(rate_per_s=1.0, dispersion=((1.0, -1.0),))),
            "dispersion of -1.0",
        ),
        (Demand(users=3, think_time_s=float("nan")), "think time of nan"),
    ],
)
def test_demands_that_are_none(demand: Demand, says: str) -> None:
    """Zero, negative, not a number, two demands at once or none: one line with the value."""
    with pytest.raises(InputError, match=says):
        recommend(FAST, [target("fast")], demand, SLO, rng=np.random.default_rng(0))


def test_half_the_think_time_is_the_plain_answer_to_it() -> None:
    """The case is what asking for half the think time would have said."""
    case = what_if(FAST)["think"]
    found = ask(FAST, users=400, think=5.0)
    assert case.replicas == pytest.approx(replicas(found), abs=1)
    assert case.gpus == 2 * (case.replicas or 0)
    assert case.label == "interpolated"


def test_longer_answers_by_the_stated_model() -> None:
    """With every request twice as long at the same pace, the closed form of the server gives it.

    FAST has R(N) = 0.5 + 0.02 N and in these samples TPOT = R per token, 20 tokens: a request of
    20 more takes 21 R, so that the throughput at N falls to a 21st.
    """
    case = what_if(FAST, slots=64)["answers"]
    slower = [
        dataclasses.replace(sample, requests_per_s=sample.requests_per_s / 21) for sample in FAST
    ]
    assert case.label == "extrapolated"
    assert case.replicas == pytest.approx(
        replicas(ask(slower, [target("fast", slots=64)], users=400, think=10.0)), rel=0.15, abs=1
    )


def test_longer_answers_are_refused_where_the_model_does_not_hold() -> None:
    """One level up to the slots tells no wait; without counted tokens nothing can be said."""
    crowded = [sample for sample in FAST if sample.point.load >= 4]
    waiting = what_if(crowded, slots=4)["answers"]
    assert (waiting.replicas, waiting.label) == (None, "refused")
    assert "the wait for a slot grows" in (waiting.why or "")
    assert "measure 1 and 4 in flight" in (waiting.why or "")
    simulated = what_if(FAST, slots=16)["answers"]
    assert simulated.label == "extrapolated"
    assert "simulated" in (simulated.why or "")
    uncounted = [
        dataclasses.replace(
            sample, point=msgspec.structs.replace(sample.point, output_tokens_mean=None)
        )
        for sample in FAST
    ]
    assert "does not count its tokens" in (what_if(uncounted)["answers"].why or "")


def test_bursts_need_more_and_are_never_called_measured() -> None:
    """Azure's code trace needs more replicas than people do, by a model, so extrapolated."""
    case = what_if(FAST)["requests"]
    assert case.replicas is not None
    assert case.replicas > replicas(ask(FAST, users=400, think=10.0))
    assert case.label == "extrapolated"
    assert "requests/s, as variable as there" in (case.why or "")
    bursty = ask_rate(20.0, 9.0)
    assert all("Azure" not in case.what for case in bursty.sensitivity)


def test_no_think_time_no_half_of_it() -> None:
    """Users who do not think cannot think half as long."""
    assert "think" not in what_if(FAST, think=0.0, users=40)


def test_cost_per_million_tokens() -> None:
    """Closed form: 20 tokens per answer, 17 users on one replica at 17/0.84 answers a second."""
    found = ask(
        batching_server(range(1, 40), noise=0.001, name="fast"),
        [target("fast", gpus_per_replica=1, hardware="L4")],
        users=17,
        spare=0,
        gpu_cost={"L4": 0.9},
    )
    assert found.recommended is not None
    assert found.recommended.replicas == 1
    tokens_per_hour = 17 / 0.84 * 20 * 3600
    assert found.recommended.cost_per_million_tokens == pytest.approx(
        0.9 / tokens_per_hour * 1e6, rel=0.01
    )
    assert ask(users=17).options[0].cost_per_million_tokens is None


def test_crossover_intervals_hold_the_crossover() -> None:
    """Every change after the first has an interval with it inside; the first has none."""
    targets = [target("fast", gpus_per_replica=2), target("slow", gpus_per_replica=1)]
    changes = ask([*FAST, *SLOW], targets, users=60).crossovers
    assert len(changes) > 1
    assert (changes[0].low, changes[0].high) == (None, None)
    for change in changes[1:]:
        assert change.low is None or change.low <= change.from_users
        assert change.high is None or change.high >= change.from_users


def test_crossover_interval_is_that_of_the_draws() -> None:
    """Closed form: one replica of 10 at price 1 against one of c at price 3 changes at 11 or c."""
    rng = np.random.default_rng(0)
    small = Contender("small", 10, 1.0, np.full(100, 10))
    large = Contender("large", 100, 2.5, rng.integers(90, 110, 100))
    first, change, *_ = crossovers([small, large], 0, 400)
    assert (first.target, change.target) == ("small", "large")
    assert change.from_users == 21  # three small ones cost 3
    assert (change.low, change.high) == (21, 21)
    unsure = dataclasses.replace(small, drawn=rng.integers(5, 20, 100))
    _, change, *_ = crossovers([unsure, large], 0, 400)
    assert change.low is not None
    assert change.high is not None
    assert change.low <= 15  # 2 · 7 + 1
    assert change.high >= 33  # 2 · 16 + 1


def test_crossover_that_most_draws_never_see_is_open() -> None:
    """Where the draws say that the other may never become better the interval has no upper end."""
    small = Contender("small", 10, 1.0, np.array([10] * 60 + [1000] * 40))
    large = Contender("large", 100, 2.5, np.full(100, 100))
    _, change, *_ = crossovers([small, large], 0, 400)
    assert change.high is None


def test_three_measurements_are_named() -> None:
    """Where more can be known, three commands are named, the deciding one first, none twice."""
    few = batching_server((1, 32), name="fast", noise=0.05)
    found = ask([*few, *batching_server((1, 16), name="slow", noise=0.05)], users=100, think=5.0)
    assert found.recommended is not None
    commands = [step.partition("  (")[0] for step in found.next_measurements]
    assert len(commands) >= 3
    assert len(set(commands)) == len(commands)
    assert "objective" in found.next_measurements[0]


def test_the_recommended_load_itself_is_worth_measuring() -> None:
    """A sure answer that rests on interpolation names its own load, with users and think time."""
    found = ask(batching_server((1, 2, 4, 8, 16, 32, 64), name="fast"), users=20, think=10.0)
    assert found.recommended is not None
    assert found.recommended.replicas == 1
    assert any("--users 20 --think-time 10s" in step for step in found.next_measurements)
    thinking = level(
        20, 1.85, lambda share: 0.5 + 0.1 * share, name="fast", load_kind="users", think_time_s=10.0
    )
    known = ask([*FAST, thinking], users=20, think=10.0)
    assert not any("--users" in step for step in known.next_measurements)
