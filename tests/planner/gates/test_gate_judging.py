"""What rules say of runs whose truth is known, and of intervals that are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.compare import LevelData
from planner.errors import InputError
from planner.gates.baseline import encode_baseline, parse_baseline
from planner.gates.gate import gate, make_baseline
from planner.gates.judge import chosen_levels, corrected, judge_absolute, judge_relative, unmatched
from planner.gates.levels import Level
from planner.gates.records import RAMP
from planner.gates.rules import parse_rules
from planner.imported import ImportedLevel, ImportedPoints, Latency
from planner.records import Estimate, OperatingPoint, SourceFile
from planner.runfolder import read_run, write_imported
from planner.uncertainty import share_interval
from tests.planner.examples import manifest, stage
from tests.planner.gates.runs import run_folder

if TYPE_CHECKING:
    from pathlib import Path

    from planner.gates.baseline import Baseline
    from planner.gates.records import GateReport, Rule, Rules
    from planner.runfolder import Run


def rules_of(*checks: str, top: str = "", **keys: Any) -> Rules:
    """Rules from their checks, all with the same further keys."""
    more = "".join(f"{key} = {value!r}\n" for key, value in keys.items())
    text = top + "".join(f'\n[[rule]]\ncheck = "{check}"\n{more}' for check in checks)
    return parse_rules(text.encode(), what="gates.toml")


def rule_of(check: str, **keys: Any) -> Rule:
    """One rule."""
    return rules_of(check, **keys).rules[0]


def level_of(
    load: float = 8,
    *,
    problems: tuple[str, ...] = (),
    client_fault: str | None = None,
    failed: int = 0,
    stages: tuple[int, ...] = (0,),
    source: str = "measured",
    **figures: tuple[float, float | None, float | None],
) -> Level:
    """A level with given figures: value and both ends of its interval, of 1,000 requests."""
    known = {n: Estimate(value=v, low=lo, high=hi, n=1000) for n, (v, lo, hi) in figures.items()}
    point = OperatingPoint(
        target="t", backend="vllm", stage=0, load_kind="concurrency", load=load,
        in_flight_mean=load, completed=1000 - failed, failed=failed, censored=0, figures=known,
        source=source, problems=problems,
    )  # fmt: skip
    data = LevelData(point=point, blocks=400.0)
    return Level(data=data, stages=stages, client_fault=client_fault)


def judged(
    run: Run, rules: Rules, baseline: Run | Baseline | None = None, **more: Any
) -> GateReport:
    """A gate's report."""
    return gate(
        run, rules, rules_name="gates.toml", baseline=baseline, baseline_name="base", **more
    )


@pytest.mark.parametrize(
    ("check", "interval", "outcome"),
    [
        ("ttft_p95 <= 1s", (0.8, 0.7, 1.0), "pass"),
        ("ttft_p95 <= 1s", (0.8, 0.7, 1.01), "inconclusive"),
        ("ttft_p95 <= 1s", (0.8, 0.7, None), "inconclusive"),
        ("ttft_p95 <= 1s", (0.8, None, 0.9), "pass"),
        ("ttft_p95 <= 1s", (1.2, 1.0, 1.3), "inconclusive"),
        ("ttft_p95 <= 1s", (1.2, 1.01, None), "fail"),
        ("ttft_p95 <= 1s", (1.2, None, None), "inconclusive"),
    ],
)
def test_interval_decides(
    check: str, interval: tuple[float, float | None, float | None], outcome: str
) -> None:
    """A bound passes below the whole interval, fails above it, and is open within."""
    verdict = judge_absolute(rule_of(check), level_of(ttft_p95_s=interval))
    assert verdict.outcome == outcome
    assert (verdict.value, verdict.low, verdict.high, verdict.bound, verdict.n) == (
        *interval, 1.0, 1000
    )  # fmt: skip
    assert "1.00 s" in verdict.reason or "1 s" in verdict.reason or "no interval" in verdict.reason


