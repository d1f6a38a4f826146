"""Each rule on evidence whose truth is planted: what confirms, refutes, mixes or leaves it open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.claims.catalogue import claims_of
from planner.claims.files import builtin_claims
from planner.claims.gathering import gathered
from planner.claims.judging import judge, judge_all
from planner.claims.weighing import bounded, several, weighed
from planner.diagnosis import Capability, Caution, Diagnosis
from planner.hardware import builtin_catalogue
from planner.parity_records import PairParity, ParityReport
from planner.records import (
    Demand,
    EngineLimits,
    Estimate,
    OperatingPoint,
    Option,
    Recommendation,
    ServerView,
    TargetInfo,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planner.claims.records import ClaimVerdict, Evidence

WORK = Workload(prompt_tokens="100", output_tokens="50")


def server(backend: str, name: str | None = None, **facts: Any) -> TargetInfo:
    """A target with a port of its own."""
    slots = facts.pop("slots", None)
    port = 8000 + sum(map(ord, name or backend))
    return TargetInfo(
        name=name or backend,
        backend=backend,
        url=f"http://127.0.0.1:{port}",
        limits=EngineLimits(slots=slots),
        **facts,
    )


def known(value: float, within: float = 0.03) -> Estimate:
    """An estimate known to so much."""
    return Estimate(value=value, low=value / (1 + within), high=value * (1 + within), n=100)


def point(target: TargetInfo, load: float, tokens: float, **changes: Any) -> OperatingPoint:
    """A level: tokens per second, and the time per token that goes with it."""
    within = changes.pop("within", 0.03)
    fields: dict[str, Any] = {
        "target": target.name, "backend": target.backend, "stage": 0, "load_kind": "concurrency",
        "load": load, "in_flight_mean": load, "completed": 100, "failed": 0, "censored": 0,
        "source": "measured",
        "figures": {
            "output_tokens_per_s": known(tokens, within), "tpot_mean_s": known(load / tokens),
        },
    }  # fmt: skip
    return OperatingPoint(**(fields | changes))


def evidence(*targets: TargetInfo, points: Any = (), **more: Any) -> Evidence:
    """Evidence as the command gathers it."""
    return gathered(
        targets=targets, points=points, catalogue=builtin_catalogue(), workload=WORK, **more
    )


def sweep(
    tokens: Mapping[str, Callable[[float], float]],
    levels: tuple[float, ...] = (1, 2, 4, 8, 16),
    **more: Any,
) -> Evidence:
    """One target per backend, each with a throughput curve."""
    targets = [server(backend, slots=8) for backend in tokens]
    points = [point(t, n, tokens[t.backend](n)) for t in targets for n in levels]
    return evidence(*targets, points=points, **more)


def verdict(rule: str, found: Evidence, **parameters: Any) -> ClaimVerdict:
    """A claim of one rule, judged."""
    claims = claims_of(
        {"claims": {"it": {"text": "it is so", "checks": [{"rule": rule, **parameters}]}}},
        what="test",
    )
    return judge("it", claims["it"], found)


def ratio(found: Evidence, **bounds: Any) -> ClaimVerdict:
    """The throughput of vLLM over llama.cpp's, judged."""
    return verdict(
        "ratio", found, figure="output_tokens_per_s", of="vllm", over=["llamacpp"], **bounds
    )


def flat(factor: float) -> Callable[[float], float]:
    """A curve that is a multiple of N."""
    return lambda n: factor * n


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"least": 3}, "confirmed"),
        ({"least": 3, "most": 5}, "confirmed"),
        ({"least": 5}, "refuted"),
        ({"most": 3}, "refuted"),
        ({"least": 4.02}, "untested"),
        ({"least": 3, "from_load": 32}, "untested"),
    ],
)
def test_ratio(bounds: dict[str, float], expected: str) -> None:
    """A true ratio of 4 lies within, outside of, or too near a bound; beyond the loads: unknown."""
    found = ratio(sweep({"vllm": flat(40), "llamacpp": flat(10)}), **bounds)
    assert found.verdict == expected, found.reason


def test_mixed_names_the_range() -> None:
    """Where the ratio falls below the bound at high loads, the reason says where it holds."""
    found = ratio(sweep({"vllm": lambda n: 40 * n, "llamacpp": lambda n: 10 * n**1.5}), least=2.5)
    assert found.verdict == "mixed"
    (ruling,) = found.rulings
    assert [f.state for f in ruling.findings] == ["holds", "holds", "fails", "fails", "fails"]
    assert "it holds (vllm over llamacpp at 1 in flight" in found.reason
    assert "it fails (vllm over llamacpp at 4 in flight" in found.reason


