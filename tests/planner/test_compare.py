"""Differences between levels: against closed forms, exact tests, and simulated pairs of runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal, stats

from benchmarks.false_alarms import CASES, measured
from planner.compare import LevelData, compare_levels, higher_is_better, holm, verdicts
from planner.dependence import long_run
from planner.records import Estimate, OperatingPoint

if TYPE_CHECKING:
    from planner.compare import Difference

Z90 = float(stats.norm.ppf(0.95))


def level(
    value: float,
    error: float | None = 0.02,
    *,
    figure: str = "ttft_p95_s",
    failed: int = 0,
    completed: int = 500,
    problems: tuple[str, ...] = (),
    **facts: object,
) -> LevelData:
    """A level whose figure's logarithm has a normal distribution with this standard error."""
    estimate = Estimate(
        value=value,
        low=None if error is None else value * math.exp(-Z90 * error),
        high=None if error is None else value * math.exp(Z90 * error),
        n=completed,
    )
    point = OperatingPoint(
        target="t", backend="vllm", stage=0, load_kind="concurrency", load=8, in_flight_mean=8,
        completed=completed, failed=failed, censored=0, figures={figure: estimate},
        source="measured", problems=problems,
    )  # fmt: skip
    return LevelData(point=point, **facts)  # type: ignore[arg-type]


def difference(a: LevelData, b: LevelData, figure: str = "ttft_p95_s") -> Difference:
    """One run beside one run."""
    return compare_levels([a], [b], figure)


def test_a_ratio_of_lognormal_estimates_has_its_closed_form() -> None:
    """Ends and p-values are those of the normal distribution of the difference of logarithms."""
    found = difference(level(1.0, 0.03), level(1.2, 0.04))
    error = 0.05
    assert found.relative == pytest.approx(0.2)
    low, high = found.bounds(0.975)
    assert low == pytest.approx(1.2 * math.exp(-1.959964 * error) - 1)
    assert high == pytest.approx(1.2 * math.exp(1.959964 * error) - 1)
    assert found.p_above(1.1) == pytest.approx(stats.norm.sf(math.log(1.2 / 1.1) / error))
    assert found.p_different() == pytest.approx(2 * stats.norm.sf(math.log(1.2) / error))
    assert found.method == "blocks of time"


def test_few_blocks_have_students_t() -> None:
    """Of eleven blocks a side the p-value is that of t with twenty degrees of freedom."""
    scale = float(stats.t.ppf(0.95, 10)) / Z90
    a, b = level(1.0, 0.03 * scale, blocks=11.0), level(1.1, 0.03 * scale, blocks=11.0)
    error = 0.03 * math.sqrt(2)
    assert difference(a, b).p_above(1.0) == pytest.approx(stats.t.sf(math.log(1.1) / error, 20))


def test_each_end_comes_from_the_ends_that_point_its_way() -> None:
    """A long upper tail of A widens the lower end alone (MOVER)."""
    plain = difference(level(1.0), level(1.0)).bounds(0.95)
    tailed = level(1.0)
    estimate = Estimate(value=1.0, low=math.exp(-0.02 * Z90), high=math.exp(0.2 * Z90), n=500)
    tailed.point.figures["ttft_p95_s"] = estimate
    low, high = difference(tailed, level(1.0)).bounds(0.95)
    assert low is not None
    assert plain[0] is not None
    assert low == pytest.approx(math.exp(-Z90 * math.hypot(0.2, 0.02)) - 1)
    assert high == pytest.approx(plain[1])


@given(st.floats(0.5, 2), st.floats(0.001, 0.5), st.floats(0.001, 0.5), st.floats(0.5, 2))
def test_swapping_the_sides_mirrors_everything(
    value: float, error_a: float, error_b: float, ratio: float
) -> None:
    """What is above one way is below the other way, and the ends are each other's inverse."""
    a, b = level(1.0, error_a), level(value, error_b)
    there, back = difference(a, b), difference(b, a)
    assert there.p_above(ratio) == pytest.approx(back.p_below(1 / ratio), abs=1e-9)
    low, high = there.bounds(0.95)
    other_low, other_high = back.bounds(0.95)
    assert low is not None
    assert high is not None
    assert other_low is not None
    assert other_high is not None
    assert 1 + low == pytest.approx(1 / (1 + other_high))
    assert 1 + high == pytest.approx(1 / (1 + other_low))


@given(st.floats(0.5, 2), st.floats(0.001, 0.5), st.floats(0.6, 0.999))
def test_an_interval_and_its_p_value_agree(value: float, error: float, confidence: float) -> None:
    """At the lower end the p-value is exactly the risk."""
    found = difference(level(1.0, error), level(value, error))
    low, high = found.bounds(confidence)
    assert low is not None
    assert high is not None
    assert found.p_above(1 + low) == pytest.approx(1 - confidence, abs=1e-6)
    assert found.p_below(1 + high) == pytest.approx(1 - confidence, abs=1e-6)


