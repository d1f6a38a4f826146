"""The second road to an answer, against engines whose every step is known."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from rich.console import Console

from planner.answer import merged
from planner.answer_tables import print_answer
from planner.predict import Load
from planner.question import Question
from planner.recommend import recommend
from planner.records import (
    Arrivals,
    Demand,
    EngineLimits,
    Estimate,
    Predicted,
    ServerView,
    Simulated,
)
from planner.simulate import simulate
from planner.simulated import disagreements_of
from planner.simulation.traffic import OpenArrivals, batch_arrivals, poisson_arrivals
from planner.slots import with_seen
from planner.summary import LENGTHS_KEPT
from planner.telemetry import Telemetry
from planner.units import parse_slo, percentile_of
from tests.planner.simulated_runs import SLOTS, engine, lengths, run_of_levels, simulated_users
from tests.planner.synthetic import target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.records import Recommendation, TargetInfo, TelemetrySample
    from planner.runfolder import Run
    from planner.simulation.outcome import Outcome
    from planner.summary import LevelSample

SLO = tuple(parse_slo(text) for text in ("ttft_p95<=2s", "e2e_p95<=8s", "tpot_p95<=100ms"))
WIDE = tuple(parse_slo(text) for text in ("ttft_p95<=200s", "e2e_p95<=900s", "tpot_p95<=9s"))
"""Met by one replica, whatever it feels."""
THINKING = Demand(users=20, think_time_s=2.0)


@pytest.fixture(scope="module")
def measured() -> tuple[list[LevelSample], list[TargetInfo]]:
    """Levels below, at and above the eight slots of the engine."""
    return levels((1, 2, 4, 8, 12, 16))


def levels(which: tuple[int, ...]) -> tuple[list[LevelSample], list[TargetInfo]]:
    """Levels of the known engine, with few replicates."""
    return merged([run_of_levels(which)], rng=np.random.default_rng(0), draws=60)


def asked(
    samples: Sequence[LevelSample],
    targets: Sequence[TargetInfo],
    demand: Demand = THINKING,
    slo: Sequence[object] = SLO,
    routing: str | None = None,
) -> Recommendation:
    """The answer for a demand."""
    return recommend(samples, targets, demand, slo, rng=np.random.default_rng(4), routing=routing)  # type: ignore[arg-type]


def second(found: Recommendation) -> Simulated:
    """Its simulation."""
    assert found.simulated is not None
    return found.simulated


def truth(outcome: Outcome, figure: str) -> float:
    """A percentile of a long simulation of the engine itself, its ends left out."""
    values = outcome.latency_s(figure.partition("_")[0])[1000:-200]
    share = percentile_of(figure)
    assert share is not None
    return float(np.quantile(values[np.isfinite(values)], share))


def test_both_roads_agree_on_a_known_engine(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Users who think: the simulated intervals hold the truth, and nothing is warned of."""
    found = asked(*measured)
    real = simulated_users(20, 2.0, 15_000, seed=5)
    assert second(found).why_not is None
    assert set(second(found).figures) == {slo.figure for slo in SLO}
    for figure, told in second(found).figures.items():
        assert told.low is not None
        assert told.high is not None
        assert told.low <= truth(real, figure) <= told.high
        assert told.high < 2 * told.low
    assert found.warnings == ()


@pytest.mark.parametrize("routing", ["random", "least-loaded"])
def test_arrivals_agree_too(
    measured: tuple[list[LevelSample], list[TargetInfo]], routing: str
) -> None:
    """Poisson arrivals: each replica a queue with its share, or all of them behind a router."""
    found = asked(*measured, Demand(arrivals=Arrivals(rate_per_s=12.0)), routing=routing)
    assert found.recommended is not None
    assert found.recommended.replicas is not None
    assert found.warnings == ()
    needed, rng = found.recommended.replicas - found.spare, np.random.default_rng(8)
    assert needed > 1
    pairs = lengths(np.random.default_rng(99)).draw(20_000, rng)
    source = OpenArrivals(poisson_arrivals(12.0, 20_000, rng), pairs)
    real = simulate(engine(), source, rng=rng, replicas=needed, routing=routing)
    for figure, told in second(found).figures.items():
        assert told.low is not None
        assert told.high is not None
        assert told.low <= truth(real, figure) <= told.high


