"""Operating points against closed forms, by hand-made runs, and their gates and replicates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from planner.summary import QUANTILE_LEVELS, level_samples, operating_points
from planner.uncertainty import needed_for_percentile
from tests.planner.examples import closed_loop, request, run_of, stage

if TYPE_CHECKING:
    from planner.records import OperatingPoint, RequestRecord


def regular(
    users: int = 2, rounds: int = 100, seconds: float = 1.0, **changes: Any
) -> list[RequestRecord]:
    """Users whose requests all take the same time, evenly shifted against each other."""
    return [
        request(
            (r + u / users) * seconds,
            (r + 1 + u / users) * seconds,
            id=r * users + u,
            user=u,
            **changes,
        )
        for r in range(rounds)
        for u in range(users)
    ]


def only(rows: list[RequestRecord], load: float, end: float, **changes: Any) -> OperatingPoint:
    """The operating point of a single stage."""
    quantiles = changes.pop("quantiles", ())
    errors = changes.pop("errors", None)
    run = run_of(rows, stage(load, end=end, **changes), errors=errors)
    (point,) = operating_points(run, quantiles=quantiles)
    return point


def test_a_clockwork_server_gives_its_exact_figures() -> None:
    """Two users, one second per request of 11 tokens: 2 req/s, 22 tok/s, known latencies."""
    point = only(regular(), 2, 100.0, quantiles=(0.95,))
    assert point.problems == ()
    assert point.in_flight_mean == pytest.approx(2)
    values = {name: figure.value for name, figure in point.figures.items()}
    assert values["requests_per_s"] == pytest.approx(2, rel=0.02)
    assert values["output_tokens_per_s"] == pytest.approx(22, rel=0.02)
    assert values["error_rate"] == 0
    for statistic in ("mean", "p50", "p90", "p95"):
        assert values[f"ttft_{statistic}_s"] == pytest.approx(0.1)
        assert values[f"tpot_{statistic}_s"] == pytest.approx(0.09)
        assert values[f"itl_{statistic}_s"] == pytest.approx(0.09)
        assert values[f"e2e_{statistic}_s"] == pytest.approx(1.0)
    assert point.prompt_tokens_mean == 64
    assert point.output_tokens_mean == 11
    assert (point.completed, point.failed, point.censored) == (197, 0, 0)


def test_a_closed_queue_meets_its_closed_form() -> None:
    """M/M/c//N with think time: X and R by the birth-death chain lie in the intervals."""
    users, slots, think = 12, 3, 5.0
    n = np.arange(users + 1)
    rates = np.minimum(n[1:], slots)
    log_p = np.concatenate([[0.0], np.cumsum(np.log((users - n[:-1]) / think / rates))])
    p = np.exp(log_p - special.logsumexp(log_p))
    busy, in_flight = float(p @ np.minimum(n, slots)), float(p @ n)
    rows = closed_loop(users, slots, 3000.0, np.random.default_rng(5), think_time_s=think)
    point = only(rows, users, 3000.0, load_kind="users", think_time_s=think)
    assert point.problems == ()
    x, r = point.figures["requests_per_s"], point.figures["e2e_mean_s"]
    assert x.low is not None
    assert x.high is not None
    assert x.low < busy < x.high
    assert (r.low or 0) < in_flight / busy < (r.high or 0)
    assert x.value == pytest.approx(busy, rel=0.03)
    assert point.in_flight_mean == pytest.approx(in_flight, rel=0.08)


def test_tokens_are_counted_where_they_are_made() -> None:
    """Ten-second requests cut at both edges: tokens per second are exact all the same."""
    rows = regular(users=4, rounds=20, seconds=10.0)
    cut = [
        msgspec.structs.replace(
            r, ended_s=153.0, output_tokens=None, gaps_s=b"", status="cancelled"
        )
        if r.ended_s > 153.0
        else r
        for r in rows
        if r.sent_s < 152.0
    ]
    point = only(cut, 4, 153.0)
    # 11 tokens per 9 s of decoding, in 9 of 10 s: the first token comes at the start of the nine.
    assert point.figures["output_tokens_per_s"].value == pytest.approx(4 * 1.1, rel=0.02)


def test_unreported_tokens_are_absent_not_zero() -> None:
    """Without token counts there is no TPOT and no token rate."""
    point = only(regular(output_tokens=None, prompt_tokens=None), 2, 100.0)
    assert "output_tokens_per_s" not in point.figures
    assert not any(name.startswith("tpot") for name in point.figures)
    assert point.output_tokens_mean is None
    assert point.problems == ()


def test_a_percentile_beyond_the_sample_has_an_open_end() -> None:
    """With 197 answers p95 has both ends and p99 has no upper one."""
    figures = only(regular(), 2, 100.0).figures
    assert figures["ttft_p95_s"].high is not None
    assert figures["ttft_p99_s"].low is not None
    assert figures["ttft_p99_s"].high is None


