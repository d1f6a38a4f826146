"""The simulator against queues whose answer is known, and against its own laws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.batching import open_batch, service_rates
from planner.errors import InputError
from planner.queueing import in_flight, mg1_wait, mmc, ps_response, throughput
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.outcome import _mean
from planner.simulation.routing import ROUTES
from planner.simulation.traffic import (
    ClosedUsers,
    Lengths,
    OpenArrivals,
    gamma_arrivals,
    poisson_arrivals,
)
from planner.steptime import StepTime
from planner.units import parse_slo

if TYPE_CHECKING:
    import numpy.typing as npt

    from planner.records import Estimate
    from planner.simulation.outcome import Outcome

TOKEN_S = 0.001
MEAN_TOKENS = 400
SERVICE_S = TOKEN_S * MEAN_TOKENS
CONSTANT = StepTime(base_s=TOKEN_S)
SERVER = StepTime(base_s=0.02, per_sequence_s=5e-4, per_prompt_token_s=5e-4)
WIDER = 1.66
"""A 99 % interval over a 90 % one, both of Student's t with 19 degrees of freedom."""


def lengths(output: npt.ArrayLike, prompt: int = 1) -> Lengths:
    """Outputs behind prompts of one length."""
    tokens = np.asarray(output, dtype=np.int64)
    return Lengths(prompt_tokens=np.full_like(tokens, prompt), output_tokens=tokens)


def open_run(
    engine: Engine, arrivals: npt.NDArray[np.float64], output: npt.ArrayLike, **how: object
) -> Outcome:
    """Open arrivals through one engine."""
    source = OpenArrivals(arrivals, lengths(output))
    return simulate(engine, source, rng=np.random.default_rng(1), **how)  # type: ignore[arg-type]


def inside(truth: float, estimate: Estimate) -> bool:
    """Whether the simulation's own interval, at 99 %, holds the truth."""
    assert estimate.low is not None
    assert estimate.high is not None
    return abs(truth - estimate.value) <= WIDER * (estimate.high - estimate.low) / 2


def assert_little(outcome: Outcome) -> None:
    """Mean in flight, as the event loop counted it, is arrivals times time in the system."""
    served = np.isfinite(outcome.ended_s)
    total = (outcome.ended_s - outcome.arrival_s)[served].sum()
    assert outcome.in_flight_mean * outcome.ended_s[served].max() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.85), (64, 0.97)])
