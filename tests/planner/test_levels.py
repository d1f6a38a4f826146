"""Which level of load to measure next."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.levels import NextStep, next_level, plan_next
from planner.records import (
    Demand,
    EngineLimits,
    Estimate,
    OperatingPoint,
    Option,
    Recommendation,
    SeenSlots,
    TargetInfo,
)
from planner.units import parse_slo

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.records import Slo

TTFT = (parse_slo("ttft_p95<=1s"),)


def point(
    level: int,
    ttft_s: float,
    *,
    spread: float = 0.02,
    problems: tuple[str, ...] = (),
    target: str = "a",
) -> OperatingPoint:
    """A measured level with a 95th percentile of the TTFT and its interval."""
    figure = Estimate(value=ttft_s, low=ttft_s * (1 - spread), high=ttft_s * (1 + spread), n=500)
    return OperatingPoint(
        target=target,
        backend="llamacpp",
        stage=level,
        load_kind="concurrency",
        load=level,
        in_flight_mean=level,
        completed=500,
        failed=0,
        censored=0,
        figures={"ttft_p95_s": figure},
        source="measured",
        problems=problems,
    )


def sweep(
    ttft: Callable[[int], float], *, slots: int | None, top: int, slo: tuple[Slo, ...] = TTFT
) -> list[int]:
    """Every level that ``next_level`` asks of a server with a known TTFT(N), in order."""
    points: list[OperatingPoint] = []
    while (level := next_level(points, slots=slots, top=top, slo=slo)) is not None:
        assert len(points) < 40
        points.append(point(level, ttft(level)))
    return [round(p.load) for p in points]


def test_order_is_ends_slots_onset_then_crossing() -> None:
    """1, the slots, the top, where the queue begins, the geometric middle of the crossing's gap."""
    levels = sweep(lambda n: 0.02 * n, slots=8, top=128)
    assert levels[:5] == [1, 8, 128, 10, 36]
    below, above = max(n for n in levels if n <= 50), min(n for n in levels if n > 50)
    assert above / below <= 1.25


def test_top_is_skipped_when_slots_are_hopeless() -> None:
    """An objective missed fourfold at the slot limit ends the range there."""
    levels = sweep(lambda n: 0.6 * n, slots=8, top=256)
    assert max(levels) == 8


def test_onset_of_the_queue_is_measured_where_waits_count() -> None:
    """Above the slots waits jump: that is no matter without a queue, or where nobody asks."""
    assert sweep(lambda n: 0.01 if n <= 8 else 0.9, slots=8, top=16) == [1, 8, 16, 10, 3]
    assert 10 not in sweep(lambda n: 0.15 * n, slots=8, top=32)  # eight are too many already
    assert 10 not in sweep(lambda n: 0.01 * n, slots=8, top=8)
    assert 10 not in sweep(lambda n: 0.01 * n, slots=8, top=16, slo=())


def test_unknown_slots_climb() -> None:
    """A server that does not tell its slots is climbed in steps until it is hopeless."""
    levels = sweep(lambda n: 0.3 * n, slots=None, top=256)
    assert levels[:3] == [1, 4, 16]
    assert max(levels) == 16


def test_hopeless_for_one_user_stops() -> None:
    """When even one request at a time misses the objective nothing else is measured."""
    assert sweep(lambda n: 2.0 + n, slots=8, top=64) == [1]


def test_without_objectives_gaps_are_closed() -> None:
    """Without objectives only the shape of the curve counts: no gap stays wider than fourfold."""
    levels = sorted(sweep(float, slots=8, top=256, slo=()))
    assert levels[0] == 1
    assert levels[-1] == 256
    assert max(b / a for a, b in pairwise(levels)) <= 4


@given(
    scale=st.floats(1e-4, 3.0),
    power=st.floats(0.0, 2.0),
    slots=st.none() | st.integers(1, 300),
    top=st.integers(1, 300),
)
def test_always_ends_within_range_and_never_repeats(
    scale: float, power: float, slots: int | None, top: int
) -> None:
    """Every level lies in range, none is asked twice, and a crossing ends up pinned down."""
    levels = sweep(lambda n: scale * n**power, slots=slots, top=top)
    assert len(set(levels)) == len(levels)
    assert all(1 <= level <= top for level in levels)
    met = [n for n in levels if scale * n**power <= 1]
    missed = [n for n in levels if scale * n**power > 1]
    if met and missed:
        assert min(missed) - max(met) == 1 or min(missed) / max(met) <= 1.25


def test_unusable_level_is_not_repeated() -> None:
    """A level at which the client was the limit is not asked for again."""
    points = [point(1, 0.1), point(8, 0.2), point(64, 0.3, problems=("client saturated",))]
    assert next_level(points, slots=8, top=64, slo=TTFT) not in (None, 64)


def answer(*options: Option, users: int = 40) -> Recommendation:
    """A recommendation over given options, the first recommended if it has replicas."""
    return Recommendation(
        demand=Demand(users=users),
        slo=TTFT,
        confidence=0.9,
        spare=0,
        routing="sticky",
        recommended=options[0] if options[0].replicas else None,
        options=options,
    )


