"""Open queues against published tables, exact arithmetic and properties."""

from __future__ import annotations

import math
from fractions import Fraction
from math import factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import InputError
from planner.queueing import (
    Waiting,
    allen_cunneen,
    erlang_b,
    erlang_c,
    halfin_whitt,
    mg1_wait,
    mmc,
    ps_response,
    servers_for_wait,
    square_root_staffing,
)

servers_ = st.integers(1, 400)
loads_ = st.floats(0, 0.999999)


@pytest.mark.parametrize(
    ("servers", "offered", "blocking", "within"),
    [
        # The Erlang B table of the "Carrier Grade Voice over IP" handbook, to its one decimal.
        (5, 1.4, 0.01, 0.05),
        (6, 1.9, 0.01, 0.05),
        (8, 3.1, 0.01, 0.05),
        (9, 3.8, 0.01, 0.05),
        (10, 2.3, 0.0001, 0.05),
        (10, 3.1, 0.001, 0.05),
        (9, 5.4, 0.05, 0.05),
        # Erlang.com's manual: 15 lines carry 8.108 E at 1 %.
        (15, 8.108, 0.01, 0.0005),
    ],
)
def test_erlang_b_table(servers: int, offered: float, blocking: float, within: float) -> None:
    """The load that a table gives for a blocking has it, to the table's last digit."""
    assert erlang_b(servers, offered - within) < blocking < erlang_b(servers, offered + within)


def test_erlang_b_number_of_lines() -> None:
    """10 E at 1 % need 17.44 lines, 15.7 E need 24.49 (Abstract Micro's manual): 18 and 25."""
    assert erlang_b(17, 10) > 0.01 > erlang_b(18, 10)
    assert erlang_b(24, 15.7) > 0.01 > erlang_b(25, 15.7)


@pytest.mark.parametrize("servers", [1, 2, 7, 60, 170, 400])
@pytest.mark.parametrize("share", [Fraction(1, 10), Fraction(9, 10), Fraction(9999, 10000)])
def test_erlang_b_and_c_exactly(servers: int, share: Fraction) -> None:
    """The factorial forms in exact rationals, also where they overflow in floating point."""
    offered = servers * share
    terms = [offered**k / factorial(k) for k in range(servers + 1)]
    blocking = terms[-1] / sum(terms)
    last = terms[-1] / (1 - share)
    assert erlang_b(servers, float(offered)) == pytest.approx(float(blocking), rel=1e-12)
    waiting = float(last / (sum(terms[:-1]) + last))
    assert erlang_c(servers, float(offered)) == pytest.approx(waiting, rel=1e-9)


@given(servers_, loads_, loads_)
def test_more_load_never_waits_less(servers: int, one: float, two: float) -> None:
    """Probabilities stay in [0, 1] and grow with the load, as does the mean wait."""
    low, high = sorted((one * servers, two * servers))
    assert 0 <= erlang_b(servers, low) <= erlang_b(servers, high) * (1 + 1e-12) <= 1 + 1e-12
    assert 0 <= erlang_c(servers, low) <= erlang_c(servers, high) * (1 + 1e-12) <= 1 + 1e-12
    assert mmc(low, 1, servers).mean_s <= mmc(high, 1, servers).mean_s * (1 + 1e-9)


@given(servers_, st.floats(0.01, 500))
def test_more_servers_never_wait_more(servers: int, offered: float) -> None:
    """One server more never makes anybody wait longer, nor more of them."""
    few, many = mmc(offered, 1, servers), mmc(offered, 1, servers + 1)
    assert many.probability <= few.probability
    assert many.mean_s <= few.mean_s
    assert many.exceeds(1.0) <= few.exceeds(1.0)


@given(servers_, loads_, st.floats(0, 0.9999))
def test_quantile_is_the_inverse(servers: int, load: float, share: float) -> None:
    """P(W > quantile) is what is left, or nobody waits that long."""
    wait = mmc(load * servers, 1, servers)
    seconds = wait.quantile_s(share)
    if seconds > 0:
        assert wait.exceeds(seconds) == pytest.approx(1 - share, rel=1e-6)
    else:
        assert wait.probability <= 1 - share + 1e-12