def test_what_was_not_measured_is_never_decided() -> None:
    """A backend that is missing leaves its part open, and the command names it."""
    found = verdict(
        "ratio", sweep({"vllm": flat(40), "llamacpp": flat(10)}),
        figure="output_tokens_per_s", of="vllm", over=["llamacpp", "ollama"], least=2,
    )  # fmt: skip
    assert found.verdict == "mixed"
    assert "Ollama: no server of this kind was measured" in found.reason
    (step,) = found.next_steps
    assert step.startswith("headroom measure vllm=http://127.0.0.1:")
    assert "ollama=http://HOST:PORT" in step
    assert "--output-tokens 50" in step


@pytest.mark.parametrize("backend", ["vllm", "llamacpp"])
def test_emulators_decide_nothing(backend: str) -> None:
    """The same figures from an emulator leave every claim of the catalogue as without them."""
    real = sweep({"vllm": flat(40), "llamacpp": flat(10)})
    assert ratio(real, least=3).verdict == "confirmed"
    targets = [
        msgspec.structs.replace(t, emulated="vllm/h100/demo") if t.backend == backend else t
        for t in real.targets.values()
    ]
    diagnosis = Diagnosis(
        target=next(t for t in targets if t.emulated),
        capabilities=(Capability(name="chat", supported=True, evidence="yes"),),
        cautions=(Caution(kind="emulator", message="it is one", remedy="-"),),
    )
    found = evidence(*targets, points=real.points, diagnoses=[diagnosis])
    told = ratio(found, least=3)
    assert told.verdict == "untested"
    assert "emulator (vllm/h100/demo) answered" in told.reason
    nothing = {one.id: one.verdict for one in judge_all(builtin_claims(), evidence())}
    only = evidence(*(t for t in targets if t.emulated), points=real.points, diagnoses=[diagnosis])
    assert {one.id: one.verdict for one in judge_all(builtin_claims(), only)} == nothing


def test_unusable_levels_decide_nothing() -> None:
    """Levels with problems, of stages together or on other hardware are no evidence."""
    for change in ({"problems": ("the client was the limit",)}, {"together": ("llamacpp",)}):
        real = sweep({"vllm": flat(40), "llamacpp": flat(10)})
        spoilt = [
            msgspec.structs.replace(p, **change) if p.target == "vllm" else p for p in real.points
        ]
        found = evidence(*real.targets.values(), points=spoilt)
        assert ratio(found, least=3).verdict == "untested"
    targets = [server("vllm", hardware="H100"), server("llamacpp", hardware="RTX 4090")]
    points = [point(t, 4, 10.0 if t.backend == "llamacpp" else 40.0) for t in targets]
    told = ratio(evidence(*targets, points=points), least=3)
    assert (told.verdict, "different hardware" in told.reason) == ("untested", True)


def test_several_comparisons_must_hold_together() -> None:
    """With equal servers at 20 levels a claim of any difference is refuted by chance in 5 %."""
    rng = np.random.default_rng(11)
    targets = [server("vllm"), server("llamacpp")]
    levels = range(1, 21)
    wrong = 0
    for _ in range(200):
        points = [
            point(t, n, n * float(np.exp(rng.normal(0, 0.05 / 1.645))), within=0.0513)
            for t in targets for n in levels
        ]  # fmt: skip
        wrong += any(
            finding.state == "fails"
            for finding in ratio(evidence(*targets, points=points), least=1).rulings[0].findings
        )
    assert wrong / 200 < 0.1  # 0.64 without the correction


@given(st.lists(st.sampled_from(["holds", "fails", "open"]), max_size=8))
def test_weighing(states: list[Any]) -> None:
    """Confirmed means everywhere, refuted nowhere known, untested nothing known."""
    found = weighed(states)
    assert (found == "confirmed") == (bool(states) and set(states) == {"holds"})
    assert (found == "untested") == (set(states) <= {"open"})
    assert (found == "refuted") == ("fails" in states and "holds" not in states)


