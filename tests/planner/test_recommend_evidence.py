"""What may carry a recommendation: which levels count, and what is refused for want of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from planner.pooling import evidence_of
from planner.summary import QUANTILE_LEVELS
from tests.planner.synthetic import batching_server, level, target
from tests.planner.test_recommend import FAST, ask, replicas

if TYPE_CHECKING:
    from planner.records import Recommendation


def test_only_high_levels_cannot_say_no() -> None:
    """A miss at the lowest level measured says nothing about fewer users."""
    found = ask(batching_server((32, 64), name="fast"))
    assert found.recommended is None
    assert "--concurrency 1 " in found.next_measurements[0]


def test_single_level_is_refused_beyond_itself() -> None:
    """One level bounds the loads up to itself, and says nothing about more users."""
    one = batching_server((8,), name="fast")
    alone = ask(one, users=8)
    assert alone.recommended is not None
    assert alone.recommended.predicted["ttft_p95_s"].label == "measured"
    fewer = ask(one, users=5)
    assert fewer.recommended is not None
    assert fewer.recommended.predicted["ttft_p95_s"].label == "extrapolated"
    more = ask(one, users=50)
    assert more.recommended is None
    assert "says nothing about higher loads" in (more.options[0].refused or "")
    assert "--concurrency 16 " in more.next_measurements[0]


def test_only_thinking_users_measured_is_refused() -> None:
    """Users with think time alone give no curve; the refusal says so."""
    thinking = level(50, 4.0, lambda share: share + 1, load_kind="users", think_time_s=10.0)
    found = ask([thinking], [target("a")], think=10.0)
    assert "only users with think time were measured" in (found.options[0].refused or "")


def test_irregular_throughput_warns() -> None:
    """A level whose throughput no smooth curve could have is pointed at."""
    odd = [
        dataclasses.replace(s, requests_per_s=s.requests_per_s * 0.4) if s.point.load == 8 else s
        for s in FAST
    ]
    assert any("fast: the throughput at 8 in flight is" in warning for warning in ask(odd).warnings)
    assert ask(FAST).warnings == ()


def test_impossible_loads_are_left_out() -> None:
    """A run folder that claims a million requests in flight takes no memory."""
    huge = level(1_000_000, 5.0, lambda share: share + 1, name="fast")
    assert any("loads from 1 to 10,000 are modelled" in w for w in ask([*FAST, huge]).warnings)


def test_other_lengths_are_refused() -> None:
    """A demand with prompts over 10 % longer than measured is not answered."""
    found = ask(lengths=150)
    assert found.recommended is None
    assert "measured with 100 prompt tokens on average, the demand has 150" in (
        found.options[0].refused or ""
    )
    assert "--prompt-tokens 150" in found.next_measurements[0]
    assert ask(lengths=105).recommended is not None


def test_too_few_requests_for_the_percentile_are_refused() -> None:
    """A p99 that the sample cannot bound is refused, with the level to measure longer."""
    found = ask(batching_server(name="fast", completed=100), slo=["ttft_p99<=1s"])
    assert found.recommended is None
    assert "cannot bound this percentile" in (found.options[0].refused or "")
    assert "longer" in found.next_measurements[0]


def test_unusable_levels_are_left_out_and_told() -> None:
    """A level that failed a gate carries nothing and is named in the warnings."""
    bad = level(16, 1.0, lambda share: 50 + share, name="fast", problems=("client saturated",))
    samples = [bad, *(s for s in FAST if s.point.load != 16)]
    found = ask(samples)
    assert "fast at 16 in flight is not used: client saturated" in found.warnings
    assert replicas(found) <= replicas(ask(FAST)) + 2
    nothing = ask([bad])
    assert nothing.recommended is None
    assert "client saturated" in (nothing.options[0].refused or "")


def test_no_curve_goes_on_towards_a_level_that_failed() -> None:
    """Above the highest usable level nothing is assumed where a higher one was tried in vain.

    Emulated vLLM with 64 slots is such a server: up to 64 in flight nobody waits, with 200 no
    request ends in time to be counted, and with 156 (500 users who think 15 s) TTFT p95 is 5 s.
    """
    bound = ["ttft_p95<=60s"]
    top = max(sample.point.load for sample in FAST)
    same = round(1.05 * top)  # which counts as the level itself
    failed = level(3 * top, 1.0, lambda share: 50 + share, name="fast", problems=("no end",))
    assert carried(ask(FAST, users=1000, slo=bound)) == 2 * top
    assert carried(ask([*FAST, failed], users=1000, slo=bound)) == same
    with_slots = [target("fast", slots=4)]  # the curve goes beyond them: no end by itself
    assert carried(ask([*FAST, failed], with_slots, users=1000, slo=bound)) == same


def test_slots_that_are_not_told_are_a_warning() -> None:
    """An answer beyond the levels of a server of unknown slots says that requests may wait."""
    top = round(max(sample.point.load for sample in FAST))
    bound = ["ttft_p95<=60s"]
    users = round(1.5 * top)
    (warning,) = [
        text for text in ask(FAST, users=users, slo=bound).warnings if "tell its slots" in text
    ]
    assert warning == (
        f"fast: it does not tell its slots, and where it has fewer than {users} requests wait for "
        f"one, which {top} in flight need not show: measure it with --concurrency {2 * top} before "
        f"you rely on {users} users on a replica"
    )
    for found in (
        ask(FAST, users=top, slo=bound),
        ask(FAST, [target("fast", slots=3 * top)], users=users, slo=bound),
        ask(FAST, users=users, slo=["tpot_p95<=60s"]),
    ):
        assert not any("tell its slots" in text for text in found.warnings)


def carried(found: Recommendation) -> int:
    """Users that one replica of the only option is sure to carry."""
    users = found.options[0].users_per_replica["0.9"]
    assert users is not None
    return users


def test_metric_not_reported_is_refused() -> None:
    """A target that reports no TPOT cannot be held to one."""
    silent = [
        dataclasses.replace(s, quantiles={"ttft": s.quantiles["ttft"]}, means={}) for s in FAST
    ]
    found = ask(silent, slo=["tpot_p95<=100ms"])
    assert "does not report TPOT" in (found.options[0].refused or "")


def test_levels_measured_twice_are_pooled() -> None:
    """Two measurements of a level count by their requests, and together they bound more."""
    short = level(8, 4.0, lambda share: 1 + share, completed=40, noise=0.0)
    long = level(8, 8.0, lambda share: 3 + share, completed=120, noise=0.0)
    (pooled,) = evidence_of([short, long]).curve
    assert pooled.requests_per_s[0] == pytest.approx(7.0)
    assert pooled.quantiles["ttft"][0, 99] == pytest.approx(2.5 + QUANTILE_LEVELS[99])
    assert pooled.point.completed == 160
    assert "ttft_p95_s" in pooled.point.figures
    assert "ttft_p99_s" not in pooled.point.figures  # no part could bound it: the count decides
