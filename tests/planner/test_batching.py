"""The chain of a batching engine against what it generalises, and against the simulator."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.batching import open_batch, predict_open, service_rates
from planner.errors import InputError
from planner.queueing import mmc, ps_response
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import Lengths, OpenArrivals, poisson_arrivals
from planner.steptime import StepTime

STEP = StepTime(base_s=0.02, per_sequence_s=4e-4, per_prompt_token_s=1e-4)


@given(st.integers(1, 300), st.floats(0, 0.9999))
def test_constant_steps_are_mmc(slots: int, load: float) -> None:
    """Slots that do not slow each other are the servers of Erlang C."""
    chain = open_batch(load * slots, np.arange(1, slots + 1))
    wait = mmc(load * slots, 1, slots)
    assert chain.waiting.probability == pytest.approx(wait.probability, rel=1e-9, abs=1e-300)
    assert chain.waiting.mean_s == pytest.approx(wait.mean_s, rel=1e-6)
    assert chain.in_service_mean == pytest.approx(load * slots)
    assert chain.response_s == pytest.approx(1 + wait.mean_s, rel=1e-6)


@given(st.floats(0.01, 0.9))
def test_proportional_steps_are_processor_sharing(load: float) -> None:
    """A rate that never grows is one shared processor."""
    chain = open_batch(load, np.ones(500))
    assert chain.response_s == pytest.approx(ps_response(load, 1), rel=1e-6)


@given(
    st.lists(st.floats(0.01, 3), min_size=1, max_size=64), st.floats(0, 0.999), st.floats(0, 0.999)
)
def test_more_load_never_waits_less(steps: list[float], one: float, two: float) -> None:
    """P(wait) is a probability; wait and time in the system grow with the load; Little's law."""
    rates = np.cumsum(steps)
    few, many = (open_batch(x * rates[-1], rates) for x in sorted((one, two)))
    assert 0 <= few.waiting.probability <= many.waiting.probability * (1 + 1e-9) <= 1 + 1e-9
    assert few.waiting.mean_s <= many.waiting.mean_s * (1 + 1e-9)
    assert few.in_flight_mean <= many.in_flight_mean * (1 + 1e-9)
    for chain in (few, many):
        flow = chain.found @ np.concatenate([[0.0], rates])
        assert flow == pytest.approx(chain.arrivals_per_s, rel=1e-9, abs=1e-12)


@given(st.lists(st.floats(0.01, 3), min_size=1, max_size=64), st.floats(0, 0.999))
def test_one_slot_more_never_waits_more(steps: list[float], load: float) -> None:
    """Another slot, as slow as it may be, never makes the queue longer."""
    rates = np.cumsum(steps)
    arrivals = load * rates[-1]
    few = open_batch(arrivals, rates)
    many = open_batch(arrivals, np.append(rates, rates[-1] * 1.01))
    assert many.waiting.mean_s <= few.waiting.mean_s * (1 + 1e-9)


def test_overload_is_infinite_not_wrong() -> None:
    """At capacity everybody waits for ever; nothing arriving, nobody waits."""
    full = open_batch(5, [1, 5])
    assert full.waiting.probability == 1
    assert full.response_s == full.in_flight_mean == math.inf
    assert open_batch(0, [2, 5]).response_s == 0.5


def test_thousands_of_slots_near_capacity() -> None:
    """8192 slots at 99.99 % of capacity: finite, normalised, and Little's law holds."""
    rates = service_rates(STEP, 8192, prompt_tokens_mean=500, output_tokens_mean=200)
    chain = open_batch(0.9999 * rates[-1], rates)
    assert chain.found.sum() == pytest.approx(1)
    assert chain.found @ np.append(0, rates) == pytest.approx(chain.arrivals_per_s, rel=1e-9)


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_predicts_what_the_simulator_gives(load: float) -> None:
    """TPOT and E2E of an open loop come within 5 %, TTFT and its percentiles within 20 %."""
    slots, prompt, output, count = 32, 300, 150, 60_000
    rates = service_rates(STEP, slots, prompt_tokens_mean=prompt, output_tokens_mean=output)
    rate = load * float(rates[-1])
    figures = predict_open(STEP, slots, rate, prompt_tokens_mean=prompt, output_tokens_mean=output)
    rng = np.random.default_rng(3)
    lengths = Lengths(
        prompt_tokens=np.full(count, prompt), output_tokens=rng.geometric(1 / output, count)
    )
    source = OpenArrivals(poisson_arrivals(rate, count, rng), lengths)
    found = simulate(Engine(step=STEP, slots=slots), source, rng=rng).figures()
    for name in ("e2e_mean_s", "tpot_mean_s", "requests_per_s", "output_tokens_per_s"):
        assert figures[name] == pytest.approx(found[name].value, rel=0.05), name
    # Prompts that arrive during one step are read together, which the chain does not know.
    for name in ("ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p95_s", "ttft_p99_s"):
        assert figures[name] == pytest.approx(found[name].value, rel=0.2), name


def test_steps_that_take_no_time_alone_are_no_fault() -> None:
    """Processor sharing whose prompts cost nothing: finite figures, and no division by zero."""
    step = StepTime(base_s=0.0, per_sequence_s=1e-3)
    for slots in (1, 4):
        figures = predict_open(step, slots, 0.1, prompt_tokens_mean=10, output_tokens_mean=100)
        assert all(math.isfinite(value) and value >= 0 for value in figures.values())
    idle = predict_open(STEP, 4, 0.0, prompt_tokens_mean=10, output_tokens_mean=100)
    assert idle["tpot_mean_s"] == pytest.approx(float(STEP.tpot(1, 10, 100)))
    assert idle["requests_per_s"] == 0


def test_ttft_quantiles_are_of_the_mixture() -> None:
    """The p99 lies between that of the wait alone and the sum with the slowest prompt step."""
    step = StepTime(base_s=0.1, per_sequence_s=0.01)  # the same work for any prompt
    rates = service_rates(step, 8, prompt_tokens_mean=1000, output_tokens_mean=100)
    rate = 0.9 * float(rates[-1])
    wait = open_batch(rate, rates).waiting
    figures = predict_open(step, 8, rate, prompt_tokens_mean=1000, output_tokens_mean=100)
    slowest = float(step.seconds(7))
    assert wait.quantile_s(0.99) < figures["ttft_p99_s"] <= wait.quantile_s(0.99) + slowest + 1e-6
    ordered = [figures[f"ttft_p{p}_s"] for p in (50, 90, 95, 99)]
    assert ordered == sorted(ordered)
    over = predict_open(step, 8, 2 * rate, prompt_tokens_mean=1000, output_tokens_mean=100)
    assert over["ttft_p50_s"] == over["e2e_mean_s"] == math.inf
    bursty = predict_open(
        step, 8, rate, prompt_tokens_mean=1000, output_tokens_mean=100, arrival_scv=9
    )
    assert bursty["ttft_p99_s"] > 3 * figures["ttft_p99_s"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: open_batch(1, []),
        lambda: open_batch(1, [1, 0]),
        lambda: open_batch(-1, [1]),
        lambda: service_rates(STEP, 0, prompt_tokens_mean=1, output_tokens_mean=1),
        lambda: service_rates(STEP, 1, prompt_tokens_mean=1, output_tokens_mean=0.5),
    ],
)
def test_bad_input_is_refused(call: object) -> None:
    """No slots, no service, negative arrivals."""
    with pytest.raises(InputError):
        call()  # type: ignore[operator]