@given(st.floats(0.1, 10), st.floats(1.01, 2), st.floats(0.1, 10))
def test_bounded_by_the_whole_interval(value: float, spread: float, bound: float) -> None:
    """An interval that holds the bound decides nothing; an open end never helps."""
    estimate = Estimate(value=value, low=value / spread, high=value * spread, n=9)
    state = bounded(estimate, bound, None)
    inside = value / spread < bound <= value * spread
    assert (state == "open") == inside
    unknown = msgspec.structs.replace(estimate, low=None)
    assert bounded(unknown, bound, None) in ("open", "fails")


def test_bonferroni() -> None:
    """One comparison is not widened; ten take the quantile of a tenth of the tail."""
    assert several(1) == pytest.approx(1.0)
    assert several(10) == pytest.approx(2.5758293 / 1.6448536, rel=1e-6)


def trend(found: Evidence) -> ClaimVerdict:
    """Whether vLLM's advantage over llama.cpp grows, judged."""
    return verdict("trend", found, figure="output_tokens_per_s", of="vllm", over=["llamacpp"])


def test_trend_finds_a_planted_slope() -> None:
    """An advantage that grows by 1.5 with each doubling is found, with its value."""
    grow = sweep({"vllm": lambda n: 20 * n ** (1 + np.log2(1.5)), "llamacpp": flat(10)})
    found = trend(grow)
    assert found.verdict == "confirmed"
    estimate = found.rulings[0].findings[0].estimate
    assert estimate is not None
    assert estimate.value == pytest.approx(1.5)
    shrink = sweep({"llamacpp": lambda n: 20 * n**1.5, "vllm": flat(10)})
    assert trend(shrink).verdict == "refuted"


def test_trend_needs_more_than_noise() -> None:
    """Equal curves, or two levels alone, show no trend."""
    assert trend(sweep({"vllm": flat(30), "llamacpp": flat(10)})).verdict == "untested"
    steep = {"vllm": lambda n: 20 * n**2.0, "llamacpp": flat(10)}
    assert trend(sweep(steep, levels=(1, 2))).verdict == "untested"


def test_an_advantage_that_peaks_is_mixed() -> None:
    """It grows on the whole, yet falls at the end: the reason says where."""
    peaks = {1.0: 1.0, 2.0: 3.0, 4.0: 9.0, 8.0: 20.0, 16.0: 12.0}
    found = trend(sweep({"vllm": lambda n: 10 * n * peaks[n], "llamacpp": flat(10)}))
    assert found.verdict == "mixed"
    assert "from 8 to 16 in flight" in found.reason


@pytest.mark.parametrize(
    ("slots", "gain", "expected"),
    [(4, 1.0, "confirmed"), (4, 2.5, "refuted"), (1, 1.0, "untested"), (None, 1.0, "untested")],
)
def test_no_batching(slots: int | None, gain: float, expected: str) -> None:
    """Several slots that give no more confirm it, one slot or an unknown number tell nothing."""
    target = server("llamacpp", slots=slots)
    points = [point(target, 1, 100.0), point(target, 4, 100.0 * gain)]
    found = verdict("no_batching", evidence(target, points=points), backend="llamacpp")
    assert found.verdict == expected, found.reason


def test_one_server_that_batches_refutes() -> None:
    """What one was set to does not excuse the engine: the other server shows that it can."""
    one, four = server("llamacpp", "one", slots=1), server("llamacpp", "four", slots=4)
    points = [point(t, n, 100.0 if t is one else 70.0 * n) for t in (one, four) for n in (1, 4)]
    found = verdict("no_batching", evidence(one, four, points=points), backend="llamacpp")
    assert (found.verdict, found.reason.startswith("four")) == ("refuted", True)
    overlapping = Diagnosis(
        target=server("ollama"),
        capabilities=(Capability(name="parallel", supported=True, evidence="overlap"),),
    )
    asked = evidence(diagnoses=[overlapping])
    assert verdict("no_batching", asked, backend="ollama").verdict == "refuted"


@pytest.mark.parametrize(
    ("target", "running", "expected"),
    [
        (server("vllm", slots=32), None, "confirmed"),
        (server("vllm", slots=256), None, "refuted"),
        (server("vllm", slots=32, settings={"slots": "32"}), None, "untested"),
        (server("vllm"), None, "untested"),
        (server("vllm"), 60.0, "refuted"),
        (server("vllm"), 30.0, "untested"),
    ],
)
def test_at_once(target: TargetInfo, running: float | None, expected: str) -> None:
    """A limit told unasked decides, one set by hand does not; what ran at once can refute."""
    view = None if running is None else ServerView(samples=9, running_mean=running)
    found = evidence(target, points=[point(target, 64, 900.0, server=view)])
    assert verdict("at_once", found, backend="vllm", requests=32).verdict == expected