def test_gaps_of_one_request_are_one_observation() -> None:
    """ITL intervals rest on requests: 11 gaps each do not make a sample 11 times as large."""
    figures = only(regular(rounds=40), 2, 40.0).figures
    assert figures["itl_p95_s"].n == figures["ttft_p95_s"].n
    assert figures["itl_p99_s"].high is None


def failing(
    rows: list[RequestRecord], every: int, status: str, **changes: Any
) -> list[RequestRecord]:
    """The same requests with every so-manieth gone wrong."""
    wrong = {"status": status, "output_tokens": None, "gaps_s": b"", "first_token_s": None}
    return [
        msgspec.structs.replace(row, **(wrong | changes)) if i % every == 0 else row
        for i, row in enumerate(rows)
    ]


def test_errors_have_no_latency_and_a_gate() -> None:
    """Failures count in the error rate, not in the latencies, and 1 % of them is too much."""
    rows = failing(regular(), 10, "error", error_kind="http_503")
    point = only(rows, 2, 100.0, errors={0: {"http_503": 20, "re\nset": 1}})
    assert point.failed == 19
    assert point.figures["error_rate"].value == pytest.approx(0.1, rel=0.05)
    assert point.figures["ttft_p50_s"].n == point.completed
    assert "http_503 20, 're\\nset' 1), the bound is 1%" in point.problems[0]
    assert "\n" not in "".join(point.problems)


def test_timeouts_rank_last_and_are_never_dropped() -> None:
    """With 10 % timeouts the p50 stands, p95 is unknown, and asking for p95 is refused."""
    rows = failing(regular(), 10, "timeout")
    point = only(rows, 2, 100.0, quantiles=(0.95,))
    assert point.censored == 19
    assert "e2e_p50_s" in point.figures
    assert "e2e_p95_s" not in point.figures
    assert "ttft_p95_s" not in point.figures
    assert any("p95 lies among 19 requests that timed out" in line for line in point.problems)
    assert point.figures["ttft_p90_s"].high is None


def test_cancelled_requests_are_in_flight_but_no_failures() -> None:
    """What the driver cut off at the end counts as load only."""
    rows = [*regular(), request(90.0, 100.0, user=0, status="cancelled", output_tokens=None)]
    point = only(rows, 2, 100.0)
    assert point.failed == point.censored == 0
    assert point.in_flight_mean is not None
    assert point.in_flight_mean > 2.05


@pytest.mark.parametrize(
    ("rows", "changes", "problem"),
    [
        (regular(), {"invalid": "the client was the limit"}, "the client was the limit"),
        (regular(rounds=15), {"end": 15.0}, "27 answers are too few where it takes 30: measure"),
        (regular(rounds=20), {"end": 20.0, "quantiles": (0.95,)}, "37 answers are too few for p95"),
        (
            regular(),
            {"load": 1},
            r"1.99 requests in flight instead of 1 |2 requests in flight instead",
        ),
        (regular(), {"load": 3}, "1 of 3 users have not finished a request yet"),
        ([], {}, "no request was answered"),
        ([], {}, "no request has ended yet"),
    ],
)
def test_each_gate_speaks(rows: list[RequestRecord], changes: dict[str, Any], problem: str) -> None:
    """A stage that must not be used says why, with the value and the bound."""
    point = only(rows, **({"load": 2, "end": 100.0} | changes))
    assert not point.usable
    assert any(re.search(problem, line) for line in point.problems)


def test_littles_law_refuses_a_load_that_was_not_there() -> None:
    """A window short beside its requests fails: two rounds in lock-step and a half."""
    rows = [request(r * 10.0, r * 10 + 9.9 + u / 1e3, user=u) for r in range(3) for u in range(40)]
    rows += [request(30.0, 35.0, user=u, status="cancelled") for u in range(40)]
    point = only(rows, 40, 35.0)
    assert any(line.startswith("Little's law fails: X·R is") for line in point.problems)


def test_think_time_is_part_of_the_load() -> None:
    """Users who think are held to N = X (R + Z); half of the users missing is noticed."""
    rng = np.random.default_rng(8)
    rows = closed_loop(20, 20, 500.0, rng, think_time_s=9.0)
    good = only(rows, 20, 500.0, load_kind="users", think_time_s=9.0)
    assert good.problems == ()
    wrong = only(rows, 20, 500.0, load_kind="users", think_time_s=3.0)
    assert any("users instead of 20" in line for line in wrong.problems)


def test_a_killed_stage_ends_with_its_last_request() -> None:
    """Without an end the last thing that happened is the end."""
    (point,) = operating_points(run_of(regular(), stage(2, end=None)))
    assert point.window_end_s == 100.5


