"""Replicas behind a router: exact chains, their order, and what it does to the answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from planner.arrivals import open_in_flight_seen
from planner.errors import InputError
from planner.fleet import SIMULATED, seen_in_fleet
from planner.recommend import recommend
from planner.records import Arrivals, Demand, Recommendation
from planner.units import parse_slo
from tests.planner.synthetic import batching_server, target

CHAINS = 60
MOST = 40
ONE_SERVER = np.ones(MOST)


def mean_found(
    rates: np.ndarray, rate_per_s: float, replicas: int, routing: str, dispersion: float = 1.0
) -> np.ndarray:
    """What requests find on average over many chains, (m,)."""
    seen = seen_in_fleet(
        np.repeat(rates[None], CHAINS, axis=0), rate_per_s, dispersion,
        replicas=replicas, routing=routing, rng=np.random.default_rng(7),
    )  # fmt: skip
    assert seen.sum(axis=1) == pytest.approx(1.0)
    assert (seen >= 0).all()
    return np.asarray(seen.mean(axis=0))


@pytest.mark.parametrize("routing", SIMULATED)
@pytest.mark.parametrize("dispersion", [1.0, 5.0])
def test_one_replica_is_the_closed_form(routing: str, dispersion: float) -> None:
    """With nobody to choose between, every routing gives the chain's exact distribution."""
    rates = np.arange(1, 90) / (0.5 + 0.02 * np.arange(1, 90))
    found = mean_found(rates, 15.0, 1, routing, dispersion)
    exact = open_in_flight_seen(15.0, dispersion, rates)
    assert np.abs(np.cumsum(found) - np.cumsum(exact)).max() < 0.015


def test_two_in_turn_are_erlang_arrivals() -> None:
    """Every second of Poisson arrivals is GI/M/1 with Erlang-2 gaps: P(find n) = (1 - s) sⁿ.

    s solves s = (2 r / (2 r + 1 - s))², r arrivals a second at one server (Kleinrock, *Queueing
    Systems I*, sec. 6.4).
    """
    each = 0.7
    s = brentq(lambda s: (2 * each / (2 * each + 1 - s)) ** 2 - s, 0.0, 1 - 1e-6)
    exact = (1 - s) * s ** np.arange(MOST)
    found = mean_found(ONE_SERVER, 2 * each, 2, "round-robin")
    assert np.abs(np.cumsum(found) - np.cumsum(exact)).max() < 0.01


def test_two_by_load_are_the_shorter_queue() -> None:
    """Join the shorter of two queues, solved as a linear system of its two-dimensional chain."""
    rate = 1.4
    size = MOST + 1
    flows = lil_matrix((size * size, size * size))
    for a in range(size):
        for b in range(size):
            to = (a + 1, b) if a <= b else (a, b + 1)
            moves = [(to, rate)] if max(to) < size else []
            moves += [((a - 1, b), 1.0)] if a else []
            moves += [((a, b - 1), 1.0)] if b else []
            for (c, d), speed in moves:
                flows[c * size + d, a * size + b] += speed
                flows[a * size + b, a * size + b] -= speed
    flows[-1] = 1.0  # one balance is redundant; the shares add up to one instead
    total = np.zeros(size * size)
    total[-1] = 1.0
    shares = spsolve(flows.tocsc(), total).reshape(size, size)
    shorter = np.minimum(*np.indices(shares.shape))
    exact = np.bincount(shorter.ravel(), shares.ravel())[:MOST]
    found = mean_found(ONE_SERVER, rate, 2, "least-loaded")
    assert np.abs(np.cumsum(found) - np.cumsum(exact)).max() < 0.01


@pytest.mark.parametrize(("replicas", "dispersion"), [(2, 1.0), (4, 6.0), (16, 1.0)])
def test_who_looks_finds_less(replicas: int, dispersion: float) -> None:
    """By load finds less in flight than in turn, and that less than at random."""
    rates = np.minimum(np.arange(1, 120), 16) / 2.0
    each = 6.5
    alone = open_in_flight_seen(each, 1 + (dispersion - 1) / replicas, rates)
    means = [np.arange(alone.size) @ alone] + [
        np.arange(alone.size) @ mean_found(rates, each * replicas, replicas, routing, dispersion)
        for routing in SIMULATED
    ]
    assert means[0] > 1.02 * means[1] > 1.02**2 * means[2]


def asked(rate_per_s: float, routing: str | None) -> Recommendation:
    """What a stream needs on a batching server, without spares."""
    return recommend(
        batching_server(draws=40),
        [target("a", gpus_per_replica=1)],
        Demand(arrivals=Arrivals(rate_per_s=rate_per_s)),
        [parse_slo("ttft_p95<=1s")],
        rng=np.random.default_rng(5),
        routing=routing,
        spare=0,
    )


def test_one_replica_needs_the_same_by_every_routing() -> None:
    """Where one replica is enough there is nothing to route: the figures are the same."""
    options = [asked(10.0, routing).recommended for routing in (None, "random", *SIMULATED)]
    assert options[0] is not None
    assert options[0].replicas == 1
    assert all(option == options[0] for option in options)


def test_pools_need_no_more_replicas() -> None:
    """Least-loaded needs fewer for a big stream, never more, and says that it was simulated."""
    found = {routing: asked(170.0, routing) for routing in ("random", *SIMULATED)}
    needed = {}
    for routing, one in found.items():
        assert one.recommended is not None
        assert one.recommended.replicas is not None
        needed[routing] = one.recommended.replicas
        assert one.routing.startswith(routing)
        told = " ".join(one.recommended.notes)
        assert ("simulated" in told) == (routing in SIMULATED)
    assert needed["least-loaded"] < needed["random"]
    assert needed["least-loaded"] <= needed["round-robin"] <= needed["random"]
    pooled = found["least-loaded"].recommended
    assert pooled is not None
    assert (pooled.confidence or 0) >= 0.9


@pytest.mark.parametrize(
    ("demand", "routing", "remedy"),
    [
        (Demand(users=9), "least-loaded", "give --rate or --trace"),
        (Demand(arrivals=Arrivals(rate_per_s=2.0)), "session-sticky", "give --users"),
        (Demand(users=9), "by magic", "known are session-sticky, random"),
    ],
)
def test_routing_that_the_demand_cannot_have(demand: Demand, routing: str, remedy: str) -> None:
    """One line that names what to give instead."""
    with pytest.raises(InputError, match=remedy):
        recommend(
            batching_server(draws=5), [target()], demand, [parse_slo("ttft_p95<=1s")],
            rng=np.random.default_rng(1), routing=routing,
        )  # fmt: skip
