"""The simulator's jumps against an engine that counts every token and every block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import Lengths, OpenArrivals
from planner.steptime import StepTime
from tests.planner.naive_engine import NaiveEngine

STEP = StepTime(
    base_s=0.01, per_sequence_s=0.0013, per_context_token_s=1.7e-5, per_prompt_token_s=1.1e-4
)


@st.composite
def engines_(draw: st.DrawFn) -> Engine:
    """Engines with and without a shared cache, chunks and a memory of prefixes."""
    slots = draw(st.integers(1, 8))
    return Engine(
        step=STEP,
        slots=slots,
        batch_tokens=slots + draw(st.sampled_from([1, 7, 30, 500])),
        chunked_prefill=draw(st.booleans()),
        kv_tokens=draw(st.none() | st.integers(130, 400)),
        kv_block_tokens=draw(st.sampled_from([1, 4, 16])),
        prefix_caching=draw(st.booleans()),
    )


arrivals_ = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 60), st.integers(1, 50)), min_size=1, max_size=25
).map(sorted)


def compare(engine: Engine, arrivals: list[tuple[float, int, int]]) -> int:
    """Assert that both tell the same; returns the preemptions."""
    columns = np.array(arrivals)
    lengths = Lengths(
        prompt_tokens=columns[:, 1].astype(np.int64), output_tokens=columns[:, 2].astype(np.int64)
    )
    source = OpenArrivals(columns[:, 0], lengths)
    outcome = simulate(engine, source, rng=np.random.default_rng(0))
    naive = NaiveEngine(engine, arrivals).run()
    for name, found in (
        ("scheduled", outcome.scheduled_s),
        ("first", outcome.first_token_s),
        ("ended", outcome.ended_s),
    ):
        assert found == pytest.approx([getattr(s, name) for s in naive], rel=1e-9), name
    assert outcome.preemptions.tolist() == [s.preempted for s in naive]
    return int(outcome.preemptions.sum())


@settings(max_examples=300, deadline=None)
@given(engines_(), arrivals_)
def test_jumps_equal_single_steps(engine: Engine, arrivals: list[tuple[float, int, int]]) -> None:
    """Every moment and every preemption is that of the engine that counts tokens one by one."""
    compare(engine, arrivals)


@pytest.mark.parametrize("block", [1, 4, 16])
def test_a_full_cache_preempts_as_often(block: int) -> None:
    """A long run on a cache much too small agrees to the last preemption, and has many."""
    rng = np.random.default_rng(block)
    arrivals = sorted(
        (float(t), int(p), int(o))
        for t, p, o in zip(
            rng.uniform(0, 20, 200),
            rng.integers(1, 80, 200),
            rng.integers(1, 120, 200),
            strict=True,
        )
    )
    engine = Engine(step=STEP, slots=16, batch_tokens=64, kv_tokens=640, kv_block_tokens=block)
    assert compare(engine, arrivals) > 50
