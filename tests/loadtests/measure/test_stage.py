"""Stages on servers that fail: ended early, told apart, never hammered."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from planner.runfolder import read_records, read_run
from planner.summary import operating_points
from tests.loadtests.measure.driving import SHORT
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import answer, serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.loadtests.measure.driving import Done, Shell

BUSY = answer(b'{"error":{"message":"overloaded","code":503}}', 503)


def _measure(shell: Shell, chat: Chat, out: Path, *options: object) -> Done:
    with serving(chat) as server:
        return shell.run("measure", f"openai={server.url}", *SHORT, *options, "--out", out)


@pytest.mark.parametrize(("then", "kind"), [(BUSY, "overloaded"), (b"", "closed")])
def test_server_that_dies(shell: Shell, tmp_path: Path, then: bytes, kind: str) -> None:
    """The stage ends by its error limit, with every record kept and few requests wasted."""
    chat, out = Chat(healthy=22, then=then), tmp_path / "run"
    done = _measure(shell, chat, out, "--concurrency", "8", "--duration", "60s")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    run = read_run(out)
    (stage,) = run.manifest.stages
    assert (run.manifest.state, stage.stop_reason) == ("complete", "error limit")
    assert stage.ended_s is not None
    records = list(read_records(out))
    assert sum(record.status == "ok" for record in records) == 20  # two were for calibration
    failed = [record for record in records if record.status == "error"]
    assert len(failed) in range(20, 29)
    assert run.errors == {0: {kind: len(failed)}}
    # Each of 8 users waits half a second after a failure.
    assert chat.refused <= 8 * (1 + (stage.ended_s - stage.started_s) / 0.5)
    (point,) = operating_points(run)
    assert not point.usable
    assert any("of requests failed" in problem for problem in point.problems)


def test_planner_refuses_a_failed_stage(shell: Shell, tmp_path: Path) -> None:
    """A target that failed under load is not recommended; the answer says why."""
    out = tmp_path / "run"
    assert _measure(shell, Chat(healthy=8, then=BUSY), out, "--concurrency", "8").code == 0
    found = shell.run("recommend", out, "--users", "5", "--slo", "ttft_p95<=1s", "--json")
    assert found.code == 3, found
    answered = json.loads(found.out)
    assert answered["recommended"] is None
    (option,) = answered["options"]
    assert option["refused"]
    assert answered["next_measurements"]


def test_one_user_does_not_hammer(shell: Shell, tmp_path: Path) -> None:
    """A server that refuses everything at once gets two requests a second from a user."""
    chat, out = Chat(healthy=2, then=BUSY), tmp_path / "run"
    done = _measure(shell, chat, out, "--concurrency", "1", "--duration", "3s")
    assert done.code == 0, done.err
    assert 4 <= chat.refused <= 8
    (stage,) = read_run(out).manifest.stages
    assert stage.stop_reason == "time limit"


def test_stage_without_one_answer(shell: Shell, tmp_path: Path) -> None:
    """A server too slow for the stage leaves censored requests, and no command stumbles on it."""
    out = tmp_path / "run"
    chat = Chat(slow_after=2, slow_s=60)
    began = time.monotonic()
    done = _measure(shell, chat, out, "--concurrency", "3", "--duration", "2s")
    assert time.monotonic() - began < 50  # it did not wait for the answers
    assert done.code == 0, done.err
    assert [record.status for record in read_records(out)] == ["cancelled"] * 3
    (point,) = operating_points(read_run(out))
    assert (point.completed, point.usable) == (0, False)
    assert shell.run("report", out).code == 0
    found = shell.run("recommend", out, "--users", "5", "--slo", "ttft_p95<=1s")
    assert found.code == 3, found
    assert "Traceback" not in found.err
