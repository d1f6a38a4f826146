"""TTFT across the concurrency from which requests wait for a slot."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.backtest import by_ensemble, errors_of
from planner.curves import latency_curve
from planner.points import read_curves
from planner.predict import Load, Replica
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers
from planner.steptime import StepTime
from planner.summary import QUANTILE_LEVELS
from planner.waiting import Occupancy, queue_of
from tests.planner.simulated_runs import lengths
from tests.planner.synthetic import level

Array = npt.NDArray[np.float64]

REFERENCE = Path(__file__).parent.parent / "reference" / "curves.csv"
SLOTS, TOKENS, PREFILL_S = 40, 100, 0.05
N = np.array([4.0, 16.0, 64.0])


def step_s(n: Array) -> Array:
    """Of an engine whose slots decode a linear step time."""
    return np.asarray(0.01 + 0.0005 * np.minimum(n, SLOTS))


def ttft_s(n: Array) -> Array:
    """One step, a prefill that steps slow down, and the wait for a slot: (N - S)/X."""
    rate = SLOTS / (TOKENS * step_s(n))
    return np.asarray(PREFILL_S + step_s(n) + np.maximum(n - SLOTS, 0) / rate)


def occupancy(n: Array) -> Occupancy:
    """Exactly what such an engine shows."""
    return Occupancy(decoding=np.minimum(n, SLOTS), step=step_s(n))


def test_a_knee_between_levels_is_found() -> None:
    """Three levels around 40 slots: within 15 % on both sides, where a smooth curve errs."""
    n = np.array([8, 24, 32, 40, 44, 56.0])
    drawn = latency_curve(N, ttft_s(N)[None], metric="ttft", occupancy=occupancy(N))(n)[0]
    assert drawn == pytest.approx(ttft_s(n), rel=0.15)
    smooth = latency_curve(N, ttft_s(N)[None], metric="ttft")(n)[0]
    assert smooth[2] > 3 * ttft_s(n)[2]


def test_the_wait_goes_on_beyond_the_levels() -> None:
    """Twice the top level: the queue is three times as long, and so is the wait."""
    n = np.array([96.0, 128.0])
    drawn = latency_curve(N, ttft_s(N)[None], metric="ttft", occupancy=occupancy(N))(n)[0]
    assert drawn == pytest.approx(ttft_s(n), rel=0.1)


def test_queue_by_hand() -> None:
    """At 64 in flight 40 decode: the step went from 20 to 30 ms, so 0.15 s of 3 s is no waiting."""
    found = queue_of(
        np.array([16.0, 64.0]),
        np.log([[0.1, 3.0]]),
        Occupancy(decoding=np.array([16.0, 40.0]), step=np.array([20.0, 30.0])),
    )
    assert found.slots == pytest.approx([40])
    assert np.exp(found.rest) == pytest.approx(np.array([[0.1, 0.15]]))
    assert found.waits == pytest.approx(np.array([[0.0, 2.85]]))
    n = np.array([32.0, 40.0, 52.0, 64.0, 88.0])
    assert np.exp(found.log_wait(n)) == pytest.approx(np.array([[0, 0, 1.425, 2.85, 5.7]]))


@pytest.mark.parametrize(
    ("logs", "decoding", "step"),
    [
        (np.log([0.1, 0.16]), [16.0, 40.0], [1.0, 1.0]),  # no jump
        (np.log([0.1, 3.0]), [16.0, 40.0], [1.0, 20.0]),  # as the steps do
        (np.log([0.1, 3.0]), [16.0, 62.0], [1.0, 1.0]),  # nearly all decode
        (np.log([0.1, 3.0]), [10.0, 40.0], [1.0, 1.0]),  # no larger a share of them waits
        (np.log([0.1, 3.0]), [40.0, 40.0], [1.0, 1.0]),  # more decode than are in flight
    ],
)
def test_what_is_no_queue(logs: Array, decoding: list[float], step: list[float]) -> None:
    """Without each of the signs the curve is drawn as before."""
    seen = Occupancy(decoding=np.array(decoding), step=np.array(step))
    found = queue_of(np.array([16.0, 64.0]), logs[None], seen)
    assert np.isinf(found.slots).all()
    assert found.rest == pytest.approx(logs[None])
    assert np.isneginf(found.log_wait(np.array([32.0, 64.0, 128.0]))).all()


positive = st.floats(1e-3, 1e3)


@given(
    st.lists(positive, min_size=4, max_size=4),
    st.lists(positive, min_size=4, max_size=4),
    st.lists(st.floats(0.01, 1.2), min_size=4, max_size=4),
)
@settings(deadline=None, max_examples=100)
def test_any_figures_give_a_curve_through_the_levels(
    values: list[float], step: list[float], share: list[float]
) -> None:
    """Whatever is claimed: every level is kept, and nothing between leaves its neighbours."""
    levels = np.array([2.0, 8.0, 32.0, 128.0])
    seen = Occupancy(decoding=levels * share, step=np.array(step))
    curve = latency_curve(levels, [values], metric="ttft", occupancy=seen)
    assert curve(levels)[0] == pytest.approx(values)
    n = np.array([3, 5, 16, 24, 64, 100.0])
    drawn, band = curve.log_with_band(n)
    at = np.log(np.repeat([np.sort(values[i : i + 2]) for i in range(3)], 2, axis=0))
    assert (drawn[0] >= at[:, 0] - 1e-9).all()
    assert (drawn[0] <= at[:, 1] + 1e-9).all()
    assert (band >= 0).all()
    assert np.isfinite(curve([256.0])).all()


def test_published_queues_are_predicted_better() -> None:
    """With what the other columns tell the worst errors shrink; without them it still works."""
    curves, _ = read_curves(REFERENCE.read_text().splitlines(), "ttft")
    blind = [replace(curve, occupancy=None) for curve in curves]
    assert any(curve.occupancy is not None for curve in curves)
    for split in ("leave-one-out", "spread3"):
        seeing, without = (errors_of(by_ensemble(c, split, "ttft")) for c in (curves, blind))
        assert seeing.p90_ape is not None
        assert without.p90_ape is not None
        assert seeing.p90_ape <= without.p90_ape


def simulated(n: int) -> tuple[float, Array, float, float]:
    """Requests/s, quantiles and mean of the TTFT, and TPOT of a simulated engine of 40 slots."""
    step = StepTime(
        base_s=0.016, per_sequence_s=4e-4, per_context_token_s=1.5e-6, per_prompt_token_s=2e-5
    )
    engine = Engine(step=step, slots=SLOTS, batch_tokens=2048 + SLOTS)
    population = lengths(np.random.default_rng(99), 2.0)
    rng = np.random.default_rng(n)
    source = ClosedUsers(n, 0.0, population, requests=12 * n + 300, rng=rng)
    done = simulate(engine, source, rng=rng)
    start, end = np.quantile(done.ended_s, [0.3, 0.9])
    kept = (done.ended_s > start) & (done.ended_s <= end)
    ttft = (done.first_token_s - done.arrival_s)[kept]
    spent = (done.ended_s - done.first_token_s)[kept] / (done.output_tokens[kept] - 1)
    return float(kept.sum() / (end - start)), ttft, float(ttft.mean()), float(spent.mean())


def test_a_simulated_engine_with_slots() -> None:
    """Levels on both sides of 40 slots: medians of the TTFT between them within a fifth.

    The engine is simulated step by step, with prompts that take time and lengths that differ.
    """
    curve = []
    for n in (4, 16, 64):
        rate, ttft, mean, tpot = simulated(n)
        sample = level(n, rate, functools.partial(np.quantile, ttft), noise=0.01, draws=20)
        means = {"ttft": np.full(21, mean), "tpot": np.full(21, tpot)}
        curve.append(replace(sample, means=sample.means | means))
    replica = Replica(
        curve,
        quantile_levels=QUANTILE_LEVELS,
        slots=None,
        rng=np.random.default_rng(1),
    )
    for n in (24, 32, 48):
        found = replica.figure(Load(n, 0.0), "ttft_p50_s")[0]
        assert found == pytest.approx(float(np.median(simulated(n)[1])), rel=0.2)