def option(target: TargetInfo, sure: int, perhaps: int, **changes: Any) -> Option:
    """What one replica carries: surely, and not even perhaps more."""
    fields: dict[str, Any] = {
        "target": target.name, "backend": target.backend, "replicas": 1, "gpus": None,
        "cost_per_hour": None, "confidence": 0.95, "predicted": {}, "binding": None,
        "users_per_replica": {"0.1": perhaps, "0.5": sure, "0.9": sure}, "users_known_to": 200,
    }  # fmt: skip
    return Option(**(fields | changes))


@pytest.mark.parametrize(
    ("rival", "own", "expected", "told"),
    [
        ((5, 8), (60, 70), "confirmed", "10 to 60 users"),
        ((25, 30), (60, 70), "mixed", "31 to 60 users"),
        ((80, 90), (60, 70), "refuted", "serves up to 80"),
        ((5, 8), (4, 7), "refuted", "no more than 7"),
        ((5, 200), (60, 70), "untested", "neither tells"),
        ((0, 0), (9, 40), "untested", "neither tells"),
    ],
)
def test_only_one(rival: tuple[int, int], own: tuple[int, int], expected: str, told: str) -> None:
    """Whom the objectives leave, by what one replica surely carries and surely does not."""
    one, other = server("llamacpp"), server("vllm")
    found = evidence(
        one, other,
        recommendation=Recommendation(
            demand=Demand(users=10), slo=(), confidence=0.9, spare=0, routing="sticky",
            recommended=None, options=(option(one, *rival), option(other, *own)),
        ),
    )  # fmt: skip
    judged = verdict("only_one", found, backend="vllm", over=["llamacpp"], from_users=10)
    assert judged.verdict == expected, judged.reason
    assert told in judged.reason


def test_where_knowledge_ends_nobody_fails() -> None:
    """A rival whose users are known to 30 alone is not said to fail beyond them."""
    one, other = server("llamacpp"), server("vllm")
    for known_to, expected in ((30, "untested"), (200, "mixed")):
        found = evidence(
            one, other,
            recommendation=Recommendation(
                demand=Demand(users=10), slo=(), confidence=0.9, spare=0, routing="sticky",
                recommended=None,
                options=(option(one, 5, 30, users_known_to=known_to), option(other, 60, 70)),
            ),
        )  # fmt: skip
        judged = verdict("only_one", found, backend="vllm", over=["llamacpp"], from_users=10)
        assert judged.verdict == expected, judged.reason
        assert expected == "untested" or "10 to 30 users: it may or may not" in judged.reason


def test_only_one_without_objectives() -> None:
    """Without a question nothing is judged, and the command to ask it is named."""
    found = verdict("only_one", evidence(), backend="vllm", over=["llamacpp"], from_users=10)
    assert found.verdict == "untested"
    assert found.next_steps[0].startswith("headroom claims RUN --users")


def parity(verdicts: Mapping[tuple[str, str], str], *targets: TargetInfo) -> ParityReport:
    """A comparison of answers with given verdicts."""
    return ParityReport(
        headroom_version="0", targets=targets, prompts=("p",), max_tokens=8, repeat=2,
        company=0, seed=1, own=(),
        pairs=tuple(
            PairParity(
                a=a, b=b, unit="tokens", prompts=12, identical=known(0.5), agreement=0.5,
                excess=0.5, p_value=0.01, verdict=told, parts_at=None,  # type: ignore[arg-type]
                edit_distance=known(0.2), other_prompt_tokens=0,
            )
            for (a, b), told in verdicts.items()
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "expected"),
    [("same", "confirmed"), ("different", "refuted"), ("undecided", "untested")],
)
def test_identical(told: str, expected: str) -> None:
    """The verdict of the comparison, unless one of the two was an emulator."""
    pair = server("llamacpp"), server("vllm")
    asks = {"backends": ["llamacpp", "vllm"]}
    report = parity({("llamacpp", "vllm"): told}, *pair)
    found = verdict("identical_answers", evidence(parities=[report]), **asks)
    assert found.verdict == expected
    fake = msgspec.structs.replace(pair[1], emulated="vllm/h100/demo")
    report = parity({("llamacpp", "vllm"): told}, pair[0], fake)
    found = verdict("identical_answers", evidence(parities=[report]), **asks)
    assert (found.verdict, "emulator" in found.reason) == ("untested", True)


