"""Predicted beside measured: the verdicts and what they end with."""

from __future__ import annotations

import msgspec
import pytest

from planner.records import Estimate, Predicted
from planner.tables import verification_table
from planner.units import parse_slo
from planner.verification import Verification, verified
from tests.planner.synthetic import batching_server, level
from tests.planner.test_recommend import ask

SLO = (parse_slo("ttft_p95<=1s"),)


def judged(
    low: float | None, high: float | None, measured: tuple[float | None, float, float | None] | None
) -> tuple[str, bool | None]:
    """Verdict and outcome for a predicted interval and a measured low, value and high."""
    option = ask(batching_server(name="fast"), users=10).options[0]
    predicted = Predicted(value=None if low is None else 1.0, low=low, high=high, label="measured")
    option = msgspec.structs.replace(option, predicted={"ttft_p95_s": predicted})
    point = level(10, 5.0, lambda share: 1 + share).point
    figures = {}
    if measured is not None:
        bottom, value, top = measured
        figures = {"ttft_p95_s": Estimate(value=value, low=bottom, high=top, n=100)}
    found = verified(option, SLO, msgspec.structs.replace(point, figures=figures))
    (comparison,) = found.comparisons
    return comparison.verdict, found.held


@pytest.mark.parametrize(
    ("low", "high", "measured", "verdict", "held"),
    [
        (1.0, 2.0, (1.4, 1.5, 1.6), "inside", True),
        (1.0, 2.0, (1.0, 1.0, 1.0), "inside", True),
        (1.0, 2.0, (1.9, 2.1, 2.3), "compatible", True),
        (1.0, 2.0, (0.7, 0.9, 1.1), "compatible", True),
        (1.0, 2.0, (0.7, 0.9, None), "compatible", True),
        (1.0, 2.0, (2.05, 2.1, 2.3), "outside", False),
        (1.0, 2.0, (0.7, 0.9, 0.95), "outside", False),
        (1.0, 2.0, None, "unknown", None),
        (None, None, (1.0, 1.1, 1.2), "unknown", None),
    ],
)
def test_verdicts(
    low: float | None,
    high: float | None,
    measured: tuple[float | None, float, float | None] | None,
    verdict: str,
    held: bool | None,
) -> None:
    """Inside, near enough for noise, outside on either side, and what cannot be told."""
    assert judged(low, high, measured) == (verdict, held)


def test_unusable_measurement_is_inconclusive() -> None:
    """A stage that breaks a gate neither confirms nor refutes."""
    option = ask(batching_server(name="fast"), users=10).options[0]
    point = level(10, 5.0, lambda share: 1 + share, problems=("the client was the limit",)).point
    found = verified(option, SLO, point, run="runs/x")
    assert found.problems == ("the client was the limit",)
    assert found.held is None


@pytest.mark.parametrize(
    ("users", "think_time_s", "who"),
    [
        (14, 15.0, "fast: 14 users who think 15 s on one replica"),
        (1, 2.5, "fast: 1 user who thinks 2.5 s on one replica"),
        (1, 0.0, "fast: 1 user on one replica"),
    ],
)
def test_heading(users: int, think_time_s: float, who: str) -> None:
    """The load is told in the words of the recommendation."""
    found = Verification(target="fast", users=users, think_time_s=think_time_s, comparisons=())
    assert verification_table(found).title == who
