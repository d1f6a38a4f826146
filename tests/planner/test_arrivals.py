"""Arrivals that wait for nobody: closed forms, simulation, and what they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.arrivals import dispersion_at, open_in_flight, open_in_flight_seen, split_dispersion
from planner.demand import dispersion_of
from planner.queueing import mg1_wait, mmc
from planner.records import Arrivals
from planner.traces import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

MANY = 4000


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.9), (8, 6.0), (64, 58.0)])
def test_poisson_on_c_servers_is_erlang(servers: int, load: float) -> None:
    """With X(n) = min(n, c) the chain is M/M/c: Erlang C gives who finds all servers busy."""
    rates = np.minimum(np.arange(1, MANY), servers).astype(float)
    flying = open_in_flight(load, 1.0, rates)
    exact = mmc(load, 1.0, servers)
    assert flying[servers:].sum() == pytest.approx(exact.probability, rel=1e-9)
    waiting = np.maximum(np.arange(MANY) - servers, 0) @ flying
    assert waiting == pytest.approx(load * exact.mean_s, rel=1e-9)  # Little's law
    seen = open_in_flight_seen(load, 1.0, rates)
    assert seen == pytest.approx(flying[:-1], abs=1e-12)  # PASTA


@pytest.mark.parametrize(("load", "scv"), [(0.5, 3.0), (0.8, 9.0), (0.3, 173.0)])
def test_batches_on_one_server(load: float, scv: float) -> None:
    """M[X]/M/1 with geometric batches of mean b has rho b / (1 - rho) in flight.

    Gross & Harris, *Fundamentals of Queueing Theory*, 3rd ed., 1998, sec. 3.1.
    """
    mean_batch = (scv + 1) / 2
    flying = open_in_flight(load, scv, np.ones(20 * MANY))
    mean = np.arange(flying.size) @ flying
    assert mean == pytest.approx(load * mean_batch / (1 - load), rel=1e-6)
    # By Little's law that is a response of b/(1 - rho), which also is what arrivals find and they.
    seen = open_in_flight_seen(load, scv, np.ones(20 * MANY))
    assert np.arange(seen.size) @ seen + 1 == pytest.approx(mean_batch / (1 - load), rel=1e-6)


def test_poisson_is_pollaczek_khinchine_of_exponential_service() -> None:
    """C² = 1 on one server is M/M/1, a case of M/G/1."""
    flying = open_in_flight(0.7, 1.0, np.ones(MANY))
    wait = mg1_wait(0.7, 1.0, 1.0)
    assert np.arange(MANY + 1) @ flying == pytest.approx(0.7 * (wait + 1))


def test_against_simulation() -> None:
    """A step-by-step simulation of batches on a server with X(n) = n / (1 + 0.1 n) agrees."""
    rng = np.random.default_rng(1)
    rate, scv = 4.0, 5.0
    rates = np.arange(1, 400) / (1 + 0.1 * np.arange(1, 400))
    flying, seen = open_in_flight(rate, scv, rates), open_in_flight_seen(rate, scv, rates)
    n, found, spent = 0, np.zeros(400), np.zeros(400)
    batches, follow = rate / 3, 1 - 1 / 3
    for _ in range(300_000):
        leave = rates[n - 1] if n else 0.0
        spent[n] += rng.exponential(1 / (batches + leave))
        if rng.random() * (batches + leave) < leave:
            n -= 1
            continue
        for _ in range(rng.geometric(1 - follow)):
            found[n] += 1
            n += 1
    numbers = np.arange(400)
    assert numbers @ spent / spent.sum() == pytest.approx(numbers @ flying, rel=0.03)
    mean_seen = np.arange(seen.size) @ seen
    assert numbers @ found / found.sum() == pytest.approx(mean_seen, rel=0.03)


@given(
    use=st.floats(0.01, 0.9), scv=st.floats(0, 50),
    slots=st.integers(1, 50), more=st.floats(1.01, 3),
)  # fmt: skip
def test_more_load_or_bursts_never_find_less(
    use: float, scv: float, slots: int, more: float
) -> None:
    """Probabilities add up to one; more arrivals, or burstier ones, find no fewer in flight."""
    rates = np.minimum(np.arange(1, 9000), slots) / 2.0

    def mean(use: float, scv: float) -> float:
        seen = open_in_flight_seen(use * slots / 2, scv, rates)
        assert seen.sum() == pytest.approx(1.0)
        assert (seen >= 0).all()
        return float(np.arange(seen.size) @ seen)

    usual = mean(use, scv)
    assert mean(min(use * more, 0.9), scv) >= usual * (1 - 1e-9)
    assert mean(use, scv * more) >= usual * (1 - 1e-9)


def test_splitting_calms() -> None:
    """A random quarter of bursty gaps is a quarter as bursty above Poisson; smooth ones stay."""
    rng = np.random.default_rng(2)
    sizes = rng.geometric(1 / 10, 200_000)
    moments = np.repeat(np.cumsum(rng.exponential(1.0, sizes.size)), sizes)
    gaps = np.diff(moments)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(19, rel=0.05)
    gaps = np.diff(moments[rng.random(moments.size) < 0.25])
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(split_dispersion(19, 0.25), rel=0.05)
    assert split_dispersion(0.2, 0.5) == 1.0


def test_dispersion_of_batches_is_the_same_in_every_window() -> None:
    """Batches of mean 10 have 19 in all windows, regular arrivals none."""
    rng = np.random.default_rng(3)
    sizes = rng.geometric(1 / 10, 40_000)
    batches = stream(np.repeat(np.cumsum(rng.exponential(1.0, sizes.size)), sizes))
    found = dispersion_of(batches)
    assert [seconds for seconds, _ in found] == [0.5, 1, 2, 5, 10, 30, 60]
    assert [value for _, value in found] == pytest.approx([19] * 7, rel=0.15)
    assert max(value for _, value in dispersion_of(stream(np.arange(0, 5000, 0.25)))) < 0.1
    assert dispersion_of(stream(np.arange(0.0, 5.0))) == ()


def stream(moments: npt.NDArray[np.float64]) -> Trace:
    """A trace of these arrivals."""
    ones = np.ones(moments.size, dtype=np.int64)
    return Trace(arrival_s=moments - moments[0], prompt_tokens=ones, output_tokens=ones)


def test_dispersion_between_known_windows() -> None:
    """In log-log between them, flat beyond, never below that of Poisson."""
    bursty = Arrivals(rate_per_s=1.0, dispersion=((1.0, 4.0), (4.0, 16.0)))
    assert [dispersion_at(bursty, s) for s in (0.1, 1, 2, 4, 99)] == pytest.approx(
        [4, 4, 8, 16, 16]
    )
    assert dispersion_at(Arrivals(rate_per_s=1.0, dispersion=((1.0, 0.1),)), 1.0) == 1.0
    assert dispersion_at(Arrivals(rate_per_s=1.0), 1.0) == 1.0
