"""``headroom plan`` on two real engines: one command from servers to an answer and a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from planner.runfolder import Run, read_run
from tests.loadtests.measure.driving import SHORT, Done, headroom, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from tests.loadtests.measure.driving import Shell

pytestmark = pytest.mark.engine

QUESTION = ("--users", "5", "--think-time", "1s", "--slo", "ttft_p90<=1s", "--slo", "tpot_p90<=1s")


@pytest.fixture(scope="module")
def targets(llamacpp: RunningEngine, llamacpp_single: RunningEngine) -> tuple[str, str]:
    """One engine with four slots, one with one."""
    return f"batching:llamacpp={llamacpp.url}", f"single:llamacpp={llamacpp_single.url}"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder."""
    return tmp_path_factory.mktemp("plan") / "run"


@pytest.fixture(scope="module")
def planned(targets: tuple[str, str], out: Path) -> Done:
    """The command, once."""
    return headroom("plan", *targets, *QUESTION, *SHORT, "--budget", "20s", "--out", out, "--json")


@pytest.fixture(scope="module")
def run(planned: Done, out: Path) -> Run:
    """What it measured."""
    assert planned.code in {0, 1, 3}, planned.err
    return read_run(out)


def test_answer(planned: Done) -> None:
    """Standard output is one JSON document with the documented keys; the exit code agrees."""
    answer: dict[str, Any] = json.loads(planned.out)
    assert answer["schema"] == 1
    assert (answer["demand"]["users"], answer["demand"]["think_time_s"]) == (5, 1)
    assert [slo["text"] for slo in answer["slo"]] == ["ttft_p90<=1s", "tpot_p90<=1s"]
    assert answer.keys() >= {"recommended", "options", "crossovers", "next_measurements"}
    assert {option["target"] for option in answer["options"]} == {"batching", "single"}
    best = answer["recommended"]
    if planned.code == 0:
        assert best["replicas"] >= 1
        assert best["confidence"] >= 0.9
        shape = {"target", "backend", "replicas", "gpus", "cost_per_hour", "predicted", "binding"}
        assert best.keys() >= shape
        figure = best["predicted"]["ttft_p90_s"]
        assert figure.keys() == {"value", "low", "high", "label"}
        assert figure["low"] <= figure["value"] <= figure["high"] <= 1
    else:
        assert best is None
        assert bool(answer["next_measurements"]) == (planned.code == 3)


def test_progress(planned: Done, out: Path) -> None:
    """Each target is described and each level announced on stderr, which ends with the folder."""
    assert "llama.cpp" in planned.err
    assert "4 slots" in planned.err
    assert "it has 1 slot" in planned.err
    assert "batching at 1 in flight (" in planned.err
    assert planned.err.splitlines()[-1] == f"run     {out}"
    assert "Traceback" not in planned.err


def test_folder(run: Run, out: Path) -> None:
    """The question, the stages of both targets and the report are kept, ends of the curve first."""
    plan = run.manifest.plan
    assert plan is not None
    assert (plan.users, plan.think_time_s, plan.slo) == (5, 1, ("ttft_p90<=1s", "tpot_p90<=1s"))
    assert run.manifest.state == "complete"
    loads = {
        name: [stage.load for stage in run.manifest.stages if stage.target == name]
        for name in ("batching", "single")
    }
    assert loads["batching"][:2] == [1, 4]
    assert loads["single"][0] == 1
    assert (out / "report.html").stat().st_size > 100_000


def test_continued(shell: Shell, run: Run, targets: tuple[str, str], out: Path) -> None:
    """A second plan into the same folder goes on: other users, more stages, nothing lost."""
    before, stages = len(run.requests), run.manifest.stages
    more = ("--users", "40", *QUESTION[2:])
    done = shell.run("plan", *targets, *more, *SHORT, "--budget", "5s", "--out", out)
    assert done.code in {0, 1, 3}, done.err
    later = read_run(out)
    assert len(later.requests) > before
    assert len(later.manifest.stages) > len(stages)
    assert later.manifest.stages[: len(stages)] == stages
    assert later.manifest.plan is not None
    assert later.manifest.plan.users == 40
    assert f"report  {out / 'report.html'}" in done.out


def test_another_workload_is_refused(
    shell: Shell, run: Run, targets: tuple[str, str], out: Path
) -> None:
    """Levels of two workloads would not lie on one curve: the second is refused, nothing lost."""
    done = shell.run("plan", *targets, *QUESTION, "--output-tokens", "16", "--out", out)
    one_line(done, "headroom plan: ", "another workload")
    assert len(read_run(out).requests) >= len(run.requests)


def test_budget_too_small_to_know(shell: Shell, targets: tuple[str, str], tmp_path: Path) -> None:
    """Without time to measure there is no answer: exit code 3, and what to measure next."""
    done = shell.run(
        "plan", targets[0], *QUESTION, *SHORT, "--budget", "1s", "--out", tmp_path / "run", "--json"
    )
    assert done.code == 3, done.err
    answer = json.loads(done.out)
    assert answer["recommended"] is None
    assert answer["next_measurements"]


def test_servers_that_cannot_be_planned_for(
    shell: Shell, targets: tuple[str, str], tmp_path: Path
) -> None:
    """One target that cannot be reached refuses the plan before anything is measured."""
    out = tmp_path / "run"
    done = shell.run("plan", targets[0], "vllm=http://127.0.0.1:9", *QUESTION, *SHORT, "--out", out)
    one_line(done, "headroom plan: ", "cannot be reached")
    assert not out.exists()
