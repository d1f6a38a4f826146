"""``headroom recommend`` on run folders: output, exit codes, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from planner.commands import recommend
from planner.records import (
    ClientFacts,
    EngineLimits,
    PlanContext,
    RequestRecord,
    RunManifest,
    StageInfo,
    TargetInfo,
    Workload,
)
from planner.runfolder import RunWriter

if TYPE_CHECKING:
    from click.testing import Result

GOLDEN = Path(__file__).parent / "golden" / "recommend.txt"
STAGE_S = 60.0
ASK = ("--users", "150", "--think-time", "5s", "--slo", "ttft_p95<=1s", "--slo", "e2e_p95<=4s")


def write_run(
    path: Path,
    levels: tuple[int, ...] = (1, 4, 8, 16, 32),
    *,
    name: str = "batching",
    settings: dict[str, str] | None = None,
    plan: PlanContext | None = None,
    output_tokens: str = "20",
    slots: int | None = 16,
    seed: int = 3,
) -> Path:
    """A run of a server with R(N) = 0.4 s + 0.1 s N, of which a quarter is the first token's."""
    rng = np.random.default_rng(seed)
    stages = tuple(
        StageInfo(
            index=i,
            target=name,
            load_kind="concurrency",
            load=level,
            started_s=i * STAGE_S,
            ended_s=(i + 1) * STAGE_S,
            stop_reason="steady",
        )
        for i, level in enumerate(levels)
    )
    manifest = RunManifest(
        headroom_version="0.1",
        started_unix_s=1.7e9,
        state="complete",
        seed=seed,
        targets=(
            TargetInfo(
                name=name,
                backend="llamacpp",
                url="http://127.0.0.1:8080",
                limits=EngineLimits(slots=slots),
                hardware="L4",
                gpus_per_replica=1,
                settings=settings or {},
            ),
        ),
        workload=Workload(prompt_tokens="64", output_tokens=output_tokens),
        stages=stages,
        client=ClientFacts(platform="test", cpu_count=2, python="3.11", clock="monotonic"),
        plan=plan,
    )
    writer = RunWriter.create(path, manifest)
    for stage in stages:
        for user in range(round(stage.load)):
            now = stage.started_s + 0.01 * user
            while now < (stage.ended_s or 0):
                took = (0.4 + 0.1 * stage.load) * rng.uniform(0.8, 1.2)
                writer.append(request(stage, user, now, took))
                now += took
    writer.finish(manifest)
    return path


def request(stage: StageInfo, user: int, now: float, took: float) -> RequestRecord:
    """One good answer of 20 tokens."""
    return RequestRecord(
        id=user,
        stage=stage.index,
        target=stage.target,
        backend="llamacpp",
        user=user,
        scheduled_s=now,
        sent_s=now,
        first_token_s=now + took / 4,
        ended_s=now + took,
        gaps_s=np.full(19, took * 0.75 / 19, "<f4").tobytes(),
        prompt_tokens=64,
        output_tokens=20,
        status="ok",
    )