@given(
    st.floats(0.01, 100), st.floats(0.01, 1), st.floats(1, 100), st.floats(0.01, 100),
    st.sampled_from(["<=", ">="]),
)  # fmt: skip
def test_a_looser_bound_is_never_worse(
    value: float, down: float, up: float, bound: float, op: str
) -> None:
    """Loosening a bound never turns a pass into less, and never makes a fail."""
    order = ["fail", "inconclusive", "pass"]
    interval = (value, value * down, value * up)
    level = level_of(ttft_p95_s=interval, requests_per_s=interval)
    name = "requests_per_s" if op == ">=" else "ttft_p95"
    looser = bound / 2 if op == ">=" else bound * 2
    unit = "" if op == ">=" else "s"
    strict, loose = (
        judge_absolute(rule_of(f"{name} {op} {b!r}{unit}"), level) for b in (bound, looser)
    )
    assert order.index(strict.outcome) <= order.index(loose.outcome)


def test_what_spoils_a_level_makes_it_inconclusive_but_not_its_errors() -> None:
    """Latencies of a level with a problem say nothing; its error rate says what it says."""
    sick = level_of(
        problems=("40 % of requests failed",),
        ttft_p95_s=(0.1, 0.1, 0.1),
        error_rate=(0.4, 0.3, 0.5),
    )
    assert judge_absolute(rule_of("ttft_p95 <= 1s"), sick).outcome == "inconclusive"
    assert judge_absolute(rule_of("error_rate <= 1%"), sick).outcome == "fail"
    limited = level_of(
        problems=("the client was the limit",), client_fault="the client was the limit",
        error_rate=(0.4, 0.3, 0.5),
    )  # fmt: skip
    verdict = judge_absolute(rule_of("error_rate <= 1%"), limited)
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "the client was the limit")


@pytest.mark.parametrize(
    ("source", "figure", "words"),
    [
        (
            "vllm bench",
            "ttft_p95",
            "vllm bench did not report it: the file cannot answer this rule",
        ),
        ("measured", "tpot_p95", "too few tokens each, or no usage figures"),
        ("measured", "ttft_p95", "it lies among requests that timed out"),
    ],
)
def test_a_figure_that_is_missing_is_told(source: str, figure: str, words: str) -> None:
    """What was not reported is inconclusive, never zero."""
    verdict = judge_absolute(rule_of(f"{figure} <= 1s"), level_of(source=source))
    assert verdict.outcome == "inconclusive"
    assert words in verdict.reason
    assert verdict.value is None


def test_levels_are_chosen() -> None:
    """A rule is about the levels that it names; ramps and failed attempts do not count."""
    levels = [
        level_of(2, stages=(0,), problems=(RAMP,), client_fault=RAMP),
        level_of(4, stages=(1,), problems=("client",), client_fault="client"),
        level_of(4, stages=(2,)),
        level_of(8, stages=(3,), problems=("client",)),
    ]
    every = chosen_levels(rule_of("ttft_p95 <= 1s"), levels)
    assert [level.stages for level in every] == [(2,), (3,)]
    four = chosen_levels(rule_of("ttft_p95 <= 1s", concurrency=4), levels)
    assert [level.stages for level in four] == [(2,)]
    first = chosen_levels(rule_of("ttft_p95 <= 1s", stage=1), levels)
    assert [level.stages for level in first] == [(1,)]
    assert chosen_levels(rule_of("ttft_p95 <= 1s", users=4), levels) == []
    verdict = unmatched(rule_of("ttft_p95 <= 1s", users=4), levels)
    assert verdict.outcome == "inconclusive"
    assert "nothing was measured at 4 users: the run has t at 4 in flight; t at 8" in verdict.reason


