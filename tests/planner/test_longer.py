"""Longer answers where requests wait for slots, against what must hold of any closed loop."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from planner.errors import Refused
from planner.longer import longer_levels
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


def test_two_levels_up_to_the_slots_do_not_tell_a_step_time() -> None:
    """Four coefficients need four figures: three levels and the TTFT of the lowest."""
    with pytest.raises(Refused, match="cannot carry a step time"):
        longer_levels([slotted(n) for n in (1, 2, 8)], 2, SLOTS, np.random.default_rng(1))