def test_slots_may_be_seen_instead_of_told() -> None:
    """A server that tells none is simulated with what looks show, to the same figures."""
    looks: list[TelemetrySample] = []
    which = (1, 2, 4, 8, 16)
    samples, (bare,) = merged(
        [run_of_levels(which, looks=looks)], rng=np.random.default_rng(0), draws=60
    )
    assert bare.slots is None
    assert "does not say how many requests" in (second(asked(samples, [bare])).why_not or "")
    seen = with_seen(bare, Telemetry.from_samples(looks))
    assert (seen.limits.slots, seen.slots) == (None, SLOTS)
    found = asked(samples, [seen], Demand(users=10))
    assert found.options[0].slots == seen.slot_limit
    assert any(note.startswith("8 slots, as seen: ") for note in found.options[0].notes)
    told = msgspec.structs.replace(bare, limits=EngineLimits(slots=SLOTS))
    assert second(found) == second(asked(samples, [told], Demand(users=10)))


def test_slots_that_nobody_waits_for_need_not_be_known() -> None:
    """As many as ran at once are enough for as many in flight, and not known to be for more."""
    looks: list[TelemetrySample] = []
    many = dataclasses.replace(engine(), slots=64, batch_tokens=2112)
    run = run_of_levels((1, 4, 16, 32), of=many, looks=looks)
    samples, (bare,) = merged([run], rng=np.random.default_rng(0), draws=60)
    target = with_seen(bare, Telemetry.from_samples(looks))
    assert target.slots is None
    found = second(asked(samples, [target]))
    real = simulated_users(20, 2.0, 15_000, seed=5, of=many)
    assert found.why_not is None
    for figure, told in found.figures.items():
        assert told.low is not None
        assert told.high is not None
        assert told.low <= truth(real, figure) <= told.high
    refused = second(asked(samples, [target], Demand(users=48), WIDE)).why_not
    assert refused is not None
    assert "--slots t=NUMBER, or measure more in flight than it answers at once" in refused
    assert "(32 were seen to run, and up to 48 would be in flight)" in refused


def test_a_kv_cache_that_runs_full_is_simulated() -> None:
    """Memory for some thirty requests on 64 slots: known by its size and by looks at a full one."""
    small = dataclasses.replace(
        engine(), slots=64, batch_tokens=2112, kv_tokens=6000, kv_block_tokens=16
    )
    looks: list[TelemetrySample] = []
    run = run_of_levels((1, 4, 16, 32, 64), count=1500, of=small, looks=looks)
    samples, (bare,) = merged([run], rng=np.random.default_rng(0), draws=60)
    samples = [watched(run, sample, looks) for sample in samples]
    target = msgspec.structs.replace(
        with_seen(bare, Telemetry.from_samples(looks)),
        settings={"KV cache tokens": "6000", "block size": "16"},
    )
    assert target.slots is None
    assert target.slots_seen is not None
    assert target.slots_seen.full > 10
    found = second(asked(samples, [target], Demand(users=48), WIDE))
    real = simulated_users(48, 0.0, 15_000, seed=5, of=small)
    assert found.why_not is None
    for figure, told in found.figures.items():
        assert told.low is not None
        assert told.high is not None
        assert told.low <= truth(real, figure) <= told.high
    given = msgspec.structs.replace(target, slots_given=64, settings={})
    without = second(asked(samples, [given], Demand(users=48), WIDE))
    assert without.figures == {}
    assert "32 in flight the KV cache was full and kept requests waiting" in str(without.why_not)
    assert second(asked(samples, [given], Demand(users=8), WIDE)).figures


def watched(run: Run, sample: LevelSample, looks: Sequence[TelemetrySample]) -> LevelSample:
    """A level with how full its server's KV cache was at most."""
    stage = run.manifest.stages[sample.stages[0]]
    assert stage.ended_s is not None
    used = [
        look.values["kv_usage"] for look in looks if stage.started_s <= look.time_s <= stage.ended_s
    ]
    view = ServerView(samples=len(used), kv_usage_max=max(used))
    return dataclasses.replace(sample, point=msgspec.structs.replace(sample.point, server=view))