def call(*arguments: Any) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(recommend, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One complete run, as the measure command leaves it."""
    return write_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made for a question."""
    plan = PlanContext(
        users=60, think_time_s=5.0, slo=("ttft_p95<=1s",), confidence=0.8, gpu_cost={"L4": 0.5}
    )
    return write_run(tmp_path_factory.mktemp("runs") / "planned", plan=plan)


def test_golden_output(run: Path) -> None:
    """The whole answer as people read it."""
    result = call(run, *ASK, "--gpu-cost", "L4=0.5")
    assert result.exit_code == 0, result.output
    assert result.stdout == GOLDEN.read_text()


def test_json_is_the_only_output(run: Path) -> None:
    """With --json stdout is one document of the agreed shape, the same each time."""
    result = call(run, *ASK, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == 1
    assert document["demand"]["users"] == 150
    assert [s["text"] for s in document["slo"]] == ["ttft_p95<=1s", "e2e_p95<=4s"]
    best = document["recommended"]
    assert best["target"] == "batching"
    assert best["gpus"] == best["replicas"]
    assert best["cost_per_hour"] is None
    assert best["predicted"]["ttft_p95_s"]["label"] == "interpolated"
    assert best == document["options"][0]
    assert call(run, *ASK, "--json").stdout == result.stdout


def test_nothing_meets_the_objective(run: Path) -> None:
    """Exit 1 when even one user is served too slowly."""
    result = call(run, "--users", 5, "--slo", "ttft_p95<=50ms")
    assert result.exit_code == 1
    assert "no measured option meets ttft_p95<=50ms" in result.stdout
    assert "even with one user" in result.stdout


def test_inconclusive(run: Path) -> None:
    """Exit 3 when the lengths asked for were not measured, with what to measure."""
    result = call(run, *ASK, "--prompt-tokens", 2000)
    assert result.exit_code == 3
    assert "the demand has 2000" in result.stdout
    assert "headroom measure llamacpp=http://127.0.0.1:8080 --concurrency 1" in result.stdout


def test_question_of_the_run(planned: Path) -> None:
    """What is not given is taken from the question that the run was made for."""
    document = json.loads(call(planned, "--json").stdout)
    assert document["demand"]["users"] == 60
    assert document["confidence"] == 0.8
    assert document["recommended"]["cost_per_hour"] == 0.5 * document["recommended"]["gpus"]
    other = json.loads(call(planned, "--json", "--users", 7, "--slo", "e2e_mean<=9s").stdout)
    assert other["demand"] == document["demand"] | {"users": 7}
    assert [s["text"] for s in other["slo"]] == ["e2e_mean<=9s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--users", 5, "--slo", "ttft_p95<=1"), "is not a duration"),
        (("--users", 5, "--slo", "ttfb_p95<=1s"), "unknown figure 'ttfb'"),
        (("--users", 5), "--slo is missing"),
        (("--slo", "ttft_p95<=1s"), "--users is missing"),
        (("--users", 0, "--slo", "ttft_p95<=1s"), "0 is not in the range"),
        ((*ASK, "--gpu-cost", "L4"), "write KIND=PRICE"),
        ((*ASK, "--confidence", "1"), "not in the range"),
        ((*ASK, "--think-time", "5"), "is not a duration"),
    ],
)
def test_bad_questions(run: Path, arguments: tuple[Any, ...], message: str) -> None:
    """A wrong option is told in one line on stderr, exit 2, and nothing on stdout."""
    result = call(run, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is no run is one line, without a traceback."""
    result = call(tmp_path, *ASK)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "is not a run folder" in result.stderr


def test_two_runs_of_one_target_join(tmp_path: Path) -> None:
    """Levels of the same target from two runs lie on one curve; repeated ones are pooled."""
    low = write_run(tmp_path / "low", (1, 4, 8))
    high = write_run(tmp_path / "high", (8, 16, 32), seed=4)
    document = json.loads(call(low, high, *ASK, "--json").stdout)
    assert [option["target"] for option in document["options"]] == ["batching"]
    whole = json.loads(call(write_run(tmp_path / "all"), *ASK, "--json").stdout)
    assert document["recommended"]["replicas"] == whole["recommended"]["replicas"]


def test_other_settings_are_another_option(tmp_path: Path, run: Path) -> None:
    """The same name with other settings is another option, told apart by its folder."""
    other = write_run(tmp_path / "tuned", settings={"threads": "8"})
    document = json.loads(call(run, other, *ASK, "--json").stdout)
    assert {o["target"] for o in document["options"]} == {"batching", "batching (tuned)"}


def test_other_workload_is_another_option(tmp_path: Path, run: Path) -> None:
    """Two workloads never lie on one curve."""
    other = write_run(tmp_path / "short", output_tokens="uniform:5-35")
    document = json.loads(call(run, other, *ASK, "--json").stdout)
    assert {o["target"] for o in document["options"]} == {"batching", "batching (short)"}


def test_hostile_names_are_printed_as_they_are(tmp_path: Path) -> None:
    """Neither rich markup nor terminal escapes from a run folder act on the terminal."""
    result = call(write_run(tmp_path / "x", name="[red]a[/red]\x1b[2J"), *ASK)
    assert result.exit_code == 0
    shown = "[red]a[/red]\N{REPLACEMENT CHARACTER}[2J"
    assert sum(line.startswith(shown) for line in result.stdout.splitlines()) == 2  # two tables
    assert "\x1b" not in result.stdout


def test_help_has_an_example() -> None:
    """The help text shows a command that can be copied."""
    assert "Example: headroom recommend" in call("--help").stdout


def test_a_capacity_that_ends_with_the_knowledge_says_so(tmp_path: Path) -> None:
    """One level alone bounds what a replica carries from below only: ``≥``, never a bare count."""
    result = call(write_run(tmp_path / "run", (1,)), *ASK)
    assert result.exit_code == 3, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert ["batching", *("≥", "1") * 3] in rows


def test_a_narrow_terminal_loses_nothing(run: Path) -> None:
    """With prices the table is wider than 80 characters: words are broken, none is cut off."""
    question = [run, *ASK, "--gpu-cost", "L4=0.5"]
    result = CliRunner(env={"COLUMNS": "80"}).invoke(recommend, [str(part) for part in question])
    assert result.exit_code == 0
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