def test_more_is_better_only_of_rates() -> None:
    """Twice the throughput is better, twice the latency or the errors is worse."""
    rate = "output_tokens_per_s"
    found = difference(level(100, figure=rate), level(200, figure=rate), rate)
    assert found.verdict(0.1, 0.99) == "better"
    assert difference(level(1.0), level(2.0)).verdict(0.1, 0.99) == "worse"
    assert higher_is_better("goodput_share")
    assert not higher_is_better("error_rate")


def test_verdicts_tell_the_same_from_the_unknown() -> None:
    """Exact runs that differ by 1 % show no 10 %; noisy ones show nothing."""
    assert difference(level(1.0, 0.01), level(1.01, 0.01)).verdict(0.1, 0.99) == "no evidence"
    assert difference(level(1.0, 0.2), level(1.01, 0.2)).verdict(0.1, 0.99) == "inconclusive"
    assert difference(level(1.0, 0.01), level(1.01, 0.01)).verdict(0.0, 0.99) == "no evidence"
    assert difference(level(1.0, 0.2), level(1.3, 0.2)).verdict(0.1, 0.99) == "inconclusive"


def test_holm_adjusts_the_published_example() -> None:
    """The four p-values of R's ``p.adjust`` manual style: .01 .02 .03 .005 times 3, 2, 1 and 4."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_many_figures_are_harder_to_call_worse() -> None:
    """A p-value of 0.5 % is an alarm alone, and none among ten."""
    worse = difference(level(1.0, 0.02), level(math.exp(0.0729), 0.02))
    same = difference(level(1.0, 0.02), level(1.0, 0.02))
    assert worse.p_above(1.0) == pytest.approx(0.005, abs=0.0003)
    assert verdicts([worse], margin=0, confidence=0.99) == ("worse",)
    assert verdicts([worse, *[same] * 9], margin=0, confidence=0.99)[0] == "no evidence"


@pytest.mark.parametrize(("a", "b"), [(3, 12), (0, 9), (7, 7), (5, 0)])
def test_error_rates_have_the_exact_conditional_test(a: int, b: int) -> None:
    """Of equally many requests a side B's failures among all are Binomial(1/2) when alike."""
    found = difference(
        level(1.0, failed=a, completed=1000 - a), level(1.0, failed=b, completed=1000 - b),
        "error_rate",
    )  # fmt: skip
    exact = stats.binomtest(b, a + b, 0.5, alternative="greater").pvalue
    assert found.p_above(1.0) == pytest.approx(exact)
    less = stats.binomtest(b, a + b, 0.5, alternative="less").pvalue
    assert found.p_below(1.0) == pytest.approx(less)
    low, high = found.bounds(0.95)
    assert (low is None, high is None) == (b == 0, a == 0)
    if low is not None:
        assert found.p_above(1 + low) == pytest.approx(0.05)


def test_failures_in_bursts_are_worth_fewer() -> None:
    """Nine failures against none alarm where they are independent, not where they are one burst."""
    a = level(1.0, completed=1000)
    alone = level(1.0, failed=9, completed=991)
    burst = level(1.0, failed=9, completed=991, error_inflation=9.0)
    assert difference(a, alone, "error_rate").verdict(0.1, 0.99) == "worse"
    assert difference(a, burst, "error_rate").verdict(0.1, 0.99) == "inconclusive"


def test_no_errors_on_both_sides_are_no_evidence() -> None:
    """Nothing failed: no interval of a ratio, and nothing to worry about."""
    assert difference(level(1.0), level(1.0), "error_rate").verdict(0.1, 0.99) == "no evidence"


def test_what_cannot_be_compared_says_why() -> None:
    """Without an interval, without the figure, or with a point that failed a gate: inconclusive."""
    bare = difference(level(1.0, None), level(9.0, None))
    assert bare.why is not None
    assert "no evidence is possible" in bare.why
    assert bare.verdict(0.0, 0.9) == "inconclusive"
    assert (bare.a, bare.b) == (1.0, 9.0)
    assert bare.relative == pytest.approx(8.0)
    missing = difference(level(1.0), level(1.0), "itl_p50_s")
    assert missing.why == "A does not report it; B does not report it"
    broken = difference(level(1.0), level(9.0, problems=("not steady",)))
    assert broken.why == "B: not steady"
    assert broken.p_above(1.0) == 1.0
    zero = difference(level(1.0), level(0.0, None))
    assert zero.why is not None
    assert "not above 0" in zero.why


