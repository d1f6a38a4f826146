"""Ratios with intervals, targets side by side, and crossovers between every pair."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.comparison import ratio, sharing, side_by_side
from planner.records import Estimate, OperatingPoint
from tests.planner.synthetic import batching_server
from tests.planner.test_recommend import ask

Z90 = 1.6448536269514722
positive = st.floats(1e-6, 1e6)


def known(value: float, low: float | None, high: float | None) -> Estimate:
    """An estimate of 50 observations."""
    return Estimate(value=value, low=low, high=high, n=50)


def point(target: str, load: float = 2, tokens: float = 100.0, **changes: object) -> OperatingPoint:
    """A level with one figure, known to 5 %."""
    fields: dict[str, object] = {
        "target": target, "backend": "llamacpp", "stage": 0, "load_kind": "concurrency",
        "load": load, "in_flight_mean": load, "completed": 50, "failed": 0, "censored": 0,
        "figures": {"output_tokens_per_s": known(tokens, tokens / 1.05, tokens * 1.05)},
        "source": "measured", **changes,
    }  # fmt: skip
    return OperatingPoint(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("spread", [0.03, 0.1])
def test_the_interval_of_a_ratio_holds_the_true_one(spread: float) -> None:
    """Of 4,000 pairs of noisy measurements the 90 % interval holds the true ratio in 90 %."""
    rng = np.random.default_rng(3)
    hits = 0
    for a, b in rng.normal([2.0, 5.0], [2.0 * spread, 5.0 * spread], size=(4000, 2)):
        left = known(a, a - Z90 * 2.0 * spread, a + Z90 * 2.0 * spread)
        right = known(b, b - Z90 * 5.0 * spread, b + Z90 * 5.0 * spread)
        found = ratio(left, right)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.0 / 5.0 <= found.high
    assert hits / 4000 == pytest.approx(0.9, abs=0.02)


@given(positive, positive, st.floats(1, 3), st.floats(1, 3))
def test_log_normal_intervals_add_in_quadrature(a: float, b: float, u: float, v: float) -> None:
    """With intervals that are symmetric in logarithms the closed form is exact."""
    found = ratio(known(a, a / u, a * u), known(b, b / v, b * v))
    assert found is not None
    assert found.high is not None
    half = math.hypot(math.log(u), math.log(v))
    assert found.value == pytest.approx(a / b)
    assert math.log(found.high / found.value) == pytest.approx(half, abs=1e-9)


def test_open_ends_stay_open() -> None:
    """An end that either figure lacks is not made up; a figure of zero has no ratio."""
    found = ratio(known(2, None, 3), known(1, 0.9, 1.1))
    assert found is not None
    assert (found.low, found.high is None) == (None, False)
    assert ratio(known(0, 0, 1), known(1, 1, 1)) is None


def test_side_by_side_shows_what_may_be_compared() -> None:
    """A row per load with the usable points; those of stages together or with problems are out."""
    rows = side_by_side(
        [
            point("a"), point("b"), point("a", together=("b",)), point("b", problems=("no",)),
            point("a", load=1), point("a", completed=70, tokens=90.0),
        ]
    )  # fmt: skip
    assert [(row.load, sorted(row.points)) for row in rows] == [(1, ["a"]), (2, ["a", "b"])]
    assert rows[1].points["a"].completed == 70
    assert not rows[1].points["a"].together


def test_sharing_is_together_over_alone() -> None:
    """Half the tokens beside a neighbour is a ratio of a half; without an alone there is none."""
    told = sharing(
        [point("a"), point("a", tokens=50.0, together=("b",)), point("b", together=("a",))]
    )
    assert [(cost.target, cost.together) for cost in told] == [("a", ("b",))]
    assert told[0].ratios["output_tokens_per_s"].value == pytest.approx(0.5)


def test_every_pair_has_its_crossovers() -> None:
    """Of three targets there are three pairs, each with the first change at one user."""
    samples = [s for name, pace in (("a", 0.1), ("b", 0.2), ("c", 0.3))
               for s in batching_server(name=name, base_s=pace)]  # fmt: skip
    found = ask(samples)
    assert sorted((pair.a, pair.b) for pair in found.pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(pair.crossovers[0].from_users == 1 for pair in found.pairs)


def test_a_single_pair_is_the_whole_answer() -> None:
    """With two targets the pair's crossovers are those of the recommendation."""
    samples = [*batching_server(name="a"), *batching_server(name="b", base_s=0.3)]
    found = ask(samples)
    (pair,) = found.pairs
    assert pair.crossovers == found.crossovers
    assert msgspec.json.decode(msgspec.json.encode(found))["pairs"][0]["a"] in ("a", "b")