@pytest.mark.parametrize("seen", [True, False])
def test_the_wait_for_slots_between_two_levels_is_found(
    seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels 8 and 16 of an engine with 8 slots do not show at 10 all that its queue does.

    The curve knows where the wait begins, though not how it spreads; a curve that did not is far
    too low there, which is told.
    """
    samples, targets = levels((1, 2, 4, 8, 16))
    if not seen:
        monkeypatch.setattr("planner.waiting.JUMP", 1e9)
    found = asked(samples, targets, Demand(users=10))
    told = second(found).figures["ttft_p95_s"]
    real = truth(simulated_users(10, 0.0, 15_000, seed=6), "ttft_p95_s")
    assert told.low is not None
    assert told.high is not None
    assert told.low <= real <= told.high
    assert found.recommended is not None
    high = found.recommended.predicted["ttft_p95_s"].high
    assert high is not None
    if seen:
        assert 0.75 * real < high < real
        assert found.warnings == ()
    else:
        assert high < 0.6 * real
        (warning,) = found.warnings
        assert "headroom measure vllm=http://127.0.0.1:1 --users 10 --out RUN" in warning


def test_a_wrong_curve_is_warned_of(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Crowded levels whose TTFT was made a fifth: both figures and what to measure are told."""
    samples, targets = measured
    wrong = [
        sample
        if sample.point.load <= 8
        else dataclasses.replace(
            sample, quantiles=sample.quantiles | {"ttft": sample.quantiles["ttft"] / 5}
        )
        for sample in samples
    ]
    found = asked(wrong, targets)
    (warning,) = found.warnings
    assert warning.startswith("t: TTFT p95 is ")
    assert "simulated request by request" in warning
    assert "--users 20 --think-time 2s" in warning
    assert warning.count(" s ") + warning.count(" ms ") >= 2


@pytest.mark.parametrize(
    ("curves", "simulated", "label", "warned", "missed"),
    [
        ((1.0, 0.9, 1.1), (1.2, 1.05, 1.3), "interpolated", False, False),
        ((1.0, 0.9, 1.1), (1.4, 1.2, 1.6), "interpolated", True, False),
        ((1.0, 0.9, 1.1), (0.7, 0.6, 0.8), "extrapolated", True, False),
        ((1.9, 1.5, 2.2), (2.1, 1.7, 2.5), "interpolated", True, True),
        ((1.0, 0.9, 1.1), (3.0, 2.5, 4.0), "measured", False, False),
    ],
)
def test_what_counts_as_a_disagreement(
    curves: tuple[float, float, float],
    simulated: tuple[float, float, float],
    label: str,
    warned: bool,
    missed: bool,
) -> None:
    """Intervals that do not meet, or an objective of 2 s that only the curves meet."""
    question = Question(demand=THINKING, slo=SLO[:1], confidence=0.9, spare=0, gpu_cost={})
    value, low, high = curves
    told = disagreements_of(
        target("a"),
        {"ttft_p95_s": Predicted(value=value, low=low, high=high, label=label)},  # type: ignore[arg-type]
        Simulated(
            figures={
                "ttft_p95_s": Estimate(value=simulated[0], low=simulated[1], high=simulated[2], n=9)
            }
        ),
        question,
        Load(20, 2.0),
    )
    assert len(told) == warned
    assert any("which misses 2 s" in text for text in told) == missed


def test_why_nothing_is_simulated(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Each reason is one sentence without our words, and the answer stays what it was."""
    samples, targets = measured
    bare = [dataclasses.replace(sample, lengths=None) for sample in samples]
    some = [msgspec.structs.replace(t, limits=EngineLimits()) for t in targets]
    many = [msgspec.structs.replace(t, limits=EngineLimits(slots=10_000)) for t in targets]
    above = [sample for sample in samples if sample.point.load >= 8]
    rate = Demand(arrivals=Arrivals(rate_per_s=1.0))
    cases = {
        "lengths of single requests": asked(bare, targets),
        "does not say how many requests": asked(samples, some),
        "only one level was measured with no more requests in flight than the 8": asked(
            above, targets, rate
        ),
        "no objective is on a figure": asked(samples, targets, slo=[parse_slo("error_rate<=1%")]),
    }
    for says, found in cases.items():
        assert says in (second(found).why_not or ""), says
        assert second(found).figures == {}
        assert found.recommended is not None
        assert [text for text in found.warnings if "tell its slots" not in text] == []
    assert second(asked(samples, many)).figures  # no level is crowded: all of them count


def test_a_server_that_does_not_work_as_simulated_is_not_simulated(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Where even the measured levels come out otherwise the figure is left out, not shown."""
    samples, targets = measured
    odd = [
        dataclasses.replace(
            sample, quantiles=sample.quantiles | {"ttft": sample.quantiles["ttft"] * 1.6}
        )
        for sample in samples
    ]
    found = second(asked(odd, targets))
    assert set(found.figures) == {"e2e_p95_s", "tpot_p95_s"}
    assert "times off: this server does not work" in (found.why_not or "")


def test_no_measurement_ends_the_answer(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Whatever the times of the levels are, a step that cannot be is a reason, not a failure."""
    samples, targets = measured
    rng = np.random.default_rng(6)
    reasons = set()
    for power in (-3.0, 3.0):
        odd = [
            dataclasses.replace(
                sample,
                means=sample.means
                | {"tpot": sample.means["tpot"] * sample.point.load**power * rng.uniform(0.01, 9)}
                | {"ttft": sample.means["ttft"] * rng.uniform(0.01, 200)},
            )
            for sample in samples
        ]
        found = asked(odd, targets)
        assert found.recommended is not None
        reasons.add((second(found).why_not or "")[:40])
    assert "the times that were measured do not grow" in {reason[:40] for reason in reasons}


def test_the_same_seed_gives_the_same_figures(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Nothing but the generator is random; and it changes nothing else in the answer."""
    once, again = (second(asked(*measured)) for _ in range(2))
    assert once == again
    without = recommend(*measured, THINKING, SLO, rng=np.random.default_rng(4), simulated=False)
    assert without.simulated is None
    assert msgspec.structs.replace(asked(*measured), simulated=None) == without


def test_the_terminal_has_one_line_of_it(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """Where it is simulated each figure stands in one line; where it is not nothing does."""
    samples, targets = measured
    out = io.StringIO()
    print_answer(asked(samples, targets), Console(file=out, width=200))
    (line,) = [text for text in out.getvalue().splitlines() if "request by request" in text]
    assert line.startswith("  t: simulated request by request: TTFT p95 ")
    assert ", E2E p95 " in line
    out = io.StringIO()
    bare = [dataclasses.replace(sample, lengths=None) for sample in samples]
    print_answer(asked(bare, targets), Console(file=out, width=200))
    assert "simulated" not in out.getvalue().replace("extrapolated: simulated", "")


def test_levels_keep_some_lengths(
    measured: tuple[list[LevelSample], list[TargetInfo]],
) -> None:
    """At most so many pairs, of answered requests, all where there are fewer."""
    for sample in measured[0]:
        assert sample.lengths is not None
        assert sample.lengths.prompt_tokens.size == min(sample.point.completed, LENGTHS_KEPT)
    (long,), _ = merged([run_of_levels((2,), count=1500)], rng=np.random.default_rng(0), draws=2)
    assert long.lengths is not None
    assert long.lengths.output_tokens.size == LENGTHS_KEPT
    assert long.lengths.output_tokens.mean() == pytest.approx(
        long.point.output_tokens_mean, rel=0.05
    )


def test_batches_have_their_rate_and_dispersion() -> None:
    """Geometric batches of mean b: 2b - 1 is the variance over the mean of counts."""
    moments = batch_arrivals(5.0, 0.75, 200_000, np.random.default_rng(1))
    assert moments.size / moments[-1] == pytest.approx(20, rel=0.03)
    counts = np.bincount(moments.astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(7, rel=0.1)
