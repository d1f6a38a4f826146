"""``headroom measure --together``: all targets at once, beside each alone, never taken for it."""

from __future__ import annotations

import dataclasses
import signal
from typing import TYPE_CHECKING

import msgspec
import pytest

from planner.answer import answer
from planner.comparison import sharing
from planner.records import PlanContext
from planner.runfolder import Run, read_run
from planner.summary import operating_points
from tests.loadtests.measure.driving import SHORT, Done, eventually, headroom, one_line, start
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

    from planner.records import StageInfo
    from tests.loadtests.measure.driving import Shell

QUESTION = PlanContext(users=2, think_time_s=1.0, slo=("ttft_p50<=1s",), confidence=0.9)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Run]:
    """Two scripted servers, one of which answers slower: alone and together, two in flight."""
    out = tmp_path_factory.mktemp("together") / "run"
    with serving(Chat(pause_s=0.05)) as a, serving(Chat(pause_s=0.1)) as b:
        done = headroom(
            "measure", f"a:openai={a.url}", f"b:openai={b.url}", "--together",
            "--concurrency", "2", "--duration", "6s", "--slo", "ttft_p50<=1s", *SHORT,
            "--out", out, COLUMNS="160",
        )  # fmt: skip
    assert done.code == 0, done.err
    return done, read_run(out)


def _pair(run: Run) -> tuple[StageInfo, StageInfo]:
    a, b = (stage for stage in run.manifest.stages if stage.together)
    return a, b


def test_alone_then_together(measured: tuple[Done, Run]) -> None:
    """Each target is measured alone first, then all at once; each stage says beside whom."""
    stages = measured[1].manifest.stages
    assert [(s.target, s.together) for s in stages] == [
        ("a", ()), ("b", ()), ("a", ("b",)), ("b", ("a",)),
    ]  # fmt: skip


def test_they_begin_and_end_together(measured: tuple[Done, Run]) -> None:
    """No stage of the group runs on when another is over: its neighbour would be gone."""
    a, b = _pair(measured[1])
    assert a.ended_s is not None
    assert b.ended_s is not None
    assert abs(a.started_s - b.started_s) < 0.5
    assert abs(a.ended_s - b.ended_s) < 1.0
    requests = measured[1].requests
    overlap_s = min(a.ended_s, b.ended_s) - max(a.started_s, b.started_s)
    for stage in (a, b):
        own = requests.where(requests.stage == stage.index)
        assert own.ended_s.max() - own.sent_s.min() > 0.7 * overlap_s


def test_the_costs_are_told(measured: tuple[Done, Run]) -> None:
    """The table of ratios has a row per target; servers that only wait cost each other nothing."""
    done, run = measured
    lines = [line.strip() for line in done.out.splitlines()]
    at = lines.index("Together, as a multiple of alone")
    assert [line.split()[:2] for line in lines[at + 2 : at + 4]] == [["a", "2"], ["b", "2"]]
    for cost in sharing(operating_points(run)):
        assert cost.ratios["ttft_p50_s"].value == pytest.approx(1.0, rel=0.25)


def test_no_plan_takes_it_for_alone(measured: tuple[Done, Run]) -> None:
    """Without the stages together the recommendation is the very same, and says nothing of them."""
    run = measured[1]
    assert all(not point.usable for point in operating_points(run) if point.together)
    alone = _only(run, together=False)
    assert answer([run], QUESTION).options == answer([alone], QUESTION).options


def test_stages_together_carry_no_plan(measured: tuple[Done, Run]) -> None:
    """With nothing else there is no recommendation, and the reason names the neighbour."""
    found = answer([_only(measured[1], together=True)], QUESTION)
    assert found.recommended is None
    assert any("b was loaded at the same time" in warning for warning in found.warnings)


def _only(run: Run, *, together: bool) -> Run:
    """The run as if only its stages of one kind had been measured; a copy in memory."""
    stages = tuple(
        stage
        if bool(stage.together) == together
        else msgspec.structs.replace(stage, invalid="left out by this test")
        for stage in run.manifest.stages
    )
    return dataclasses.replace(run, manifest=msgspec.structs.replace(run.manifest, stages=stages))


def test_a_server_that_dies_ends_all(shell: Shell, tmp_path: Path) -> None:
    """Where one target fails, its neighbour's stage ends too, and tells because of whom."""
    with serving(Chat(healthy=20)) as a, serving(Chat(pause_s=0.02)) as b:
        done = shell.run(
            "measure", f"a:openai={a.url}", f"b:openai={b.url}", "--only-together",
            "--concurrency", "4", "--duration", "60s", *SHORT, "--out", tmp_path / "run",
        )  # fmt: skip
    assert done.code == 0, done.err
    first, second = _pair(read_run(tmp_path / "run"))
    assert (first.stop_reason, second.stop_reason) == ("error limit", "a: error limit")


def test_interrupted_together(tmp_path: Path) -> None:
    """Ctrl-C ends all stages, keeps what was measured and marks every one as interrupted."""
    out = tmp_path / "run"
    with serving(Chat(pause_s=0.02)) as a, serving(Chat(pause_s=0.02)) as b:
        process = start(
            "measure", f"a:openai={a.url}", f"b:openai={b.url}", "--only-together",
            "--concurrency", "2", "--duration", "60s", *SHORT, "--out", out,
        )  # fmt: skip
        began = eventually(lambda: _journalled(out) > 2_000)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert began
    assert process.returncode == 130, err
    assert "Traceback" not in err
    run = read_run(out)
    assert [stage.stop_reason for stage in run.manifest.stages] == ["interrupted"] * 2
    assert {0, 1} == set(run.requests.stage.tolist())


def _journalled(out: Path) -> int:
    return sum(file.stat().st_size for file in out.glob("*.journal")) if out.is_dir() else 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["openai=http://127.0.0.1:1", "--together"], ["at least two"]),
        (
            ["a:openai=http://127.0.0.1:1", "b:openai=http://127.0.0.1:2", "--together",
             "--processes", "2"],
            ["--processes 2", "one clock"],
        ),
        (
            ["a:openai=http://127.0.0.1:1", "b:openai=http://127.0.0.1:2", "--only-together"],
            ["--concurrency 1,4"],
        ),
    ],
)  # fmt: skip
def test_bad_input(shell: Shell, tmp_path: Path, options: list[str], words: list[str]) -> None:
    """What cannot be loaded together is refused in one line before any server is looked at."""
    one_line(shell.run("measure", *options, "--out", tmp_path / "run"), *words)