@pytest.mark.parametrize(
    ("supported", "has", "expected"),
    [
        (True, True, "confirmed"), (False, True, "refuted"), (None, True, "untested"),
        (True, False, "refuted"), (False, False, "confirmed"),
    ],
)  # fmt: skip
def test_capability(supported: bool | None, has: bool, expected: str) -> None:
    """What the doctor saw, for a claim that the server has it and for one that it lacks it."""
    seen = Diagnosis(
        target=server("llamacpp"),
        capabilities=(Capability(name="chat", supported=supported, evidence="-"),),
    )
    found = verdict(
        "capability", evidence(diagnoses=[seen]), backend="llamacpp", names=["chat"], has=has
    )
    assert found.verdict == expected


def test_a_run_over_the_openai_api_shows_it() -> None:
    """Answers measured over that API refute that there is none; the native API tells nothing."""
    for api, expected in (("openai", "refuted"), ("native", "untested")):
        target = server("llamacpp", api=api)
        found = evidence(target, points=[point(target, 1, 50.0)])
        judged = verdict("capability", found, backend="llamacpp", names=["chat"], has=False)
        assert judged.verdict == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model file": "m.GGUF"}, "confirmed"),
        ({"model file": "m.bin"}, "refuted"),
        ({}, "untested"),
    ],
)
def test_model_files(settings: dict[str, str], expected: str) -> None:
    """By the file that a server names; that it names none tells nothing."""
    found = evidence(server("llamacpp", settings=settings))
    judged = verdict("model_files", found, backends=["llamacpp"], suffix=".gguf")
    assert judged.verdict == expected


@pytest.mark.parametrize(
    ("failed", "together", "expected"),
    [(0, True, "confirmed"), (50, True, "refuted"), (0, False, "untested")],
)
def test_coexist(failed: int, together: bool, expected: str) -> None:
    """Answers at the same time confirm it, failures refute it, one by one tells nothing."""
    targets = [server("llamacpp"), server("vllm")]
    points = [
        point(t, 4, 50.0, failed=failed, together=(other.name,) if together else ())
        for t, other in zip(targets, reversed(targets), strict=True)
    ]
    found = verdict("coexist", evidence(*targets, points=points), backends=["llamacpp", "vllm"])
    assert found.verdict == expected, found.reason
    three = verdict(
        "coexist", evidence(*targets, points=points), backends=["llamacpp", "vllm", "ollama"]
    )
    assert three.verdict == "untested"


@pytest.mark.parametrize(
    ("hardware", "bits", "rate", "streams", "expected"),
    [
        ("RTX 4090", 4, 36, 1, "refuted"),  # neither fits nor is read so fast
        ("H100", 4, 36, 1, "untested"),  # physics allows it; only a measurement confirms
        ("H100", 16, 36, 1, "refuted"),  # 140 GB do not fit into 80 GB (94 GB at most)
        ("H100", 4, 200, 1, "refuted"),  # fits, but 200 x 35 GB/s are beyond 3.9 TB/s
        ("H100", 4, 200, 32, "untested"),  # one reading serves 32
        ("no such card", 4, 36, 1, "untested"),
    ],
)
def test_physics(hardware: str, bits: float, rate: float, streams: int, expected: str) -> None:
    """A 70 B model: memory and bandwidth refute what they forbid and confirm nothing."""
    found = verdict(
        "physics", evidence(), model="llama-3-70b", hardware=hardware,
        bits_per_weight=bits, tokens_per_s=rate, streams=streams,
    )  # fmt: skip
    assert found.verdict == expected, found.reason


def test_all_checks_must_hold() -> None:
    """One part that holds and one that fails make a claim mixed; a refuted one alone refutes."""
    holds = {"rule": "ratio", "figure": "output_tokens_per_s", "of": "vllm", "over": ["llamacpp"],
             "least": 3}  # fmt: skip
    fails, unknown = {**holds, "least": 9}, {**holds, "over": ["ollama"]}
    found = sweep({"vllm": flat(40), "llamacpp": flat(10)})
    for checks, expected in (
        ([holds, holds], "confirmed"), ([holds, fails], "mixed"), ([fails, unknown], "refuted"),
        ([holds, unknown], "mixed"), ([unknown, unknown], "untested"),
    ):  # fmt: skip
        claims = claims_of({"claims": {"it": {"text": "so", "checks": checks}}}, what="test")
        assert judge("it", claims["it"], found).verdict == expected
