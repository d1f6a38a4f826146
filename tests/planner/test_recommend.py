"""The recommendation: what it answers, what it refuses, and which way it must move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.levels import plan_next
from planner.ranking import Contender, crossovers, replicas_for
from planner.recommend import recommend, sentence
from planner.records import Demand
from planner.units import parse_slo
from tests.planner.synthetic import batching_server, target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Recommendation, TargetInfo
    from planner.summary import LevelSample

SLO = ("ttft_p95<=1s",)
FAST = batching_server(name="fast")
SLOW = batching_server((1, 2, 4, 8, 16), name="slow", base_s=0.4, per_request_s=0.08)


def ask(
    samples: Sequence[LevelSample] = FAST,
    targets: Sequence[TargetInfo] | None = None,
    *,
    users: int = 50,
    think: float = 0.0,
    slo: Sequence[str] = SLO,
    lengths: float | None = None,
    **options: Any,
) -> Recommendation:
    """Ask with a fixed stream of randomness; targets are named after the samples."""
    names = dict.fromkeys(sample.point.target for sample in samples)
    return recommend(
        samples,
        targets if targets is not None else [target(name) for name in names],
        Demand(users=users, think_time_s=think, prompt_tokens_mean=lengths),
        [parse_slo(text) for text in slo],
        rng=np.random.default_rng(5),
        **options,
    )


def replicas(found: Recommendation) -> int:
    """Replicas recommended."""
    assert found.recommended is not None
    assert found.recommended.replicas is not None
    return found.recommended.replicas


def test_capacity_is_where_the_closed_form_crosses() -> None:
    """R(N) = 0.5 + 0.02 N with p95 at 1.18 R crosses a second at N = 17.4: 17 users even odds."""
    found = ask(noise := batching_server(range(1, 40), noise=0.001, name="fast"), users=170)
    assert noise
    assert found.recommended is not None
    assert found.recommended.users_per_replica["0.5"] == 17
    assert found.recommended.users_per_replica["0.9"] == 17
    assert replicas(found) == 11  # 170 / 17 and one spare
    assert found.spare == 1
    assert found.recommended.binding == "ttft_p95<=1s"
    assert found.next_measurements == ()


def test_costs_decide_and_gpus_are_counted() -> None:
    """With prices the cheaper target wins, not the one with fewer replicas or GPUs."""
    targets = [
        target("fast", gpus_per_replica=4, hardware="H100"),
        target("slow", gpus_per_replica=1, hardware="L4"),
    ]
    found = ask([*FAST, *SLOW], targets, users=40, gpu_cost={"h100": 4.0, "L4": 0.5})
    best, other = found.options
    assert best.target == "slow"
    assert best.gpus == best.replicas
    assert best.cost_per_hour == pytest.approx(0.5 * (best.gpus or 0))
    assert other.gpus == 4 * (other.replicas or 0)
    assert ask([*FAST, *SLOW], targets, users=1000, gpu_cost={"H100": 1.0, "L4": 2.0}).options[
        0
    ].target == ("fast")


def test_a_price_that_lacks_is_told() -> None:
    """With a price for some options only none decides, which is said: a typo would pick another."""
    targets = [
        target("fast", gpus_per_replica=4, hardware="H100"),
        target("slow", gpus_per_replica=1, hardware="L4"),
    ]
    found = ask([*FAST, *SLOW], targets, users=40, gpu_cost={"H100": 4.0, "L40": 0.5})
    (warning,) = [text for text in found.warnings if "price" in text]
    assert warning == (
        "no price is known for slow (L4) (prices are given for H100, L40), so the options are "
        "ranked by their number of GPUs, not by cost: add --gpu-cost L4=PRICE"
    )
    both = ask([*FAST, *SLOW], targets, users=40, gpu_cost={"H100": 4.0, "L4": 0.5, "A100": 1.0})
    assert not any("price" in text for text in both.warnings)
    one = ask(FAST, gpu_cost={"H100": 4.0})
    assert any(text.endswith("no cost is told: add --gpu-cost fast=PRICE") for text in one.warnings)


def test_without_gpus_replicas_count() -> None:
    """A CPU engine has no number of GPUs; its price is per replica."""
    found = ask(gpu_cost={"fast": 0.3})
    assert found.recommended is not None
    assert found.recommended.gpus is None
    assert found.recommended.cost_per_hour == pytest.approx(0.3 * replicas(found))
    assert any("no number of GPUs" in note for note in found.recommended.notes)


def test_spare_default_is_one_beyond_one_replica() -> None:
    """One replica stands alone; more get a spare; what is asked for is taken."""
    assert replicas(ask(users=5)) == 1
    assert replicas(ask(users=5, spare=1)) == 2
    alone = replicas(ask(users=50, spare=0))
    assert replicas(ask(users=50)) == alone + 1
    assert ask(users=50).spare == 1


def test_missed_by_one_user_is_a_no() -> None:
    """When one user alone misses the objective there is no option and nothing left to measure."""
    found = ask(slo=["ttft_p95<=100ms"])
    assert found.recommended is None
    assert found.next_measurements == ()
    assert "misses ttft_p95<=100ms even with one user (614 ms" in (found.options[0].refused or "")
    assert "no measured option meets ttft_p95<=100ms" in sentence(found)


def test_all_objectives_hold_at_once() -> None:
    """Two objectives need as many replicas as the stricter one, which is named as binding."""
    both = ask(slo=["ttft_p95<=2s", "e2e_mean<=700ms"])
    assert replicas(both) == replicas(ask(slo=["e2e_mean<=700ms"]))
    assert both.recommended is not None
    assert both.recommended.binding == "e2e_mean<=700ms"


def test_open_replicas_name_the_crossing() -> None:
    """With few levels the answer is open, and the level to measure lies at the crossing."""
    found = ask(batching_server((1, 4, 64), name="fast"), users=200)
    assert "vllm=http://127.0.0.1:8000 --concurrency 1" in found.next_measurements[0]
    assert "the objective is crossed between" in found.next_measurements[0]


def test_end_of_range_is_told() -> None:
    """An objective that holds up to the end of what is known makes replicas an upper bound."""
    found = ask(slo=["ttft_p95<=60s"], users=500)
    assert found.recommended is not None
    assert any("fewer replicas may do" in note for note in found.recommended.notes)
    assert found.recommended.binding is None
    assert "run fast on at most 5 replicas" in sentence(found)
    assert "--concurrency 128" in found.next_measurements[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "0 users"),
        ({"think": -1.0}, "think time of -1"),
        ({"slo": []}, "no objective"),
        ({"confidence": 0.3}, "confidence 0.3 is out of range"),
        ({"confidence": 1.0}, "confidence 1 is out of range"),
        ({"spare": -1}, "-1 spare"),
        ({"think": float("nan")}, "think time of nan"),
        ({"gpu_cost": {"H100": float("nan")}}, "price nan of 'H100'"),
        ({"targets": [target("fast"), target("fast")]}, "two targets are named 'fast'"),
    ],
)
def test_wrong_questions(change: dict[str, Any], message: str) -> None:
    """A question out of bounds is one line that names the value."""
    with pytest.raises(InputError, match=message):
        ask(**change)


moves = st.fixed_dictionaries(
    {
        "users": st.integers(1, 400),
        "think": st.sampled_from([0.0, 5.0, 30.0]),
        "bound_ms": st.integers(700, 3000),
        "confidence": st.sampled_from([0.6, 0.75, 0.9]),
        "spare": st.sampled_from([0, 1]),
    }
)
QUICK = batching_server((1, 4, 16, 64), name="fast", draws=80)


def needed(case: dict[str, Any]) -> float:
    """Replicas for a case; none is more than any number."""
    found = ask(
        QUICK,
        users=case["users"],
        think=case["think"],
        slo=[f"ttft_p95<={case['bound_ms']}ms"],
        confidence=case["confidence"],
        spare=case["spare"],
    )
    return float("inf") if found.recommended is None else replicas(found)


@given(moves, st.integers(1, 200), st.integers(0, 2))
@settings(max_examples=8, deadline=None)
def test_asking_for_more_never_needs_less(case: dict[str, Any], more: int, which: int) -> None:
    """More users, a stricter objective, more confidence or a spare never need fewer replicas."""
    harder = (
        case | {"users": case["users"] + more},
        case | {"bound_ms": max(650, case["bound_ms"] - 5 * more)},
        case | {"confidence": 0.95},
    )[which]
    assert needed(harder) >= needed(case)
    assert needed(case | {"spare": case["spare"] + 1}) == needed(case) + 1


def test_more_confidence_never_carries_more() -> None:
    """Users per replica fall with the confidence asked for."""
    best = ask(QUICK, users=10, think=5.0).options[0]
    carried = [best.users_per_replica[key] or 0 for key in ("0.1", "0.5", "0.9", "0.95")]
    assert carried == sorted(carried, reverse=True)


def test_same_seed_same_answer() -> None:
    """The answer is a function of its inputs, and a target's does not hang on its neighbours."""
    assert ask() == ask()
    alone = ask(FAST).options[0]
    together = {o.target: o for o in ask([*FAST, *SLOW]).options}
    assert together["fast"].replicas == alone.replicas


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 9)), min_size=1, max_size=4),
    st.none() | st.integers(0, 2),
)
def test_crossovers_name_the_cheapest(rows: list[tuple[int, int]], spare: int | None) -> None:
    """Wherever the list of changes is complete it names a cheapest option for every user count."""
    contenders = [Contender(str(i), c, float(p)) for i, (c, p) in enumerate(rows)]
    changes = crossovers(contenders, spare, 150)
    assert changes[0].from_users == 1
    for users in range(1, 151):
        if len(changes) == 12 and users >= changes[-1].from_users:
            break
        named = [c.target for c in changes if c.from_users <= users][-1]
        costs = {
            c.target: c.price * int(replicas_for(users, c.capacity, spare)) for c in contenders
        }
        assert costs[named] == min(costs.values())