def test_many_rules_are_corrected() -> None:
    """A difference that one rule would show is not enough among fifty that show nothing."""
    rule = rule_of("ttft_p95 <= baseline * 1.1")
    base = [level_of(ttft_p95_s=(1.0, 0.99, 1.01))]
    slow = judge_relative(rule, level_of(ttft_p95_s=(1.7, 1.24, 2.3)), base)
    same = judge_relative(rule, level_of(ttft_p95_s=(1.0, 0.99, 1.01)), base)
    (alone,) = corrected([slow])
    assert alone.outcome == "fail"
    among, *others = corrected([slow, *([same] * 49)])
    assert among.outcome == "inconclusive"
    assert "among so many rules it may be chance" in among.reason
    assert {other.outcome for other in others} == {"pass"}
    assert (among.p_value or 0) > (alone.p_value or 0)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(1.05, "pass"), (1.09, "inconclusive"), (1.12, "inconclusive"), (1.14, "fail")],
)
def test_a_bound_on_a_change_is_judged_by_its_interval(value: float, outcome: str) -> None:
    """A sure change of 5 % is within 10 %; one of 14 % is beyond, by ends that hold with 95 %."""
    rule = rule_of("ttft_p95 <= baseline * 1.1")
    base = [level_of(ttft_p95_s=(1.0, 0.999, 1.001))]
    found = level_of(ttft_p95_s=(value, value * 0.98, value * 1.02))
    (verdict,) = corrected([judge_relative(rule, found, base)])
    assert verdict.outcome == outcome
    assert verdict.change_low == pytest.approx(value * 0.98 - 1, abs=0.002)
    assert verdict.change_high == pytest.approx(value * 1.02 - 1, abs=0.002)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run, one of the same, and one that is 1.4 times as slow."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"base": (1.0, 1), "same": (1.0, 2), "slow": (1.4, 3)}
    return {
        name: read_run(run_folder(folder / name, slow=slow, seed=seed))
        for name, (slow, seed) in made.items()
    }


def test_absolute_rules_find_the_truth(runs: dict[str, Run]) -> None:
    """Bounds on either side of the known figures pass and fail, on every kind of figure."""
    good = rules_of(
        "ttft_p95 <= 160ms", "e2e_mean <= 1.1s", "tpot_p50 <= 0.1s", "itl_p99 <= 150ms",
        "tokens_per_s >= 38", "requests_per_s >= 3.5", "error_rate <= 1%", "goodput >= 90%",
        "goodput >= 3.4/s", "ttft_p97 <= 160ms",
        top='slo = ["e2e_p95<=1.45s"]\n',
    )  # fmt: skip
    bad = rules_of(
        "ttft_p95 <= 130ms", "e2e_mean <= 0.9s", "tpot_p50 <= 0.08s", "itl_p99 <= 120ms",
        "tokens_per_s >= 50", "requests_per_s >= 4.5", "goodput >= 99%", "goodput >= 4.2/s",
        top='slo = ["e2e_p95<=1.45s"]\n',
    )  # fmt: skip
    assert {v.check: v.outcome for v in judged(runs["base"], good).verdicts} == {
        rule.check.text: "pass" for rule in good.rules
    }
    report = judged(runs["base"], bad)
    assert {v.check: v.outcome for v in report.verdicts} == {
        rule.check.text: "fail" for rule in bad.rules
    }
    assert (report.outcome, report.exit_code) == ("fail", 1)


def test_goodput_counts_what_met_every_objective(runs: dict[str, Run]) -> None:
    """Durations are uniform on 0.5 to 1.5 s: half of them are at most 1 s."""
    (verdict,) = judged(
        runs["base"], rules_of("goodput >= 40%", top='slo = ["e2e_p95<=1s", "error_rate<=1%"]\n')
    ).verdicts
    assert verdict.value == pytest.approx(0.5, abs=0.04)
    assert verdict.low is not None
    assert verdict.low < 0.5 < (verdict.high or 0)


RELATIVE = (
    "e2e_mean <= baseline * 1.2",
    "tokens_per_s >= baseline - 20%",
    "error_rate <= baseline",
)


@pytest.mark.parametrize("saved", [False, True])
def test_regression_fails_and_the_same_passes(runs: dict[str, Run], *, saved: bool) -> None:
    """40 % slower fails rules that allow 20 %; the same passes; a saved baseline says the same."""
    rules = rules_of(*RELATIVE)
    baseline: Run | Baseline = runs["base"]
    if saved:
        baseline = parse_baseline(encode_baseline(make_baseline(runs["base"], rules)), "base.json")
    same, slow = (judged(runs[name], rules, baseline) for name in ("same", "slow"))
    assert [v.outcome for v in same.verdicts] == ["pass", "pass", "pass"]
    assert [v.outcome for v in slow.verdicts] == ["fail", "fail", "pass"]
    assert slow.verdicts[0].change == pytest.approx(0.4, abs=0.05)
    assert slow.verdicts[0].bound == pytest.approx(1.2 * (slow.verdicts[0].baseline or 0))
    assert slow.exit_code == 1


