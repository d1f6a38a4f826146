"""Step times: what is fitted is what made the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError, Refused
from planner.simulation.engine import Engine
from planner.steptime import StepTime, fit_levels, fit_steps, steps_from_gaps
from tests.planner.naive_engine import NaiveEngine

TRUE = StepTime(
    base_s=0.016, per_sequence_s=2e-4, per_context_token_s=1.3e-7, per_prompt_token_s=9e-5
)
coefficients_ = st.tuples(
    st.floats(1e-4, 0.1), st.floats(0, 1e-3), st.floats(0, 1e-6), st.floats(0, 1e-3)
)


def batches(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps of all kinds: sequences, context, prompt."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 200, count)
    return n, n * rng.integers(50, 3000, count), rng.choice([0, 0, 0, 500, 2000], count)


@settings(max_examples=50)
@given(coefficients_, st.integers(0, 2**32 - 1))
def test_round_trip(true: tuple[float, float, float, float], seed: int) -> None:
    """Steps without noise give their coefficients back, zeros included."""
    a, b, c, d = true
    step = StepTime(base_s=a, per_sequence_s=b, per_context_token_s=c, per_prompt_token_s=d)
    n, held, read = batches(300, seed)
    fit = fit_steps(n, held, read, step.seconds(n, held, read))
    again = fit.step.seconds(n, held, read)
    assert again == pytest.approx(step.seconds(n, held, read), rel=1e-6)
    assert np.abs(fit.residuals).max() < 1e-6


def test_interval_and_robustness() -> None:
    """With 5 % noise and one step in ten stalled, each coefficient is within four deviations."""
    n, held, read = batches(5000, 1)
    rng = np.random.default_rng(2)
    took = TRUE.seconds(n, held, read) * rng.normal(1, 0.05, n.size)
    took[rng.random(n.size) < 0.1] += 0.5
    fit = fit_steps(n, held, read, took)
    for found, true, deviation in zip(
        fit.step.coefficients, TRUE.coefficients, np.sqrt(np.diag(fit.covariance)), strict=True
    ):
        assert found == pytest.approx(true, rel=0.01, abs=4 * deviation)
    # Without the weights some come out more than 2 % too long.
    assert fit.step.seconds(n, held, read) == pytest.approx(TRUE.seconds(n, held, read), rel=0.012)
    assert fit.domain == (n.max(), held.max(), read.max())


def test_steady_is_the_mean_of_a_cycle() -> None:
    """Ten requests: each reads its prompt in one step of 100 and decodes in the others."""
    assert TRUE.steady(10, 500, 100) == pytest.approx(
        0.016 + 9.9 * 2e-4 + 9.9 * 550 * 1.3e-7 + 10 * 5 * 9e-5
    )
    assert TRUE.tpot(1, 500, 100) == pytest.approx(0.016 + 2e-4 + 550 * 1.3e-7)


def test_levels_predict_levels() -> None:
    """From means at 1, 2, 8 and 32 in flight comes the TPOT at 64, and d from the TTFT at 1."""
    n = np.array([1, 2, 8, 32])
    prompt, output = np.full(4, 600.0), np.full(4, 200.0)
    ttft = TRUE.seconds(0, 0, 600) * np.array([1, 1.3, 2, 9])
    fit = fit_levels(n, TRUE.tpot(n, 600, 200), ttft, prompt, output)
    assert fit.step.tpot(64, 600, 200) == pytest.approx(TRUE.tpot(64, 600, 200), rel=0.01)
    assert fit.step.seconds(0, 0, 600) == pytest.approx(TRUE.seconds(0, 0, 600), rel=0.01)


def test_token_gaps_show_the_steps() -> None:
    """From stamps of every token alone: the batch, its context, its prompts, hence the step."""
    rng = np.random.default_rng(3)
    arrivals = sorted(
        (float(t), int(p), int(o))
        for t, p, o in zip(
            rng.uniform(0, 60, 150),
            rng.integers(20, 900, 150),
            rng.integers(1, 150, 150),
            strict=True,
        )
    )
    engine = Engine(step=TRUE, slots=32, batch_tokens=4096)
    naive = NaiveEngine(engine, arrivals)
    stamps: list[list[float]] = [[] for _ in arrivals]
    now = 0.0
    while naive.coming or naive.waiting or naive.running:
        while naive.coming and naive.coming[0].arrival <= now:
            naive.waiting.append(naive.coming.pop(0))
        if not naive.waiting and not naive.running:
            now = naive.coming[0].arrival
            continue
        made = [s.made for s in naive.all]
        now = naive.step(now)
        for s, before in zip(naive.all, made, strict=True):
            if s.made > before:
                stamps[s.name].append(now)
    gaps = np.concatenate([np.diff(s) for s in stamps])
    offsets = np.concatenate([[0], np.cumsum([len(s) - 1 for s in stamps])])
    rows = steps_from_gaps(
        [s[0] for s in stamps], gaps, offsets, [float(s.prompt) for s in naive.all]
    )
    assert rows[3] == pytest.approx(gaps)
    fit = fit_steps(*rows)
    assert fit.step.coefficients == pytest.approx(TRUE.coefficients, rel=0.02)


def test_gaps_of_failed_and_coalesced_requests_are_left_out() -> None:
    """A request without a first token and a gap of zero make no step."""
    sequences, context, prompt, seconds = steps_from_gaps(
        [1.0, np.nan], [0.1, 0.0, 0.2], [0, 3, 3], [10, 20]
    )
    assert seconds == pytest.approx([0.1, 0.2])
    assert sequences.tolist() == [1, 1]
    assert context.tolist() == [11, 13]
    assert prompt.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: StepTime(base_s=-1), InputError, "at least 0"),
        (lambda: StepTime(base_s=0), InputError, "some time"),
        (lambda: StepTime(base_s=np.nan), InputError, "finite"),
        (lambda: fit_steps([1], [1], [1], [1]), Refused, "only 1 time was measured"),
        (lambda: fit_steps([1, 2], [1], [1], [1]), InputError, "as many"),
        (lambda: fit_steps([1] * 5, [1] * 5, [1] * 5, [0.0] * 5), InputError, "above 0 s"),
        (lambda: fit_steps([-1] * 5, [1] * 5, [1] * 5, [1.0] * 5), InputError, "at least 0"),
        (lambda: fit_levels([], [], [], [], []), InputError, "at least one"),
    ],
)
def test_bad_input_is_refused(call: object, error: type[Exception], text: str) -> None:
    """Counts, shapes and durations that no engine has."""
    with pytest.raises(error, match=text):
        call()  # type: ignore[operator]