def test_crossovers_prefer_headroom_at_equal_price() -> None:
    """Of two options at one price the one whose replicas carry more is named."""
    contenders = [Contender("a", 10, 1.0), Contender("b", 20, 1.0)]
    assert [(c.from_users, c.target) for c in crossovers(contenders, 0, 100)] == [(1, "b")]


def test_crossover_agrees_with_the_recommendation() -> None:
    """At the asked number of users the crossover table names the recommended target."""
    targets = [target("fast", gpus_per_replica=2), target("slow", gpus_per_replica=1)]
    for users in (1, 5, 20, 60, 200):
        found = ask([*FAST, *SLOW], targets, users=users)
        assert found.recommended is not None
        before = [c for c in found.crossovers if c.from_users <= users]
        assert before[-1].target == found.recommended.target


def test_sentence_is_plain() -> None:
    """One sentence with users, target, replicas, the figure, its bound and how sure it is."""
    targets = [target("fast", gpus_per_replica=2, hardware="H100")]
    text = sentence(ask(FAST, targets, users=300, think=10.0, gpu_cost={"H100": 2.0}))
    assert text.startswith("For 300 users who think 10 s, run fast on ")
    assert "H100 GPUs), 1 of them spare, " in text
    assert "per hour: TTFT p95 " in text
    assert " against 1 s (" in text
    assert text.endswith(" % sure).")