def test_saved_baseline_gives_the_same_figures(runs: dict[str, Run]) -> None:
    """Every figure that a saved baseline holds has the statistics of the run folder."""
    rules = rules_of(
        *(f"{m}_{s} <= baseline * 1.1" for m in ("ttft", "tpot", "itl", "e2e")
          for s in ("mean", "p50", "p95", "p99", "p97.5")),
        "requests_per_s >= baseline * 0.9", "error_rate <= baseline * 2",
    )  # fmt: skip
    data = encode_baseline(make_baseline(runs["base"], rules))
    assert len(data) < 40_000
    assert b"127.0.0.1:1" not in data
    by_folder = judged(runs["slow"], rules, runs["base"])
    by_file = judged(runs["slow"], rules, parse_baseline(data, "x"))
    assert by_file == by_folder


GOODPUT = ("goodput >= baseline * 0.9", "goodput_per_s >= baseline - 10%")


@pytest.mark.parametrize("saved", [False, True])
def test_goodput_is_compared_with_a_baseline(runs: dict[str, Run], *, saved: bool) -> None:
    """Of durations uniform on 0.5 to 1.5 s 75 % take at most 1.25 s, of 1.4 times as long 39 %."""
    top = 'slo = ["e2e_p95<=1.25s", "error_rate<=1%"]\n'
    rules = rules_of(*GOODPUT, top=top)
    baseline: Run | Baseline = runs["base"]
    if saved:
        baseline = parse_baseline(encode_baseline(make_baseline(runs["base"], rules)), "base.json")
    # The same objective in other words is the same question.
    rules = rules_of(*GOODPUT, top='slo = ["e2e_p95 <= 1250ms"]\n')
    same, slow = (judged(runs[name], rules, baseline) for name in ("same", "slow"))
    assert [v.outcome for v in same.verdicts] == ["pass", "pass"]
    assert [v.outcome for v in slow.verdicts] == ["fail", "fail"]
    share, rate = slow.verdicts
    assert share.value == pytest.approx(0.393, abs=0.04)
    assert share.baseline == pytest.approx(0.75, abs=0.04)
    truth = 0.393 / 0.75 - 1
    assert (share.change_low or 0) < truth < (share.change_high or 0)
    assert (rate.change_low or 0) < (1 + truth) / 1.4 - 1 < (rate.change_high or 0)


def test_a_file_without_that_goodput_says_so(runs: dict[str, Run]) -> None:
    """A baseline that was saved with other rules cannot tell goodput by new objectives."""
    saved = make_baseline(runs["base"], rules_of(GOODPUT[0], top='slo = ["e2e_p95<=1s"]\n'))
    rules = rules_of(GOODPUT[0], "ttft_p97 <= baseline", top='slo = ["e2e_p95<=1.1s"]\n')
    goodput, percentile = judged(runs["same"], rules, saved).verdicts
    assert goodput.outcome == percentile.outcome == "inconclusive"
    assert goodput.reason == (
        "the baseline file does not hold goodput by these objectives: save it again with these "
        "rules, or give its run folder as the baseline"
    )
    assert "does not hold ttft_p97: save it again" in percentile.reason


def test_no_goodput_at_all_fails_and_of_none_nothing_is_said(runs: dict[str, Run]) -> None:
    """A run that meets no objective fails against one that did; the other way round is open."""
    rules = rules_of(*GOODPUT, top='slo = ["e2e_p95<=690ms"]\n')
    slower = judged(runs["slow"], rules, runs["base"])  # its fastest request takes 700 ms
    assert [(v.outcome, v.value) for v in slower.verdicts] == [("fail", 0.0)] * 2
    assert slower.verdicts[0].baseline == pytest.approx(0.19, abs=0.03)
    faster = judged(runs["base"], rules, runs["slow"])
    assert {v.outcome for v in faster.verdicts} == {"inconclusive"}
    assert "A's is not above 0" in faster.verdicts[0].reason


