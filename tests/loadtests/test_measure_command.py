"""``headroom measure`` on a real llama.cpp: what it writes is what was asked, and obeys Little."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from planner.runfolder import Run, read_records, read_run
from planner.steady import steady_window
from planner.summary import operating_points
from tests.loadtests.measure.driving import SHORT, Done, headroom
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from planner.records import OperatingPoint, RequestRecord
    from tests.loadtests.measure.driving import Shell

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the closed loop is kept; a long path, which a narrow table must not break."""
    return tmp_path_factory.mktemp("a" * 80) / "closed"


@pytest.fixture(scope="module")
def closed(llamacpp: RunningEngine, folder: Path) -> Done:
    """A closed loop of 1 and of 4 in flight, the output and the run folder."""
    return headroom(
        "measure", f"llamacpp={llamacpp.url}", "--concurrency", "1,4", "--duration", "6s",
        "--slo", "ttft_p90<=1s", *SHORT, "--out", folder, COLUMNS="160",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(closed: Done, folder: Path) -> Run:
    """The run, once it was measured."""
    assert closed.code == 0, closed.err
    return read_run(folder)


@pytest.fixture(scope="module")
def points(run: Run) -> Sequence[OperatingPoint]:
    """Its operating points."""
    return operating_points(run)


def test_output(closed: Done, folder: Path) -> None:
    """Standard output holds the table of points and nothing else; stderr has no surprises."""
    lines = closed.out.splitlines()
    assert lines[0].split()[:3] == ["target", "load", "requests"]
    rows = [line.split()[:2] for line in lines if line.startswith("llamacpp")]
    assert rows == [["llamacpp", "1"], ["llamacpp", "4"]]
    assert closed.err.splitlines() == [
        "llamacpp: 1 in flight, at most 6 s",
        "llamacpp: 4 in flight, at most 6 s",
        f"wrote {folder}",
    ]


def test_folder_is_complete(run: Run, folder: Path) -> None:
    """The manifest and the requests are there, no journal is left, nothing was lost."""
    kept = ["manifest.json", "requests.parquet", "telemetry.parquet"]
    assert sorted(file.name for file in folder.iterdir()) == kept
    assert (run.manifest.state, run.notes) == ("complete", ())
    # llama.cpp closes a kept connection after so many requests, and some cross the close.
    assert all("were sent twice" in note for note in run.manifest.notes)
    assert [stage.load for stage in run.manifest.stages] == [1, 4]
    assert run.manifest.targets[0].limits.slots == 4
    assert len({record.id for record in read_records(folder)}) == len(run.requests)


def test_stage_ends_when_steady(shell: Shell, tmp_path: Path) -> None:
    """On a server whose pace is constant a stage ends before its time, yet not at once."""
    with serving(Chat(pause_s=0.05)) as server:
        done = shell.run(
            "measure", f"openai={server.url}", "--concurrency", "4", "--duration", "40s",
            "--slo", "ttft_p90<=1s", *SHORT, "--out", tmp_path / "run",
        )  # fmt: skip
    assert done.code == 0, done.err
    (stage,) = read_run(tmp_path / "run").manifest.stages
    assert stage.stop_reason == "steady"
    assert stage.ended_s is not None
    assert 3 <= stage.ended_s - stage.started_s < 39


def test_in_flight_is_as_asked(points: Sequence[OperatingPoint]) -> None:
    """A closed loop of N keeps N requests in flight."""
    for point in points:
        assert point.in_flight_mean == pytest.approx(point.load, rel=0.1)


def test_littles_law(run: Run) -> None:
    """X·R over the window, counted from the raw records, is the concurrency."""
    records = list(read_records(run.path))
    for stage in run.manifest.stages:
        table = run.requests.where(run.requests.stage == stage.index)
        window = steady_window(table, stage, now_s=table.ended_s.max())
        ended = [
            r.ended_s - r.sent_s
            for r in records
            if r.stage == stage.index and window.start_s < r.ended_s <= window.end_s
            if r.status == "ok"
        ]
        rate = len(ended) / (window.end_s - window.start_s)
        assert rate * float(np.mean(ended)) == pytest.approx(stage.load, rel=0.1)


def test_warm_up_is_excluded(run: Run, points: Sequence[OperatingPoint]) -> None:
    """The window begins when the first answer of every user is over."""
    for point, stage in zip(points, run.manifest.stages, strict=True):
        table = run.requests.where(run.requests.stage == stage.index)
        firsts = [table.ended_s[table.user == user].min() for user in np.unique(table.user)]
        assert len(firsts) == stage.load
        assert point.window_start_s is not None
        assert point.window_start_s >= max(firsts) > stage.started_s
        assert point.completed < len(table)


def test_lengths_are_as_declared(run: Run, folder: Path) -> None:
    """Outputs are exactly as drawn, prompts near it by the server's own count; none was cached."""
    good = [record for record in read_records(folder) if record.status == "ok"]
    outputs = np.array([record.output_tokens for record in good])
    assert set(outputs) == set(range(4, 13))
    assert outputs.mean() == pytest.approx(8, rel=0.1)
    assert {record.finish_reason for record in good} == {"length"}
    assert np.nanmean(run.requests.prompt_tokens) == pytest.approx(30, rel=0.1)
    assert max(record.cached_tokens or 0 for record in good) <= 4
    assert {record.token_source for record in good} == {"usage"}


def test_only_the_end_cuts_requests_off(run: Run) -> None:
    """Each stage leaves at most its users' last requests unfinished, marked as such."""
    statuses = [record.status for record in read_records(run.path)]
    assert set(statuses) <= {"ok", "cancelled"}
    assert statuses.count("cancelled") <= 5


def _measure(shell: Shell, llamacpp: RunningEngine, out: Path, *options: object) -> Run:
    done = shell.run("measure", f"llamacpp={llamacpp.url}", *SHORT, *options, "--out", out)
    assert done.code == 0, done.err
    return read_run(out)


def _drawn(path: Path) -> dict[tuple[int, int], int | None]:
    """What each user's turns were to be answered with."""
    return {(r.user, r.turn): r.output_tokens for r in _good(path)}


def _good(path: Path) -> list[RequestRecord]:
    return [record for record in read_records(path) if record.status == "ok"]


def test_seed_and_time_limit(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """The same seed draws the same lengths, another draws others; a noisy stage ends by time."""
    limits = ("--concurrency", "2", "--duration", "1s")
    first = _measure(shell, llamacpp, tmp_path / "a", *limits, "--seed", 7)
    _measure(shell, llamacpp, tmp_path / "b", *limits, "--seed", 7)
    _measure(shell, llamacpp, tmp_path / "c", *limits, "--seed", 8)
    stage = first.manifest.stages[0]
    assert stage.stop_reason == "time limit"
    assert stage.ended_s is not None
    assert stage.ended_s - stage.started_s >= 1
    one, same, other = (_drawn(tmp_path / name) for name in "abc")
    shared = one.keys() & same.keys() & other.keys()
    assert len(shared) > 10
    assert [one[turn] for turn in shared] == [same[turn] for turn in shared]
    assert [one[turn] for turn in shared] != [other[turn] for turn in shared]


def test_users_with_think_time(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """People who pause obey the interactive law X = U/(R + Z), and N = X·R are in flight."""
    users, think_s = 8, 0.25
    run = _measure(
        shell, llamacpp, tmp_path / "run", "--users", users, "--think-time", f"{think_s}s",
        "--duration", "5s", "--slo", "ttft_p99<=1s",
    )  # fmt: skip
    (point,) = operating_points(run)
    (stage,) = run.manifest.stages
    assert (stage.load_kind, stage.load, stage.think_time_s) == ("users", users, think_s)
    good = sorted(_good(run.path), key=lambda record: record.sent_s)
    ended = {(record.user, record.turn): record.ended_s for record in good}
    pauses = np.array(
        [r.scheduled_s - ended[r.user, r.turn - 1] for r in good if (r.user, r.turn - 1) in ended]
    )
    error = think_s / math.sqrt(len(pauses))  # an exponential law: its deviation is its mean
    assert abs(pauses.mean() - think_s) < 4 * error + 0.01
    assert pauses.std() == pytest.approx(pauses.mean(), rel=0.4)
    rate, mean_s = (point.figures[name].value for name in ("requests_per_s", "e2e_mean_s"))
    assert rate * (mean_s + float(pauses.mean())) == pytest.approx(users, rel=0.15)
    assert point.in_flight_mean == pytest.approx(rate * mean_s, rel=0.15)


def test_auto_begins_with_one_and_the_slots(
    shell: Shell, llamacpp: RunningEngine, tmp_path: Path
) -> None:
    """Left to itself it measures one request at a time, all slots, the top, then between."""
    run = _measure(shell, llamacpp, tmp_path / "run", "--top", 5, "--duration", "1s")
    assert [stage.load for stage in run.manifest.stages][:3] == [1, 4, 5]