def test_json_shape() -> None:
    """The JSON has the keys that other tools rely on."""
    targets = [target("fast"), target("void")]
    document = msgspec.json.decode(msgspec.json.encode(ask(FAST, targets)))
    assert {
        "schema", "demand", "slo", "recommended", "options", "crossovers", "next_measurements",
        "warnings",
    } <= document.keys()  # fmt: skip
    assert document["schema"] == 1
    best = document["recommended"]
    assert {
        "target", "backend", "replicas", "gpus", "cost_per_hour", "confidence", "predicted",
        "binding", "refused",
    } <= best.keys()  # fmt: skip
    assert best["predicted"]["ttft_p95_s"].keys() == {"value", "low", "high", "label"}
    assert best["refused"] is None
    assert [o["target"] for o in document["options"]] == ["fast", "void"]
    assert "no level was measured" in document["options"][1]["refused"]
    assert document["crossovers"][0].keys() == {"from_users", "target", "low", "high"}


@pytest.mark.parametrize(("users", "think"), [(50, 0.0), (170, 0.0), (400, 10.0)])
def test_plan_ends_with_the_true_answer(users: int, think: float) -> None:
    """Measuring what the planner asks for ends soon, and finds what the whole curve would give."""
    targets = [target("fast", slots=16), target("slow", slots=4)]
    servers = {"fast": (0.5, 0.02), "slow": (0.4, 0.3)}
    samples: list[LevelSample] = []
    for seed in range(30):
        found = ask(samples, targets, users=users, think=think)
        step = plan_next(found, samples, targets, top=64)
        if step is None:
            break
        base_s, per_request_s = servers[step.target]
        samples += batching_server(
            (step.level,),
            name=step.target,
            base_s=base_s,
            per_request_s=per_request_s,
            noise=0.01,
            seed=seed,
        )
    else:
        pytest.fail("the plan never ends")
    assert len(samples) <= 16
    assert {round(s.point.load) for s in samples if s.point.target == "fast"} >= {1, 16, 64}
    whole = ask(
        [
            *batching_server(range(1, 65), name="fast", noise=0.001),
            *batching_server(range(1, 65), name="slow", base_s=0.4, per_request_s=0.3),
        ],
        targets,
        users=users,
        think=think,
    )
    assert found.recommended is not None
    assert found.recommended.target == "fast"
    assert replicas(whole) <= replicas(found) <= 1.25 * replicas(whole) + 0.5
