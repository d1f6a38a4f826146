"""Slots that a server does not tell, from its telemetry to the answer: an emulated vLLM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from planner.runfolder import read_run
from planner.slots import slots_warnings, with_seen
from planner.steptime import StepTime
from tests.loadtests.engines.emulator.emulating import emulating, kinds_settings
from tests.loadtests.measure.driving import headroom

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from tests.loadtests.measure.driving import Shell

SLOTS = 8
STEP = StepTime(base_s=0.01, per_sequence_s=2e-4, per_prompt_token_s=1e-5)
LONGER = ("--prompt-tokens", "uniform:20-40", "--output-tokens", "uniform:30-60")
STEADY = ("--slo", "ttft_p90<=5s")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run at levels that the command chose, on a server that tells no slots."""
    folder = tmp_path_factory.mktemp("seen") / "run"
    with emulating(kinds_settings("vllm", engine={"slots": SLOTS, "step": STEP})) as (_, port):
        done = headroom(
            "measure", f"vllm=http://127.0.0.1:{port}", *LONGER, *STEADY,
            "--top", "20", "--duration", "5s", "--out", folder,
        )  # fmt: skip
    assert done.code == 0, done.err
    return folder


def test_levels_follow_the_slots_once_seen(out: Path) -> None:
    """1, the climb and the top show the slots; then they are measured, and a quarter above."""
    run = read_run(out)
    (target,) = run.manifest.targets
    assert (target.limits.slots, target.slots_given, target.slots_seen) == (None, None, None)
    seen = with_seen(target, run.telemetry())
    assert seen.slot_limit is not None
    assert (seen.slots, seen.slot_limit.source) == (SLOTS, "seen")
    assert [stage.load for stage in run.manifest.stages][:5] == [1, 4, 20, 8, 10]


def test_the_answer_carries_them(shell: Shell, out: Path) -> None:
    """The answer names the slots and their source, and simulates what it recommends."""
    asked = ("--users", "20", "--think-time", "1s", *STEADY)
    done = shell.run("recommend", out, *asked, "--json")
    answer = json.loads(done.out)
    (option,) = answer["options"]
    assert option["slots"]["slots"] == SLOTS
    assert option["slots"]["source"] == "seen"
    assert option["slots"]["queued"] >= option["slots"]["agreeing"] >= 3
    assert "does not say" not in (answer["simulated"]["why_not"] or "")
    told = " ".join(shell.run("recommend", out, *asked).out.split())
    assert "8 slots, as seen: never more ran at once, and about so many did at" in told
    page = shell.run("report", out, "--out", out / "page.html")
    assert page.code == 0, page.err
    assert "8 decoded at once, as seen:" in (out / "page.html").read_text()


def test_what_is_given_counts(shell: Shell, out: Path) -> None:
    """The user has the last word, is told where the telemetry differs, and names a target."""
    asked = ("--users", "20", "--think-time", "1s", *STEADY, "--json")
    answer = json.loads(shell.run("recommend", out, *asked, "--slots", "vllm=16").out)
    assert answer["options"][0]["slots"] == {
        "slots": 16, "source": "given", "agreeing": None, "queued": None,
    }  # fmt: skip
    assert any("it was given 16 slots, but while others waited no more" in w
               for w in answer["warnings"])  # fmt: skip
    wrong = shell.run("recommend", out, *asked, "--slots", "vlm=16")
    assert (wrong.code, wrong.out) == (2, "")
    assert "--slots vlm=16 names no target that was measured: there are vllm" in wrong.err


@pytest.mark.engine
def test_real_llamacpp_shows_what_it_tells(
    shell: Shell, llamacpp: RunningEngine, tmp_path: Path
) -> None:
    """A server that tells its slots is the rule's own check: the telemetry shows the same four."""
    done = shell.run(
        "measure", f"llamacpp={llamacpp.url}", *LONGER, "--slo", "ttft_p99.9<=9s",
        "--concurrency", "12", "--duration", "8s", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = read_run(tmp_path / "run")
    target = with_seen(run.manifest.targets[0], run.telemetry())
    assert target.limits.slots == 4
    assert target.slots_seen is not None
    assert target.slots_seen.limit == 4
    assert slots_warnings(target) == ()


@pytest.mark.vllm
def test_real_vllm(shell: Shell, vllm: RunningEngine, tmp_path: Path) -> None:
    """Two sequences, of which nothing is told: the telemetry of eight in flight shows them."""
    done = shell.run(
        "measure", f"vllm={vllm.url}", *LONGER, *STEADY,
        "--concurrency", "1,8", "--duration", "12s", "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = read_run(tmp_path / "run")
    (target,) = run.manifest.targets
    assert target.slots is None
    limit = with_seen(target, run.telemetry()).slot_limit
    assert limit is not None
    assert (limit.slots, limit.source) == (2, "seen")