def test_an_open_end_bounds_nothing_on_its_side() -> None:
    """A p99 of A without an upper bound cannot show that B is slower, however slow."""
    a = level(1.0)
    a.point.figures["ttft_p95_s"] = Estimate(value=1.0, low=0.95, high=None, n=50)
    found = difference(a, level(5.0))
    assert found.bounds(0.95)[0] is None
    assert found.verdict(0.1, 0.99) == "inconclusive"
    assert difference(a, level(0.5)).verdict(0.1, 0.99) == "better"


def test_the_scatter_of_runs_counts_where_it_is_wider() -> None:
    """Three exact runs a side that scatter have the p-value of Student's two-sample test."""
    a, b = [0.95, 1.0, 1.05], [1.08, 1.0, 1.12]
    found = compare_levels([level(v, 0.001) for v in a], [level(v, 0.001) for v in b], "ttft_p95_s")
    test = stats.ttest_ind(np.log(b), np.log(a), alternative="greater")
    assert found.p_above(1.0) == pytest.approx(test.pvalue)
    assert found.method == "blocks of time and runs"
    alone = compare_levels([level(1.0, 0.001)], [level(1.06, 0.001)], "ttft_p95_s")
    assert alone.p_above(1.0) < 1e-9


def test_runs_that_agree_by_luck_are_no_surer_than_their_blocks() -> None:
    """Runs with equal values and wide intervals keep the width that their blocks show."""
    found = compare_levels([level(1.0, 0.3)] * 3, [level(1.2, 0.3)] * 3, "ttft_p95_s")
    error = 0.3 * math.sqrt(2 / 3)
    assert found.p_above(1.0) == pytest.approx(stats.norm.sf(math.log(1.2) / error))


def test_enough_runs_need_no_guess_of_what_lasts_within_one() -> None:
    """Of three runs a side the scatter counts, however strong their dependence was taken for."""
    facts: dict[str, Any] = {"inflation": {"ttft": 40.0}, "freedom": {"ttft": 1.0}}
    a, b = [0.95, 1.0, 1.05], [1.3, 1.25, 1.35]
    guessed = compare_levels(
        [level(v, 0.02, **facts) for v in a], [level(v, 0.02, **facts) for v in b], "ttft_p95_s"
    )
    plain = compare_levels([level(v) for v in a], [level(v) for v in b], "ttft_p95_s")
    assert guessed.p_above(1.0) == plain.p_above(1.0)
    lone = compare_levels([level(1.0, **facts)], [level(1.3, **facts)], "ttft_p95_s")
    assert lone.p_above(1.0) > 100 * difference(level(1.0), level(1.3)).p_above(1.0)


@pytest.mark.parametrize(("batches_worth", "left"), [(16, 5.217), (16 / 3, 2.510), (1.5, 1.0)])
def test_an_estimated_correlation_costs_degrees_of_freedom(
    batches_worth: float, left: float
) -> None:
    """Of 16 batches, correlated by 0, 0.5 and 0.83: 2 / (2 / f + 4 / ((1 - r^2) 16)), from 1 on."""
    freedom = {"ttft": batches_worth - 1}
    a, b = (level(value, 0.03, freedom=freedom) for value in (1.0, 1.1))
    z = math.log(1.1) / 0.03 / math.sqrt(2)
    assert difference(a, b).p_above(1.0) == pytest.approx(stats.t.sf(z, 2 * left), rel=2e-3)


def test_tpot_shows_its_own_dependence() -> None:
    """TTFT is never taken for less dependent than the whole; TPOT is judged by itself."""
    case = CASES["bursty arrivals, 2 min"]
    found = [measured(case, 1.0, seed).freedom for seed in (0, 24, 27)]
    assert all(freedom["ttft"] <= freedom["e2e"] for freedom in found)
    assert any(freedom["tpot"] > freedom["e2e"] for freedom in found)


def test_repeats_without_intervals_are_compared_by_their_scatter() -> None:
    """Three imported runs a side, each a bare mean, are what Student's test is for."""
    a, b = [0.95, 1.0, 1.05], [1.3, 1.25, 1.35]
    found = compare_levels([level(v, None) for v in a], [level(v, None) for v in b], "ttft_p95_s")
    test = stats.ttest_ind(np.log(b), np.log(a), alternative="greater")
    assert found.p_above(1.0) == pytest.approx(test.pvalue)
    assert (found.method, found.why) == ("runs", None)


def test_needed_length_is_that_of_the_normal_power_formula() -> None:
    """Errors of 0.1 find 20 % beyond 10 % after (3.29 x 0.1 / log(1.2/1.1))^2 times the length.

    Beyond a narrow margin it takes longest to find that there is a slowdown at all.
    """
    found = difference(level(1.0, 0.1), level(1.0, 0.0))
    asked = (1.644854 + 1.644854) * 0.1 / math.log(1.2 / 1.1)
    assert found.needed_times(0.1, 0.99, 0.2) == pytest.approx(asked**2, rel=1e-5)
    asked = (2.326348 + 1.644854) * 0.1 / math.log(1.2)
    assert found.needed_times(0.01, 0.99, 0.2) == pytest.approx(asked**2, rel=1e-5)
    assert found.needed_times(0.1, 0.99, 0.1) is None


