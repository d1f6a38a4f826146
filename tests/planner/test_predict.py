"""Predictions for users who think, against an event simulation apart from the planner."""

from __future__ import annotations

import functools
import heapq
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.curves import latency_curve, throughput_curve
from planner.model_error import draw_model_error
from planner.pooling import evidence_of
from planner.predict import Load, Replica
from planner.question import Question
from planner.records import Demand, Slo
from planner.staffing import replica_of
from planner.summary import QUANTILE_LEVELS
from planner.units import parse_slo
from tests.planner.synthetic import batching_server, level, target

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.summary import LevelSample

Array = npt.NDArray[np.float64]


def simulate(
    users: int,
    think_time_s: float,
    pace: Callable[[int], float],
    rng: np.random.Generator,
    requests: int,
) -> tuple[Array, float]:
    """Response times and throughput of a server that works on all n requests at once, equally.

    Every request progresses at ``pace(n)`` per second and needs 0.5 to 1.5 units of progress.
    """
    now, progress = 0.0, 0.0
    thinking = [(rng.exponential(think_time_s), user) for user in range(users)]
    heapq.heapify(thinking)
    serving: list[tuple[float, int]] = []
    sent: dict[int, float] = {}
    responses: list[float] = []
    while len(responses) < requests:
        n = len(serving)
        end = now + (serving[0][0] - progress) / pace(n) if n else np.inf
        if thinking and thinking[0][0] <= end:
            arrival, user = heapq.heappop(thinking)
            progress += (arrival - now) * pace(n) if n else 0.0
            now = sent[user] = arrival
            heapq.heappush(serving, (progress + rng.uniform(0.5, 1.5), user))
        else:
            progress, user = heapq.heappop(serving)
            now = end
            responses.append(now - sent[user])
            heapq.heappush(thinking, (now + rng.exponential(think_time_s), user))
    return np.array(responses[requests // 10 :]), requests / now


def pace(n: int) -> float:
    """A linear step time: progress per second of each of n requests."""
    return 1 / (0.4 + 0.05 * n)


@pytest.fixture(scope="module")
def simulated() -> Replica:
    """A replica known from simulated closed loops at six levels."""
    rng = np.random.default_rng(7)
    curve = []
    for n in (1, 2, 4, 8, 16, 32):
        responses, rate = simulate(n, 0.0, pace, rng, 6000)
        quantile = functools.partial(np.quantile, responses)
        curve.append(level(n, rate, quantile, noise=0.01))
    return replica(curve)


def replica(
    curve: Sequence[LevelSample], thinking: Sequence[LevelSample] = (), *, slots: int | None = None
) -> Replica:
    """A replica with a fixed stream of randomness."""
    return Replica(
        curve,
        thinking,
        quantile_levels=QUANTILE_LEVELS,
        slots=slots,
        rng=np.random.default_rng(3),
    )


@pytest.mark.parametrize(
    ("users", "think_time_s"), [(5, 2.0), (20, 10.0), (60, 10.0), (100, 10.0), (40, 2.0)]
)
def test_think_time_matches_simulation(simulated: Replica, users: int, think_time_s: float) -> None:
    """Throughput, mean and percentiles predicted from closed loops are those simulated."""
    responses, rate = simulate(users, think_time_s, pace, np.random.default_rng(11), 12_000)
    load = Load(users, think_time_s)
    assert float(simulated.requests_per_s(load)[0]) == pytest.approx(rate, rel=0.03)
    for figure, truth in (
        ("e2e_mean_s", responses.mean()),
        ("e2e_p50_s", np.quantile(responses, 0.5)),
        ("e2e_p95_s", np.quantile(responses, 0.95)),
    ):
        found = simulated.predict(load, figure)
        assert found.label == "interpolated"
        assert found.value == pytest.approx(truth, rel=0.06)
        assert found.low is not None
        assert found.high is not None
        assert found.low * 0.98 <= truth <= found.high * 1.02


def test_measured_level_is_itself() -> None:
    """At a measured concurrency the figure is the measured quantile, and labelled so."""
    curve = batching_server()
    found = replica(curve).predict(Load(16, 0.0), "ttft_p95_s")
    assert found.label == "measured"
    assert found.value == pytest.approx(0.82 * (0.8 + 0.4 * 0.95), rel=1e-4)


@pytest.mark.parametrize(
    ("users", "think", "slots", "label"),
    [
        (64, 0.0, None, "measured"),
        (62, 0.0, None, "measured"),
        (48, 0.0, None, "interpolated"),
        (100, 0.0, None, "extrapolated"),
        (128, 0.0, None, "extrapolated"),
        (129, 0.0, None, "refused"),
        (100, 0.0, 64, "refused"),  # beyond the slots requests wait: no level shows that
        (100, 0.0, 100, "extrapolated"),
        (20, 10.0, None, "interpolated"),
        (1, 10.0, None, "interpolated"),
        (5000, 10.0, None, "refused"),
    ],
)
def test_labels(users: int, think: float, slots: int | None, label: str) -> None:
    """Every load carries the label of its distance from the evidence."""
    assert replica(batching_server(), slots=slots).label(Load(users, think)) == label


def test_doubt_grows_with_the_gap() -> None:
    """The interval is that of the noise at a level, and wider the wider the gap around a load."""

    def width(levels: tuple[int, ...]) -> float:
        found = replica(batching_server(levels, noise=0.001)).predict(Load(16, 0.0), "ttft_p95_s")
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width((1, 16, 64)) < 0.01 < width((1, 12, 20, 64)) < width((1, 8, 32)) < width((1, 128))


def test_below_the_lowest_level_is_a_bound() -> None:
    """Below the lowest level its latency stands, as an extrapolation."""
    found = replica(batching_server((8, 16))).predict(Load(2, 0.0), "ttft_p95_s")
    assert found.label == "extrapolated"
    assert found.value == pytest.approx(0.66 * 1.18, rel=1e-4)


def test_users_with_think_time_measured_directly() -> None:
    """A stage with the same users and think time is the evidence, whatever the curve says."""
    direct = level(
        50, 4.0, lambda share: 3.0 + share, load_kind="users", think_time_s=10.0, noise=0.01
    )
    known = replica(batching_server(), [direct])
    found = known.predict(Load(50, 10.0), "ttft_p95_s")
    assert found.label == "measured"
    assert found.value == pytest.approx(3.95, rel=1e-4)
    assert known.label(Load(50, 20.0)) == "interpolated"


def test_percentile_without_enough_requests_is_refused() -> None:
    """A p99 from 60 requests has no upper bound, so it is not told."""
    known = replica(batching_server(completed=60))
    assert known.predict(Load(12, 0.0), "ttft_p99_s").label == "refused"
    assert known.predict(Load(12, 0.0), "ttft_p95_s").value is not None


@given(users=st.integers(1, 300), more=st.integers(1, 50), bound=st.floats(0.3, 5))
@settings(max_examples=12, deadline=None)
def test_met_agrees_with_the_figure(users: int, more: int, bound: float) -> None:
    """An objective is met in just the draws whose figure is within it; more users feel more."""
    known, objective = KNOWN, Slo(figure="ttft_p95_s", op="<=", bound=bound, text="x")
    values = known.figure(Load(users, 5.0), "ttft_p95_s")
    clear = np.abs(values / bound - 1) > 1e-4
    assert (known.met(Load(users, 5.0), objective) == (values <= bound))[clear].all()
    assert known.figure(Load(users + more, 5.0), "ttft_p95_s")[0] >= values[0] * (1 - 1e-6)


KNOWN = replica(batching_server())


def test_model_error_fills_the_band() -> None:
    """Nine in ten draws lie in the curve's 90 % band, half within its median, all at a level."""
    error = draw_model_error(20_000, np.random.default_rng(0))
    curve = latency_curve([1, 4, 16], np.tile([1.0, 2.0, 9.0], (20_001, 1)), metric="ttft")
    n = np.array([1.0, 4.0, 16.0, 24.0])
    logs, band = curve.log_with_band(n)
    off = np.abs(error.perturbed("ttft", curve, n) - logs)
    assert off[:, :3].max() == pytest.approx(0, abs=1e-12)
    assert off[0, 3] == 0
    assert (off[1:, 3] <= band[3]).mean() == pytest.approx(0.9, abs=0.01)
    median = curve.family.beyond.bands.median_share * band[3]
    assert (off[1:, 3] <= median).mean() == pytest.approx(0.5, abs=0.015)


def test_model_error_stays_between_the_neighbours() -> None:
    """Between two levels a draw stays within what they gave; beyond the top it is free."""
    error = draw_model_error(2000, np.random.default_rng(0))
    curve = latency_curve([1, 64], np.tile([1.0, 2.0], (2001, 1)), metric="ttft")
    moved = error.perturbed("ttft", curve, [8, 128])
    assert np.log(1) - 0.051 < moved[:, 0].min() < np.log(1.1)
    assert np.log(1.9) < moved[:, 0].max() < np.log(2) + 0.051
    assert moved[:, 1].max() > np.log(3)


def test_model_error_obeys_littles_law() -> None:
    """At a given concurrency a higher throughput means a shorter response, draw by draw."""
    error = draw_model_error(50, np.random.default_rng(0))
    served = throughput_curve([1, 16], np.tile([1.0, 9.0], (51, 1)))
    taken = latency_curve([1, 16], np.tile([1.0, 2.0], (51, 1)), metric="e2e")
    more = error.perturbed("throughput", served, [24.0]) - served.log_with_band([24.0])[0]
    longer = error.perturbed("e2e", taken, [24.0]) - taken.log_with_band([24.0])[0]
    assert (np.sign(more) == -np.sign(longer)).all()
    assert np.abs(more[1:]).min() > 0


def test_error_rate_is_the_worse_neighbours() -> None:
    """No failures among 500 requests leave a small posterior rate, none in the sample itself."""
    rate = KNOWN.figure(Load(12, 0.0), "error_rate")
    assert rate[0] == 0
    assert 0 < rate[1:].mean() < 0.01


def test_bands_beyond_the_levels_are_those_of_the_engines_family() -> None:
    """llama.cpp's published curves miss by more than those of serving engines: wider beyond."""
    curve = batching_server((1, 2, 4, 8), noise=1e-3)
    question = Question(
        demand=Demand(users=14),
        slo=(parse_slo("tpot_p95<=10s"),),
        confidence=0.9,
        spare=None,
        gpu_cost={},
    )
    spreads = {}
    for backend in ("vllm", "llamacpp"):
        facts = msgspec.structs.replace(target(), backend=backend)
        found = replica_of(facts, evidence_of(curve), question, rng=np.random.default_rng(1))
        spreads[backend] = np.log(found.requests_per_s(Load(14, 0.0))).std()
    assert spreads["llamacpp"] > 1.1 * spreads["vllm"]
