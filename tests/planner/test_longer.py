"""Longer answers where requests wait for slots, against what must hold of any closed loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from planner.answer import merged
from planner.errors import Refused
from planner.longer import longer_levels
from planner.steptime import StepTime
from tests.planner.simulated_runs import SLOTS as SLOTS_KNOWN
from tests.planner.simulated_runs import run_of_levels, simulated_users
from tests.planner.synthetic import level

if TYPE_CHECKING:
    from planner.summary import LevelSample

STEP_S, SLOTS, OUTPUT = 0.02, 4, 20
LEVELS = (1, 2, 4, 8, 16)


def slotted(n: int) -> LevelSample:
    """A server of constant steps and short prompts: X = min(n, slots) / (20 steps)."""
    rate = min(n, SLOTS) / (OUTPUT * STEP_S)
    wait_s = n / rate - OUTPUT * STEP_S

    def around(mean: float) -> np.ndarray:
        return np.full(201, mean)

    sample = level(n, rate, lambda share: np.full_like(share, n / rate), noise=1e-6, draws=200)
    means = {"tpot": STEP_S, "ttft": STEP_S + wait_s, "e2e": n / rate}
    return dataclasses.replace(
        sample,
        means={name: around(mean) for name, mean in means.items()},
        quantiles={
            name: np.full_like(sample.quantiles["e2e"], mean) for name, mean in means.items()
        },
    )


def test_constant_steps_serve_half_as_many_answers_twice_as_long() -> None:
    """At every level X halves and R doubles, the wait for a slot too; TPOT stays (Little's law)."""
    before = [slotted(n) for n in LEVELS]
    after = longer_levels(before, 2, SLOTS, np.random.default_rng(1))
    for old, new in zip(before, after, strict=True):
        n = old.point.load
        assert new.requests_per_s[0] == pytest.approx(old.requests_per_s[0] / 2, rel=0.1)
        assert new.means["e2e"][0] * new.requests_per_s[0] == pytest.approx(n, rel=0.1)
        assert new.means["tpot"][0] == pytest.approx(STEP_S, rel=0.02)
    waits = [sample[-1].means["ttft"][0] for sample in (before, after)]
    assert waits[1] == pytest.approx(2 * waits[0], rel=0.1)
    alone = after[0].means["ttft"][0]
    assert alone == pytest.approx(STEP_S, rel=0.02)  # nobody waits before the slots are full
    assert after[0].point.output_tokens_mean == 2 * OUTPUT


def test_the_same_seed_gives_the_same_levels() -> None:
    """Nothing but the generator is random."""
    curve = [slotted(n) for n in LEVELS]
    once, again = (longer_levels(curve, 2, SLOTS, np.random.default_rng(3)) for _ in range(2))
    assert [s.requests_per_s[0] for s in once] == [s.requests_per_s[0] for s in again]


@pytest.mark.parametrize(("slots", "wanted"), [(4, "1 and 4 in flight"), (1, "1 in flight")])
def test_what_to_measure_is_said_in_a_users_words(slots: int, wanted: str) -> None:
    """One level of four slots, or none of one, tell nothing of how load slows the server down."""
    curve = [slotted(n) for n in (2, 8, 16)]
    with pytest.raises(Refused) as refusal:
        longer_levels(curve, 2, slots, np.random.default_rng(1))
    assert f"measure {wanted}" in str(refusal.value)
    assert "coefficient" not in str(refusal.value)
    assert "step" not in str(refusal.value)


def test_one_slot_needs_one_level() -> None:
    """With one slot a step is always of one request, which the level of 1 in flight tells."""
    curve = [dataclasses.replace(slotted(1)), *(slotted(n) for n in (8, 16))]
    alone = longer_levels(curve, 2, 1, np.random.default_rng(1))[0]
    assert alone.requests_per_s[0] == pytest.approx(curve[0].requests_per_s[0] / 2, rel=0.1)


@pytest.mark.parametrize("by_tokens", [0.2, 0.5, 0.8])
def test_the_truth_lies_within_the_replicates(by_tokens: float) -> None:
    """Whether requests or their tokens make steps longer, the interval holds what comes of it.

    Both engines have the same levels, so no measurement of them could tell.
    """
    slope, held = 2e-3, 200 + 84 / 2  # a long answer is met more often than a short one
    step = StepTime(
        base_s=0.016,
        per_sequence_s=(1 - by_tokens) * slope,
        per_context_token_s=by_tokens * slope / held,
        per_prompt_token_s=9e-5,
    )
    run = run_of_levels((1, 2, 4, 8, 16), step=step)
    samples, _ = merged([run], rng=np.random.default_rng(0), draws=60)
    after = longer_levels(samples, 4, SLOTS_KNOWN, np.random.default_rng(2))
    for sample in after[-2:]:
        users = round(sample.point.load)
        real = simulated_users(users, 0.0, 4000, seed=9, times=4, step=step)
        rate = 3000 / float(np.ptp(np.sort(real.ended_s)[500:3501]))
        low, high = np.quantile(sample.requests_per_s[1:], [0.05, 0.95])
        assert low <= rate <= high
        tpot = float(real.latency_s("tpot")[500:3500].mean())
        low, high = np.quantile(sample.means["tpot"][1:], [0.05, 0.95])
        assert low <= tpot <= high
        assert high < 1.6 * low
