"""Power and energy of an option: measured at levels, asked between them."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from rich.console import Console

from planner.answer_tables import print_answer
from planner.recommend import recommend
from planner.records import Arrivals, Demand, Recommendation, ServerView
from planner.units import parse_slo
from tests.planner.synthetic import batching_server, target

if TYPE_CHECKING:
    from planner.summary import LevelSample

LEVELS = (1, 2, 4, 8, 16, 32, 64)


def watched(watts: dict[int, float]) -> list[LevelSample]:
    """A batching server (R = 0.5 + 0.02 N, 20 tokens) of which some levels tell their power."""
    return [
        dataclasses.replace(
            sample,
            point=msgspec.structs.replace(
                sample.point,
                server=ServerView(samples=9, power_w_mean=watts.get(round(sample.point.load))),
            ),
        )
        for sample in batching_server(LEVELS, noise=0.001)
    ]


def asked(samples: list[LevelSample], demand: Demand, spare: int | None = None) -> Recommendation:
    """What is recommended for a demand."""
    return recommend(
        samples, [target("a", gpus_per_replica=2)], demand, [parse_slo("ttft_p95<=1s")],
        rng=np.random.default_rng(3), spare=spare,
    )  # fmt: skip


def test_energy_is_power_over_tokens_with_every_replica_up() -> None:
    """16 in flight on each of two replicas: the measured 400 W over 20 tokens · 16 / 0.82 s."""
    found = asked(watched({1: 200.0, 16: 400.0, 64: 500.0}), Demand(users=32), spare=0)
    best = found.recommended
    assert best is not None
    assert best.replicas == 2
    assert best.watts_per_replica == pytest.approx(400)
    assert best.joules_per_output_token == pytest.approx(400 / (20 * 16 / 0.82), rel=0.01)
    assert best.kwh_per_million_tokens == pytest.approx(400 / (20 * 16 / 0.82) / 3.6, rel=0.01)


def test_spares_are_paid_for() -> None:
    """With a spare the same users are spread thinner, and each token costs more energy."""
    samples = watched({1: 200.0, 16: 400.0, 64: 500.0})
    without, with_one = (asked(samples, Demand(users=32), spare=n).recommended for n in (0, 1))
    assert without is not None
    assert with_one is not None
    assert (with_one.watts_per_replica or 0) < (without.watts_per_replica or 0)
    assert (with_one.joules_per_output_token or 0) > (without.joules_per_output_token or 0)


def test_constant_power_stays_constant_under_any_demand() -> None:
    """Where every level draws 300 W so do users who think and arrivals, idle moments included."""
    samples = watched(dict.fromkeys(LEVELS, 300.0))
    for demand in (
        Demand(users=60, think_time_s=5.0),
        Demand(arrivals=Arrivals(rate_per_s=20.0)),
    ):
        best = asked(samples, demand).recommended
        assert best is not None
        assert best.watts_per_replica == pytest.approx(300)


@pytest.mark.parametrize("watts", [{}, {1: 200.0, 8: 350.0}])
def test_power_that_was_not_measured_is_not_told(watts: dict[int, float]) -> None:
    """No level tells its power, or none as high as is asked: no figure, and no line for people."""
    found = asked(watched(watts), Demand(users=32), spare=0)
    assert found.recommended is not None
    assert found.recommended.watts_per_replica is None
    assert found.recommended.joules_per_output_token is None
    assert found.recommended.kwh_per_million_tokens is None
    assert " W per replica" not in printed(found)


def test_energy_is_printed_for_people() -> None:
    """One line beneath the table, with what it is of."""
    found = asked(watched(dict.fromkeys(LEVELS, 300.0)), Demand(users=32), spare=0)
    assert (
        "a: 300 W per replica, 0.769 J per output token (0.214 kWh per M tok): its GPUs alone, as "
        "measured, with every replica up" in printed(found)
    )


def printed(found: Recommendation) -> str:
    """The answer as people see it, on a wide terminal."""
    out = io.StringIO()
    print_answer(found, Console(file=out, width=300))
    return out.getvalue()