def option(target: str, sure: int, hope: int, *, users: int = 40) -> Option:
    """An option whose replicas carry ``sure`` users at 90 % and ``hope`` at 10 %."""
    return Option(
        target=target,
        backend="llamacpp",
        replicas=math.ceil(users / sure) if sure else None,
        gpus=None,
        cost_per_hour=None,
        confidence=0.9,
        predicted={},
        binding=None,
        users_per_replica={"0.9": sure, "0.1": hope},
    )


def target(name: str, slots: int = 8) -> TargetInfo:
    """A target with a known slot limit."""
    return TargetInfo(
        name=name, backend="llamacpp", url="http://127.0.0.1:1", limits=EngineLimits(slots=slots)
    )


def test_plan_measures_every_skeleton_first() -> None:
    """The target with the fewest levels goes first, so a spent budget leaves comparable curves."""
    targets = [target("a"), target("b")]
    samples = [point(1, 0.1), point(8, 0.4)]
    step = plan_next(answer(option("a", 8, 20)), samples, targets, top=32)
    assert step == NextStep("b", 1, extend=False, why=step.why if step else "")


MEASURED = [point(n, 0.05 * n) for n in (1, 8, 10, 32)]


def test_plan_leaves_alone_what_its_hardware_cannot_have_made() -> None:
    """Nothing that is measured of a wrong declaration can be used: the others get the time."""
    both = [target("a"), target("b")]
    beyond = point(1, 0.1, target="a", problems=("impossible: 90 tok/s in one stream",))
    step = plan_next(answer(option("a", 0, 0), option("b", 0, 0)), [beyond], both, top=64)
    assert step == NextStep("b", 1, extend=False, why="the ends of the curve")
    assert plan_next(answer(option("a", 0, 0)), [beyond], both[:1], top=64) is None


def test_plan_refines_the_crossing_while_replicas_are_open() -> None:
    """An open number of replicas asks for the middle of the gap that holds the crossing."""
    step = plan_next(answer(option("a", 10, 25)), MEASURED, [target("a")], top=32)
    assert step is not None
    assert (step.level, step.extend) == (18, False)


def test_plan_stops_when_sure() -> None:
    """A number of replicas that no doubt changes needs no more measurement."""
    assert plan_next(answer(option("a", 20, 30)), MEASURED, [target("a")], top=32) is None


def test_plan_leaves_losers_alone() -> None:
    """A target that cannot become the cheapest is not refined, however unsure it is."""
    targets = [target("a"), target("b")]
    samples = [*MEASURED, *(point(n, 0.3 * n, target="b") for n in (1, 2, 4, 8, 32))]
    decided = answer(option("a", 20, 20), option("b", 2, 4))
    assert plan_next(decided, samples, targets, top=32) is None
    close = answer(option("a", 20, 20), option("b", 2, 40))
    step = plan_next(close, samples, targets, top=32)
    assert step is not None
    assert step.target == "b"


def test_plan_extends_the_deciding_level_last() -> None:
    """With the crossing pinned down only a longer measurement of the deciding level helps."""
    samples = [point(n, 0.05 * n, spread=0.04) for n in (1, 4, 8, 10, 16, 19, 20, 21, 32)]
    step = plan_next(answer(option("a", 10, 25)), samples, [target("a")], top=32)
    assert step is not None
    assert (step.level, step.extend) == (20, True)


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_plan_never_extends_what_is_known(spread: float) -> None:
    """Figures known to 5 % are not measured again."""
    samples = [point(n, 0.05 * n, spread=spread) for n in (1, 4, 8, 10, 13, 16, 19, 20, 21, 22, 32)]
    assert plan_next(answer(option("a", 10, 25)), samples, [target("a")], top=32) is None


def test_plan_follows_slots_that_were_seen() -> None:
    """A climb whose top shows the slots goes on to them and a quarter above; near is enough."""
    bare = TargetInfo(name="a", backend="vllm", url="http://127.0.0.1:1")
    seen = [SeenSlots(most_running=n, limit=n, agreeing=9, queued=9) for n in (99, 100)]
    crowded, quiet = ([point(n, 0.005 * n) for n in levels] for levels in ((1, 4, 16, 64), (1, 4)))
    found = answer(option("a", 8, 20))
    step = plan_next(found, quiet, [bare], top=256)
    assert step is not None
    assert step.level == 16
    target = msgspec.structs.replace(bare, slots_seen=seen[0])
    levels = [*crowded, point(256, 3.0)]
    for expected in (99, 125):
        step = plan_next(found, levels, [target], top=256)
        assert step is not None
        assert step.level == expected
        levels.append(point(expected, 0.6))
        target = msgspec.structs.replace(bare, slots_seen=seen[1])  # one more was seen meanwhile
    step = plan_next(found, levels, [target], top=256)
    assert step is None or step.level not in {99, 100, 124, 125}