def test_goodput_of_an_unchanged_server_seldom_fails() -> None:
    """Of pairs of runs of 300 requests of which 98 % meet the objectives at most 1 % fail."""
    rng = np.random.default_rng(3)
    levels = []
    for good in rng.binomial(300, 0.98, 300):
        low, high = share_interval(int(good), 300)
        levels.append(level_of(goodput_share=(good / 300, low, high)))
    rule = rule_of("goodput >= baseline", slo=["e2e_p95<=1s"])
    outcomes = [
        corrected([judge_relative(rule, b, [a])])[0].outcome
        for a, b in zip(levels[::2], levels[1::2], strict=True)
    ]
    assert outcomes.count("fail") <= 3


def test_first_run_has_no_baseline_yet(runs: dict[str, Run]) -> None:
    """Without a baseline its rules are refused, or open where this run will be the first."""
    rules = rules_of("e2e_mean <= baseline")
    with pytest.raises(InputError, match="needs a baseline: give one with --baseline"):
        judged(runs["base"], rules)
    report = judged(runs["base"], rules, baseline_follows=True)
    assert report.verdicts[0].reason == "there is no baseline yet"
    assert report.exit_code == 3


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"target_facts": {"model": "other"}}, "model: other in A"),
        ({"target_facts": {"hardware": "H100"}}, "hardware: H100 in A"),
        ({"target_facts": {"settings": {"threads": "8"}}}, "settings.threads: 8 in A"),
        ({"workload": {"output_tokens": "99"}}, "workload.output_tokens: 99 in A"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("saved", [False, True])
def test_another_thing_is_not_compared(
    runs: dict[str, Run], tmp_path: Path, facts: dict[str, Any], words: str, *, saved: bool
) -> None:
    """A baseline of another model, hardware, setting or workload is refused by name."""
    given = dict(facts)
    if "workload" in given:
        mine = runs["base"].manifest.workload
        given["workload"] = msgspec.structs.replace(mine, **given["workload"])
    other: Run | Baseline = read_run(run_folder(tmp_path / "other", requests=400, **given))
    if saved:
        other = make_baseline(other, None)  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        judged(runs["base"], rules_of("e2e_mean <= baseline"), other)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    key = words.partition(":")[0].partition(".")[0]
    report = judged(runs["base"], rules_of("e2e_mean <= baseline * 2"), other, allowed=(key,))
    assert report.outcome == "pass"
    assert words in report.notes[0]


def test_another_version_of_the_engine_is_compared(runs: dict[str, Run], tmp_path: Path) -> None:
    """Whether a new version is slower is what a gate is for: it is told, not refused."""
    old = run_folder(tmp_path / "old", target_facts={"engine_version": "0.1"})
    report = judged(runs["base"], rules_of("e2e_mean <= baseline * 1.2"), read_run(old))
    assert report.outcome == "pass"
    assert "engine_version: 0.1 in A, not reported in B" in report.notes[0]


def test_unknown_target_is_refused(runs: dict[str, Run]) -> None:
    """A rule on a target that the run lacks names those that it has."""
    with pytest.raises(InputError, match="names target 'vlm', which the run does not have: it has"):
        judged(runs["base"], rules_of("ttft_p95 <= 1s", target="vlm"))


def test_dead_server_fails_its_error_rule(tmp_path: Path) -> None:
    """A server that answers nothing fails a bound on errors; its latencies are inconclusive."""
    run = read_run(run_folder(tmp_path / "dead", failing=1.0, requests=200))
    errors, latency = judged(run, rules_of("error_rate <= 1%", "ttft_p95 <= 1s")).verdicts
    assert (errors.outcome, errors.value) == ("fail", 1.0)
    assert latency.outcome == "inconclusive"
    assert "failed" in latency.reason


def test_too_few_answers_are_inconclusive(tmp_path: Path) -> None:
    """Hundred answers say nothing of p99; the reason tells how much longer to measure."""
    run = read_run(run_folder(tmp_path / "short", requests=120))
    median, tail = judged(run, rules_of("ttft_p50 <= 1s", "ttft_p99 <= 1s")).verdicts
    assert median.outcome == "pass"
    assert tail.outcome == "inconclusive"
    assert "too few for p99, which needs 299" in tail.reason


def test_a_level_that_the_baseline_lacks_is_inconclusive(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    """A relative rule on a level that only this run has is open, not a pass."""
    both = read_run(run_folder(tmp_path / "both", levels=(4, 8)))
    report = judged(both, rules_of("e2e_mean <= baseline * 1.2"), runs["base"])
    assert [v.outcome for v in report.verdicts] == ["pass", "inconclusive"]
    assert "the baseline has no usable level at 8 in flight" in report.verdicts[1].reason


def test_users_at_slo_by_the_planner(tmp_path: Path) -> None:
    """R is 1 s at every level up to 8, so a user who thinks 9 s needs a tenth of one in flight."""
    run = read_run(run_folder(tmp_path / "run", levels=(1, 2, 4, 8), requests=600))
    top = 'slo = ["e2e_p95<=2s"]\nthink_time = "9s"\n'
    (low,) = judged(run, rules_of("users_at_slo >= 20", top=top)).verdicts
    (high,) = judged(run, rules_of("users_at_slo >= 5000", top=top)).verdicts
    assert low.outcome == "pass"
    assert (low.value or 0) >= 20
    assert high.outcome == "inconclusive"
    assert "beyond what was measured" in high.reason
    (none,) = judged(run, rules_of("users_at_slo >= 20", top='slo = ["e2e_p95<=600ms"]\n')).verdicts
    assert (none.outcome, none.value) == ("fail", 0)


def test_the_same_gate_says_the_same(runs: dict[str, Run]) -> None:
    """A report depends on run, rules and baseline alone."""
    rules = rules_of(*RELATIVE, "ttft_p99 <= 148ms")
    assert judged(runs["slow"], rules, runs["base"]) == judged(runs["slow"], rules, runs["base"])


@pytest.mark.parametrize(
    ("told", "outcomes"),
    [
        ({"mean_s": 0.5}, ["pass", "inconclusive", "inconclusive"]),
        ({"mean_s": 0.5, "quantiles": ((0.5, 0.5), (0.95, 0.7), (0.99, 0.8))},
         ["pass", "pass", "inconclusive"]),
    ],
)  # fmt: skip
def test_imported_runs_answer_what_their_file_carries(
    tmp_path: Path, told: dict[str, Any], outcomes: list[str]
) -> None:
    """A file of means cannot answer a p95; what it has is judged, and its source is told."""
    known = Latency(n=500, std_s=0.1, **told)
    figures = {"ttft_mean_s": Estimate(value=0.5, low=None, high=None, n=500)}
    figures |= {
        f"ttft_p{share * 100:g}_s": Estimate(value=value, low=None, high=None, n=500)
        for share, value in known.quantiles
    }
    point = OperatingPoint(
        target="t", backend="vllm", stage=0, load_kind="concurrency", load=8, in_flight_mean=8,
        completed=500, failed=0, censored=0, figures=figures, source="some tool",
    )  # fmt: skip
    levels = (ImportedLevel(point=point, latencies={"ttft": known}, file=0),)
    source = SourceFile(name="x.json", sha256="0" * 64, tool="some tool")
    kept = manifest(stage(8, end=60), sources=(source,))
    write_imported(tmp_path / "run", kept, ImportedPoints(levels=levels))
    rules = rules_of("ttft_mean <= 600ms", "ttft_p95 <= 900ms", "itl_p95 <= 1s")
    report = judged(read_run(tmp_path / "run"), rules)
    assert [v.outcome for v in report.verdicts] == outcomes
    assert "some tool did not report it" in report.verdicts[2].reason
    assert "imported from some tool" in report.notes[0]