def test_a_server_that_stops_is_not_as_fast_as_it_was() -> None:
    """Silence until the stage's end is part of the time."""
    point = only(regular(users=1), 1, 200.0)
    assert point.figures["requests_per_s"].value == pytest.approx(99 / 199)


def test_the_order_of_the_records_does_not_matter() -> None:
    """A run whose workers' records lie in any order gives the same figures and intervals."""
    rows = closed_loop(4, 2, 100.0, np.random.default_rng(1))
    mixed = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))]
    for name, figure in only(rows, 4, 100.0).figures.items():
        other = only(mixed, 4, 100.0).figures[name]
        assert (other.value, other.low) == pytest.approx((figure.value, figure.low)), name


def test_the_same_run_gives_the_same_intervals() -> None:
    """The bootstrap is seeded by the run."""
    run = run_of(closed_loop(4, 2, 100.0, np.random.default_rng(1)), stage(4, end=100.0))
    assert operating_points(run) == operating_points(run)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 1000))
def test_replicates_start_with_the_sample_and_keep_their_order(
    users: int, slots: int, seed: int
) -> None:
    """Row 0 is the point itself; quantiles never fall along the levels; rates are positive."""
    rows = closed_loop(users, slots, 60.0, np.random.default_rng(seed))
    run = run_of(rows, stage(users, end=60.0))
    (sample,) = level_samples(run, draws=20, rng=np.random.default_rng(0))
    figures = sample.point.figures
    assert sample.requests_per_s[0] == pytest.approx(figures["requests_per_s"].value)
    assert sample.output_tokens_per_s[0] == pytest.approx(figures["output_tokens_per_s"].value)
    for metric, found in sample.quantiles.items():
        assert found.shape == (21, len(QUANTILE_LEVELS))
        assert (np.diff(found, axis=1) >= 0).all()
        assert sample.means[metric][0] == pytest.approx(figures[f"{metric}_mean_s"].value)
        for percent in (50, 90, 95):
            at = int(np.flatnonzero(percent / 100 == QUANTILE_LEVELS)[0])
            assert found[0, at] == pytest.approx(figures[f"{metric}_p{percent}_s"].value)
    assert (sample.requests_per_s > 0).all()


def test_replicates_of_a_large_stage_are_binned_but_faithful() -> None:
    """50,000 requests go through cells and bins: quantiles and their spread are the exact ones."""
    rng = np.random.default_rng(9)
    times = rng.exponential(size=50_000)
    rows = [request(i * 1.0, i + float(t), id=i, gaps_s=b"") for i, t in enumerate(times)]
    run = run_of(rows, stage(1, end=50_001.0, load_kind="rate"))
    (sample,) = level_samples(run, draws=200, rng=rng)
    e2e = sample.quantiles["e2e"]
    exact = np.quantile(times, QUANTILE_LEVELS, method="inverted_cdf")
    assert e2e[0] == pytest.approx(exact, rel=0.01)
    at = int(np.flatnonzero(QUANTILE_LEVELS == 0.95)[0])
    # The standard error of a sample quantile is sqrt(q (1 - q) / n) / f(x_q), f the density.
    expected = np.sqrt(0.95 * 0.05 / 50_000) / 0.05
    assert e2e[1:, at].std() == pytest.approx(expected, rel=0.3)


def test_metrics_of_one_replicate_come_from_the_same_requests() -> None:
    """Where E2E is ten times TTFT in every request, it is so in every replicate's mean."""
    run = run_of(closed_loop(2, 2, 100.0, np.random.default_rng(3)), stage(2, end=100.0))
    (sample,) = level_samples(run, draws=50, rng=np.random.default_rng(1))
    assert sample.means["e2e"] == pytest.approx(10 * sample.means["ttft"])
    assert sample.means["e2e"][1:].std() > 0


def test_intervals_of_throughput_cover_the_truth() -> None:
    """Of 60 short closed loops of known throughput, the 90 % intervals hold it in at least 46."""
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(60):
        point = only(closed_loop(4, 4, 60.0, rng), 4, 60.0)
        x = point.figures["requests_per_s"]
        hits += (x.low or 0) <= 4 <= (x.high or np.inf)
    assert hits >= 46


def test_needed_answers_bound_the_percentile_in_the_point() -> None:
    """The gate and the interval agree: with just enough answers the upper end is there."""
    needed = needed_for_percentile(0.95)
    for answers, open_end in ((needed, False), (needed - 1, True)):
        rows = regular(users=1, rounds=answers + 1)
        point = only(rows, 1, answers + 1.0, quantiles=(0.95,))
        assert point.completed == answers
        assert (point.figures["ttft_p95_s"].high is None) == open_end
        assert bool(point.problems) == open_end
