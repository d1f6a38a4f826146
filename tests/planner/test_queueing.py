"""The closed queue with think time against exact machine-repair formulas and Erlang's table."""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.queueing import in_flight, in_flight_seen, throughput

users_ = st.integers(1, 60)
think_ = st.floats(1e-3, 1e3)


@st.composite
def rates_(draw: st.DrawFn, *, most: int = 60) -> npt.NDArray[np.float64]:
    """Throughputs that grow with the number in flight, as those of servers that batch do."""
    steps = draw(st.lists(st.floats(0.01, 5.0), min_size=most, max_size=most))
    return np.cumsum(steps)


def machine_repair(users: int, servers: int, load: Fraction) -> list[Fraction]:
    """M/M/c//U exactly (Gross and Harris, sec. 2.7), ``load`` = service over think time."""
    weights = []
    for n in range(users + 1):
        if n < servers:
            weights.append(comb(users, n) * load**n)
        else:
            ways = Fraction(comb(users, n) * factorial(n), factorial(servers))
            weights.append(ways / servers ** (n - servers) * load**n)
    total = sum(weights)
    return [weight / total for weight in weights]


@pytest.mark.parametrize("servers", [1, 2, 5, 40])
@pytest.mark.parametrize("users", [1, 3, 30])
def test_equals_machine_repair(users: int, servers: int) -> None:
    """With X(n) = min(n, c) mu it is the machine-repair model, probability by probability."""
    mu, think = 2.0, 4.0
    rates = np.minimum(np.arange(1, users + 1), servers) * mu
    exact = machine_repair(users, servers, Fraction(1, 8))
    assert in_flight(users, think, rates) == pytest.approx([float(p) for p in exact], rel=1e-12)


@pytest.mark.parametrize(
    ("users", "erlangs", "blocking"),
    [(1, 1.0, 0.5), (2, 1.0, 0.2), (5, 3.0, 0.11005), (10, 5.0, 0.018385), (20, 10.0, 0.001869)],
)
def test_idle_server_is_erlang_b(users: int, erlangs: float, blocking: float) -> None:
    """One server is idle when all users think, by Erlang's B formula; values of its table."""
    rates = np.full(users, 1.0)
    assert in_flight(users, erlangs, rates)[0] == pytest.approx(blocking, rel=1e-3)


@given(users_, think_, rates_())
def test_little_and_interactive_law(
    users: int, think: float, rates: npt.NDArray[np.float64]
) -> None:
    """Users are either thinking, X Z of them, or in flight: N = X (R + Z) holds exactly."""
    p = in_flight(users, think, rates)
    mean = float(p @ np.arange(users + 1))
    assert p.sum() == pytest.approx(1)
    assert float(throughput(p, rates)) * think + mean == pytest.approx(users, rel=1e-9)


@given(st.integers(2, 60), think_, rates_())
def test_more_users_never_less_in_flight(
    users: int, think: float, rates: npt.NDArray[np.float64]
) -> None:
    """One user more shifts the whole distribution up, and the throughput with it."""
    fewer, more = in_flight(users - 1, think, rates), in_flight(users, think, rates)
    assert (np.cumsum(more)[:-1] <= np.cumsum(fewer) + 1e-9).all()
    assert throughput(more, rates) >= throughput(fewer, rates) * (1 - 1e-9)


@given(users_, rates_())
def test_without_thinking_all_are_in_flight(users: int, rates: npt.NDArray[np.float64]) -> None:
    """Think time zero keeps every user in flight, and is the limit of ever shorter ones."""
    p = in_flight(users, 0.0, rates)
    assert p[users] == 1
    assert in_flight(users, 1e-9, rates)[users] == pytest.approx(1, abs=1e-3)


@given(users_, rates_())
def test_endless_thinking_finds_an_idle_server(users: int, rates: npt.NDArray[np.float64]) -> None:
    """As think time grows nobody meets anybody."""
    assert in_flight_seen(users, 1e9, rates)[0] == pytest.approx(1, abs=1e-3)


def test_arrivals_obey_mean_value_analysis() -> None:
    """The arrival theorem: exact MVA of one server gives the same response time."""
    service, think, queue = 0.25, 3.0, 0.0
    for users in range(1, 200):
        seen = in_flight_seen(users, think, np.full(200, 1 / service))
        assert float(seen @ np.arange(users)) == pytest.approx(queue, abs=1e-9)
        response = service * (1 + queue)
        queue = users / (response + think) * response


def test_thousands_of_users_stay_finite() -> None:
    """Weights that span thousands of orders of magnitude still sum to one."""
    p = in_flight(50_000, 30.0, np.full(4000, 100.0) * np.linspace(0.01, 1, 4000))
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)


@settings(max_examples=20)
@given(users_, think_, rates_())
def test_draws_are_independent_rows(
    users: int, think: float, rates: npt.NDArray[np.float64]
) -> None:
    """Many draws at once give what each gives alone."""
    both = in_flight(users, think, np.stack([rates, rates * 2]))
    assert both[1] == pytest.approx(in_flight(users, think, rates * 2))