@given(st.floats(-1.0, 1.0), st.floats(0.005, 0.5))
def test_worse_is_no_chance_and_beyond_the_margin(change: float, error: float) -> None:
    """Worse by over 10 %: 2.33 standard errors from nothing, and 1.64 from the margin."""
    found = difference(level(1.0, 0.0), level(math.exp(change), error))
    beyond = math.log(1.1)
    told = found.verdict(0.1, 0.99)
    assert (told == "worse") == (change > max(2.326348 * error, beyond + 1.644854 * error))
    assert (told == "better") == (-change > max(2.326348 * error, beyond + 1.644854 * error))
    assert (told == "no evidence") == (abs(change) + 1.644854 * error < beyond)


def test_an_unchanged_server_seldom_fails_and_one_on_the_bound_seldom() -> None:
    """Of exact normal figures: six with no change fail in 1 %, one on the bound in 5 %, at most."""
    rng = np.random.default_rng(4)
    for error in (0.02, 0.1, 0.5):
        alarms = [
            "worse"
            in verdicts(
                [difference(level(1.0, 0.0), level(math.exp(x), error)) for x in row],
                margin=0.1,
                confidence=0.99,
            )
            for row in rng.normal(0, error, (400, 6))
        ]
        assert np.mean(alarms) <= 0.02
        on_it = math.log(1.1) + rng.normal(0, error, 2000)
        found = [difference(level(1.0, 0.0), level(math.exp(x), error)) for x in on_it]
        assert np.mean([one.verdict(0.1, 0.99) == "worse" for one in found]) <= 0.062


def test_a_level_survives_json() -> None:
    """A stored baseline compares as the level that it was made of."""
    import msgspec

    data = level(1.0, blocks=12.0, freedom={"ttft": 5.0}, inflation={"ttft": 2.0})
    stored = msgspec.json.decode(msgspec.json.encode(data), type=LevelData)
    assert difference(stored, level(1.1)) == difference(data, level(1.1))


def test_an_autoregressions_mean_is_as_uncertain_as_theory_says() -> None:
    """The variance of the mean of an AR(1) series of 0.8: 1 / (1 - 0.8)^2 / n, within a factor."""
    rng = np.random.default_rng(1)
    n, ratios = 1000, []
    for _ in range(100):
        series = signal.lfilter([1], [1, -0.8], rng.normal(size=n + 200))[200:]
        found = long_run(np.asarray(series))
        assert found is not None
        ratios.append(found.variance * n * (1 - 0.8) ** 2)
    assert 1.0 < np.median(ratios) < 2.2


def test_short_or_constant_series_say_nothing() -> None:
    """Below six batches of five, or without variation, there is no variance to state."""
    assert long_run(np.arange(29.0)) is None
    assert long_run(np.ones(500)) is None
    assert long_run(np.random.default_rng(1).normal(size=30)) is not None


def test_false_alarms_are_held_on_autocorrelated_runs() -> None:
    """Of 200 pairs of the same server at most 2 fail a 10 % rule, and one in twelve looks slower.

    The server's speed drifts over seconds within runs of thirty. Blocks of time alone alarm in
    ten times as many pairs as they should.
    """
    case = CASES["autocorrelated, 30 s"]
    levels = [measured(case, 1.0, seed) for seed in range(101)]
    figures = ("ttft_p50_s", "ttft_p95_s", "e2e_mean_s", "e2e_p95_s", "requests_per_s")
    pairs = [(i, (i + step) % 101) for step in (1, 7) for i in range(101)][:200]
    alarms = slower = 0
    for i, j in pairs:
        found = [compare_levels([levels[i]], [levels[j]], figure) for figure in figures]
        alarms += "worse" in verdicts(found, margin=0.1, confidence=0.99)
        slower += found[2].p_above(1.0) <= 0.05
    assert alarms <= 2
    assert slower <= 200 / 12


def test_a_slowdown_is_found_or_not_passed() -> None:
    """A fifth slower: two minutes find it, and no pair passes a 10 % rule of the mean."""
    case = CASES["independent, 2 min"]
    found = []
    for seed in range(10):
        a, b = measured(case, 1.0, 2 * seed), measured(case, 1.2, 2 * seed + 1)
        found.append(compare_levels([a], [b], "e2e_mean_s").verdict(0.1, 0.99))
    assert found.count("worse") >= 9
    assert "no evidence" not in found