def test_one_server_is_mm1() -> None:
    """M/M/1: P(wait) = rho, W = rho·s/(1 - rho); M/G/1 agrees at C² = 1, halves at C² = 0."""
    wait = mmc(0.8, 1, 1)
    assert wait.probability == pytest.approx(0.8)
    assert wait.mean_s == pytest.approx(4)
    assert mg1_wait(0.8, 1, 1) == pytest.approx(4)
    assert mg1_wait(0.8, 1, 0) == pytest.approx(2)
    assert ps_response(0.8, 1) == pytest.approx(5)
    assert ps_response(0.8, 1, 3) == pytest.approx(15)


def test_gross_and_harris_example() -> None:
    """Their clinic (1998, example 2.2): 6 per hour, 20 minutes, 3 doctors: L_q = 8/9."""
    wait = mmc(6, 1 / 3, 3)
    assert wait.probability == pytest.approx(4 / 9)
    assert wait.mean_s * 6 == pytest.approx(8 / 9)


def test_overload_waits_for_ever() -> None:
    """At and beyond capacity everybody waits, without bound, and nothing divides by zero."""
    for wait in (mmc(4, 1, 4), mmc(9, 1, 4)):
        assert wait == Waiting(probability=1.0, drain_per_s=0.0)
        assert wait.mean_s == wait.quantile_s(0.5) == math.inf
        assert wait.exceeds(1e9) == 1
    assert mg1_wait(1, 1, 1) == ps_response(1, 1) == math.inf


def test_thousands_of_servers_near_full_load() -> None:
    """20,000 servers at 99.99 %: finite, and as Halfin and Whitt have it in the limit."""
    servers, offered = 20_000, 20_000 * 0.9999
    spare = (servers - offered) / math.sqrt(offered)
    assert erlang_c(servers, offered) == pytest.approx(halfin_whitt(spare), rel=0.005)


@pytest.mark.parametrize(
    ("spare", "below", "density"),
    [
        (0.1, 0.53983, 0.39695),
        (0.5, 0.69146, 0.35207),
        (1, 0.84134, 0.24197),
        (2, 0.97725, 0.05399),
    ],
)
def test_halfin_whitt_values(spare: float, below: float, density: float) -> None:
    """Their delay function with Phi and phi read from a table of the normal distribution."""
    assert halfin_whitt(spare) == pytest.approx(1 / (1 + spare * below / density), rel=1e-3)


@given(st.floats(1, 3000), st.floats(0.01, 0.9))
def test_square_root_staffing_is_close(offered: float, share: float) -> None:
    """The exact number of servers lies within three of the square-root rule, at any size."""
    exact = servers_for_wait(offered, share)
    assert erlang_c(exact, offered) <= share
    assert exact == 1 or erlang_c(exact - 1, offered) > share
    assert abs(exact - square_root_staffing(offered, share)) <= 3


def test_allen_cunneen_is_exact_where_it_must() -> None:
    """It gives back M/M/c and M/G/1, scales the mean else, and knows a clock feeding clocks."""
    one = mmc(0.8, 1, 1)
    assert allen_cunneen(one, 1, 1) == one
    assert allen_cunneen(one, 1, 4).mean_s == pytest.approx(mg1_wait(0.8, 1, 4))
    assert allen_cunneen(one, 173, 1).mean_s == pytest.approx(87 * one.mean_s)
    assert allen_cunneen(one, 0, 0).mean_s == 0
    assert allen_cunneen(mmc(2, 1, 1), 3, 1).mean_s == math.inf


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: erlang_b(-1, 1), "servers -1"),
        (lambda: erlang_b(1, math.nan), "offered load nan"),
        (lambda: erlang_c(0, 1), "servers 0"),
        (lambda: mmc(1, 0, 1), "service time 0"),
        (lambda: mg1_wait(1, 1, -1), "variation -1"),
        (lambda: ps_response(-1, 1), "arrival rate -1"),
        (lambda: servers_for_wait(5, 0), "wait probability 0"),
        (lambda: servers_for_wait(math.inf, 0.5), "offered load inf"),
        (lambda: halfin_whitt(0), "spare 0"),
        (lambda: allen_cunneen(mmc(1, 1, 2), math.nan, 1), "variability nan"),
    ],
)
def test_bad_input_names_the_value(call: object, text: str) -> None:
    """Values outside the formulas' domain are refused by name."""
    with pytest.raises(InputError, match=text):
        call()  # type: ignore[operator]
