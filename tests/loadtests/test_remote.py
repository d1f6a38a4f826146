"""Locust's master and workers make one run: ``locust --master`` and ``locust --worker``."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from planner.errors import HeadroomError
from planner.runfolder import read_records, read_run
from planner.steady import in_flight_mean, steady_window
from tests.loadtests.measure.driving import ROOT, SHORT, eventually
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

LOCUST = (sys.executable, "-m", "locust", "-f", "loadtests/openai.py")


def _start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LOCUST, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _records(out: Path) -> int:
    try:
        return len(read_run(out, gaps=False).requests)
    except HeadroomError:  # not begun yet
        return 0


def test_master_and_two_workers(tmp_path: Path) -> None:
    """The master's folder has every worker's records; one that is killed is named, the run ends."""
    out = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bound = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port)
    with serving(Chat(pause_s=0.3)) as server:
        master = _start(
            "--master", *bound, "--headless", "--expect-workers", 2, "--host", server.url, *SHORT,
            "-u", 5, "-r", 5, "-t", "16s", "--out", out,
        )  # fmt: skip
        connect = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
        workers = [_start(*connect) for _ in range(2)]
        try:
            assert eventually(lambda: _records(out) >= 50, 60)
            workers[0].kill()
            log, _ = master.communicate(timeout=60)
        finally:
            for process in (master, *workers):
                process.kill()
                process.communicate()
    assert "Traceback" not in log, log
    run = read_run(out)
    assert run.manifest.state == "complete"
    assert sum("clock" in note for note in run.manifest.notes) == 2
    assert any("went missing" in note for note in run.manifest.notes)
    settled = [
        s for s in run.manifest.stages if s.invalid is None or "missing" in s.invalid
    ] or run.manifest.stages
    whole = next(s for s in run.manifest.stages if s.stop_reason == "worker missing")
    assert whole in settled
    assert whole.invalid is not None
    records = list(read_records(out))
    assert len({record.id for record in records}) == len(records)
    users = {(r.worker, r.user) for r in records if r.stage == whole.index}
    assert sorted(Counter(worker for worker, _ in users).values()) == [2, 3]
    table = run.requests.where(run.requests.stage == whole.index)
    before = steady_window(table, whole, now_s=0)
    assert in_flight_mean(table, before) <= 5
    assert run.manifest.stages[-1].ended_s is not None
    assert run.manifest.stages[-1].ended_s == pytest.approx(
        max(stage.ended_s or 0 for stage in run.manifest.stages)
    )
