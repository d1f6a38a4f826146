"""Closed networks against textbooks' worked cases and the recursion of Reiser and Lavenberg."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.mva import exact_mva
from planner.queueing import in_flight, throughput

demands_ = st.lists(st.floats(0.01, 10), min_size=1, max_size=4)


def test_lazowska_example() -> None:
    """Lazowska et al., 1984, sec. 6.4: CPU 0.605 s, disks 2.1 s and 1.35 s, think time 15 s."""
    three = exact_mva([[1 / 0.605], [1 / 2.1], [1 / 1.35]], 3, 15)
    assert three.throughput_per_s == pytest.approx([0.0525, 0.1031, 0.1515], abs=5e-5)
    assert three.queue == pytest.approx([0.098, 0.395, 0.235], abs=5e-4)
    assert three.residence_s == pytest.approx([0.644, 2.605, 1.551], abs=5e-4)


def test_jain_example() -> None:
    """Jain, 1991, example 34.2: 20 users, visits 16, 10, 5 of 0.125, 0.3, 0.2 s, thinking 4 s."""
    visits, service = np.array([16, 10, 5]), np.array([0.125, 0.3, 0.2])
    found = exact_mva([[1 / d] for d in visits * service], 20, 4)
    assert found.queue == pytest.approx([1.991, 16.177, 0.500], abs=1e-3)
    assert found.residence_s / visits == pytest.approx([0.373, 4.854, 0.300], abs=1e-3)


def test_bolch_central_server() -> None:
    """Bolch et al., 1998, example 8.3: six jobs in a central-server model."""
    visits, service = np.array([1, 0.4, 0.2, 0.1]), np.array([0.02, 0.2, 0.4, 0.6])
    found = exact_mva([[1 / d] for d in visits * service], 6)
    assert found.queue == pytest.approx([0.244, 2.261, 2.261, 1.234], abs=1e-3)
    assert found.throughput_per_s[-1] == pytest.approx(9.920, abs=1e-3)
    assert 1 - found.in_station[:, 0] == pytest.approx([0.198, 0.794, 0.794, 0.595], abs=1e-3)


def test_bolch_load_dependent() -> None:
    """Bolch et al., 1998, examples 8.1 and 8.4 (also 8.7): stations of several servers."""
    first = exact_mva([[0.8, 1.6], np.array([0.6, 1.2, 1.8]) / 0.667, [0.4 / 0.2]], 3)
    assert first.queue == pytest.approx([1.290, 1.050, 0.660], abs=1e-3)
    assert first.throughput_per_s[-1] == pytest.approx(0.945, abs=1e-3)
    second = exact_mva([[2, 4], [1 / 0.3], [1 / 0.4], [1, 2, 3]], 3)
    assert second.queue == pytest.approx([0.624, 0.473, 0.686, 1.217], abs=1e-3)
    assert second.throughput_per_s[-1] == pytest.approx(1.218, abs=1e-3)


@given(demands_, st.integers(1, 40), st.floats(0, 50))
def test_is_the_recursion_of_reiser_and_lavenberg(
    demands: list[float], users: int, think: float
) -> None:
    """Single servers: R = D(1 + Q), X = n/(Z + R), Q = X·R, from an empty network up."""
    queue = np.zeros(len(demands))
    found = exact_mva([[1 / d] for d in demands], users, think)
    for n in range(1, users + 1):
        residence = np.array(demands) * (1 + queue)
        x = n / (think + residence.sum())
        queue = x * residence
        assert found.throughput_per_s[n - 1] == pytest.approx(x, rel=1e-9)
    assert found.queue == pytest.approx(queue, rel=1e-9)


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.05, 4), min_size=1, max_size=30), st.integers(1, 30), st.floats(0.1, 50)
)
def test_one_station_is_machine_repair(steps: list[float], users: int, think: float) -> None:
    """A station and thinking users are the chain of ``planner.queueing``, state by state."""
    rates = np.cumsum(steps)
    rates = np.concatenate([rates, np.full(30, rates[-1])])[:30]
    found = exact_mva([rates], users, think)
    chain = in_flight(users, think, rates)
    assert found.in_station[0] == pytest.approx(chain, rel=1e-8, abs=1e-14)
    assert found.throughput_per_s[-1] == pytest.approx(float(throughput(chain, rates)))


@given(demands_, st.integers(2, 30), st.floats(0, 50))
def test_laws(demands: list[float], users: int, think: float) -> None:
    """Everybody is somewhere, the interactive law and the bounds hold, more users never slow it."""
    found = exact_mva([[1 / d] for d in demands], users, think)
    x = found.throughput_per_s
    assert found.queue.sum() + x[-1] * think == pytest.approx(users)
    assert users == pytest.approx(x[-1] * (found.response_s + think))
    n = np.arange(1, users + 1)
    bound = np.minimum(n / (think + sum(demands)), 1 / max(demands))
    assert (x <= bound * (1 + 1e-9)).all()
    assert (np.diff(x) >= -1e-9 * x[-1]).all()
    assert found.in_station.sum(axis=1) == pytest.approx(1)


def test_a_thousand_users_on_a_saturated_station() -> None:
    """Where the recursion on p(0) loses every digit: 64 servers, 1000 users, all but no idling."""
    found = exact_mva([np.minimum(np.arange(1, 65), 64.0), [1000.0]], 1000, 1.0)
    assert found.throughput_per_s[-1] == pytest.approx(64, rel=1e-9)
    assert (found.in_station >= 0).all()
    assert found.queue.sum() + 64 == pytest.approx(1000, rel=1e-9)


@pytest.mark.parametrize(
    ("stations", "users", "think"), [([], 1, 0), ([[1.0]], 0, 0), ([[1.0]], 1, -1), ([[0.0]], 1, 1)]
)
def test_bad_input_is_refused(stations: list[list[float]], users: int, think: float) -> None:
    """No station, nobody, negative thinking and a server that never serves."""
    with pytest.raises(InputError):
        exact_mva(stations, users, think)