def test_is_mmc(servers: int, load: float) -> None:
    """Slots that do not slow each other down and geometric lengths are M/M/c."""
    rng = np.random.default_rng(servers)
    rate, count = load * servers / SERVICE_S, 40_000
    outcome = open_run(
        Engine(step=CONSTANT, slots=servers),
        poisson_arrivals(rate, count, rng),
        rng.geometric(1 / MEAN_TOKENS, count),
    )
    wait = mmc(rate, SERVICE_S, servers)
    assert inside(wait.mean_s + SERVICE_S, outcome.figures()["e2e_mean_s"])
    settled = outcome.wait_s[count // 10 :]
    # An idle slot is taken at the next step boundary, up to one token later.
    for seconds in (SERVICE_S / servers, 3 * SERVICE_S / servers):
        late = _mean((settled > seconds + TOKEN_S / 2).astype(float))
        assert inside(wait.exceeds(seconds), late)
    assert_little(outcome)


@pytest.mark.parametrize("scv", [0.0, 0.5, 3.0])
def test_is_mg1(scv: float) -> None:
    """One slot is M/G/1, with constant, gamma and heavy-tailed lengths."""
    rng = np.random.default_rng(7)
    rate, count = 0.7 / SERVICE_S, 60_000
    tokens = np.full(count, MEAN_TOKENS)
    if scv:
        tokens = np.maximum(1, rng.gamma(1 / scv, scv * MEAN_TOKENS, count)).round().astype(int)
    mean = float(tokens.mean()) * TOKEN_S
    own = float(tokens.var() / tokens.mean() ** 2)
    outcome = open_run(Engine(step=CONSTANT, slots=1), poisson_arrivals(rate, count, rng), tokens)
    assert inside(mg1_wait(rate, mean, own), _mean(outcome.wait_s[count // 10 :]))
    assert_little(outcome)


def test_is_processor_sharing() -> None:
    """A step as long as its batch, without a limit of slots, shares the processor evenly."""
    rng = np.random.default_rng(3)
    step = StepTime(base_s=0.0, per_sequence_s=TOKEN_S, per_prompt_token_s=TOKEN_S)
    rate, count = 0.75 / SERVICE_S, 60_000
    tokens = rng.geometric(1 / MEAN_TOKENS, count)
    outcome = open_run(
        Engine(step=step, slots=5000, batch_tokens=9000),
        poisson_arrivals(rate, count, rng),
        tokens,
    )
    settled = np.arange(count) >= count // 10
    e2e = outcome.latency_s("e2e")
    mean = float(tokens.mean()) * TOKEN_S
    assert inside(ps_response(rate, mean), _mean(e2e[settled]))
    # Its own law: the slowdown of a request does not depend on its length.
    for low, high in ((50, 150), (800, 1600)):
        some = settled & (tokens >= low) & (tokens < high)
        slowdown = e2e[some] / (tokens[some] * TOKEN_S)
        assert inside(ps_response(rate, mean, 1.0), _mean(slowdown))
    assert_little(outcome)


@pytest.mark.parametrize("load", [0.3, 0.9])
def test_is_the_birth_death_chain(load: float) -> None:
    """An engine that batches, with geometric lengths, is the chain of ``planner.batching``."""
    rng = np.random.default_rng(11)
    slots, count, tokens = 16, 40_000, 200
    rates = service_rates(SERVER, slots, prompt_tokens_mean=0, output_tokens_mean=tokens)
    rate = load * float(rates[-1])
    chain = open_batch(rate, rates)
    outcome = open_run(
        Engine(step=SERVER, slots=slots),
        poisson_arrivals(rate, count, rng),
        rng.geometric(1 / tokens, count),
    )
    step = float(SERVER.seconds(slots))
    found = outcome.figures()["e2e_mean_s"]
    # An arrival waits for the end of the running step, which the chain does not know.
    assert inside(chain.response_s + step / 2, found) or inside(chain.response_s, found)
    waited = _mean((outcome.wait_s[count // 10 :] > step).astype(float))
    assert waited.value == pytest.approx(chain.waiting.exceeds(step), abs=0.02)
    assert_little(outcome)


@pytest.mark.parametrize("think_s", [0.0, 2.0, 30.0])
def test_closed_users_are_the_machine_repair_model(think_s: float) -> None:
    """Users who think are the closed network of ``planner.queueing``."""
    rng = np.random.default_rng(5)
    users, tokens, count = 24, 100, 20_000
    engine = Engine(step=SERVER, slots=users)
    source = ClosedUsers(
        users,
        think_s,
        lengths(rng.geometric(1 / tokens, count)),
        requests=count,
        rng=rng,
    )
    outcome = simulate(engine, source, rng=rng)
    rates = service_rates(SERVER, users, prompt_tokens_mean=0, output_tokens_mean=tokens)
    mean = float(outcome.output_tokens.mean()) / tokens  # the sample's own work
    exact = throughput(in_flight(users, think_s, rates / mean), rates / mean)
    middle = outcome.arrival_s[[count // 10, count - users]]
    assert (count * 0.9 - users) / float(np.ptp(middle)) == pytest.approx(exact, rel=0.02)
    assert_little(outcome)


@pytest.mark.parametrize("users", [1, 4, 24])
def test_closed_loop_has_the_steady_step(users: int) -> None:
    """Throughput and TPOT of n in flight are what ``StepTime`` says, prompts and contexts too."""
    rng = np.random.default_rng(10)
    step = StepTime(
        base_s=0.02, per_sequence_s=5e-4, per_context_token_s=1e-6, per_prompt_token_s=1e-4
    )
    outputs = rng.integers(50, 151, 1000)
    source = ClosedUsers(users, 0.0, lengths(outputs, prompt=300), requests=3000, rng=rng)
    outcome = simulate(Engine(step=step, slots=users), source, rng=rng)
    mean = float(outcome.output_tokens.mean())
    rate = users / (mean * float(step.steady(users, 300, mean)))
    middle = outcome.arrival_s[[300, 2900]]
    assert 2600 / float(np.ptp(middle)) == pytest.approx(rate, rel=0.02)
    tpot = outcome.figures()["tpot_mean_s"].value
    assert tpot == pytest.approx(float(step.tpot(users, 300, mean)), rel=0.02)


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 60 runs of M/M/1, about nine in ten have the exact mean in their 90 % interval."""
    rate, count, hits = 0.5 / 0.02, 2500, 0
    truth = mmc(rate, 0.02, 1).mean_s + 0.02
    for seed in range(60):
        rng = np.random.default_rng(seed)
        outcome = open_run(
            Engine(step=StepTime(base_s=1e-4), slots=1),
            poisson_arrivals(rate, count, rng),
            rng.geometric(1 / 200, count),
        )
        e2e = outcome.figures()["e2e_mean_s"]
        assert e2e.low is not None
        assert e2e.high is not None
        hits += e2e.low <= truth <= e2e.high
    assert 46 <= hits <= 59  # 90 % of 60 is 54, give or take 2.3; short batches cost a little


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.sampled_from(sorted(ROUTES)),
    st.none() | st.integers(600, 2000),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_every_request_ends_once_and_in_order(
    replicas: int, routing: str, kv: int | None, chunked: bool, ahead: bool, seed: int
) -> None:
    """Whatever the engine and the router: all end, moments are in order, Little's law holds."""
    rng = np.random.default_rng(seed)
    engine = Engine(
        step=SERVER,
        slots=8,
        batch_tokens=64,
        kv_tokens=kv,
        chunked_prefill=chunked,
        runs_ahead=ahead,
    )
    users = ClosedUsers(
        int(rng.integers(1, 40)),
        float(rng.choice([0.0, 0.5])),
        Lengths(prompt_tokens=rng.integers(1, 200, 50), output_tokens=rng.integers(1, 60, 50)),
        requests=120,
        rng=rng,
        turns=int(rng.integers(1, 3)),
    )
    outcome = simulate(engine, users, rng=rng, replicas=replicas, routing=routing)
    assert np.isfinite(outcome.ended_s).all()
    assert (outcome.arrival_s <= outcome.scheduled_s).all()
    assert (outcome.scheduled_s < outcome.first_token_s).all()
    assert (outcome.first_token_s <= outcome.ended_s).all()
    assert ((outcome.replica >= 0) & (outcome.replica < replicas)).all()
    assert_little(outcome)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_seed_gives_the_same_run(seed: int) -> None:
    """Equal seeds give equal moments, to the bit."""

    def run() -> Outcome:
        rng = np.random.default_rng(seed)
        users = ClosedUsers(9, 1.0, lengths(range(1, 40)), requests=80, rng=rng, turns=3)
        return simulate(Engine(step=SERVER, slots=4), users, rng=rng, replicas=3, routing="random")

    one, two = run(), run()
    assert one.ended_s.tobytes() == two.ended_s.tobytes()
    assert one.replica.tobytes() == two.replica.tobytes()


def test_pooled_routing_waits_less_than_a_random_split() -> None:
    """Least-loaded beats round-robin, which beats random; one replica is no better than each."""
    rng = np.random.default_rng(2)
    count, replicas = 20_000, 4
    engine = Engine(step=CONSTANT, slots=8)
    arrivals = poisson_arrivals(0.9 * 8 * replicas / SERVICE_S, count, rng)
    tokens = rng.geometric(1 / MEAN_TOKENS, count)
    wait = {
        name: float(
            open_run(engine, arrivals, tokens, replicas=replicas, routing=name).wait_s.mean()
        )
        for name in ("least-loaded", "round-robin", "random")
    }
    assert wait["least-loaded"] < wait["round-robin"] < wait["random"]
    # A random split of Poisson arrivals is Poisson: each replica is an M/M/8 of its own.
    alone = mmc(0.9 * 8 / SERVICE_S, SERVICE_S, 8).mean_s
    assert wait["random"] == pytest.approx(alone, rel=0.25)


def test_bursts_wait_longer() -> None:
    """The same load in bursts waits as Allen and Cunneen say, about."""
    count = 60_000
    waits = {}
    for scv in (0.25, 1.0, 4.0):
        rng = np.random.default_rng(4)
        outcome = open_run(
            Engine(step=CONSTANT, slots=1),
            gamma_arrivals(0.8 / SERVICE_S, scv, count, rng),
            rng.geometric(1 / MEAN_TOKENS, count),
        )
        waits[scv] = float(outcome.wait_s.mean())
    poisson = mmc(0.8 / SERVICE_S, SERVICE_S, 1).mean_s
    assert waits[4.0] / poisson == pytest.approx(2.5, rel=0.25)
    assert waits[0.25] / poisson == pytest.approx(0.625, rel=0.25)


def test_a_sticky_session_stays_and_reads_only_what_is_new() -> None:
    """A conversation that returns to its replica finds its prefix there; elsewhere it does not."""

    def read_s(routing: str, caching: bool) -> float:
        rng = np.random.default_rng(6)
        step = StepTime(base_s=1e-6, per_prompt_token_s=1e-3)
        users = ClosedUsers(2, 5.0, lengths([10] * 5, prompt=100), requests=400, rng=rng, turns=10)
        engine = Engine(step=step, slots=8, batch_tokens=10_000, prefix_caching=caching)
        outcome = simulate(engine, users, rng=rng, replicas=8, routing=routing)
        if routing == "sticky":
            assert len(np.unique(outcome.replica)) > 4
        return float(outcome.latency_s("ttft").mean())

    whole = read_s("sticky", caching=False)
    # Turn t repeats (t - 1)·110 tokens and adds 100: 595 on average, of which 100 to 116 are new
    # (what does not fill a block of 16 is read again).
    assert whole == pytest.approx(0.595, rel=0.05)
    assert 0.100 <= read_s("sticky", caching=True) <= 0.120
    assert read_s("random", caching=True) > 0.3


def test_ollama_loads_its_model() -> None:
    """The first request waits for the model, and so does one after the keep-alive ran out."""
    engine = Engine(step=CONSTANT, slots=1, load_s=5.0, keep_alive_s=60.0)
    outcome = open_run(engine, np.array([0.0, 1.0, 60.0, 200.0]), [1000] * 4)
    assert outcome.wait_s == pytest.approx([5.0, 5.0, 0.0, 5.0])
    # 200 s is more than 60 s after the third ended at 61 s.
    assert outcome.ended_s == pytest.approx([6.0, 7.0, 61.0, 206.0])


def test_a_full_queue_refuses() -> None:
    """What exceeds slots and queue is refused, counted as an error, and served when asked later."""
    engine = Engine(step=CONSTANT, slots=2, queue_limit=1)
    outcome = open_run(engine, np.array([0.0, 0.0, 0.0, 0.0, 5.0]), [1000] * 5)
    assert outcome.replica.tolist() == [0, 0, 0, -1, 0]
    assert outcome.figures(warm_up=0)["error_rate"].value == pytest.approx(0.2)
    users = ClosedUsers(9, 0.0, lengths([100]), requests=50, rng=np.random.default_rng(0))
    refused = simulate(engine, users, rng=np.random.default_rng(0))
    assert 0 < (refused.replica < 0).sum() < 50


def test_what_never_fits_the_cache_is_refused() -> None:
    """A request longer than the whole cache is refused, instead of being preempted for ever."""
    engine = Engine(step=CONSTANT, slots=2, kv_tokens=64)
    outcome = open_run(engine, np.array([0.0, 1.0]), [100, 10])
    assert outcome.replica.tolist() == [-1, 0]


def test_an_engine_that_runs_ahead_lets_in_a_step_later() -> None:
    """With the next step composed in advance an arrival joins one step later, and not if idle."""
    engine = Engine(step=StepTime(base_s=1.0), slots=4)
    arrivals = np.array([0.0, 2.5])
    plain = open_run(engine, arrivals, [10, 1])
    ahead = open_run(replace(engine, runs_ahead=True), arrivals, [10, 1])
    assert plain.first_token_s.tolist() == [1.0, 4.0]
    assert ahead.first_token_s.tolist() == [1.0, 5.0]


def test_an_arrival_a_hair_after_a_step_does_not_turn_time_back() -> None:
    """Round-off puts an arrival on the boundary that it just missed, but never before itself."""
    outcome = open_run(
        Engine(step=StepTime(base_s=0.01), slots=2), np.array([0.0, 0.05 + 1e-13]), [100, 1]
    )
    assert outcome.scheduled_s[1] >= outcome.arrival_s[1]
    assert outcome.first_token_s[1] == pytest.approx(0.06)


def test_unchunked_prompts_hold_decoding_up() -> None:
    """A prompt read in a step of its own stops the others; a chunk beside them does not."""
    step = StepTime(base_s=0.01, per_prompt_token_s=1e-3)
    both = Lengths(prompt_tokens=np.array([1, 4000]), output_tokens=np.array([20, 1]))
    last = {}
    for chunked in (False, True):
        engine = Engine(step=step, slots=4, batch_tokens=204, chunked_prefill=chunked)
        source = OpenArrivals(np.array([0.0, 0.05]), both)
        outcome = simulate(engine, source, rng=np.random.default_rng(0))
        last[chunked] = outcome.first_token_s.tolist()[1], outcome.ended_s.tolist()[0]
    # Unchunked: 4 s at once, and 0.01 s of the step; the other ends 4.01 s later than alone.
    assert last[False] == (pytest.approx(4.071, abs=0.02), pytest.approx(4.211, abs=0.02))
    # Chunked: 203 tokens a step; the other still has its steps, though slow ones.
    assert last[True][0] == pytest.approx(4.26, abs=0.02)
    assert last[True][1] < last[True][0]


def test_figures_are_named_as_in_operating_points() -> None:
    """Names as records know them, with intervals; percentiles are nearest ranks."""
    rng = np.random.default_rng(8)
    engine = Engine(step=SERVER, slots=8)
    outcome = open_run(engine, poisson_arrivals(1.0, 1000, rng), rng.integers(2, 50, 1000))
    figures = outcome.figures((0.5, 0.95, 0.999))
    for name in ("ttft_p95_s", "tpot_p50_s", "e2e_p99.9_s", "ttft_mean_s"):
        assert figures[name].low <= figures[name].value <= figures[name].high  # type: ignore[operator]
    assert figures["requests_per_s"].value == pytest.approx(1.0, rel=0.1)
    ttft = np.sort(outcome.latency_s("ttft")[100:])
    assert figures["ttft_p95_s"].value == ttft[854]  # the 855th of 900
    only = np.arange(1000) < 10
    assert outcome.figures(keep=only)["e2e_mean_s"].n == 10


def test_goodput_counts_what_met_every_objective() -> None:
    """Half the requests break the TTFT objective and are left out; all meet the other."""
    engine = Engine(step=StepTime(base_s=0.01), slots=1)
    outcome = open_run(engine, np.repeat(np.arange(100) * 10.0, 2), [100] * 200)
    fast, slow = parse_slo("ttft_p95<=500ms"), parse_slo("tpot_p99<=1s")
    both = outcome.goodput_per_s([fast, slow], warm_up=0)
    assert both == pytest.approx(outcome.goodput_per_s([slow], warm_up=0) / 2, rel=1e-3)
    assert outcome.goodput_per_s([parse_slo("e2e_p50<=1ms")], warm_up=0) == 0


def test_a_million_tokens_do_not_drift() -> None:
    """One request of a million tokens ends when the closed form says, contexts included."""
    step = StepTime(base_s=0.01, per_context_token_s=1e-8)
    outcome = open_run(Engine(step=step, slots=1), np.array([0.0]), [1_000_000])
    n = 999_999
    exact = 0.01 + n * 0.01 + 1e-8 * (n * 1 + n * (n - 1) / 2)
    assert outcome.ended_s[0] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Engine(step=CONSTANT, slots=0), "slots=0"),
        (lambda: Engine(step=CONSTANT, slots=8, batch_tokens=8), "batch_tokens=8: .* least 9"),
        (lambda: Engine(step=CONSTANT, slots=1, kv_tokens=3), "kv_tokens=3"),
        (lambda: Engine(step=CONSTANT, slots=1, load_s=math.nan), "load_s=nan"),
        (lambda: Engine(step=CONSTANT, slots=1, load_s=math.inf), "load_s=inf"),
        (lambda: lengths([]), "lengths"),
        (lambda: lengths([0]), "at least 1 token"),
        (lambda: OpenArrivals(np.array([1.0, 0.0]), lengths([1, 1])), "in order"),
        (lambda: OpenArrivals(np.array([1.0]), lengths([1, 1])), "1 arrivals .* not 2"),
        (lambda: gamma_arrivals(0.0, 1, 5, np.random.default_rng(0)), "0.0/s"),
        (
            lambda: ClosedUsers(0, 1, lengths([1]), requests=5, rng=np.random.default_rng(0)),
            "0 users",
        ),
        (lambda: open_run(Engine(step=CONSTANT, slots=1), np.array([0.0]), [1], replicas=0), "0"),
        (
            lambda: open_run(Engine(step=CONSTANT, slots=1), np.array([0.0]), [1], routing="up"),
            "'up' is unknown: known are least-loaded, random, round-robin, sticky",
        ),
        (
            lambda: open_run(Engine(step=CONSTANT, slots=1), np.array([]), []).figures(),
            "lengths",
        ),
        (
            lambda: open_run(Engine(step=CONSTANT, slots=1), np.array([0.0]), [1]).latency_s("itl"),
            "no 'itl'",
        ),
        (
            lambda: open_run(Engine(step=CONSTANT, slots=1), np.array([0.0]), [1]).figures(
                keep=np.array([False])
            ),
            "none of 1",
        ),
    ],
)
def test_bad_input_is_one_line(make: object, text: str) -> None:
    """What cannot be simulated is refused with the value and the bound."""
    with pytest.raises(InputError, match=text) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
