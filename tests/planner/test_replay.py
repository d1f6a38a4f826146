"""Step times learnt from a replay: of a real vLLM, and of the simulator itself."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.errors import InputError, Refused
from planner.replay import fit_replay, rough_step
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import OpenArrivals, poisson_arrivals
from planner.steptime import StepTime
from planner.traces import Trace

FILE = Path(__file__).parents[1] / "reference" / "vllm_requests.csv"
UNTIL_S = 60.0


@pytest.fixture(scope="module")
def vllm() -> dict[str, np.ndarray]:
    """300 requests of a real vLLM under Poisson load, by column."""
    with FILE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def trace_of(columns: dict[str, np.ndarray]) -> Trace:
    """Its arrivals and lengths."""
    return Trace(
        arrival_s=columns["queued_s"],
        prompt_tokens=columns["prompt_tokens"].astype(np.int64),
        output_tokens=columns["output_tokens"].astype(np.int64),
    )


def quantiles(values: np.ndarray) -> np.ndarray:
    """The p50, p90 and p95."""
    return np.asarray(np.quantile(values, (0.5, 0.9, 0.95), method="inverted_cdf"))


def test_a_real_vllm_is_predicted_from_its_first_minute(vllm: dict[str, np.ndarray]) -> None:
    """Fitted to a third of the run, waits and TTFTs of the rest come out within 5 %.

    vLLM 0.19 with 41,392 tokens of KV cache, at three times the load it carries: it preempts, and
    the last request waits for two minutes.
    """
    trace = trace_of(vllm)
    first, last = vllm["first_token_s"], vllm["last_token_s"]
    seen = last < UNTIL_S
    engine = Engine(
        step=rough_step(first[seen], last[seen], trace.output_tokens[seen]),
        slots=256,
        batch_tokens=2048,
        kv_tokens=2587 * 16,
        runs_ahead=True,
    )
    fit = fit_replay(engine, trace, first, last, until_s=UNTIL_S)
    fitted = replace(engine, step=fit.step)
    found = simulate(fitted, OpenArrivals.replay(trace), rng=np.random.default_rng(0))
    rest = first >= UNTIL_S
    assert rest.sum() == 183
    assert quantiles(found.wait_s[rest]) == pytest.approx(
        quantiles((vllm["scheduled_s"] - vllm["queued_s"])[rest]), rel=0.05
    )
    assert quantiles(found.latency_s("ttft")[rest]) == pytest.approx(
        quantiles((first - vllm["queued_s"])[rest]), rel=0.05
    )
    assert found.preemptions.sum() > 100
    # Physics: 16 GB of weights at 1.008 TB/s, 131,072 bytes of KV per token, 16 GFLOP per token.
    assert 0.010 < fit.step.base_s < 0.025
    assert 70e-6 < fit.step.per_prompt_token_s < 110e-6


def test_without_its_cache_limit_the_prediction_fails(vllm: dict[str, np.ndarray]) -> None:
    """The same engine with endless memory predicts hardly any wait: preemption is what matters."""
    trace = trace_of(vllm)
    step = StepTime(
        base_s=0.016, per_sequence_s=1e-4, per_context_token_s=1.3e-7, per_prompt_token_s=9e-5
    )
    endless = Engine(step=step, slots=256)
    found = simulate(endless, OpenArrivals.replay(trace), rng=np.random.default_rng(0))
    assert np.median(found.wait_s) < 0.2 * np.median(vllm["scheduled_s"] - vllm["queued_s"])


def test_learns_its_own_step_time_back() -> None:
    """A simulated run, replayed from a step half or twice as long, is predicted to 5 %."""
    rng = np.random.default_rng(4)
    true = StepTime(
        base_s=0.02, per_sequence_s=3e-4, per_context_token_s=1e-7, per_prompt_token_s=1e-4
    )
    count = 400
    trace = Trace(
        arrival_s=poisson_arrivals(3.0, count, rng),
        prompt_tokens=rng.integers(20, 1500, count),
        output_tokens=rng.integers(5, 300, count),
    )
    engine = Engine(step=true, slots=32)
    run = simulate(engine, OpenArrivals.replay(trace), rng=rng)
    for factor in (0.5, 2.0):
        start = replace(engine, step=StepTime(**{k: v * factor for k, v in _named(true).items()}))
        fit = fit_replay(start, trace, run.first_token_s, run.ended_s, until_s=60)
        again = simulate(replace(engine, step=fit.step), OpenArrivals.replay(trace), rng=rng)
        rest = run.arrival_s > 60
        for metric in ("ttft", "e2e"):
            assert quantiles(again.latency_s(metric)[rest]) == pytest.approx(
                quantiles(run.latency_s(metric)[rest]), rel=0.05
            )
        assert fit.step.base_s == pytest.approx(true.base_s, rel=0.1)
        assert fit.domain[0] <= 32


def _named(step: StepTime) -> dict[str, float]:
    names = ("base_s", "per_sequence_s", "per_context_token_s", "per_prompt_token_s")
    return dict(zip(names, step.coefficients, strict=True))


def test_too_little_to_learn_from_is_refused() -> None:
    """A handful of moments, outputs of one token, and columns of unequal length."""
    ones = np.ones(3, dtype=np.int64)
    trace = Trace(arrival_s=np.arange(3.0), prompt_tokens=ones, output_tokens=ones)
    engine = Engine(step=StepTime(base_s=0.1), slots=1)
    with pytest.raises(Refused, match="too few"):
        fit_replay(engine, trace, np.array([0.1, 1.1, 2.1]), np.full(3, 2.5), until_s=10)
    with pytest.raises(InputError, match="for each arrival"):
        fit_replay(engine, trace, np.ones(2), np.ones(2), until_s=10)
    with pytest.raises(Refused, match="time per token"):
        rough_step(np.ones(3), np.ones(3), ones)
